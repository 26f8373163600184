"""Sections: nothing of the books is seen or changed without the lock, and what breaks is told with its reason."""

import logging
import threading
from collections.abc import Callable

import pytest

from flowctl import FlowController, FlowKey, Outcome, Request, Ticket
from flowctl.ledger import Ledger
from flowctl.ticket import Hold
from flowctl.turn import Turn
from tests.support import MakeController, Spawn
from tests.test_interrupts import Intruder

A_MOMENT = 0.05
"""Real seconds in which a thread that need not wait would have ended."""


def keep(ticket: Ticket) -> None:
    """Its caller has it already."""


def owe_a_round(turn: Turn) -> None:
    turn._owed = True
    turn.help()


BOOKINGS: dict[str, Callable[[FlowController], object]] = {
    "change": lambda controller: controller._state.turn.change(lambda now: None),
    "book": lambda controller: controller._state.turn.book(lambda now: None),
    "read": lambda controller: controller._state.turn.read(lambda ledger: ledger.in_flight),
    "help": lambda controller: owe_a_round(controller._state.turn),
    "a grant on the spot": lambda controller: controller.admit("known").release(),
    "an arrival": lambda controller: controller.submit(Request(FlowKey("known")), keep).release(),
}


@pytest.mark.parametrize("booking", BOOKINGS)
def test_whoever_looks_at_the_books_or_changes_them_waits_for_the_lock(
    controller: FlowController, spawn: Spawn, booking: str
) -> None:
    controller.admit("known").release()
    with controller._state.turn.lock:
        asking = spawn(BOOKINGS[booking], controller)
        asking.thread.join(A_MOMENT)
        waited = not asking.done

    asking.result()
    assert waited


def test_a_release_waits_for_the_lock(controller: FlowController, spawn: Spawn) -> None:
    ticket = controller.admit("a")
    with controller._state.turn.lock:
        releasing = spawn(ticket.release)
        releasing.thread.join(A_MOMENT)
        waited = not releasing.done

    assert releasing.result()
    assert waited


def test_who_comes_in_the_middle_of_a_look_at_the_books_is_in_a_section(controller: FlowController) -> None:
    turn = controller._state.turn

    assert turn.read(lambda ledger: turn.is_interrupted())
    assert not turn.is_interrupted()


def test_what_comes_in_the_middle_of_a_look_is_done_right_after_it(controller: FlowController) -> None:
    turn = controller._state.turn
    ticket = controller.admit("a")

    def look(ledger: Ledger) -> int:
        ticket.release()
        return ledger.in_flight

    assert turn.read(look) == 1
    assert turn.ledger.in_flight == 0
    assert not turn._returns


def test_a_handlers_change_that_raises_is_counted_and_told_with_its_reason(
    make_controller: MakeController, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Intruder()
    controller = make_controller(gate=gate)
    turn = controller._state.turn

    def fail(now: float) -> None:
        raise ZeroDivisionError("of the handler")

    gate.intrusion = lambda: turn.change(fail)
    with caplog.at_level(logging.ERROR, logger="flowctl"), controller.admit("a"):
        pass

    assert controller.stats().incidents == 1
    assert "change made by a handler" in caplog.text
    assert "ZeroDivisionError: of the handler" in caplog.text


def test_a_hold_whose_ticket_is_gone_without_a_word_is_found_by_the_audit(controller: FlowController) -> None:
    turn = controller._state.turn
    lost: list[object] = []
    turn.hand_in = lost.append  # as if an exception had kept it from being handed in
    controller.admit("a")
    assert len(lost) == 1
    assert isinstance(lost[0], Hold)
    assert controller.stats().in_flight == 1

    controller.collect()

    assert (controller.stats().in_flight, controller.stats().abandoned) == (0, 1)
    controller._check()


def test_more_than_one_section_settles_at_once_are_all_settled_by_the_time_it_returns(
    make_controller: MakeController,
) -> None:
    controller = make_controller(limit=1)
    holder = controller.admit("holder")
    told: list[Ticket] = []
    for number in range(200):
        controller.submit(Request(FlowKey(f"flow-{number % 7}")), told.append)

    controller.close()

    assert [ticket.outcome for ticket in told] == [Outcome.EVICTED_CLOSED] * 200
    assert holder.release()


def test_two_threads_that_take_turns_never_see_half_a_section(controller: FlowController, spawn: Spawn) -> None:
    turn, inside, over = controller._state.turn, threading.Event(), threading.Event()

    def stay(now: float) -> None:
        inside.set()
        assert over.wait(10)

    staying = spawn(turn.change, stay)
    assert inside.wait(10)
    looking = spawn(turn.read, lambda ledger: ledger.queued)
    looking.thread.join(A_MOMENT)
    waited = not looking.done
    over.set()

    staying.result()
    assert looking.result() == 0
    assert waited


def test_a_hold_that_never_came_into_the_books_takes_nobody_elses_place(controller: FlowController) -> None:
    turn = controller._state.turn
    controller.admit("a").release()
    turn.ledger.serial = 0  # as in a forked child, whose flows are there before its first arrival
    holder = controller.admit("a")
    stranger = Ticket(turn, holder._flow, 1, 0)
    hold = turn.new_hold(stranger)
    assert (holder.serial, hold.serial) == (1, 0)

    del stranger
    turn.help()

    assert holder.state == "dispatched"
    assert holder.release()


def test_a_ticket_that_is_dropped_in_a_forked_child_comes_back_there(controller: FlowController) -> None:
    controller.admit("a").release()
    turn = controller._state.turn
    turn.after_fork_in_child()

    controller.admit("a")
    turn.help()

    assert (controller.stats().in_flight, controller.stats().abandoned) == (0, 1)
