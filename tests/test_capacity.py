"""How much may wait: the queue limits, who makes room, and that every place comes back."""

import math
from collections.abc import Callable

import pytest

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    Displaced,
    FlowController,
    FlowKey,
    LowerPriority,
    Never,
    Outcome,
    QueueFull,
    Request,
    Ticket,
    WaitingRoom,
)
from flowctl.testing import FakeClock
from tests.support import MakeController


def queue(controller: FlowController, flow: str, *, priority: int = 0, size: int = 0, cost: int = 1) -> Ticket:
    """Queue a request without a thread that waits for it."""
    return controller.submit(Request(FlowKey(flow, priority), size=size, cost=cost), on_settled=lambda ticket: None)


LIMITS = {
    ("flow", "requests"): Config(default_band=BandConfig(max_requests_per_flow=3)),
    ("flow", "bytes"): Config(default_band=BandConfig(max_bytes_per_flow=30)),
    ("band", "requests"): Config(default_band=BandConfig(max_requests=3, displacement=Never())),
    ("band", "bytes"): Config(default_band=BandConfig(max_bytes=30, displacement=Never())),
    ("global", "requests"): Config(max_requests=3),
    ("global", "bytes"): Config(max_bytes=30),
}


@pytest.mark.parametrize(("scope", "what"), LIMITS)
def test_exactly_at_a_limit_is_allowed_and_one_over_is_refused_with_its_scope(
    make_controller: MakeController, scope: str, what: str
) -> None:
    controller = make_controller(LIMITS[scope, what])
    _holder = controller.admit("holder")
    at_the_limit = [queue(controller, "a", size=10) for _ in range(3)]

    over = queue(controller, "a", size=1)

    assert [ticket.state for ticket in at_the_limit] == ["queued"] * 3
    assert over.outcome is Outcome.REJECTED_CAPACITY
    assert isinstance(over.error, QueueFull)
    assert over.error.scope == scope
    assert over.error.http_status == 429
    assert controller.stats().queued == 3


@pytest.mark.parametrize(
    ("scope", "another", "outcome"),
    [
        ("flow", FlowKey("b", 0), None),
        ("band", FlowKey("b", 0), Outcome.REJECTED_CAPACITY),
        ("band", FlowKey("b", -1), None),
        ("global", FlowKey("b", -1), Outcome.REJECTED_CAPACITY),
    ],
)
@pytest.mark.parametrize("what", ["requests", "bytes"])
def test_a_limit_holds_for_its_scope_and_for_no_other(
    make_controller: MakeController, scope: str, what: str, another: FlowKey, outcome: Outcome | None
) -> None:
    controller = make_controller(LIMITS[scope, what])
    _holder = controller.admit("holder")
    for _ in range(3):
        queue(controller, "a", size=10)

    assert queue(controller, another.id, priority=another.priority, size=10).outcome is outcome


def test_no_limit_is_none_and_never_zero(make_controller: MakeController) -> None:
    unlimited = BandConfig(max_requests=None, max_bytes=None)
    controller = make_controller(Config(default_band=unlimited))
    _holder = controller.admit("holder")

    tickets = [queue(controller, "a", size=10**12) for _ in range(6_000)]

    assert all(ticket.state == "queued" for ticket in tickets)
    assert controller.stats().bands[0].max_requests is None


def test_a_limit_is_never_split_among_shards(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=4, max_requests=2))
    _holder = controller.admit("holder")

    outcomes = [queue(controller, f"flow-{n}").outcome for n in range(4)]

    assert outcomes == [None, None, Outcome.REJECTED_CAPACITY, Outcome.REJECTED_CAPACITY]


def test_what_is_in_flight_takes_no_place_in_the_queue(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_requests=1), limit=3)
    _held = [controller.admit("a", size=10) for _ in range(3)]

    assert queue(controller, "a").state == "queued"
    assert controller.stats().queued == 1


def leaves_by_cancel(controller: FlowController, ticket: Ticket, holder: Ticket) -> None:
    assert ticket.cancel()


def leaves_by_a_grant(controller: FlowController, ticket: Ticket, holder: Ticket) -> None:
    assert holder.release()
    assert ticket.release()


def leaves_by_a_newcomer_above(controller: FlowController, ticket: Ticket, holder: Ticket) -> None:
    assert queue(controller, "above", priority=9, size=10).cancel()


@pytest.mark.parametrize("leaves", [leaves_by_cancel, leaves_by_a_grant, leaves_by_a_newcomer_above])
def test_however_a_request_leaves_the_queue_its_place_is_free_at_once(
    make_controller: MakeController, leaves: Callable[[FlowController, Ticket, Ticket], None]
) -> None:
    controller = make_controller(Config(max_requests=1, max_bytes=10))
    holder = controller.admit("holder")
    ticket = queue(controller, "a", size=10)

    leaves(controller, ticket, holder)

    stats = controller.stats()
    assert (stats.queued, stats.queued_bytes) == (0, 0)
    _second_holder = controller.try_admit("holder") if stats.in_flight == 0 else None
    assert queue(controller, "b", size=10).state == "queued"


def test_the_size_booked_at_entry_is_the_size_returned(make_controller: MakeController) -> None:
    controller = make_controller()
    holder = controller.admit("holder")
    request = Request(FlowKey("a"), size=10)
    ticket = controller.submit(request, on_settled=lambda ticket: None)
    object.__setattr__(request, "size", 99)

    ticket.cancel()

    assert controller.stats().queued_bytes == 0
    holder.release()


# --- who makes room ---------------------------------------------------------------------------------------------------


def test_at_the_global_limit_a_higher_priority_displaces_the_newest_of_the_lowest_band(
    make_controller: MakeController,
) -> None:
    controller = make_controller(Config(max_requests=4))
    _holder = controller.admit("holder")
    middle = queue(controller, "a", priority=5)
    lowest = [queue(controller, flow, priority=1) for flow in ("a", "b", "a")]

    newcomer = queue(controller, "c", priority=9)

    assert newcomer.state == "queued"
    assert lowest[2].outcome is Outcome.EVICTED_DISPLACED
    assert isinstance(lowest[2].error, Displaced)
    assert [ticket.state for ticket in (middle, *lowest[:2])] == ["queued"] * 3
    assert controller.stats().queued == 4


def test_an_equal_priority_displaces_nobody(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_requests=1))
    _holder = controller.admit("holder")
    first = queue(controller, "a", priority=5)

    assert queue(controller, "b", priority=5).outcome is Outcome.REJECTED_CAPACITY
    assert queue(controller, "b", priority=4).outcome is Outcome.REJECTED_CAPACITY
    assert first.state == "queued"


def test_bytes_may_take_several_victims_and_no_more_than_that(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_bytes=40))
    _holder = controller.admit("holder")
    small = [queue(controller, "a", size=10) for _ in range(4)]

    newcomer = queue(controller, "b", priority=1, size=25)

    assert newcomer.state == "queued"
    assert [ticket.state for ticket in small] == ["queued", "refused", "refused", "refused"]
    assert controller.stats().queued_bytes == 35


def test_nobody_is_displaced_in_vain(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_bytes=40))
    _holder = controller.admit("holder")
    large, small, empty = (queue(controller, "a", size=size) for size in (30, 10, 0))

    newcomer = queue(controller, "b", priority=1, size=25)

    assert newcomer.state == "queued"
    assert [ticket.state for ticket in (large, small, empty)] == ["refused", "queued", "queued"]


def test_a_newcomer_that_cannot_fit_displaces_nobody(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_bytes=40))
    _holder = controller.admit("holder")
    above = queue(controller, "a", priority=9, size=20)
    below = queue(controller, "a", priority=0, size=20)

    newcomer = queue(controller, "b", priority=1, size=30)

    assert newcomer.outcome is Outcome.REJECTED_CAPACITY
    assert (above.state, below.state) == ("queued", "queued")


def test_a_newcomer_that_its_own_band_keeps_out_displaces_nobody_elsewhere(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=9, max_requests=1)], max_requests=2))
    _holder = controller.admit("holder")
    below = queue(controller, "a")
    queue(controller, "b", priority=9)

    refused = queue(controller, "c", priority=9)

    assert refused.error is not None
    assert refused.error.scope == "band"
    assert below.state == "queued"


def test_with_never_nobody_makes_room(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_requests=1, displacement=Never()))
    _holder = controller.admit("holder")
    below = queue(controller, "a")

    assert queue(controller, "b", priority=9).outcome is Outcome.REJECTED_CAPACITY
    assert below.state == "queued"


def test_the_displaced_caller_learns_it_at_once(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_requests=1, displacement=LowerPriority()))
    _holder = controller.admit("holder")
    told: list[Ticket] = []
    below = controller.submit(Request(FlowKey("a")), on_settled=told.append)

    queue(controller, "b", priority=1)

    assert told == [below]


# --- waiting rooms ----------------------------------------------------------------------------------------------------


def test_a_waiting_room_bounds_who_waits_in_it_in_all_and_per_flow(
    make_controller: MakeController, spawn: Callable[..., object]
) -> None:
    controller = make_controller()
    holder = controller.admit("holder")
    room = WaitingRoom(limit=3, limit_per_flow=2)
    clock = controller._clock

    for count, flow in enumerate(("a", "a", "b"), start=1):
        spawn(admit_and_release, controller, flow, room)
        clock.wait_for_sleepers(count)  # type: ignore[attr-defined]

    with pytest.raises(QueueFull) as of_the_flow:
        controller.admit("a", room=room)
    with pytest.raises(QueueFull) as of_all:
        controller.admit("c", room=room)
    assert of_the_flow.value.scope == "threads per flow"
    assert of_all.value.scope == "threads"
    assert controller.stats().queued == 3
    holder.release()


def admit_and_release(controller: FlowController, flow: str, room: WaitingRoom) -> None:
    controller.admit(flow, room=room).release()


def test_a_seat_that_is_free_needs_no_waiting_room(make_controller: MakeController) -> None:
    controller = make_controller(limit=5)
    room = WaitingRoom(limit=1, limit_per_flow=1)

    tickets = [controller.admit("a", room=room) for _ in range(5)]

    assert all(ticket.state == "dispatched" for ticket in tickets)
    for ticket in tickets:
        ticket.release()


# --- costs ------------------------------------------------------------------------------------------------------------


def test_three_seats_free_and_a_head_that_needs_five_wait_for_each_other(make_controller: MakeController) -> None:
    controller = make_controller(limit=8)
    holder = controller.admit("holder", cost=5)
    head = queue(controller, "a", cost=5)
    behind = queue(controller, "b", cost=1)
    other = queue(controller, "c", priority=-1)

    assert [ticket.state for ticket in (head, behind, other)] == ["queued"] * 3

    holder.release()
    assert [ticket.state for ticket in (head, behind, other)] == ["dispatched"] * 3


def head_is_cancelled(controller: FlowController, head: Ticket, gate: ConcurrencyLimit) -> None:
    assert head.cancel()


def limit_rises(controller: FlowController, head: Ticket, gate: ConcurrencyLimit) -> None:
    gate.set(20)


def head_expires(controller: FlowController, head: Ticket, gate: ConcurrencyLimit) -> None:
    assert isinstance(controller._clock, FakeClock)
    controller._clock.advance(59)  # it came a second before the one behind it
    controller.collect()
    assert head.outcome is Outcome.EVICTED_TTL


@pytest.mark.parametrize("leaves", [head_is_cancelled, head_expires, limit_rises])
def test_when_a_head_that_blocks_goes_the_next_goes_at_once_with_nobody_elses_help(
    make_controller: MakeController, leaves: Callable[[FlowController, Ticket, ConcurrencyLimit], None]
) -> None:
    gate = ConcurrencyLimit(8)
    controller = make_controller(gate=gate)
    holder = controller.admit("holder", cost=5)
    head = queue(controller, "a", cost=5)
    assert isinstance(controller._clock, FakeClock)
    controller._clock.advance(1)
    behind = queue(controller, "b", cost=1)

    leaves(controller, head, gate)

    assert behind.state == "dispatched"
    holder.release()


def test_when_the_head_is_displaced_the_next_goes_at_once(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_bytes=10), limit=8)
    holder = controller.admit("holder", cost=5)
    head = queue(controller, "a", cost=5, size=10)
    behind = queue(controller, "b", cost=1, size=0)

    newcomer = queue(controller, "c", priority=1, cost=5, size=10)
    assert head.outcome is Outcome.EVICTED_DISPLACED
    assert behind.state == "queued"  # behind one of a higher priority now
    newcomer.cancel()

    assert behind.outcome is Outcome.DISPATCHED
    holder.release()


def test_a_request_larger_than_the_limit_runs_alone_and_starves_nobody(make_controller: MakeController) -> None:
    controller = make_controller(limit=2)
    first = controller.admit("a")
    large = queue(controller, "b", cost=10)
    behind = queue(controller, "c")
    assert large.state == "queued"

    first.release()
    assert (large.state, behind.state) == ("dispatched", "queued")
    assert controller.stats().in_flight == 10

    large.release()
    assert behind.state == "dispatched"
    assert controller.stats().in_flight == 1


def test_of_two_gates_the_second_refuses_and_the_first_was_never_charged(make_controller: MakeController) -> None:
    wide, narrow = ConcurrencyLimit(10), ConcurrencyLimit(1)
    controller = make_controller(gate=[wide, narrow])
    first = controller.admit("a")
    second = queue(controller, "a")
    assert (second.state, controller.stats().in_flight, controller.stats().limit) == ("queued", 1, 1)

    narrow.set(2)
    assert (second.state, controller.stats().in_flight) == ("dispatched", 2)
    first.release()
    second.release()
    assert controller.stats().in_flight == 0


def test_lowering_the_limit_drains_and_raising_it_dispatches_at_once(make_controller: MakeController) -> None:
    gate = ConcurrencyLimit(3)
    controller = make_controller(gate=gate)
    held = [controller.admit("a") for _ in range(3)]
    waiting = queue(controller, "a")

    gate.set(1)
    assert held[0].release()
    assert held[1].release()
    assert waiting.state == "queued"  # one is still in flight, and one is the limit
    gate.set(2)
    assert waiting.outcome is Outcome.DISPATCHED


def test_a_gate_belongs_to_one_controller(make_controller: MakeController) -> None:
    gate = ConcurrencyLimit(1)
    make_controller(gate=gate)

    with pytest.raises(ValueError, match="belongs to another controller"):
        make_controller(gate=gate)


def test_deadlines_without_a_limit_are_infinite() -> None:
    config = Config(default_ttl=None)
    assert config.deadline(10.0, None, None) == math.inf
    assert config.deadline(10.0, 10_000.0, None) == 10.0 + 3600.0
    assert config.deadline(10.0, None, 7.0) == 17.0


def test_the_controllers_own_gate_wins_over_the_configurations() -> None:
    with FlowController(Config(gate=ConcurrencyLimit(3))) as configured:
        assert configured.stats().limit == 3
    with FlowController(Config(gate=ConcurrencyLimit(3)), gate=ConcurrencyLimit(5)) as given:
        assert given.stats().limit == 5
