"""Who goes next, by definition: said with plain lists, and with nothing of the library's algorithm.

Between bands: strict. Within a band: a line, which says who is its head. Nobody overtakes a head that does not fit.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Protocol

from tests.policies.replay import Told
from tests.policies.trace import Asked

Rank = Callable[[Asked], float]
"""Which request of several goes first: the smallest, equal ones by arrival."""


def by_arrival(asked: Asked) -> float:
    return 0.0


def by_deadline(asked: Asked) -> float:
    return float("inf") if asked.deadline is None else asked.deadline


class Line(Protocol):
    """Those who wait at one priority."""

    def join(self, asked: Asked) -> None: ...

    def leave(self, asked: Asked) -> None: ...

    def head(self) -> Asked | None: ...

    def serve(self) -> None:
        """The head goes."""


class Queues:
    """What waits of each flow, in the order of the ordering policy."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._queues: dict[str, list[tuple[float, int, Asked]]] = {}

    def __contains__(self, flow: str) -> bool:
        return flow in self._queues

    def head(self, flow: str) -> Asked:
        return self._queues[flow][0][2]

    def add(self, asked: Asked) -> None:
        insort(self._queues.setdefault(asked.key.id, []), (self._rank(asked), asked.number, asked))

    def remove(self, asked: Asked) -> None:
        queue = self._queues[asked.key.id]
        queue.remove((self._rank(asked), asked.number, asked))
        if not queue:
            del self._queues[asked.key.id]


class Ring:
    """Round robin as a plain ring of the active flows.

    Who becomes active joins at the back, who was served goes to the back. It remembers nobody who is idle.
    """

    def __init__(self, rank: Rank) -> None:
        self._queues = Queues(rank)
        self._ring: list[str] = []

    def join(self, asked: Asked) -> None:
        if asked.key.id not in self._queues:
            self._ring.append(asked.key.id)
        self._queues.add(asked)

    def leave(self, asked: Asked) -> None:
        self._queues.remove(asked)
        if asked.key.id not in self._queues:
            self._ring.remove(asked.key.id)

    def head(self) -> Asked | None:
        return self._queues.head(self._ring[0]) if self._ring else None

    def serve(self) -> None:
        flow = self._ring.pop(0)
        self._queues.remove(self._queues.head(flow))
        if flow in self._queues:
            self._ring.append(flow)


class Sorted:
    """No fairness: one sorted list of all that wait."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._line: list[tuple[float, int, Asked]] = []

    def join(self, asked: Asked) -> None:
        insort(self._line, (self._rank(asked), asked.number, asked))

    def leave(self, asked: Asked) -> None:
        self._line.remove((self._rank(asked), asked.number, asked))

    def head(self) -> Asked | None:
        return self._line[0][2] if self._line else None

    def serve(self) -> None:
        del self._line[0]


class Definition:
    """A server that does what the definition says."""

    def __init__(self, told: Told, *, seats: int, line: Callable[[], Line]) -> None:
        self._told, self._seats, self._new_line = told, seats, line
        self._lines: dict[int, Line] = {}
        self._waiting: dict[int, Asked] = {}
        self._in_flight = 0
        self._now = 0.0
        # since when somebody waits at a priority, and the longest that it took until nobody did
        self._busy_since: dict[int, float] = {}
        self.longest_busy = 0.0

    def arrive(self, asked: Asked) -> None:
        priority = asked.key.priority
        if self._fits(asked) and all(priority > other for other in self._busy_since):
            self._start(asked)
            return
        self._busy_since.setdefault(priority, self._now)
        self._waiting[asked.number] = asked
        self._lines.setdefault(priority, self._new_line()).join(asked)
        self._go()

    def cancel(self, asked: Asked) -> None:
        if asked.number in self._waiting:
            self._leave(asked)
            self._go()

    def finish(self, asked: Asked) -> None:
        self._in_flight -= asked.cost
        self._go()

    def pass_time(self, now: float) -> None:
        self._now = now

    def look_round(self) -> None:
        for asked in list(self._waiting.values()):
            if asked.deadline is not None and asked.deadline <= self._now:
                self._leave(asked)
        self._go()

    def _go(self) -> None:
        while self._busy_since:
            line = self._lines[max(self._busy_since)]
            head = line.head()
            assert head is not None
            if not self._fits(head):
                return
            line.serve()
            self._forget(head)
            self._start(head)

    def _fits(self, asked: Asked) -> bool:
        """Has it room; or, if it is larger than all there is, is it alone?"""
        return not self._in_flight or self._in_flight + asked.cost <= self._seats

    def _start(self, asked: Asked) -> None:
        self._in_flight += asked.cost
        self._told(asked, "started")

    def _leave(self, asked: Asked) -> None:
        self._lines[asked.key.priority].leave(asked)
        self._forget(asked)
        self._told(asked, "left")

    def _forget(self, asked: Asked) -> None:
        del self._waiting[asked.number]
        priority = asked.key.priority
        if self._lines[priority].head() is None:
            self.longest_busy = max(self.longest_busy, self._now - self._busy_since.pop(priority))
