"""Gates at work: seats and costs, signals, ceilings, several at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from flowctl import (
    AdaptiveLimit,
    Aimd,
    BandConfig,
    ConcurrencyLimit,
    Config,
    FlowController,
    FlowKey,
    Gate,
    Holdback,
    InFlight,
    MaxOf,
    Request,
    Saturated,
    Saturation,
    Static,
    Ticket,
)
from flowctl.clock import MonotonicClock
from flowctl.gate import Load
from flowctl.policies.limits import Estimate, Window
from flowctl.testing import FakeClock
from tests.faults.moments import Moments
from tests.support import MakeController, wait_for

KEPT: list[Ticket] = []
"""So that no ticket comes back because nobody has it any more."""


@pytest.fixture(autouse=True)
def _keep() -> Iterator[None]:
    yield
    KEPT.clear()


def is_queued(ticket: Ticket) -> bool:
    return ticket.state == "queued"


def submit(controller: FlowController, flow: str, *, priority: int = 0, cost: int = 1) -> Ticket:
    ticket = controller.submit(Request(FlowKey(flow, priority), cost=cost), lambda ticket: None)
    KEPT.append(ticket)
    return ticket


class Level:
    """A source that says what it is told to, or raises it."""

    def __init__(self, level: object = 0.0) -> None:
        self.level = level

    def __call__(self) -> float:
        if isinstance(self.level, BaseException):
            raise self.level
        return self.level  # type: ignore[return-value]  # some of it is no number, on purpose


# --- seats and costs ------------------------------------------------------------------------------------------------


def test_a_cost_that_turns_out_smaller_lets_the_next_one_go_at_once(make_controller: MakeController) -> None:
    controller = make_controller(limit=10)
    holder, waiting = submit(controller, "a", cost=8), submit(controller, "b", cost=5)
    assert is_queued(waiting)

    assert holder.adjust(5)

    assert waiting.state == "dispatched"
    assert controller.stats().in_flight == 10


def test_a_cost_that_turns_out_larger_is_held_above_the_limit_and_keeps_the_next_one_waiting(
    make_controller: MakeController,
) -> None:
    controller = make_controller(limit=10)
    holder, other = submit(controller, "a", cost=5), submit(controller, "b", cost=5)
    assert holder.adjust(9)
    waiting = submit(controller, "c")
    assert (controller.stats().in_flight, controller.stats().saturation) == (14, 1.4)

    other.release()
    assert waiting.state == "dispatched", "9 and 1"
    assert submit(controller, "d").state == "queued"
    holder.release()
    assert controller.stats().in_flight == 2


def test_what_is_not_in_flight_has_no_seats_to_correct(make_controller: MakeController) -> None:
    controller = make_controller()
    holder, waiting = submit(controller, "a"), submit(controller, "b")

    assert not waiting.adjust(7)
    holder.release()
    assert not holder.adjust(7)
    assert controller.stats().in_flight == 1


@pytest.mark.parametrize("of", ["requests", "seats"])
def test_in_flight_counts_requests_or_the_seats_that_they_take(make_controller: MakeController, of: str) -> None:
    gate = InFlight(10, of="seats") if of == "seats" else InFlight(2)
    controller = make_controller(gate=gate)

    first, second, third = (submit(controller, "a", cost=9) for _ in range(3))

    assert (first.state, second.state, third.state) == ("dispatched", "dispatched", "queued"), "open below the ceiling"
    assert controller.stats().saturation == (1.8 if of == "seats" else 1.0)
    first.release()
    assert third.state == "dispatched"


# --- several --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_all_gates_agree_or_nothing_is_taken(make_controller: MakeController, *, together: bool) -> None:
    seats, requests = ConcurrencyLimit(10), InFlight(2)
    controller = make_controller(gate=MaxOf(seats, requests) if together else [seats, requests])
    one, two, three = submit(controller, "a", cost=3), submit(controller, "b", cost=3), submit(controller, "c", cost=3)

    assert (three.state, controller.stats().in_flight) == ("queued", 6), "for want of a request, not of seats"
    one.release()
    four = submit(controller, "d", cost=9)
    two.release()
    assert (three.state, four.state, controller.stats().in_flight) == ("dispatched", "queued", 3), "for want of seats"
    assert controller.stats().limit == 10


def test_a_gate_belongs_to_one_controller_within_a_bundle_too(make_controller: MakeController) -> None:
    seats = ConcurrencyLimit(1)
    make_controller(gate=seats)

    with pytest.raises(ValueError, match="another controller"):
        make_controller(gate=MaxOf(seats, InFlight(1)))


def test_gates_of_a_controller_that_could_not_be_made_are_free(make_controller: MakeController) -> None:
    free, taken = ConcurrencyLimit(1), ConcurrencyLimit(1)
    make_controller(gate=taken)
    with pytest.raises(ValueError, match="another controller") as refused:
        make_controller(gate=[free, taken])

    assert make_controller(gate=free).stats().limit == 1
    assert refused.value.args


def test_statistics_bear_a_gate_that_cannot_say_its_limit(make_controller: MakeController) -> None:
    class Broken(Gate):
        @property
        def limit(self) -> int | None:
            raise LookupError

        def saturation(self, load: Load) -> float:
            return 0.0

    stats = make_controller(gate=[Broken(), ConcurrencyLimit(3)]).stats()

    assert (stats.limit, stats.saturation) == (3, 0.0)


def test_a_bundle_of_nothing_or_of_one_gate_twice_is_refused() -> None:
    gate = InFlight(1)
    for wrong in ((), (gate, gate), (gate, MaxOf(gate))):
        with pytest.raises(ValueError, match="different ones"):
            MaxOf(*wrong)
    with pytest.raises(TypeError, match="must be Gates"):
        MaxOf(gate, 3)  # type: ignore[arg-type]


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "state"), [(0.99, "dispatched"), (1.0, "queued"), (1.5, "queued"), (-1, "dispatched")]
)
def test_a_signal_is_open_below_the_ceiling(make_controller: MakeController, level: float, state: str) -> None:
    controller = make_controller(gate=Saturation(Level(level)))
    controller.collect()

    assert submit(controller, "a").state == state
    assert controller.stats().saturation == max(level, 0)


def test_a_static_ceiling_of_a_half_blocks_at_a_half(make_controller: MakeController) -> None:
    level = Level(0.5)
    controller = make_controller(Config(ceilings=Static(0.5)), gate=Saturation(level))
    controller.collect()
    waiting = submit(controller, "a")
    assert is_queued(waiting)

    level.level = 0.49
    controller.collect()

    assert waiting.state == "dispatched"


def test_a_signal_that_reopens_without_any_release_lets_go_at_the_next_look(make_controller: MakeController) -> None:
    level = Level(1.0)
    controller = make_controller(gate=Saturation(level))
    controller.collect()
    waiting = [submit(controller, flow) for flow in "abc"]

    level.level = 0.2
    assert [ticket.state for ticket in waiting] == ["queued"] * 3, "it is not asked by a request"
    controller.collect()

    assert [ticket.state for ticket in waiting] == ["dispatched"] * 3


@pytest.mark.parametrize(("policy", "state"), [("closed", "queued"), ("open", "dispatched")])
def test_before_its_first_sample_a_signal_is_what_it_is_on_failure(
    make_controller: MakeController, policy: str, state: str
) -> None:
    gate = Saturation(Level(), on_failure="open" if policy == "open" else "closed")
    controller = make_controller(gate=gate)

    waiting = submit(controller, "a")
    assert waiting.state == state
    assert controller.stats().signals[0].status == "stale"
    controller.collect()
    assert waiting.state == "dispatched"


@pytest.mark.parametrize("policy", ["closed", "open"])
def test_a_signal_that_goes_stale_is_told_apart_from_overload(
    make_controller: MakeController, clock: FakeClock, policy: str
) -> None:
    level = Level(0.9)
    gate = Saturation(level, on_failure="open" if policy == "open" else "closed", stale_after=2.0, name="pool")
    controller = make_controller(Config(ceilings=Static(0.5)), gate=gate)
    controller.collect()
    waiting = submit(controller, "a")
    level.level = LookupError("no such pool")

    clock.advance(1)
    controller.collect()
    (signal,) = controller.stats().signals
    assert (signal.status, signal.value, signal.failures) == ("failing", 0.9, 1), "the sample before still counts"
    assert signal.error == "LookupError: no such pool"
    assert is_queued(waiting)
    clock.advance(1.5)
    controller.collect()

    (signal,) = controller.stats().signals
    assert (signal.name, signal.status, signal.age, signal.failures) == ("pool", "stale", 2.5, 2)
    assert waiting.state == ("dispatched" if policy == "open" else "queued"), "with nobody's else help"
    assert controller.stats().incidents == 2


def test_a_signal_is_sampled_by_a_thread_of_its_own_which_may_block(make_controller: MakeController) -> None:
    threads: set[str] = set()
    stuck, asked = threading.Event(), threading.Event()

    def slow() -> float:
        threads.add(threading.current_thread().name)
        asked.set()
        stuck.wait(30)
        return 0.0

    config = Config(gc_interval=0.05)
    controller = make_controller(config, gate=Saturation(slow), background=True, clock=MonotonicClock())
    told: list[str] = []
    waiting = controller.submit(Request(FlowKey("a"), ttl=60), lambda ticket: told.append(ticket.state))
    try:
        assert asked.wait(30)
        beat = controller._state.collector.heartbeat
        wait_for(lambda: controller._state.collector.heartbeat != beat)
        with pytest.raises(Saturated):
            controller.try_admit("b")
        assert is_queued(waiting)
    finally:
        stuck.set()
    wait_for(lambda: bool(told))
    assert (told, threads) == (["dispatched"], {"flowctl-sampler"})


def test_the_thread_of_a_signal_survives_what_its_source_raises(make_controller: MakeController) -> None:
    answers: list[object] = [LookupError("one"), float("nan"), 0.0]

    def moody() -> float:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]

    controller = make_controller(gate=Saturation(moody, interval=0.001), background=True, clock=MonotonicClock())
    told = threading.Event()
    controller.submit(Request(FlowKey("a")), lambda ticket: told.set())

    assert told.wait(30)
    assert controller.stats().signals[0].failures == 2
    wait_for(lambda: controller.stats().incidents == 2)


def test_close_does_not_wait_for_a_source_that_blocks(make_controller: MakeController) -> None:
    stuck, asked = threading.Event(), threading.Event()

    def slow() -> float:
        asked.set()
        stuck.wait(30)
        return 0.0

    controller = make_controller(gate=Saturation(slow), background=True, clock=MonotonicClock())
    submit(controller, "a")
    assert asked.wait(30)

    assert controller.close()
    assert not stuck.is_set()
    stuck.set()


# --- ceilings -------------------------------------------------------------------------------------------------------


def test_holdback_keeps_seats_free_for_the_highest_priority(make_controller: MakeController) -> None:
    config = Config(bands=[BandConfig(priority=10), BandConfig(priority=0)], ceilings=Holdback(0.25))
    controller = make_controller(config, limit=8)
    low = [submit(controller, "low") for _ in range(10)]
    assert [ticket.state for ticket in low].count("dispatched") == 6

    high = [submit(controller, "high", priority=10) for _ in range(2)]

    assert [ticket.state for ticket in high] == ["dispatched"] * 2
    assert controller.stats().in_flight == 8


def test_a_high_burst_finds_its_head_room_within_one_service_time(make_controller: MakeController) -> None:
    """Seats that low requests have taken come back as they end: after one service time all of the limit is its own."""
    config = Config(bands=[BandConfig(priority=10), BandConfig(priority=0)], ceilings=Holdback(0.5))
    controller = make_controller(config, limit=8)
    low = [submit(controller, "low") for _ in range(50)]
    burst = [submit(controller, "high", priority=10) for _ in range(8)]
    assert [ticket.state for ticket in burst].count("dispatched") == 4, "at once: what was held back"

    for ticket in [ticket for ticket in low if ticket.state == "dispatched"]:
        ticket.release()

    assert [ticket.state for ticket in burst] == ["dispatched"] * 8
    assert [ticket.state for ticket in low].count("queued") == 46


def test_a_band_above_changes_the_ceilings_of_those_below_and_gives_them_back_when_it_has_gone(
    make_controller: MakeController, clock: FakeClock
) -> None:
    config = Config(ceilings=Holdback(0.5), flow_gc_timeout=10, band_gc_timeout=10)
    controller = make_controller(config, limit=4)
    low = [submit(controller, "low") for _ in range(3)]
    assert [ticket.state for ticket in low] == ["dispatched"] * 3, "there is nobody to hold back for"
    submit(controller, "high", priority=5).release()
    low[0].release()
    waiting = submit(controller, "low")
    assert is_queued(waiting), "2 of 4 are in flight"

    clock.advance(20)
    assert controller.collect().flows == 1
    clock.advance(20)
    assert controller.collect().bands == 1

    assert waiting.state == "dispatched", "with nobody's help"


@pytest.mark.parametrize(
    "said",
    [[1.0], [1.0, 0.5, 0.5], [0.5, 1.0], [1.0, float("nan")], [1.0, -0.1], [1.1, 0.5], ["1", "0"], None, LookupError()],
    ids=repr,
)
def test_ceilings_that_make_no_sense_hold_nobody_back_and_are_counted(
    make_controller: MakeController, said: object
) -> None:
    class Nonsense:
        def ceilings(self, priorities: Sequence[int]) -> Sequence[float]:
            if isinstance(said, Exception):
                raise said
            return said  # type: ignore[return-value]

    config = Config(bands=[BandConfig(priority=10), BandConfig(priority=0)], ceilings=Nonsense())
    controller = make_controller(config, limit=2)

    assert [submit(controller, "a").state for _ in range(3)] == ["dispatched", "dispatched", "queued"]
    assert controller.stats().incidents == 1, "once for these bands, not once a request"


def test_an_empty_band_never_blocks_the_ones_below_whatever_its_ceiling(make_controller: MakeController) -> None:
    config = Config(
        bands=[BandConfig(priority=10), BandConfig(priority=0)], ceilings=Holdback({10: 0.1, 0: 0.1}), gate=InFlight(10)
    )
    controller = make_controller(config, gate=ConcurrencyLimit(10))

    assert submit(controller, "low").state == "dispatched"


# --- adaptive -------------------------------------------------------------------------------------------------------


def test_an_adaptive_limit_moves_by_what_releases_tell_and_lets_go_at_once(
    make_controller: MakeController, clock: FakeClock
) -> None:
    gate = AdaptiveLimit(Aimd(), initial=2, samples=2, window=0)
    controller = make_controller(gate=gate)
    tickets = [submit(controller, "a") for _ in range(6)]
    clock.advance(0.1)

    tickets[0].release()
    tickets[1].release()

    assert gate.limit == 3
    assert controller.stats().limit == 3
    assert [ticket.state for ticket in tickets[2:]] == ["dispatched"] * 3 + ["queued"]
    (change,) = gate.history
    assert (change.at, change.limit) == (clock.now(), 3)
    assert (change.window.requests, change.window.dropped, change.window.in_flight) == (2, 0, 2)
    assert [change.window.mean, change.window.least] == pytest.approx([0.1, 0.1])


def test_what_was_dropped_lowers_it_and_what_is_ignored_tells_nothing(
    make_controller: MakeController, clock: FakeClock
) -> None:
    gate = AdaptiveLimit(Aimd(backoff=0.5), initial=8, samples=1, window=0)
    controller = make_controller(gate=gate)
    tickets = [submit(controller, "a") for _ in range(8)]
    clock.advance(1)

    tickets[0].release("ignored")
    assert gate.limit == 8
    tickets[1].release("dropped")
    assert gate.limit == 4
    tickets[2].release("dropped")
    assert gate.limit == 4, "it was granted under the limit before"


def test_an_algorithm_that_fails_leaves_the_limit_as_it_is_and_is_counted(
    make_controller: MakeController, clock: FakeClock
) -> None:
    class Broken:
        def step(self, estimate: Estimate, window: Window) -> Estimate:
            return Estimate(float("nan"))

    gate = AdaptiveLimit(Broken(), initial=2, samples=1, window=0)
    controller = make_controller(gate=gate)
    clock.advance(1)

    assert submit(controller, "a").release()

    assert gate.limit == 2
    wait_for(lambda: controller.stats().incidents == 1)
    assert [submit(controller, "a").state for _ in range(3)] == ["dispatched", "dispatched", "queued"]


# --- of one's own ---------------------------------------------------------------------------------------------------


def test_a_gate_of_ones_own_has_one_method_and_says_when_it_changes(make_controller: MakeController) -> None:
    class Maintenance(Gate):
        def __init__(self) -> None:
            self.on = True

        def saturation(self, load: Load) -> float:
            return float(self.on)

        def end(self) -> None:
            def act() -> None:
                self.on = False

            self.change(act)

    gate = Maintenance()
    controller = make_controller(gate=[ConcurrencyLimit(1), gate])
    waiting = submit(controller, "a")
    assert is_queued(waiting)

    gate.end()

    assert waiting.state == "dispatched"


@pytest.mark.parametrize("said", [float("nan"), "full", None, LookupError()], ids=repr)
def test_a_gate_that_says_nonsense_is_closed_for_that_moment_and_counted_as_full(
    make_controller: MakeController, said: object
) -> None:
    class Nonsense(Gate):
        said: object = 0.0

        def saturation(self, load: Load) -> float:
            if isinstance(self.said, Exception):
                raise self.said
            return self.said  # type: ignore[return-value]

    gate = Nonsense()
    controller = make_controller(gate=[ConcurrencyLimit(8), gate])
    submit(controller, "a")
    gate.said = said
    waiting = submit(controller, "b")

    assert (waiting.state, controller.stats().saturation) == ("queued", 1.0)
    gate.said = 0.5
    gate.change(lambda: None)
    assert (waiting.state, controller.stats().saturation) == ("dispatched", 0.5)


# --- faults and handlers --------------------------------------------------------------------------------------------


class StruckError(BaseException):
    """What a signal handler may raise anywhere."""


def test_no_grant_goes_above_a_limit_that_was_learnt_in_a_section_that_was_torn(
    make_controller: MakeController, clock: FakeClock
) -> None:
    def strike() -> None:
        raise StruckError

    at, passed = 1, 1
    while passed >= at:
        gate = AdaptiveLimit(Aimd(backoff=0.1), initial=10, most=20, samples=1, window=0.0)
        controller = make_controller(gate=gate)
        ticket = controller.admit("a")
        clock.advance(1)
        with Moments(at, strike) as moments:
            try:
                ticket.release("dropped")
            except StruckError:
                pass
        passed, at = moments.passed, at + 1
        ticket.release()
        granted = [ticket for ticket in (submit(controller, "b") for _ in range(12)) if not is_queued(ticket)]
        assert len(granted) == gate.limit


def test_a_handler_that_corrects_a_cost_in_the_middle_of_a_section_is_told_the_truth(
    make_controller: MakeController,
) -> None:
    at, passed = 1, 1
    while passed >= at:
        controller = make_controller(limit=9)
        corrected, other = controller.admit("a"), controller.admit("b")
        said: list[bool] = []
        with Moments(at, lambda said=said, corrected=corrected: said.append(corrected.adjust(3))) as moments:  # type: ignore[misc]
            other.release()
        passed, at = moments.passed, at + 1
        assert said in ([], [True])
        assert controller.stats().in_flight == (3 if said else 1)


def test_overloads_that_last_longer_than_a_window_are_seen(make_controller: MakeController, clock: FakeClock) -> None:
    """Half of the requests are quick, and close one window after the other; the others time out."""
    gate = AdaptiveLimit(Aimd(backoff=0.5), initial=16, samples=4, window=0.0)
    controller = make_controller(gate=gate)
    slow = [submit(controller, "slow") for _ in range(2)]
    for _ in range(20):
        quick = submit(controller, "quick")
        clock.advance(0.1)
        quick.release()
    grown = gate.limit
    assert grown > 16 or gate.history

    slow[0].release("dropped")
    for _ in range(4):
        quick = submit(controller, "quick")
        clock.advance(0.1)
        quick.release()

    assert gate.limit < grown
