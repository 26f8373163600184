"""The books where they are rarely wrong: each that is wrong alone is noticed, and each gives back what it took."""

import threading
from collections.abc import Callable

import pytest

from flowctl import (
    ConcurrencyLimit,
    Expired,
    FlowController,
    FlowKey,
    Outcome,
    QueueFull,
    Request,
    Ticket,
    WaitingRoom,
)
from flowctl.flow import Flow
from flowctl.gate import Load
from flowctl.lease import MAX_PINS
from flowctl.ledger import Ledger
from flowctl.sections import AGED_A_SECTION
from flowctl.testing import FakeClock
from flowctl.ticket import Hold
from tests.support import GateOver, MakeController, Spawn

A_MOMENT = 0.05
"""Real seconds in which a thread that need not wait would have come to the lock."""


def flow_of(controller: FlowController, flow_id: str) -> Flow:
    flow = controller._state.registry.find(FlowKey(flow_id))
    assert flow is not None
    return flow


def one_more_in_flight(controller: FlowController) -> None:
    controller._state.turn.ledger.in_flight += 1


def one_more_queued(controller: FlowController) -> None:
    controller._state.turn.ledger.queued += 1


def one_more_without_seats(controller: FlowController) -> None:
    controller._state.turn.ledger.seatless += 1


def a_ticket_lost_by_its_band(controller: FlowController) -> None:
    flow_of(controller, "waiting").band.backlog.popitem()


def a_pin_without_a_hold(controller: FlowController) -> None:
    flow_of(controller, "waiting").pins += 1


@pytest.mark.parametrize(
    "damage",
    [one_more_in_flight, one_more_queued, one_more_without_seats, a_ticket_lost_by_its_band, a_pin_without_a_hold],
)
def test_a_book_that_is_wrong_alone_is_noticed_and_mended(
    controller: FlowController, damage: Callable[[FlowController], None]
) -> None:
    told: list[Ticket] = []
    holder = controller.admit("holder")
    controller.submit(Request(FlowKey("waiting")), told.append)
    ledger = controller._state.turn.ledger
    assert ledger.is_sound()

    damage(controller)
    assert not ledger.is_sound()
    controller.collect()

    controller._check()
    assert ledger.is_sound()
    assert holder.release()
    assert [ticket.release() for ticket in told] == [True]


def test_what_moves_on_after_a_picture_was_taken_is_not_in_it(controller: FlowController) -> None:
    ledger = controller._state.turn.ledger
    holder = controller.admit("holder")
    ticket = controller.submit(Request(FlowKey("waiting")), lambda ticket: None)
    picture = controller._state.turn.read(lambda ledger: ledger.picture([flow_of(controller, "waiting")]))

    ticket.cancel()
    holder.release()
    controller.admit("holder").release()

    assert not ledger.has_claims
    assert picture.is_sound()
    assert (picture.overpinned(), picture.lost) == ([], [])


def test_an_audit_mends_nothing_that_came_right_since_its_picture(controller: FlowController) -> None:
    holder, turn = controller.admit("holder"), controller._state.turn
    seen: list[bool] = []

    def audit_amid_a_section(now: float) -> None:
        turn.ledger.in_flight += 1  # half of a change, and a handler comes that collects
        turn.audit([], repairs=0)
        turn.ledger.in_flight -= 1
        seen.append(turn.ledger.is_sound())

    turn.change(audit_amid_a_section)

    assert seen == [True]
    assert controller.stats().repairs == 0
    assert holder.release()


def test_a_collection_looks_at_few_tickets_in_a_section(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(gate=ConcurrencyLimit(10 * AGED_A_SECTION))
    controller.admit("a").release()
    tickets = [controller.admit("a") for _ in range(10 * AGED_A_SECTION)]
    aged: list[int] = []
    age = Ledger.age

    def noted(ledger: Ledger, hand_in: Callable[[Hold[Flow]], None], most: int | None = None) -> None:
        before = len(ledger.young)
        age(ledger, hand_in, most)
        aged.append(before - len(ledger.young))

    monkeypatch.setattr(Ledger, "age", noted)
    controller.collect()

    assert sum(aged) == len(tickets) == len(controller._state.turn.ledger.holds)
    assert max(aged) == AGED_A_SECTION


def test_a_section_ages_the_first_few_tickets(make_controller: MakeController) -> None:
    controller = make_controller(gate=ConcurrencyLimit(2 * AGED_A_SECTION))
    controller.admit("a").release()  # whose first is not granted on the spot
    tickets = [controller.admit("a") for _ in range(2 * AGED_A_SECTION)]
    turn = controller._state.turn
    with turn.lock:
        turn._alone_locked(lambda: None, AGED_A_SECTION)

    assert list(turn.ledger.young) == [ticket.serial for ticket in tickets[AGED_A_SECTION:]]


def test_an_audit_finds_a_hold_whose_ticket_went_unheard(controller: FlowController) -> None:
    ticket, turn = controller.admit("a"), controller._state.turn
    turn.age()
    heard = turn.ledger.holds.pop(ticket.serial)
    unheard = turn.ledger.holds[ticket.serial] = Hold(ticket, lambda hold: None)
    for name in Hold.__slots__:
        setattr(unheard, name, getattr(heard, name))
    del heard, ticket
    assert controller.stats().in_flight == 1
    controller.collect()

    assert controller.stats().in_flight == 0
    assert controller.stats().abandoned == 1


def test_whoever_left_a_waiting_room_makes_room_for_one_more_of_its_flow(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller, room = make_controller(), WaitingRoom(10, limit_per_flow=1)
    with controller.admit("holder"):
        for _ in range(2):
            waiting = spawn(controller.admit, "a", ttl=5, room=room)
            clock.wait_for_sleepers(1)
            clock.advance(5)
            with pytest.raises(Expired):
                waiting.result()

    ledger = controller._state.turn.ledger
    assert not ledger.waiting_in
    assert not ledger.waiting_of


def test_a_flow_with_all_its_pins_gets_no_more_at_the_very_bound(make_controller: MakeController) -> None:
    controller = make_controller(clock=FakeClock(start=0.0))  # so that the stamp is 0, too
    controller.admit("a").release()
    flow = flow_of(controller, "a")
    flow.pins = MAX_PINS

    with pytest.raises(QueueFull):
        controller.admit("a")

    assert flow.pins == MAX_PINS
    flow.pins = 0


def test_of_two_who_take_one_ticket_out_only_one_did(controller: FlowController, spawn: Spawn) -> None:
    turn, told, first = controller._state.turn, list[Ticket](), list[bool]()
    holder = controller.admit("holder")
    ticket = controller.submit(Request(FlowKey("a")), told.append)
    with turn.lock:
        late = spawn(ticket.cancel)
        late.thread.join(A_MOMENT)  # it has seen the ticket queued, and waits for the lock
        turn._section_locked(lambda now: first.append(turn._evict_locked(ticket, Outcome.EVICTED_CANCELLED, now)))

    assert first == [True]
    assert not late.result()
    assert told == [ticket]
    holder.release()


def test_an_audit_counts_each_flow_whose_pins_it_put_right(controller: FlowController) -> None:
    flows: list[Flow] = []
    for flow_id in "ab":
        controller.admit(flow_id).release()
        flows.append(flow_of(controller, flow_id))
        flows[-1].pins += 1
    controller._state.turn.audit(flows, repairs=0)

    assert controller.stats().repairs == 2
    assert [flow.lease.pins for flow in flows] == [0, 0]


def test_whose_client_may_leave_is_known_for_as_long_as_it_waits(controller: FlowController, spawn: Spawn) -> None:
    turn, asked = controller._state.turn, threading.Event()

    def client_left() -> bool:
        asked.set()
        return False

    holder = controller.admit("holder")
    waiter = spawn(controller.admit, "a", cancel=client_left)
    while not turn.has_probes():
        asked.wait(A_MOMENT)
    controller.collect()
    assert asked.is_set()

    holder.release()
    waiter.result().release()
    assert not turn.has_probes()


def test_books_that_are_made_anew_ask_for_nobody_who_is_gone(controller: FlowController) -> None:
    turn = controller._state.turn
    turn.ledger.probed[12345] = int
    turn.ledger.rebuild()

    assert not turn.has_probes()


@pytest.mark.parametrize(("what", "when"), [("gate", "admits"), ("observer", "released")])
def test_the_log_says_what_failed(
    make_controller: MakeController, caplog: pytest.LogCaptureFixture, what: str, when: str
) -> None:
    class Failing(GateOver):
        def admits(self, load: Load, cost: int, ceiling: float) -> bool:
            if when == "admits":
                raise ZeroDivisionError
            return True

        def settled(self, ticket: Ticket) -> None:
            pass

        def released(self, ticket: Ticket, outcome: str) -> None:
            raise ZeroDivisionError

    failing = Failing(1)
    controller = make_controller(gate=failing, observer=failing if when == "released" else None)
    ticket = controller.submit(Request(FlowKey("a"), ttl=0), lambda ticket: None)
    ticket.release() if ticket.state == "dispatched" else None

    assert f"{what} failed (no. 1 of its kind)" in caplog.text
