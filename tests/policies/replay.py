"""Plays a trace to a server on virtual time, and tells who went when.

At one instant: deadlines, then completions, then cancellations, then looks, then arrivals; each in order of number.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from flowctl import ConcurrencyLimit, Config, FlowController, Outcome, Request, Ticket
from flowctl.testing import FakeClock
from tests.policies.trace import Asked, Trace


class Move(NamedTuple):
    """What became of a request, and when."""

    number: int
    what: str  # "came", "started" or "left"
    at: float


class Told(Protocol):
    def __call__(self, asked: Asked, what: str) -> None: ...


class Server(Protocol):
    """Serves requests; tells at once who starts, and who leaves unserved."""

    def arrive(self, asked: Asked) -> None: ...

    def cancel(self, asked: Asked) -> None: ...

    def finish(self, asked: Asked) -> None: ...

    def pass_time(self, now: float) -> None:
        """It is later now. Nothing happens by this alone."""

    def look_round(self) -> None:
        """Whose deadline has come leaves; who is idle may be forgotten."""


S = TypeVar("S", bound=Server)


class Event(IntEnum):
    DEADLINE = 0
    FINISH = 1
    CANCEL = 2
    LOOK = 3
    ARRIVE = 4


def replay(trace: Trace, make_server: Callable[[Told], S]) -> tuple[list[Move], S]:
    """All that happens, until the last request has been served or has left; and the server that did it."""
    events = [(asked.at, Event.ARRIVE, asked.number) for asked in trace.asked]
    events += [(asked.cancel_at, Event.CANCEL, asked.number) for asked in trace.asked if asked.cancel_at is not None]
    events += [(at, Event.DEADLINE, 0) for at in {asked.deadline for asked in trace.asked} if at is not None]
    events += [(at, Event.LOOK, 0) for at in trace.looks]
    heapq.heapify(events)
    moves: list[Move] = []
    now, arrived = 0.0, set[int]()

    def told(asked: Asked, what: str) -> None:
        moves.append(Move(asked.number, what, now))
        if what == "started":
            heapq.heappush(events, (now + asked.service, Event.FINISH, asked.number))

    server = make_server(told)
    while events:
        now, event, number = heapq.heappop(events)
        server.pass_time(now)
        asked = trace.asked[number]
        if event is Event.ARRIVE:
            moves.append(Move(number, "came", now))
            arrived.add(number)
            server.arrive(asked)
        elif event is Event.FINISH:
            server.finish(asked)
        elif event is Event.CANCEL and number in arrived:
            server.cancel(asked)
        elif event in (Event.DEADLINE, Event.LOOK):
            server.look_round()
    return moves, server


def started(moves: Sequence[Move]) -> list[tuple[int, float]]:
    """Who went, and when, in order."""
    return [(move.number, move.at) for move in moves if move.what == "started"]


class Library:
    """The real controller, driven by hand."""

    def __init__(self, told: Told, *, config: Config, seats: int) -> None:
        self.clock = FakeClock()
        self.controller = FlowController(config, gate=ConcurrencyLimit(seats), clock=self.clock, background=False)
        self.collected = 0
        self._told = told
        self._tickets: dict[int, Ticket] = {}

    def arrive(self, asked: Asked) -> None:
        request = Request(asked.key, cost=asked.cost, ttl=asked.ttl)
        self._tickets[asked.number] = self.controller.submit(request, partial(self._settled, asked))

    def _settled(self, asked: Asked, ticket: Ticket) -> None:
        self._told(asked, "started" if ticket.outcome is Outcome.DISPATCHED else "left")

    def cancel(self, asked: Asked) -> None:
        self._tickets[asked.number].cancel()

    def finish(self, asked: Asked) -> None:
        assert self._tickets[asked.number].release()

    def pass_time(self, now: float) -> None:
        self.clock.advance(now - self.clock.now())

    def look_round(self) -> None:
        self.collected += self.controller.collect().flows

    def end(self) -> None:
        """Nothing is left, and the books say so."""
        stats = self.controller.stats()
        assert (stats.queued, stats.in_flight) == (0, 0)
        self.controller._check()
        assert self.controller.close()
