"""Adaptive limits: what algorithms make of windows, the gate of releases, and both of a back end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl import AdaptiveLimit, Aimd, ConcurrencyLimit, FlowController, Gradient2, QueueWait, Rejected
from flowctl.policies.limits import Estimate, LimitAlgorithm, Window
from flowctl.testing import FakeClock
from flowctl.ticket import ReleaseOutcome
from tests.policies.choices import Rows, markdown, written
from tests.policies.simulation import (
    ALGORITHMS,
    DOCUMENT,
    FIXED,
    INITIAL,
    PHASES,
    SERVICE,
    TABLES,
    Ours,
    Phase,
    Run,
    adaptive,
    fixed,
    log_normal,
    near,
    oracle,
    saturated,
    simulate,
)
from tests.policies.workload import queue
from tests.support import MakeController

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)


def window(mean: float = 0.05, *, in_flight: int = 8, dropped: int = 0) -> Window:
    return Window(requests=20, dropped=dropped, mean=mean, least=0.8 * mean, in_flight=in_flight)


AT_REST = Estimate(8.0, baseline=0.05, windows=100)


# --- the algorithms --------------------------------------------------------------------------------------------------


@each_algorithm
def test_recorded_samples_converge(algorithm: LimitAlgorithm) -> None:
    """Mean milliseconds by what was in flight, as a back end of 8 seats had them."""
    recorded = {4: 50, 5: 49, 6: 51, 7: 50, 8: 51, 9: 57, 10: 63, 11: 69, 12: 76}
    estimate, limits = Estimate(4.0), list[float]()
    for _ in range(200):
        in_flight = min(max(round(estimate.limit), 4), 12)
        estimate = algorithm.step(estimate, window(recorded[in_flight] / 1000, in_flight=in_flight))
        limits.append(estimate.limit)

    assert 6 <= median(limits[20:]) <= 10
    assert 4 < min(limits[20:]) <= max(limits[20:]) <= 12


@each_algorithm
def test_drops_back_off_and_teach_no_latency(algorithm: LimitAlgorithm) -> None:
    all_dropped = Window(requests=10, dropped=10, mean=math.nan, least=math.nan, in_flight=8)

    for dropped in (window(dropped=1), all_dropped):
        after = algorithm.step(AT_REST, dropped)
        assert after.limit == pytest.approx(0.9 * 8)
        assert after.baseline == AT_REST.baseline


@each_algorithm
def test_drops_in_the_first_window_are_survived(algorithm: LimitAlgorithm) -> None:
    all_dropped = Window(requests=10, dropped=10, mean=math.nan, least=math.nan, in_flight=8)

    assert algorithm.step(algorithm.step(Estimate(8.0), all_dropped), window()).limit > 0.9 * 8


@each_algorithm
@pytest.mark.parametrize(("in_flight", "grows"), [(8, True), (4, True), (3, False), (1, False)])
def test_a_limit_grows_only_where_half_of_it_was_used(algorithm: LimitAlgorithm, in_flight: int, grows: bool) -> None:
    assert (algorithm.step(AT_REST, window(in_flight=in_flight)).limit > 8) == grows


@each_algorithm
def test_an_overload_shrinks_the_limit(algorithm: LimitAlgorithm) -> None:
    assert 4 <= algorithm.step(AT_REST, window(0.1)).limit < 8


def test_without_a_latency_only_drops_end_the_growth_of_aimd() -> None:
    assert Aimd().step(AT_REST, window(100.0)).limit == 9


def test_a_long_term_mean_that_stands_far_too_high_is_drawn_down() -> None:
    algorithm, after = Gradient2(), replace(AT_REST, baseline=1.0)
    for _ in range(50):
        after = algorithm.step(after, window())

    assert after.baseline < 2.2 * 0.05


def test_windows_that_are_quicker_than_the_long_term_mean_grow_a_limit_by_the_queue_alone() -> None:
    for mean in (0.049, 0.03, 0.0):
        assert Gradient2().step(AT_REST, window(mean)).limit == pytest.approx(8 + 0.7 * 0.3 * math.sqrt(8))


def test_the_first_windows_are_the_long_term_mean() -> None:
    estimate = Estimate(4.0)
    for mean in (0.04, 0.05, 0.06):
        estimate = Gradient2().step(estimate, window(mean))

    assert estimate.baseline == pytest.approx(0.05)


@pytest.mark.parametrize("slower", [0.5, 1.5, 2.0, 4.0])
def test_queue_wait_follows_a_back_end_whose_base_latency_changes(slower: float) -> None:
    algorithm, estimate, limits = QueueWait(), AT_REST, list[float]()
    for _ in range(240):
        in_flight = max(1, round(estimate.limit))
        estimate = algorithm.step(estimate, window(slower * 0.05 * max(1.0, in_flight / 8), in_flight=in_flight))
        estimate = replace(estimate, limit=max(estimate.limit, 1.0))
        limits.append(estimate.limit)

    if slower > 1:
        assert near(median(limits[40:80]), 8), "soon: with one in flight it sees rest"
    assert near(median(limits[80:]), 8)
    assert estimate.baseline == pytest.approx(slower * 0.05, rel=0.1)


def test_queue_wait_comes_down_from_a_start_in_the_middle_of_an_overload() -> None:
    run = simulate(AdaptiveLimit(QueueWait(), initial=20), phases=[Phase(0, 60, 8)])

    assert near(median(run.sampled(40, 60)), 8)


def test_an_overload_that_never_pauses_teaches_queue_wait_nothing() -> None:
    assert near(median(saturated(QueueWait(), capacity=8, minutes=60)[-2400:]), 8)


@pytest.mark.parametrize("learner", [QueueWait(rise=0.25), Gradient2()], ids=["a quick rise", "a long-term mean"])
def test_what_follows_the_queue_too_easily_drifts(learner: LimitAlgorithm) -> None:
    """The negative control of the test above."""
    assert median(saturated(learner, capacity=8, minutes=60)[-2400:]) > 16


windows = st.builds(
    Window,
    requests=st.integers(1, 10**6),
    dropped=st.integers(0, 1),
    mean=st.floats(0, 1e6),
    least=st.floats(0, 1e6),
    in_flight=st.integers(0, 10**6),
)
estimates = st.builds(
    Estimate, limit=st.floats(1, 1e6), baseline=st.floats(0, 1e6) | st.just(math.nan), windows=st.integers(0, 10**6)
)


@each_algorithm
@given(estimate=estimates, window=windows)
def test_a_step_is_pure_and_its_limit_finite_and_above_0(
    algorithm: LimitAlgorithm, estimate: Estimate, window: Window
) -> None:
    after, again = algorithm.step(estimate, window), algorithm.step(estimate, window)

    assert repr(after) == repr(again)  # NaN is not equal to itself
    assert 0 < after.limit < math.inf
    assert after.windows == estimate.windows + 1
    assert not after.baseline < 0
    if after.limit > estimate.limit:
        assert not window.dropped
        assert 2 * window.in_flight >= estimate.limit


# --- their arguments -------------------------------------------------------------------------------------------------

AIMD: Sequence[tuple[str, object]] = [("backoff", 1), ("increase", 0), ("latency", -0.1)]
GRADIENT: Sequence[tuple[str, object]] = [
    ("tolerance", 0.9),
    ("queue", 0),
    ("smoothing", 1.1),
    ("long", 0),
    ("warmup", -1),
    ("backoff", 0),
]
QUEUE: Sequence[tuple[str, object]] = [
    ("target", 0),
    ("drain", 1),
    ("growth", 0),
    ("rise", 1.5),
    ("fall", -1),
    ("backoff", 2),
]
FIELDS = [
    (make, *bad) for make, all_bad in ((Aimd, AIMD), (Gradient2, GRADIENT), (QueueWait, QUEUE)) for bad in all_bad
]


@pytest.mark.parametrize(("make", "name", "value"), FIELDS)
def test_a_field_out_of_its_range_is_refused_by_name_value_and_rule(
    make: Callable[..., LimitAlgorithm], name: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, not {value}( \(float\))?$"):
        make(**{name: value})


@pytest.mark.parametrize(("make", "name", "value"), FIELDS)
@pytest.mark.parametrize("wrong", ["1", True, [1]], ids=repr)
def test_a_field_of_a_wrong_type_is_refused(
    make: Callable[..., LimitAlgorithm], name: str, value: object, wrong: object
) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be an? \w+, not "):
        make(**{name: wrong})


@pytest.mark.parametrize(("make", "name", "value"), FIELDS)
@pytest.mark.parametrize("endless", [math.nan, math.inf, 10**400], ids=["nan", "inf", "huge"])
def test_a_field_that_is_no_finite_number_is_refused(
    make: Callable[..., LimitAlgorithm], name: str, value: object, endless: float
) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be "):
        make(**{name: endless})


# --- the gate --------------------------------------------------------------------------------------------------------


@final
class Says:
    """Says what it is told, and keeps the windows that it saw."""

    def __init__(self, *limits: float) -> None:
        self.limits = list(limits)
        self.windows: list[Window] = []

    def step(self, estimate: Estimate, window: Window) -> Estimate:
        self.windows.append(window)
        return replace(estimate, limit=self.limits.pop(0) if self.limits else estimate.limit)


@final
class Releases:
    """Grants and releases, by hand: requests that were granted at one moment and released at another."""

    def __init__(self, gate: AdaptiveLimit) -> None:
        self.gate = gate

    def __call__(
        self, count: int, granted_at: float, now: float, outcome: ReleaseOutcome = "ok", in_flight: int = 8
    ) -> bool:
        moved = [self.gate.learn(granted_at, now, in_flight, outcome) for _ in range(count)]
        return any(moved)


def test_a_window_ends_once_it_has_its_samples_and_its_time() -> None:
    algorithm = Says()
    release = Releases(AdaptiveLimit(algorithm, initial=8, samples=10, window=1.0))
    release(10, 0.0, 0.1)  # the first one began at no time
    assert len(algorithm.windows) == 1

    release(10, 0.2, 0.3)  # not its time
    assert len(algorithm.windows) == 1
    release(1, 0.2, 1.2)
    assert [seen.requests for seen in algorithm.windows] == [10, 11]

    release(9, 2.0, 3.0)  # not its samples
    assert len(algorithm.windows) == 2


def test_a_window_has_the_mean_the_least_and_the_most_in_flight() -> None:
    algorithm = Says()
    release = Releases(AdaptiveLimit(algorithm, initial=8, samples=3))
    release(1, 0.0, 1.0, in_flight=3)
    release(1, 0.0, 3.0, in_flight=7)
    release(1, 3.0, 5.0, in_flight=2)

    assert algorithm.windows == [Window(requests=3, dropped=0, mean=2.0, least=1.0, in_flight=7)]


def test_what_is_ignored_is_no_sample() -> None:
    algorithm = Says()
    release = Releases(AdaptiveLimit(algorithm, initial=8, samples=2))
    release(100, 0.0, 9.0, "ignored", in_flight=99)
    release(2, 0.0, 1.0)

    assert algorithm.windows == [Window(requests=2, dropped=0, mean=1.0, least=1.0, in_flight=8)]


def test_how_long_a_dropped_request_took_is_no_sample() -> None:
    algorithm = Says()
    release = Releases(AdaptiveLimit(algorithm, initial=8, samples=3))
    release(1, 0.0, 0.001, "dropped")
    release(2, 0.0, 1.0)

    assert algorithm.windows == [Window(requests=3, dropped=1, mean=1.0, least=1.0, in_flight=8)]


def test_a_window_of_drops_alone_has_no_times() -> None:
    algorithm = Says()
    Releases(AdaptiveLimit(algorithm, initial=8, samples=2))(2, 0.0, 1.0, "dropped")

    (seen,) = algorithm.windows
    assert (seen.requests, seen.dropped) == (2, 2)
    assert math.isnan(seen.mean)
    assert math.isnan(seen.least)


def test_requests_that_were_granted_under_the_earlier_limit_are_no_samples() -> None:
    gate = AdaptiveLimit(Aimd(), initial=100, samples=10, window=0.0)
    release = Releases(gate)
    release(10, 0.0, 1.0, "dropped")
    assert gate.limit == 90

    release(1_000, 0.9, 1.1, "dropped")  # the same overload
    assert gate.limit == 90
    release(10, 1.0, 2.0, "dropped")
    assert gate.limit == 81


def test_a_clock_that_went_back_gives_no_sample() -> None:
    algorithm = Says()
    Releases(AdaptiveLimit(algorithm, initial=8, samples=1))(5, 2.0, 1.0)

    assert not algorithm.windows


def test_the_limit_stays_within_its_bounds() -> None:
    gate = AdaptiveLimit(Says(1e9, -5.0, 7.4), initial=8, least=2, most=16, samples=1, window=0.0)
    release = Releases(gate)
    seen: list[tuple[int, float]] = []
    for moment in range(3):
        release(1, moment, moment + 0.5)
        seen.append((gate.limit, gate.estimate.limit))

    assert seen == [(16, 16), (2, 2), (7, 7.4)]


def test_only_a_limit_that_moved_is_told() -> None:
    release = Releases(AdaptiveLimit(Says(8.4, 9.0), initial=8, samples=1, window=0.0))

    assert [release(1, 0.0, 0.5), release(1, 1.0, 1.5)] == [False, True]


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf])
def test_an_algorithm_that_says_no_finite_number_is_an_error_and_the_limit_stays(limit: float) -> None:
    algorithm = Says(limit, 9.0)
    gate = AdaptiveLimit(algorithm, initial=8, samples=2, window=0.0)
    release = Releases(gate)
    with pytest.raises(ValueError, match=f"limit must be finite, not {limit}"):
        release(2, 0.0, 1.0)
    assert (gate.limit, gate.estimate.limit, gate.history) == (8, 8.0, ())

    release(1, 1.0, 2.0)
    assert len(algorithm.windows) == 1, "a new window has begun"
    release(1, 1.0, 2.0)
    assert gate.limit == 9


def test_a_broken_algorithm_is_reported_and_releases_go_on(make_controller: MakeController, clock: FakeClock) -> None:
    gate = AdaptiveLimit(Says(math.nan, 3.0), initial=2, samples=1, window=0.0)
    controller = make_controller(gate=gate)
    for limit in (2, 3):
        ticket = controller.admit("a")
        clock.advance(1)
        assert ticket.release()
        assert gate.limit == limit
    controller.collect()

    assert controller.stats().incidents == 1


def test_the_history_is_ready_for_a_plot_and_bounded() -> None:
    gate = AdaptiveLimit(Aimd(), initial=8, samples=1, window=0.0, history=3)
    release = Releases(gate)
    for moment in range(10):
        release(1, moment, moment + 0.5)

    times, limits, seen = zip(*gate.history, strict=True)
    assert times == (7.5, 8.5, 9.5)
    assert limits == (16, 17, 17), "nobody used more than 8"
    assert all(each.mean == 0.5 for each in seen)


def test_who_was_refused_is_no_sample(make_controller: MakeController, clock: FakeClock) -> None:
    algorithm = Says()
    controller = make_controller(gate=AdaptiveLimit(algorithm, initial=1, samples=2, window=0.0))
    for _ in range(2):
        ticket = controller.admit("a")
        clock.advance(1)
        for _ in range(5):
            with pytest.raises(Rejected):
                controller.try_admit("a")
        ticket.release()

    assert algorithm.windows == [Window(requests=2, dropped=0, mean=1.0, least=1.0, in_flight=1)]


def test_time_in_the_queue_is_no_time_in_the_back_end(make_controller: MakeController, clock: FakeClock) -> None:
    algorithm = Says()
    controller = make_controller(gate=AdaptiveLimit(algorithm, initial=1, samples=1, window=0.0))
    served = run_in_turn(controller, clock, count=5, seconds=1.0)

    assert served == 5
    assert {seen.mean for seen in algorithm.windows} == {1.0}, "though the last one waited for 4 s"


def run_in_turn(controller: FlowController, clock: FakeClock, *, count: int, seconds: float) -> int:
    """Queue so many, and let each take so long."""
    tickets = [queue(controller, "a") for _ in range(count)]
    served = 0
    while running := [ticket for ticket in tickets if ticket.state == "dispatched"]:
        clock.advance(seconds)
        for ticket in running:
            ticket.release()
            served += 1
    return served


# --- what they do to a back end --------------------------------------------------------------------------------------


@each_algorithm
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: f"{phase.capacity} seats")
def test_within_10_s_of_a_change_the_limit_is_within_a_quarter_of_the_capacity(algorithm: Ours, phase: Phase) -> None:
    run = adaptive(algorithm)

    assert reached(run, phase) <= 10
    assert near(run.median_since(phase), phase.capacity)
    assert run.kept(phase) > 0.7


@each_algorithm
def test_goodput_is_at_least_nine_tenths_of_the_best(algorithm: Ours) -> None:
    assert adaptive(algorithm).good() >= 0.9 * oracle().good()


@each_algorithm
def test_p99_in_the_back_end_is_at_most_twice_the_best(algorithm: Ours) -> None:
    assert adaptive(algorithm).p99() <= 2 * oracle().p99()


@each_algorithm
def test_other_random_numbers_change_nothing_of_that(algorithm: Ours) -> None:
    best = simulate(ConcurrencyLimit(8), oracle=True, seed=1)
    run = simulate(AdaptiveLimit(algorithm, initial=INITIAL), seed=1)

    assert max(reached(run, phase) for phase in PHASES) <= 10
    assert run.good() >= 0.9 * best.good()
    assert run.p99() <= 2 * best.p99()


@pytest.mark.parametrize("limit", FIXED)
def test_a_fixed_limit_that_is_wrong_misses_these_targets(limit: int) -> None:
    """The negative control of the tests above."""
    run = fixed(limit)

    assert not any(run.reached(phase) is not None for phase in PHASES)
    assert run.good() < 0.7 * oracle().good()


def test_aimd_without_drops_or_a_latency_misses_these_targets() -> None:
    """Another one: nothing tells it of an overload."""
    run = adaptive(Aimd())

    assert run.p99() > 2 * oracle().p99()


@final
class LeastWait:
    """`QueueWait` by the least time of a window instead of the mean."""

    def step(self, estimate: Estimate, window: Window) -> Estimate:
        return QueueWait().step(estimate, replace(window, mean=window.least))


def test_where_work_differs_queue_wait_goes_by_the_mean_as_the_least_is_chance() -> None:
    by_least = simulate(AdaptiveLimit(LeastWait(), initial=INITIAL), work=log_normal)
    best = oracle(log_normal).good()

    assert adaptive(QueueWait(), log_normal).good() > 0.8 * best
    assert by_least.good() < 0.7 * best


def test_the_simulated_back_end_has_its_capacity_and_no_more() -> None:
    for limit in (8, 16):
        run = simulate(ConcurrencyLimit(limit), phases=[Phase(0, 20, 8)])
        assert len(run.answers) == pytest.approx(20 * 8 / SERVICE, rel=0.02)
        assert median(answer.took for answer in run.answers) == pytest.approx(SERVICE * limit / 8, rel=0.02)


def reached(run: Run, phase: Phase) -> float:
    seconds = run.reached(phase)
    return math.inf if seconds is None else seconds


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_a_table_of_the_document_is_what_comes_out(make: Callable[[], Rows]) -> None:
    document = DOCUMENT.read_text("utf-8")

    assert written(document, make.__name__, markdown(make())) == document, (
        "python -m tests.policies.simulation writes it"
    )
