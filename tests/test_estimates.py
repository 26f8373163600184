"""When to try again, how long it will take, where one stands."""

import pytest

from flowctl import (
    BandConfig,
    Config,
    EarliestDeadline,
    FlowController,
    FlowKey,
    Never,
    Outcome,
    QueueFull,
    Request,
    Ticket,
)
from flowctl.drain import DrainRate
from flowctl.testing import FakeClock
from tests.support import MakeController


def submit(controller: FlowController, flow: str, *, priority: int = 0, ttl: float | None = None) -> Ticket:
    return controller.submit(Request(FlowKey(flow, priority), ttl=ttl), lambda ticket: None)


def drain(controller: FlowController, clock: FakeClock, holder: Ticket, *, each: float, times: int) -> Ticket:
    """So many dispatches from the queue, one every `each` seconds; who has the seat then."""
    waiting = [submit(controller, "drained") for _ in range(times)]
    for ticket in waiting:
        clock.advance(each)
        holder.release()
        assert ticket.state == "dispatched"
        holder = ticket
    return holder


# --- the rate -----------------------------------------------------------------------------------------------------


def test_nothing_is_known_before_somebody_waited_for_a_second() -> None:
    rate = DrainRate()
    rate.begin(100.0)
    rate.count(100.5)

    assert rate.per_second(100.9) is None


def test_the_rate_follows_the_dispatches_with_a_weight_of_0_3_a_second() -> None:
    rate = DrainRate()
    rate.begin(0.0)
    for now in (0.25, 0.5, 0.75, 1.0):
        rate.count(now)
    assert rate.per_second(1.0) == 4.0

    rate.count(1.5)
    rate.count(2.0)
    assert rate.per_second(2.0) == pytest.approx(0.7 * 4 + 0.3 * 2)


def test_several_seconds_without_a_dispatch_count_as_so_many() -> None:
    rate = DrainRate()
    rate.begin(0.0)
    for now in (0.25, 0.5, 0.75, 1.0):
        rate.count(now)

    assert rate.per_second(4.0) == pytest.approx(4 * 0.7**3)


def test_the_time_in_which_nobody_waits_does_not_count() -> None:
    rate = DrainRate()
    rate.begin(0.0)
    for now in (0.25, 0.5, 0.75, 1.0):
        rate.count(now)
    rate.begin(1000.0)

    assert rate.per_second(1000.0) == 4.0


def test_bursts_shorter_than_a_second_add_up() -> None:
    rate = DrainRate()
    for burst in (0.0, 100.0, 200.0):
        rate.begin(burst)
        rate.count(burst + 0.25)
        rate.count(burst + 0.5)

    assert rate.per_second(200.5) == pytest.approx(4.0)


# --- when to try again --------------------------------------------------------------------------------------------


def test_a_full_queue_says_when_it_will_have_drained(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=8, displacement=Never())))
    _holder = drain(controller, clock, controller.admit("holder"), each=0.5, times=8)
    for _ in range(8):
        submit(controller, "a")

    with pytest.raises(QueueFull) as refused:
        controller.admit("b")

    assert refused.value.scope == "band"
    assert refused.value.retry_after == pytest.approx(4.0)


def test_the_slowest_of_the_limits_that_are_met_says_when(make_controller: MakeController, clock: FakeClock) -> None:
    band = BandConfig(max_requests=8, max_requests_per_flow=2)
    controller = make_controller(Config(default_band=band, max_requests=9))
    holder = drain(controller, clock, controller.admit("holder"), each=0.5, times=2)
    _holder = drain(controller, clock, holder, each=0.5, times=2)
    for flow in "aabb":
        submit(controller, flow)

    refused = submit(controller, "a")

    assert (refused.outcome, refused.error and refused.error.scope) == (Outcome.REJECTED_CAPACITY, "flow")
    # its 2 and one more, each after one of the other flow: but no more than the 4 that wait, and it
    assert refused.error is not None
    assert refused.error.retry_after == pytest.approx(5 / 2)


@pytest.mark.parametrize(("each", "expected"), [(0.01, 1.0), (20.0, 30.0)])
def test_it_is_1_to_30_seconds(make_controller: MakeController, clock: FakeClock, each: float, expected: float) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=200, displacement=Never())))
    _holder = drain(controller, clock, controller.admit("holder"), each=each, times=2 if each > 1 else 150)
    for _ in range(20):
        submit(controller, "a")

    refused = submit(controller, "b", ttl=0)
    assert refused.error is not None
    assert refused.error.retry_after == expected


def test_before_anything_is_known_it_is_a_second(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=1)))
    _holder = controller.admit("holder")
    submit(controller, "a")

    refused = submit(controller, "a")

    assert refused.error is not None
    assert refused.error.retry_after == 1.0


def test_who_left_by_itself_is_not_told_to_try_again(controller: FlowController) -> None:
    _holder = controller.admit("holder")
    ticket = submit(controller, "a")
    ticket.cancel()

    assert ticket.error is not None
    assert ticket.error.retry_after is None


# --- where one stands ---------------------------------------------------------------------------------------------


def test_a_ticket_knows_its_place_while_it_is_queued(controller: FlowController) -> None:
    holder = controller.admit("holder")
    first, second, third = (submit(controller, "a") for _ in range(3))
    assert [ticket.position for ticket in (holder, first, second, third)] == [None, 1, 2, 3]

    second.cancel()
    assert [ticket.position for ticket in (first, second, third)] == [1, None, 2]

    holder.release()
    assert [ticket.position for ticket in (first, third)] == [None, 1]


def test_the_place_is_that_of_the_bands_ordering(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(ordering=EarliestDeadline())))
    _holder = controller.admit("holder")
    late, soon = submit(controller, "a", ttl=50), submit(controller, "a", ttl=5)

    assert (soon.position, late.position) == (1, 2)


def test_the_wait_is_estimated_from_the_turns_of_all_active_flows(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller()
    _holder = drain(controller, clock, controller.admit("holder"), each=0.5, times=4)
    of_a = [submit(controller, "a") for _ in range(3)]
    of_b = [submit(controller, "b") for _ in range(9)]

    assert of_a[0].estimated_wait == pytest.approx(1.0)
    assert of_a[2].estimated_wait == pytest.approx(3.0)
    assert of_b[8].estimated_wait == pytest.approx(6.5), "no more than all that wait, and itself"
    of_a[0].cancel()
    assert of_a[0].estimated_wait is None


# --- the doomed ---------------------------------------------------------------------------------------------------


def doomed(make_controller: MakeController, clock: FakeClock, *, refuse: bool) -> tuple[FlowController, Ticket]:
    """Two dispatches a second, and 8 of one flow wait; who has the seat."""
    controller = make_controller(Config(refuse_doomed=refuse))
    holder = drain(controller, clock, controller.admit("holder"), each=0.5, times=4)
    for _ in range(8):
        submit(controller, "a")
    return controller, holder


def test_who_would_wait_for_longer_than_its_ttl_is_refused_if_that_is_asked_for(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller, _holder = doomed(make_controller, clock, refuse=True)

    refused = submit(controller, "a", ttl=4.0)

    assert refused.outcome is Outcome.REJECTED_CAPACITY
    assert refused.error is not None
    assert refused.error.scope == "ttl"
    assert str(refused.error) == "the queue is too long for its ttl"
    assert refused.error.retry_after == pytest.approx(4.5)


@pytest.mark.parametrize(("flow", "ttl"), [("a", 5.0), ("a", None), ("b", 1.5)])
def test_who_can_make_it_waits(make_controller: MakeController, clock: FakeClock, flow: str, ttl: float | None) -> None:
    controller, _holder = doomed(make_controller, clock, refuse=True)

    assert submit(controller, flow, ttl=ttl).state == "queued"


def test_nobody_is_refused_as_doomed_unless_that_is_asked_for(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller, _holder = doomed(make_controller, clock, refuse=False)

    assert submit(controller, "a", ttl=0.5).state == "queued"
