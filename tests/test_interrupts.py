"""Exceptions and handlers that come in the middle of a thread's own change: nothing is lost, doubled, or stuck."""

import gc
import threading
from collections.abc import Callable, Iterator

import pytest

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    FlowControlError,
    FlowController,
    FlowKey,
    Outcome,
    QueueFull,
    Rejected,
    Request,
    Saturated,
    Ticket,
    WaitingRoom,
)
from flowctl.flow import Flow
from flowctl.gate import Load
from flowctl.policies.displacement import Backlog, Newcomer, Queued
from flowctl.testing import FakeClock
from flowctl.ticket import Hold
from tests.support import GateOver, MakeController, Spawn


class Interrupted(BaseException):
    """What a signal handler may raise anywhere."""


class Intruder(GateOver):
    """A gate of one seat. Once, while it is asked under the turn, something else happens in the same thread."""

    def __init__(self) -> None:
        super().__init__(seats=1)
        self.intrusion: Callable[[], object] | None = None

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        intrusion, self.intrusion = self.intrusion, None
        if intrusion is not None:
            intrusion()
        return super().admits(load, cost, ceiling)


@pytest.fixture
def gate() -> Intruder:
    return Intruder()


def submit(controller: FlowController, flow: str, told: list[Ticket], priority: int = 0, size: int = 0) -> Ticket:
    return controller.submit(Request(FlowKey(flow, priority), size=size), on_settled=told.append)


def interrupt() -> None:
    raise Interrupted


# --- exceptions -------------------------------------------------------------------------------------------------------


def test_requests_that_nobody_keeps_survive_a_torn_section(make_controller: MakeController, gate: Intruder) -> None:
    controller = make_controller(gate=gate)
    holder = controller.admit("holder")
    told: list[str] = []

    def release_at_once(ticket: Ticket) -> None:
        told.append(ticket.key.id)
        ticket.release()

    for n in range(5):
        controller.submit(Request(FlowKey(f"flow-{n}")), on_settled=release_at_once)
    gc.collect()
    gate.intrusion = interrupt

    with pytest.raises(Interrupted):
        holder.release()
    controller.collect()

    assert sorted(told) == [f"flow-{n}" for n in range(5)]
    assert controller.stats().in_flight == 0


@pytest.mark.parametrize("k", range(8))
def test_an_interrupt_at_the_kth_question_to_a_gate_leaks_nothing(
    make_controller: MakeController, gate: Intruder, clock: FakeClock, k: int
) -> None:
    controller = make_controller(gate=gate)
    asked = 0

    def count_down() -> None:
        nonlocal asked
        asked += 1
        if asked == k + 1:
            raise Interrupted
        gate.intrusion = count_down

    gate.intrusion = count_down
    told: list[Ticket] = []
    for n in range(4):
        try:
            submit(controller, f"flow-{n}", told)
            controller.try_admit("another").release()
        except (Interrupted, Saturated):
            continue
    gate.intrusion = None
    controller.collect()
    while any(ticket.state == "dispatched" for ticket in told):
        for ticket in told:
            ticket.release() if ticket.state == "dispatched" else None
    del told[:]

    controller.collect()
    assert (controller.stats().in_flight, controller.stats().queued) == (0, 0)
    controller._check()


def test_a_displacement_policy_that_dies_in_a_handlers_request_tells_it_and_poisons_nobody(
    make_controller: MakeController, gate: Intruder
) -> None:
    class Deadly:
        def victims(self, newcomer: Newcomer, backlogs: object) -> Iterator[Ticket]:
            raise Interrupted

    controller = make_controller(Config(max_requests=1, displacement=Deadly()), gate=gate)  # type: ignore[arg-type]
    holder = controller.admit("holder")
    first: list[Ticket] = []
    told: list[Ticket] = []
    gate.intrusion = lambda: submit(controller, "second", told)  # in the middle of the first one's arrival

    with pytest.raises(Interrupted):
        submit(controller, "first", first)

    assert [ticket.outcome for ticket in told] == [Outcome.REJECTED_OTHER]
    assert [ticket.outcome for ticket in first] == [Outcome.EVICTED_CANCELLED]
    assert holder.release()
    assert controller.try_admit("after").release()


def test_a_thread_that_was_interrupted_while_it_told_tells_again_later(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(limit=3)
    told: list[Ticket] = []

    def die(ticket: Ticket) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        controller.submit(Request(FlowKey("a")), on_settled=die)
    submit(controller, "b", told)

    assert len(told) == 1
    assert controller._state.turn.news._tellers == set()


def test_whoever_an_interrupt_kept_from_being_told_is_told_by_the_next(make_controller: MakeController) -> None:
    class DeadlyOnce:
        def __init__(self) -> None:
            self.deadly = True

        def settled(self, ticket: Ticket) -> None:
            if self.deadly:
                self.deadly = False
                raise Interrupted

        def released(self, ticket: Ticket, outcome: str) -> None:
            pass

    controller = make_controller(Config(max_requests=10), observer=DeadlyOnce())
    told: list[Ticket] = []
    with pytest.raises(Interrupted):
        controller.admit("holder")
    for n in range(3):
        submit(controller, f"flow-{n}", told)

    controller.close()  # settles them all in one section

    assert len(told) == 3


# --- handlers and finalisers ------------------------------------------------------------------------------------------


def test_a_handler_that_asks_in_the_middle_of_its_own_threads_change_is_refused_and_not_stuck(
    make_controller: MakeController, gate: Intruder
) -> None:
    controller = make_controller(gate=gate)
    refused: list[FlowControlError] = []

    def ask() -> None:
        for flow in ("holder", "new"):
            try:
                controller.admit(flow, ttl=1000)
            except FlowControlError as error:
                refused.append(error)

    controller.admit("holder").release()
    gate.intrusion = ask
    ticket = controller.admit("holder")

    assert [type(error) for error in refused] == [Rejected, Rejected]
    assert all(isinstance(error.__cause__, RuntimeError) for error in refused)
    assert ticket.release()


def test_what_a_handler_submits_is_decided_once_when_the_interrupted_change_ends(
    make_controller: MakeController, gate: Intruder
) -> None:
    controller = make_controller(gate=gate)
    told: list[Ticket] = []
    gate.intrusion = lambda: submit(controller, "handler", told)

    with controller.admit("a"):
        assert controller.stats().queued == 1
    assert [ticket.outcome for ticket in told] == [Outcome.DISPATCHED]
    assert told[0].release()
    assert controller.stats().dispatched == 2


def test_a_handler_gives_back_a_seat_once_and_it_is_free_when_the_change_ends(
    make_controller: MakeController, gate: Intruder
) -> None:
    controller = make_controller(gate=gate)
    holder = controller.admit("holder")
    told: list[Ticket] = []
    releases: list[bool] = []
    gate.intrusion = lambda: releases.extend((holder.release(), holder.release()))

    submit(controller, "waiting", told)

    assert releases == [True, False]
    assert holder.state == "released"
    assert not holder.release()
    assert [ticket.outcome for ticket in told] == [Outcome.DISPATCHED]
    assert controller.stats().in_flight == 1


def test_a_finaliser_that_drops_a_ticket_in_the_middle_of_a_change_gives_its_seat_back(
    make_controller: MakeController, gate: Intruder
) -> None:
    controller = make_controller(gate=gate)
    holders = [controller.admit("holder")]
    told: list[Ticket] = []
    gate.intrusion = holders.clear

    submit(controller, "waiting", told)

    assert [ticket.outcome for ticket in told] == [Outcome.DISPATCHED]
    assert controller.stats().abandoned == 1


def test_close_in_the_middle_of_its_own_threads_change_waits_for_nobody(gate: Intruder, spawn: Spawn) -> None:
    controller = FlowController(gate=gate)  # with a collector, which may be waiting for the turn
    closed: list[bool] = []
    told: list[Ticket] = []
    controller.admit("holder").release()
    gate.intrusion = lambda: closed.append(controller.close(drain=1000))

    submit(controller, "waiting", told)

    assert closed == [False]  # there is the request that it interrupted
    assert [ticket.outcome for ticket in told] == [Outcome.DISPATCHED]  # it had been decided
    assert told[0].release()
    assert controller.close(drain=0)
    with pytest.raises(Rejected):
        controller.admit("after")


def test_a_handler_may_look_collect_and_change_in_the_middle_of_a_change(
    make_controller: MakeController, clock: FakeClock
) -> None:
    intruder = Intruder()
    limit = ConcurrencyLimit(1)
    controller = make_controller(Config(flow_gc_timeout=0), gate=[intruder, limit])
    seen: list[int] = []

    def look() -> None:
        seen.append(controller.stats().in_flight)
        limit.set(5)
        controller.collect()
        controller.flows()

    controller.admit("a").release()
    clock.advance(1)
    intruder.intrusion = look
    ticket = controller.admit("a")

    assert seen == [0]
    assert limit.limit == 5
    assert ticket.state == "dispatched"
    assert ticket.release()
    controller._check()


# --- what a dead thread leaves ----------------------------------------------------------------------------------------


def test_a_band_pin_that_an_exception_kept_from_being_given_back_is_found(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(flow_gc_timeout=1, band_gc_timeout=1))
    controller.admit("a").release()
    band = controller._state.registry.bands.entries[0]
    assert band.lease.try_pin()  # and its thread died

    clock.advance(1)
    assert controller.collect().flows == 1
    clock.advance(1)

    assert controller.collect().bands == 1
    assert controller.stats().repairs == 1


def test_a_flow_pin_that_no_request_answers_for_is_found(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(flow_gc_timeout=1))
    controller.admit("a").release()
    flow = controller._state.registry.find(FlowKey("a"))
    assert flow is not None
    assert flow.lease.try_pin()  # and its thread died

    for _ in range(3):
        clock.advance(1)
        controller.collect()

    assert controller.flows() == []
    assert controller.stats().repairs == 1


def test_a_refusal_leaves_no_garbage_for_the_cycle_collector(controller: FlowController) -> None:
    _holder = controller.admit("holder")
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            with pytest.raises(Saturated):
                controller.try_admit("a")
        assert gc.collect() < 100  # pytest's own; a cycle a refusal would be a thousand objects
    finally:
        gc.enable()


# --- displacement that must not be fooled -----------------------------------------------------------------------------


def test_room_that_another_flow_makes_is_not_room_in_this_flows_part_of_the_waiting_room(
    make_controller: MakeController, spawn: Spawn, clock: FakeClock
) -> None:
    controller = make_controller(Config(max_requests=2))
    holder = controller.admit("holder")
    room = WaitingRoom(limit=10, limit_per_flow=1)
    submit(controller, "below", [], priority=0)
    waiting = spawn(controller.admit, "a", priority=1, room=room)
    clock.wait_for_sleepers(1)

    with pytest.raises(QueueFull) as refused:
        controller.admit("a", priority=1, room=room)

    assert refused.value.scope == "threads per flow"
    assert controller.stats().queued == 2
    holder.release()
    waiting.result().release()


def test_a_policy_that_names_strangers_displaces_nobody(make_controller: MakeController) -> None:
    strangers: list[Queued] = []

    class Confused:
        def victims(self, newcomer: Newcomer, backlogs: list[Backlog[Ticket]]) -> Iterator[Queued]:
            return iter(strangers)

    controller = make_controller(Config(max_requests=1, displacement=Confused()), limit=2)  # type: ignore[arg-type]
    strangers.append(controller.admit("in flight"))
    strangers.append(controller.admit("another"))
    told: list[Ticket] = []
    queued = submit(controller, "a", told)

    assert submit(controller, "b", [], priority=5).outcome is Outcome.REJECTED_CAPACITY
    assert queued.state == "queued"


def test_a_lease_with_all_its_pins_refuses_and_does_not_spin(controller: FlowController) -> None:
    from flowctl.lease import MAX_PINS

    controller.admit("a").release()
    flow = controller._state.registry.find(FlowKey("a"))
    assert flow is not None
    flow.pins += MAX_PINS

    with pytest.raises(QueueFull) as refused:
        controller.admit("a")

    assert refused.value.scope == "flow"
    flow.pins -= MAX_PINS


def test_two_threads_may_close_at_once(spawn: Spawn) -> None:
    controller = FlowController(Config(bands=[BandConfig(priority=0)]), gate=ConcurrencyLimit(1))
    ticket = controller.admit("a")
    begun = threading.Barrier(3)

    def close() -> bool:
        begun.wait()
        return controller.close(drain=30)

    closing = [spawn(close) for _ in range(2)]
    begun.wait()
    ticket.release()

    assert [each.result() for each in closing] == [True, True]


def test_a_second_release_after_a_torn_round_finishes_that_round(
    make_controller: MakeController, gate: Intruder
) -> None:
    controller = make_controller(gate=gate)
    holder = controller.admit("holder")
    told: list[Ticket] = []
    submit(controller, "a", told)
    gate.intrusion = interrupt

    with pytest.raises(Interrupted):
        holder.release()
    assert not holder.release()

    assert [ticket.outcome for ticket in told] == [Outcome.DISPATCHED]


def test_collect_in_the_middle_of_a_change_does_not_spin_over_what_is_due(
    make_controller: MakeController, clock: FakeClock, gate: Intruder
) -> None:
    controller = make_controller(gate=gate)
    _holder = controller.admit("holder")
    told: list[Ticket] = []
    submit(controller, "a", told)
    clock.advance(60)
    gate.intrusion = controller.collect

    submit(controller, "b", [], priority=1)
    controller.collect()

    assert [ticket.outcome for ticket in told] == [Outcome.EVICTED_TTL]


class Dying(GateOver):
    """One that dies when it is asked for its promise, once it is told to."""

    def __init__(self) -> None:
        super().__init__(seats=8)
        self.dies = False

    @property
    def sure_seats(self) -> int:
        if self.dies:
            self.dies = False
            raise Interrupted
        return self.seats.sure_seats


def test_an_interrupted_change_of_the_limit_is_never_overshot(make_controller: MakeController) -> None:
    dying = Dying()
    controller = make_controller(gate=dying)
    dying.dies = True
    with pytest.raises(Interrupted):
        dying.seats.set(1)

    with controller.try_admit("a"), pytest.raises(Saturated):
        controller.try_admit("a")


def test_a_hold_that_never_came_into_the_books_comes_back_without_harm(controller: FlowController) -> None:
    turn = controller._state.turn
    controller.admit("a").release()
    flow = controller._state.registry.find(FlowKey("a"))
    assert flow is not None
    hold: Hold[Flow] = Hold(Ticket(turn, flow, 1, 0), turn.hand_in)  # its ticket dies at once, and it has no serial
    gc.collect()

    assert hold() is None
    assert controller.try_admit("a").release()
    assert controller.stats().abandoned == 0
