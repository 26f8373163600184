"""Closing while many threads ask: everybody gets an answer, and nothing stays behind."""

import threading

import pytest

from flowctl import (
    ClosedWhileQueued,
    ConcurrencyLimit,
    Config,
    ControllerClosed,
    FlowController,
    FlowKey,
    Request,
    Ticket,
)
from tests.support import Spawn

THREADS = 12


class Race:
    """One controller, many threads that ask, and one that closes."""

    def __init__(self, seats: int) -> None:
        self.controller = FlowController(Config(default_ttl=None), gate=ConcurrencyLimit(seats))
        self.begun = threading.Barrier(THREADS + 1)
        self.told: list[Ticket] = []

    def ask(self, nth: int) -> str:
        self.begun.wait()
        self.controller.submit(Request(FlowKey(f"flow-{nth % 3}", nth % 2)), on_settled=self.settled)
        try:
            self.controller.admit(f"flow-{nth % 5}").release()
        except (ClosedWhileQueued, ControllerClosed) as refusal:
            return type(refusal).__name__
        return "served"

    def settled(self, ticket: Ticket) -> None:
        self.told.append(ticket)
        ticket.release()


@pytest.mark.parametrize("seats", [1, THREADS])
def test_a_request_that_races_with_close_is_answered_and_never_lost(spawn: Spawn, seats: int) -> None:
    for _ in range(40):
        race = Race(seats)
        asking = [spawn(race.ask, nth) for nth in range(THREADS)]
        race.begun.wait()
        race.controller.close()
        answers = [thread.result() for thread in asking]

        assert len(answers) == len(race.told) == THREADS
        stats = race.controller.stats()
        assert (stats.queued, stats.in_flight) == (0, 0)
        assert stats.dispatched + stats.rejected + stats.evicted == 2 * THREADS
        race.controller._check()
