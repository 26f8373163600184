"""A signal on its own, bound by hand: what counts, what fails, what is stale, and when the gate is open."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import pytest

from flowctl.gate import InFlight, MaxOf
from flowctl.saturation import Failure, Saturation
from flowctl.stats import SignalState
from flowctl.testing import FakeClock
from tests.support import PATIENCE, Spawn

HUGE = 10**400
UNPRINTABLE = 10**5000


class Nothing(NamedTuple):
    """No load: a signal does not read it."""

    in_flight: int = 0
    granted: int = 0


class BoomError(Exception):
    pass


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Sly(float):
    """Another number for whoever asks for a float."""

    def __float__(self) -> float:
        return math.nan


class Owner:
    """What a gate is bound to."""


class Bound:
    """A signal that is bound to a clock; what its source says next, and how often somebody could go."""

    def __init__(self, clock: FakeClock, *, on_failure: Failure = "closed", says: object = 0.5) -> None:
        self.says = says
        self.rounds = 0
        self.gate = Saturation(self.source, name="pool", on_failure=on_failure)
        self.clock: Callable[[], float] = clock.now
        self.owner = Owner()
        self.gate.bind(self.owner, self.run, self.now)

    def now(self) -> float:
        return self.clock()

    def source(self) -> float:
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says  # type: ignore[return-value]  # whatever a source says

    def run(self, act: Callable[[float], None]) -> None:
        act(self.now())
        self.rounds += 1

    def sample(self, says: object = None) -> None:
        """Ask, whatever becomes of it."""
        if says is not None:
            self.says = says
        try:
            self.gate.sample()
        except BaseException:  # noqa: BLE001 - as a sampler does, which reports it
            return

    @property
    def open(self) -> bool:
        return self.gate.admits(Nothing(), 1, 1.0)

    @property
    def status(self) -> str:
        return self.gate.state().status

    @property
    def value(self) -> float:
        return self.gate.saturation(Nothing())


@pytest.fixture
def bound(clock: FakeClock) -> Bound:
    return Bound(clock)


# --- what a sample may be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "value"),
    [
        (0, 0.0),
        (0.5, 0.5),
        (1, 1.0),
        (7.5, 7.5),
        (1e308, 1e308),
        (2**53, 2.0**53),
        (10**300, 1e300),
        (-0.0, 0.0),
        (-0.1, 0.0),
        (-7, 0.0),
        (-1e308, 0.0),
        (5e-324, 5e-324),
    ],
)
def test_a_finite_number_counts_and_one_below_0_is_0(bound: Bound, says: float, value: float) -> None:
    bound.says = says
    bound.gate.sample()

    assert bound.value == value
    assert type(bound.value) is float
    assert bound.open == (value < 1)
    assert bound.gate.state() == SignalState("pool", "fresh", value, age=0.0, failures=0, error=None)


BAD: dict[str, tuple[object, type[BaseException]]] = {
    "NaN": (math.nan, ValueError),
    "+inf": (math.inf, ValueError),
    "-inf": (-math.inf, ValueError),
    "an int beyond every float": (HUGE, ValueError),
    "one far below every float": (-HUGE, ValueError),
    "an int that cannot be printed": (UNPRINTABLE, ValueError),
    "a float that turns into NaN": (Sly(0.5), ValueError),
    "True": (True, TypeError),
    "False": (False, TypeError),
    "a str": ("0.5", TypeError),
    "bytes": (b"0.5", TypeError),
    "a complex": (0.5j, TypeError),
    "a list": ([0.5], TypeError),
    "a Decimal": (Decimal("0.5"), TypeError),
    "a Fraction": (Fraction(1, 2), TypeError),
    "a class": (float, TypeError),
    "an exception": (BoomError("no route"), BoomError),
    "one that cannot be printed": (UnprintableError(), UnprintableError),
    "one of 10 MB": (BoomError("x" * 10_000_000), BoomError),
    "SystemExit": (SystemExit(1), SystemExit),
    "KeyboardInterrupt": (KeyboardInterrupt(), KeyboardInterrupt),
}


@pytest.mark.parametrize(("says", "error"), BAD.values(), ids=list(BAD))
@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_anything_else_fails_and_the_sample_before_counts_until_it_is_stale(
    clock: FakeClock, on_failure: Failure, says: object, error: type[BaseException]
) -> None:
    bound = Bound(clock, on_failure=on_failure, says=0.25)
    bound.gate.sample()
    bound.says = says
    with pytest.raises(error):
        bound.gate.sample()

    state = bound.gate.state()
    assert (state.status, state.value, state.failures, state.age) == ("failing", 0.25, 1, 0.0)
    assert (state.error or "").startswith(error.__name__)
    assert len(state.error or "") <= 200
    assert bound.value == 0.25

    clock.advance(2.0)
    assert (bound.value, bound.status) == (0.25, "failing"), "exactly stale_after is not older"
    clock.advance(0.001)
    assert (bound.open, bound.status) == (on_failure == "open", "stale")
    assert bound.value == {"closed": 1.0, "open": 0.0}[on_failure]


def test_none_is_no_number(clock: FakeClock) -> None:
    gate = Saturation(lambda: None, name="nothing")  # type: ignore[arg-type, return-value]

    with pytest.raises(TypeError, match=r"^a saturation must be a number, not None \(NoneType\)$"):
        gate.sample()


@pytest.mark.parametrize("says", [math.nan, UNPRINTABLE, True, "full" * 1_000_000], ids=range(4))
def test_the_error_says_what_came_in_short(bound: Bound, says: object) -> None:
    bound.sample(says)

    assert (bound.gate.state().error or "").partition(": ")[2].startswith("a saturation must be ")


# --- before the first, and after the last --------------------------------------------------------------------------


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_before_the_first_sample_it_is_as_after_a_failure(clock: FakeClock, on_failure: Failure) -> None:
    bound = Bound(clock, on_failure=on_failure)

    assert bound.open == (on_failure == "open")
    assert bound.gate.state() == SignalState("pool", "stale", None, age=None, failures=0, error=None)


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_a_signal_that_never_worked_stays_as_after_a_failure(clock: FakeClock, on_failure: Failure) -> None:
    bound = Bound(clock, on_failure=on_failure, says=BoomError("no route"))
    for _ in range(3):
        bound.sample()
        clock.advance(0.05)

    assert bound.open == (on_failure == "open")
    assert bound.gate.state() == SignalState("pool", "stale", None, age=None, failures=3, error="BoomError: no route")


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_a_source_that_nobody_asks_any_more_is_stale_without_any_failure(clock: FakeClock, on_failure: Failure) -> None:
    bound = Bound(clock, on_failure=on_failure)
    bound.sample()
    clock.advance(60)

    assert bound.open == (on_failure == "open")
    assert bound.gate.state() == SignalState("pool", "stale", 0.5, age=60.0, failures=0, error=None)


@pytest.mark.parametrize("on_failure", ["closed", "open"])
def test_it_recovers_with_the_next_good_sample(clock: FakeClock, on_failure: Failure) -> None:
    bound = Bound(clock, on_failure=on_failure)
    bound.sample(BoomError())
    clock.advance(60)
    bound.sample(0.75)

    assert bound.value == 0.75
    assert bound.gate.state() == SignalState("pool", "fresh", 0.75, age=0.0, failures=1, error=None)


def test_failures_are_counted_for_good(bound: Bound) -> None:
    for says in (0.5, BoomError(), 0.5, math.nan, "x", 0.5):
        bound.sample(says)

    assert (bound.status, bound.gate.state().failures) == ("fresh", 3)


# --- who can go then -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("says", "open_up_to"), [(0.0, 0.01), (0.79, 0.8), (1.0, 1.01)])
def test_it_is_open_below_the_ceiling_and_closed_at_it(bound: Bound, says: float, open_up_to: float) -> None:
    bound.sample(says)

    assert not bound.gate.admits(Nothing(), 1, says)
    assert bound.gate.admits(Nothing(), 1, open_up_to)


def test_each_good_sample_lets_go_whoever_can_go(bound: Bound) -> None:
    bound.sample(0.5)
    bound.sample(0.6)

    assert bound.rounds == 2


def test_a_failure_lets_go_too_since_a_signal_that_became_stale_may_be_open(clock: FakeClock) -> None:
    bound = Bound(clock, on_failure="open", says=1.0)
    bound.sample()
    clock.advance(2.01)
    rounds = bound.rounds
    bound.sample(BoomError())

    assert bound.open
    assert bound.rounds == rounds + 1


def test_what_the_source_raised_is_not_lost_behind_the_change(bound: Bound) -> None:
    bound.says = error = BoomError()
    with pytest.raises(BoomError) as raised:
        bound.gate.sample()

    assert raised.value is error


# --- how much has to be given back --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "ceiling", "seats"), [(1.0, 0.8, 3.0), (0.8, 0.8, 1.0), (0.79, 0.8, 0.0), (0, 1, 0.0)]
)
def test_what_has_to_be_given_back_is_what_is_above_the_ceiling_by_the_credit_of_a_seat(
    bound: Bound, says: float, ceiling: float, seats: float
) -> None:
    bound.sample(says)

    assert bound.gate.excess(Nothing(), 1, ceiling) == pytest.approx(seats)
    assert (bound.gate.excess(Nothing(), 1, ceiling) > 0) == (not bound.gate.admits(Nothing(), 1, ceiling))


def test_a_signal_that_is_stale_is_no_reason_to_give_anything_back(clock: FakeClock, bound: Bound) -> None:
    assert bound.gate.excess(Nothing(), 1, 0.8) == 0, "before the first sample"
    bound.sample(5.0)
    clock.advance(60)

    assert not bound.open
    assert bound.gate.excess(Nothing(), 1, 0.8) == 0


# --- the clock -----------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_forth_makes_it_stale_until_the_next_sample(clock: FakeClock, bound: Bound) -> None:
    bound.sample()
    clock.advance(1e9)
    assert (bound.open, bound.status) == (False, "stale")

    bound.sample()
    assert (bound.open, bound.status) == (True, "fresh")


def test_a_clock_that_goes_back_makes_it_stale_until_the_next_sample(clock: FakeClock, bound: Bound) -> None:
    bound.sample()
    bound.clock = lambda: clock.now() - 900
    assert (bound.open, bound.status, bound.gate.state().age) == (False, "stale", -900.0)

    bound.sample(0.25)
    assert (bound.value, bound.status, bound.gate.state().age) == (0.25, "fresh", 0.0)


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_clock_that_says_nonsense_makes_it_stale(bound: Bound, now: float) -> None:
    bound.sample()
    bound.clock = lambda: now

    assert (bound.open, bound.status) == (False, "stale")


def test_the_age_of_a_sample_counts_from_when_the_source_was_asked(clock: FakeClock, bound: Bound) -> None:
    def slow() -> float:
        clock.advance(1.5)
        return 0.5

    gate = Saturation(slow)
    gate.bind(bound.owner, bound.run, clock.now)
    gate.sample()

    assert gate.state().age == 1.5


def test_a_source_that_takes_longer_than_stale_after_is_stale_when_it_answers(clock: FakeClock, bound: Bound) -> None:
    def stuck() -> float:
        clock.advance(30)
        return 0.0

    gate = Saturation(stuck)
    gate.bind(bound.owner, bound.run, clock.now)
    gate.sample()

    assert not gate.admits(Nothing(), 1, 1.0)
    assert gate.state() == SignalState("stuck", "stale", 0.0, age=30.0, failures=0, error=None)


# --- threads -------------------------------------------------------------------------------------------------------


class Stuck:
    """A source that blocks until it is let go, and says what it was told to."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> float:
        self.asked.set()
        assert self.go_on.wait(PATIENCE)
        return 0.9


def test_while_the_source_blocks_the_gate_answers_and_nobody_holds_the_turn(clock: FakeClock, spawn: Spawn) -> None:
    turn, source, owner = threading.Lock(), Stuck(), Owner()

    def run(act: Callable[[float], None]) -> None:
        with turn:
            act(clock.now())

    gate = Saturation(source)
    gate.bind(owner, run, clock.now)
    sampler = spawn(gate.sample)
    assert source.asked.wait(PATIENCE)

    asked = spawn(lambda: (gate.saturation(Nothing()), gate.admits(Nothing(), 1, 1.0), gate.state().status))
    assert asked.result() == (1.0, False, "stale")
    assert spawn(partial(gate.change, lambda: None)).result() is None, "the turn is free"
    assert not sampler.done
    source.go_on.set()
    sampler.result()
    assert gate.saturation(Nothing()) == 0.9


def test_an_answer_that_came_late_does_not_replace_a_newer_one(clock: FakeClock, bound: Bound, spawn: Spawn) -> None:
    late, answers = Stuck(), list[Callable[[], float]]()
    answers.extend([lambda: 0.1, late])

    def next_answer() -> float:
        return answers.pop()()

    gate = Saturation(next_answer)
    gate.bind(bound.owner, bound.run, clock.now)
    sampler = spawn(gate.sample)
    assert late.asked.wait(PATIENCE)
    clock.advance(0.5)
    gate.sample()
    late.go_on.set()
    sampler.result()

    assert gate.saturation(Nothing()) == 0.1


# --- how it is made ------------------------------------------------------------------------------------------------


def test_before_it_has_a_controller_a_sample_counts_and_does_not_age() -> None:
    gate = Saturation(lambda: 0.5)
    gate.sample()

    assert gate.admits(Nothing(), 1, 1.0)
    assert gate.state().status == "fresh"


def test_it_counts_no_seats_and_promises_none() -> None:
    gate = Saturation(lambda: 0.0)

    assert (gate.limit, gate.sure_seats, list(gate.parts)) == (None, 0, [gate])


def test_together_with_others_the_fullest_counts(bound: Bound) -> None:
    gate = MaxOf(bound.gate, InFlight(4))
    bound.sample(0.3)

    assert gate.saturation(Nothing(granted=1)) == 0.3
    assert gate.saturation(Nothing(granted=2)) == 0.5


class Pool:
    def __call__(self) -> float:
        return 0.0

    def fill(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("source", "name"),
    [(Pool(), "Pool"), (Pool().fill, "fill"), (partial(Pool().fill), "partial"), (lambda: 0.0, "<lambda>")],
)
def test_without_a_name_it_has_that_of_its_source(source: Callable[[], float], name: str) -> None:
    assert Saturation(source).name == Saturation(source).state().name == name
    assert Saturation(source, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("field", "value", "error", "words"),
    [
        ("source", 0.5, TypeError, "source must be callable, not 0.5"),
        ("source", None, TypeError, "source must be callable, not None"),
        ("name", 5, TypeError, "name must be a str, not 5"),
        ("interval", 0, ValueError, "interval must be above 0, not 0.0"),
        ("interval", -1, ValueError, "interval must be above 0, not -1.0"),
        ("interval", "1", TypeError, "interval must be a number of seconds, not '1'"),
        ("interval", math.nan, ValueError, "interval must be finite, not nan"),
        ("interval", 2.0, ValueError, r"stale_after must be above interval \(2.0\), not 2.0"),
        ("stale_after", 0.05, ValueError, r"stale_after must be above interval \(0.05\), not 0.05"),
        ("stale_after", math.inf, ValueError, "stale_after must be finite, not inf"),
        ("stale_after", None, TypeError, "stale_after must be a number of seconds, not None"),
        ("credit", 0, ValueError, "credit must be above 0, not 0.0"),
        ("credit", HUGE, ValueError, "credit must be finite, not 1000"),
        ("credit", True, TypeError, "credit must be a number, not True"),
        ("on_failure", "Closed", ValueError, 'on_failure must be "closed" or "open", not \'Closed\''),
        ("on_failure", None, ValueError, 'on_failure must be "closed" or "open", not None'),
    ],
)
def test_a_bad_argument_is_named_with_its_value_and_the_rule(
    field: str, value: object, error: type[Exception], words: str
) -> None:
    arguments: dict[str, object] = {"source": lambda: 0.5, field: value}

    with pytest.raises(error, match=f"^{words}"):
        Saturation(**arguments)  # type: ignore[arg-type]
