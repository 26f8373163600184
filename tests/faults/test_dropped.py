"""P8: tickets and responses that nobody gives back are found, given back and counted."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from flowctl import FlowController, FlowKey, Request, Ticket
from flowctl import ledger as ledger_module
from flowctl.integrations import seated
from flowctl.ticket import Hold
from flowctl.turn import Turn
from tests.proof import Proof
from tests.servers.exchange import TEXT, Exchange, environment, protected
from tests.support import MakeController, Spawn

MANY = 50


class Cycle:
    """Holds a ticket, and itself: only a garbage collection finds it."""

    def __init__(self, ticket: object) -> None:
        self.ticket = ticket
        self.me = self


def test_dropped_tickets_come_back_at_once(make_controller: MakeController, proof: Proof) -> None:
    controller = make_controller(limit=MANY)
    for nth in range(MANY):
        controller.admit(f"flow-{nth % 5}", priority=nth % 3)

    controller.admit("next").release()
    assert controller.stats().in_flight == 0
    assert controller.stats().abandoned == MANY
    proof.shown("P8", "a dropped ticket comes back by itself, and is counted", "faults", MANY, "runs")


def test_tickets_dropped_in_cycles_come_back_once_they_are_collected(
    make_controller: MakeController, proof: Proof
) -> None:
    controller = make_controller(limit=MANY)
    for nth in range(MANY):
        Cycle(controller.admit(f"flow-{nth % 5}"))
    gc.collect()

    controller.collect()
    assert controller.stats().in_flight == 0
    assert controller.stats().abandoned == MANY
    proof.shown("P8", "a ticket that is dropped in a cycle comes back, and is counted", "faults", MANY, "runs")


def test_a_seat_that_was_dropped_goes_to_whoever_waits(make_controller: MakeController) -> None:
    controller = make_controller()
    holders = [controller.admit("holder")]
    told: list[Ticket] = []
    controller.submit(Request(FlowKey("a")), told.append)
    holders.clear()

    controller.stats()
    assert [ticket.state for ticket in told] == ["dispatched"]


def test_tickets_whose_threads_died_come_back(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(limit=MANY)

    def die() -> None:
        ticket = controller.admit("a")
        raise KeyError(ticket.key)

    for _ in range(MANY):
        with pytest.raises(KeyError):
            spawn(die).result()
    spawn.join()
    gc.collect()

    controller.collect()
    assert controller.stats().in_flight == 0
    assert controller.stats().abandoned == MANY


def test_a_ticket_that_comes_back_late_is_not_given_back_twice(make_controller: MakeController) -> None:
    controller = make_controller(limit=2)
    kept = controller.admit("a")
    kept.release()
    del kept
    held = controller.admit("a")

    controller.collect()
    assert controller.stats().in_flight == 1
    assert controller.stats().abandoned == 0
    held.release()


def test_without_the_return_and_the_audit_a_dropped_ticket_is_lost(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    controller = make_controller()
    controller.admit("a").release()
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "Hold", lambda ticket, hand_in: Hold(ticket))
        patch.setattr(Turn, "audit", lambda self, suspects, repairs: None)
        controller.admit("a")
        gc.collect()
        controller.collect()
        assert controller.stats().in_flight == 1, "nothing has shown that it was gone"
    claim = "a dropped ticket comes back by itself, and is counted"
    proof.missed(claim, "the hold's callback, and the audit behind it", 1, "runs")

    controller.collect()  # the audit alone is enough
    assert controller.stats().in_flight == 0
    assert controller.stats().abandoned == 1


# --- responses ----------------------------------------------------------------------------------------------------


def some_blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield from (b"one", b"two", b"three")


def a_list_of_blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return list(some_blocks(environ, start_response))


@pytest.mark.parametrize("app", [some_blocks, a_list_of_blocks])
@pytest.mark.parametrize("read", [0, 1, 3, 4])
@pytest.mark.parametrize("cycle", [False, True])
def test_a_response_that_is_dropped_unclosed_gives_its_seat_back(
    controller: FlowController, app: WSGIApplication, read: int, cycle: bool, proof: Proof
) -> None:
    environ = environment()

    def serve() -> None:
        exchange = Exchange(protected(app, controller), environ)
        for _ in zip(range(read), exchange.result, strict=False):
            pass
        if cycle:
            Cycle(exchange)

    serve()
    gc.collect()

    assert controller.stats().in_flight == 0, "though the environment holds the ticket"
    assert environ[seated.TICKET].state == "released"
    assert controller.try_admit("next").release()
    proof.shown("P8", "a response that is dropped unclosed gives its seat back", "faults", 1, "runs")


def test_responses_whose_environment_is_dropped_with_them_are_counted_once(
    make_controller: MakeController,
) -> None:
    controller = make_controller(limit=MANY)
    for _ in range(MANY):
        Cycle(Exchange(protected(some_blocks, controller)))
    gc.collect()

    controller.collect()
    stats = controller.stats()
    assert (stats.in_flight, stats.dispatched) == (0, MANY)


def test_without_its_finaliser_a_dropped_response_keeps_its_seat(
    controller: FlowController, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    monkeypatch.setattr(seated._Body, "__del__", lambda self: None)
    environ = environment()
    Exchange(protected(some_blocks, controller), environ)
    gc.collect()

    controller.collect()
    assert controller.stats().in_flight == 1, "nothing has shown that it was gone"
    proof.missed("a response that is dropped unclosed gives its seat back", "its finaliser", 1, "runs")
    environ.clear()
