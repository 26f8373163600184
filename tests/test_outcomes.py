"""Every request settles once: dispatched, rejected or evicted, and whoever loses a race gives back all it took."""

import gc
import itertools
from collections.abc import Callable

import pytest

from flowctl import (
    BandConfig,
    Cancelled,
    ClosedWhileQueued,
    Config,
    ControllerClosed,
    Expired,
    ExpiredOnArrival,
    FlowController,
    FlowKey,
    Outcome,
    Request,
    Saturated,
    Ticket,
)
from flowctl.gate import Load
from flowctl.testing import FakeClock
from tests.support import GateOver, MakeController, Spawn


def submit(
    controller: FlowController,
    flow: str = "a",
    *,
    priority: int = 0,
    ttl: float | None = None,
    told: list[Ticket] | None = None,
) -> Ticket:
    """Ask without a thread that waits; `told` gets the ticket when it is settled."""
    heard = [] if told is None else told
    return controller.submit(Request(FlowKey(flow, priority), ttl=ttl), on_settled=heard.append)


# --- time -------------------------------------------------------------------------------------------------------------


def test_an_expired_request_frees_its_place_at_once(clock: FakeClock, controller: FlowController, spawn: Spawn) -> None:
    holder = controller.admit("a")
    waiter = spawn(controller.admit, "b", ttl=5)
    clock.wait_for_sleepers(1)
    clock.advance(5)

    with pytest.raises(Expired) as expired:
        waiter.result()
    assert controller.stats().queued == 0
    assert expired.value.waited == 5.0
    assert expired.value.key == FlowKey("b", 0)
    assert expired.value.http_status == 503
    holder.release()


def test_a_request_waits_until_its_deadline_and_not_a_moment_less(
    clock: FakeClock, controller: FlowController, spawn: Spawn
) -> None:
    holder = controller.admit("a")
    waiter = spawn(controller.admit, "b", ttl=5)
    clock.wait_for_sleepers(1)
    clock.advance(4.999)
    clock.wait_for_sleepers(1)

    holder.release()
    waiter.result().release()


def test_an_expired_head_takes_no_turn_and_no_seat(clock: FakeClock, controller: FlowController) -> None:
    holder = controller.admit("a")
    told: list[Ticket] = []
    expired = submit(controller, "b", ttl=1, told=told)
    behind = submit(controller, "c", ttl=10)
    clock.advance(1)

    holder.release()

    assert expired.outcome is Outcome.EVICTED_TTL
    assert told == [expired]
    assert behind.state == "dispatched"


def test_a_request_without_a_thread_expires_with_the_next_tick(clock: FakeClock, controller: FlowController) -> None:
    _holder = controller.admit("a")
    told: list[Ticket] = []
    ticket = submit(controller, "b", ttl=1, told=told)
    clock.advance(1)

    controller.collect()

    assert told == [ticket]
    assert ticket.outcome is Outcome.EVICTED_TTL
    assert ticket.waited == 1.0


def test_a_deadline_that_passed_before_it_came_is_expired_on_arrival(
    clock: FakeClock, controller: FlowController
) -> None:
    ticket = controller.submit(
        Request(FlowKey("a"), ttl=5, received_at=clock.now() - 6), on_settled=lambda ticket: None
    )

    assert ticket.outcome is Outcome.REJECTED_EXPIRED
    assert isinstance(ticket.error, ExpiredOnArrival)
    assert controller.stats().rejected == 1
    assert controller.stats().dispatched == 0


def test_the_time_since_it_was_received_counts_against_the_ttl(clock: FakeClock, controller: FlowController) -> None:
    _holder = controller.admit("holder")
    ticket = controller.submit(
        Request(FlowKey("a"), ttl=5, received_at=clock.now() - 4), on_settled=lambda ticket: None
    )
    clock.advance(1)
    controller.collect()

    assert ticket.outcome is Outcome.EVICTED_TTL
    assert ticket.waited == 5.0


def test_nobody_is_received_in_the_future(clock: FakeClock, controller: FlowController) -> None:
    _holder = controller.admit("holder")
    ticket = controller.submit(
        Request(FlowKey("a"), ttl=5, received_at=clock.now() + 1000), on_settled=lambda ticket: None
    )
    clock.advance(5)
    controller.collect()

    assert ticket.outcome is Outcome.EVICTED_TTL


@pytest.mark.parametrize(
    ("config", "ttl", "waits"),
    [
        (Config(default_ttl=7), None, 7),
        (Config(default_ttl=7), 3, 3),
        (Config(default_ttl=7), 8, 8),
        (Config(default_ttl=7, max_ttl=5), 8, 5),
    ],
)
def test_the_ttl_is_the_requests_own_capped_else_the_default(
    make_controller: MakeController, clock: FakeClock, config: Config, ttl: float | None, waits: float
) -> None:
    controller = make_controller(config)
    _holder = controller.admit("holder")
    ticket = submit(controller, ttl=ttl)
    clock.advance(waits - 0.001)
    controller.collect()
    assert ticket.state == "queued"

    clock.advance(0.001)
    controller.collect()
    assert ticket.outcome is Outcome.EVICTED_TTL


def test_without_a_ttl_it_waits_for_ever(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(default_ttl=None))
    holder = controller.admit("holder")
    ticket = submit(controller)
    clock.advance(10_000_000)
    controller.collect()
    assert ticket.state == "queued"

    holder.release()
    assert ticket.outcome is Outcome.DISPATCHED


def test_a_ttl_of_zero_waits_for_nobody(controller: FlowController) -> None:
    with controller.admit("a", ttl=0) as ticket:
        assert ticket.state == "dispatched"
        with pytest.raises(Saturated):
            controller.admit("a", ttl=0)
    assert controller.stats().queued == 0


# --- try_admit --------------------------------------------------------------------------------------------------------


def test_try_admit_takes_a_free_seat_and_never_waits(controller: FlowController) -> None:
    held = controller.try_admit("a")

    with pytest.raises(Saturated) as refused:
        controller.try_admit("b")
    assert refused.value.http_status == 429
    assert held.release()
    controller.try_admit("b").release()


def test_try_admit_does_not_pass_those_who_wait(make_controller: MakeController) -> None:
    controller = make_controller(limit=3)
    _holder = controller.admit("a", cost=2)
    controller.submit(Request(FlowKey("a"), cost=2), on_settled=lambda ticket: None)

    with pytest.raises(Saturated):
        controller.try_admit("b")  # a seat is free, but a head that needs two waits for it
    with pytest.raises(Saturated):
        controller.try_admit("b", priority=-1)
    assert controller.try_admit("b", priority=1).state == "dispatched"  # nobody of its priority or above waits


# --- settling once ----------------------------------------------------------------------------------------------------


def grant(controller: FlowController, ticket: Ticket, holder: Ticket, clock: FakeClock) -> None:
    holder.release()


def expire(controller: FlowController, ticket: Ticket, holder: Ticket, clock: FakeClock) -> None:
    clock.advance(5)
    controller.collect()


def cancel(controller: FlowController, ticket: Ticket, holder: Ticket, clock: FakeClock) -> None:
    ticket.cancel()


def displace(controller: FlowController, ticket: Ticket, holder: Ticket, clock: FakeClock) -> None:
    submit(controller, "above", priority=9)


def close(controller: FlowController, ticket: Ticket, holder: Ticket, clock: FakeClock) -> None:
    controller.close()


Event = Callable[[FlowController, Ticket, Ticket, FakeClock], None]

OUTCOMES: dict[Event, Outcome] = {
    grant: Outcome.DISPATCHED,
    expire: Outcome.EVICTED_TTL,
    cancel: Outcome.EVICTED_CANCELLED,
    displace: Outcome.EVICTED_DISPLACED,
    close: Outcome.EVICTED_CLOSED,
}


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(OUTCOMES, 2)))
def test_the_first_outcome_wins_in_every_order_of_two_and_is_told_once(
    make_controller: MakeController, clock: FakeClock, first: Event, second: Event
) -> None:
    controller = make_controller(Config(max_requests=1))
    holder = controller.admit("holder")
    told: list[Ticket] = []
    ticket = submit(controller, ttl=5, told=told)

    first(controller, ticket, holder, clock)
    second(controller, ticket, holder, clock)

    assert ticket.outcome is OUTCOMES[first]
    assert told == [ticket]
    assert ticket.release() is (first is grant)
    holder.release()
    controller.close()
    stats = controller.stats()
    assert (stats.queued, stats.queued_bytes) == (0, 0)
    controller._check()


def test_a_seat_is_given_back_once(make_controller: MakeController) -> None:
    controller = make_controller(limit=2)
    ticket, other = controller.admit("a"), controller.admit("a")

    assert ticket.release()
    assert not ticket.release()
    assert controller.stats().in_flight == 1
    assert other.release()
    assert (ticket.state, ticket.outcome) == ("released", Outcome.DISPATCHED)


def test_releasing_what_is_queued_is_misuse_and_changes_nothing(controller: FlowController) -> None:
    _holder = controller.admit("holder")
    ticket = submit(controller)

    with pytest.raises(RuntimeError, match="still queued"):
        ticket.release()
    assert ticket.state == "queued"


def test_a_release_outcome_is_one_of_three(controller: FlowController) -> None:
    ticket = controller.admit("a")

    with pytest.raises(ValueError, match='outcome must be "ok", "dropped" or "ignored", not \'fine\''):
        ticket.release("fine")  # type: ignore[arg-type]
    assert ticket.state == "dispatched"
    assert ticket.release("dropped")


def test_cancelling_what_is_in_flight_does_nothing(controller: FlowController) -> None:
    ticket = controller.admit("a")

    assert not ticket.cancel()
    assert ticket.state == "dispatched"
    ticket.release()


def test_a_waiter_that_another_thread_cancels_raises_at_once(
    clock: FakeClock, controller: FlowController, spawn: Spawn
) -> None:
    holder = controller.admit("holder")
    waiter = spawn(controller.admit, "a", ttl=1000)
    clock.wait_for_sleepers(1)
    (queued,) = (hold() for hold in controller._state.turn.ledger.holds.values() if not hold.cost)
    assert queued is not None

    assert queued.cancel()

    with pytest.raises(Cancelled):
        waiter.result()
    assert controller.stats().queued == 0
    holder.release()


def test_a_client_that_left_is_taken_out_with_the_next_tick(
    clock: FakeClock, controller: FlowController, spawn: Spawn
) -> None:
    holder = controller.admit("holder")
    left: list[bool] = []
    waiter = spawn(controller.admit, "a", cancel=lambda: bool(left))
    clock.wait_for_sleepers(1)
    controller.collect()
    assert controller.stats().queued == 1

    left.append(True)
    controller.collect()

    with pytest.raises(Cancelled):
        waiter.result()
    holder.release()


def test_a_cancel_probe_that_raises_says_nothing_and_is_counted(
    clock: FakeClock, controller: FlowController, spawn: Spawn
) -> None:
    holder = controller.admit("holder")
    waiter = spawn(controller.admit, "a", cancel=lambda: 1 / 0)
    clock.wait_for_sleepers(1)

    controller.collect()

    assert controller.stats().incidents >= 1
    holder.release()
    waiter.result().release()


# --- close ------------------------------------------------------------------------------------------------------------


def test_close_gives_everyone_an_outcome_whether_or_not_a_ttl_was_set(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller = make_controller(Config(default_ttl=None))
    holder = controller.admit("holder")
    waiters = [spawn(controller.admit, "a", ttl=ttl) for ttl in (None, 5.0)]
    clock.wait_for_sleepers(2)
    tickets = [submit(controller) for _ in range(200)]  # more than one section settles

    assert not controller.close()

    for waiter in waiters:
        with pytest.raises(ClosedWhileQueued):
            waiter.result()
    assert {ticket.outcome for ticket in tickets} == {Outcome.EVICTED_CLOSED}
    assert holder.state == "dispatched"
    assert holder.release()


def test_whoever_comes_after_close_is_refused(controller: FlowController) -> None:
    controller.admit("a").release()
    controller.close()

    for admit in (controller.admit, controller.try_admit):
        for flow in ("a", "new"):
            with pytest.raises(ControllerClosed):
                admit(flow)
    assert submit(controller).outcome is Outcome.REJECTED_CLOSED
    assert controller.stats().rejected == 5


def test_close_is_idempotent_and_says_whether_anything_is_left(controller: FlowController) -> None:
    ticket = controller.admit("a")

    assert not controller.close()
    ticket.release()
    assert controller.close()
    assert controller.close(drain=5)


def test_close_with_drain_waits_for_what_is_in_flight(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller = make_controller(limit=2)
    tickets = [controller.admit("a") for _ in range(2)]
    closing = spawn(controller.close, drain=60)
    clock.wait_for_sleepers(1)

    for ticket in tickets:
        assert ticket.release()

    assert closing.result()


def test_close_with_drain_gives_up_in_the_end(controller: FlowController, clock: FakeClock, spawn: Spawn) -> None:
    ticket = controller.admit("a")
    closing = spawn(controller.close, drain=60)
    clock.wait_for_sleepers(1)
    clock.advance(60)

    assert not closing.result()
    assert ticket.release()


# --- callbacks, and what goes wrong in them ---------------------------------------------------------------------------


def test_on_settled_runs_with_no_lock_held_so_it_may_do_anything(make_controller: MakeController) -> None:
    controller = make_controller(limit=1)
    granted: list[str] = []

    def release_at_once(ticket: Ticket) -> None:
        granted.append(ticket.key.id)
        ticket.release()

    holder = controller.admit("holder")
    for n in range(5_000):  # a chain: each callback's release grants the next, far deeper than the stack
        controller.submit(Request(FlowKey(f"flow-{n}")), on_settled=release_at_once)
    holder.release()

    assert len(granted) == 5_000
    assert controller.stats().in_flight == 0


def test_a_callback_that_raises_is_reported_and_its_seat_comes_back(
    controller: FlowController,
) -> None:
    def fail(ticket: Ticket) -> None:
        raise LookupError("no such handler")

    controller.submit(Request(FlowKey("a")), on_settled=fail)
    gc.collect()

    assert controller.try_admit("b").release()
    assert controller.stats().abandoned == 1
    assert controller.stats().incidents == 1


def test_a_ticket_that_is_dropped_is_found_and_counted(controller: FlowController) -> None:
    controller.admit("a")  # nobody keeps it
    gc.collect()

    controller.collect()

    stats = controller.stats()
    assert (stats.in_flight, stats.abandoned) == (0, 1)


def test_a_waiter_gets_the_seat_of_a_ticket_that_was_dropped(
    controller: FlowController, clock: FakeClock, spawn: Spawn
) -> None:
    held = [controller.admit("a")]
    waiter = spawn(controller.admit, "b")
    clock.wait_for_sleepers(1)

    held.clear()
    gc.collect()
    controller.collect()

    waiter.result().release()
    assert controller.stats().abandoned == 1


# --- policies and gates that fail -------------------------------------------------------------------------------------


class Moody:
    """A round robin that raises or talks nonsense while it is told to."""

    def __init__(self) -> None:
        self.answer: object = 1

    def charge(self, cost: int, weight: float) -> float:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize("nonsense", [LookupError("policy"), float("nan"), -1, float("inf"), "one", None])
def test_a_policy_that_fails_costs_its_own_band_the_round_and_no_other(
    make_controller: MakeController, nonsense: object
) -> None:
    moody = Moody()
    controller = make_controller(Config(bands=[BandConfig(priority=5, fairness=moody)]), limit=1)
    holder = controller.admit("holder")
    high, low = submit(controller, "a", priority=5), submit(controller, "b", priority=0)
    moody.answer = nonsense

    holder.release()
    assert (high.state, low.state) == ("queued", "dispatched")
    assert controller.stats().incidents >= 1

    moody.answer = 1
    low.release()
    assert high.state == "dispatched"


class Balky(GateOver):
    """A gate that raises while it is told to."""

    def __init__(self) -> None:
        super().__init__(seats=1)
        self.broken = False

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        if self.broken:
            raise LookupError("gate")
        return super().admits(load, cost, ceiling)


def test_a_gate_that_raises_admits_nobody_and_leaks_nothing(make_controller: MakeController) -> None:
    gate = Balky()
    controller = make_controller(gate=gate)
    holder = controller.admit("holder")
    waiting = submit(controller, "a")
    gate.broken = True

    holder.release()
    with pytest.raises(Saturated):
        controller.try_admit("b", priority=9)
    assert waiting.state == "queued"
    assert controller.stats().in_flight == 0

    gate.broken = False
    controller.collect()
    assert waiting.outcome is Outcome.DISPATCHED


# --- nothing for nothing ---------------------------------------------------------------------------------------------


def test_for_a_request_that_has_no_chance_nothing_is_created(controller: FlowController, clock: FakeClock) -> None:
    settled: list[Ticket] = []
    controller.submit(Request(FlowKey("late", 7), ttl=1, received_at=clock.now() - 2), settled.append)
    controller.close()
    with pytest.raises(ControllerClosed):
        controller.admit("x", priority=8)

    assert [ticket.outcome for ticket in settled] == [Outcome.REJECTED_EXPIRED]
    assert (controller.flows(), controller.bands()) == ([], [])


def test_whoever_is_past_its_deadline_keeps_nobody_out(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=1)))
    holder = controller.admit("a")
    late = controller.submit(Request(FlowKey("a"), ttl=1), lambda ticket: None)
    clock.advance(1)

    next_one = controller.submit(Request(FlowKey("a")), lambda ticket: None)

    assert (late.outcome, next_one.state, holder.state) == (Outcome.EVICTED_TTL, "queued", "dispatched")


def test_a_head_past_its_deadline_keeps_nobody_from_a_free_seat(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(limit=2)
    holder = controller.admit("a")
    head = controller.submit(Request(FlowKey("a"), cost=2, ttl=1), lambda ticket: None)
    clock.advance(1)

    with controller.try_admit("a") as ticket:
        assert (head.outcome, ticket.state, holder.state) == (Outcome.EVICTED_TTL, "dispatched", "dispatched")
