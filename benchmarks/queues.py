"""Which queue for a flow? Those that flowctl has, beside the usual way: leave what was withdrawn in, and skip it later.

One operation is a push, a withdrawal of any queued ticket, and a look at the head: what a client that gives up costs.
The lazy ones count what is dead in them, and are made anew once that is more than half: else they would grow without
bound while the head stays. They could not tell their newest, or a ticket's place, without going over the dead.
"""

from __future__ import annotations

import heapq
import random
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, final

from benchmarks.crew import no_gc
from benchmarks.harness import Depth, Plot, Question, Row, Step, in_turns
from flowctl import ConcurrencyLimit, FlowController, FlowKey, Ticket
from flowctl.keyed import KeyedQueue
from flowctl.queue import FlowQueue
from flowctl.ticket import Unborn, Wait

BATCH: Final = 500
ROUNDS: Final = 5


class Queue(Protocol):
    """What is measured."""

    size: int

    @property
    def head(self) -> Ticket | None: ...

    def push(self, ticket: Ticket) -> None: ...

    def withdraw(self, ticket: Ticket) -> None: ...


@final
class LazyDeque:
    """In order of arrival."""

    __slots__ = ("_dead", "_tickets", "size")

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()
        self._dead: set[int] = set()
        self.size = 0

    @property
    def head(self) -> Ticket | None:
        tickets, dead = self._tickets, self._dead
        while tickets:
            ticket = tickets[0]
            if ticket.serial not in dead:
                return ticket
            tickets.popleft()
            dead.remove(ticket.serial)
        return None

    def push(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)
        self.size += ticket.size

    def withdraw(self, ticket: Ticket) -> None:
        self._dead.add(ticket.serial)
        self.size -= ticket.size
        if 2 * len(self._dead) > len(self._tickets):
            self._tickets = deque([ticket for ticket in self._tickets if ticket.serial not in self._dead])
            self._dead.clear()


@final
class SortedList:
    """By key, in one plain list, the head last: O(queued) to push and to withdraw, but by moving memory only."""

    __slots__ = ("_order", "_tickets", "size")

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._order: list[tuple[float, int]] = []
        self.size = 0

    @property
    def head(self) -> Ticket | None:
        return self._tickets[-self._order[-1][1]] if self._order else None

    def push(self, ticket: Ticket) -> None:
        insort(self._order, (0.0 if ticket.wait is None else -ticket.wait.order, -ticket.serial))
        self._tickets[ticket.serial] = ticket
        self.size += ticket.size

    def withdraw(self, ticket: Ticket) -> None:
        del self._tickets[ticket.serial]
        place = (0.0 if ticket.wait is None else -ticket.wait.order, -ticket.serial)
        del self._order[bisect_left(self._order, place)]
        self.size -= ticket.size


@final
class LazyHeap:
    """By key."""

    __slots__ = ("_dead", "_heap", "size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._dead: set[int] = set()
        self.size = 0

    @property
    def head(self) -> Ticket | None:
        heap, dead = self._heap, self._dead
        while heap:
            _, serial, ticket = heap[0]
            if serial not in dead:
                return ticket
            heapq.heappop(heap)
            dead.remove(serial)
        return None

    def push(self, ticket: Ticket) -> None:
        heapq.heappush(self._heap, (0.0 if ticket.wait is None else ticket.wait.order, ticket.serial, ticket))
        self.size += ticket.size

    def withdraw(self, ticket: Ticket) -> None:
        self._dead.add(ticket.serial)
        self.size -= ticket.size
        if 2 * len(self._dead) > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[1] not in self._dead]
            heapq.heapify(self._heap)
            self._dead.clear()


QUEUES: Final[Mapping[str, Callable[[], Queue]]] = {
    "FlowQueue": FlowQueue,
    "lazy deque": LazyDeque,
    "KeyedQueue": KeyedQueue,
    "lazy heap": LazyHeap,
    "sorted list": SortedList,
}

PAIRS: Final = (
    ("FlowQueue", "lazy deque"),
    ("KeyedQueue", "FlowQueue"),
    ("KeyedQueue", "lazy heap"),
    ("KeyedQueue", "sorted list"),
)
"""What is shown beside what."""


def serial(ticket: Ticket) -> int:
    """In order of arrival."""
    return ticket.serial


def order(ticket: Ticket) -> tuple[float, int]:
    """By key, equal ones in order of arrival."""
    return (0.0 if ticket.wait is None else ticket.wait.order), ticket.serial


@final
class Crowd:
    """A queue with so many tickets, that stay so many; the same ones in the same order for each kind of queue."""

    def __init__(self, queue: Queue, queued: int, seed: int = 7) -> None:
        self.queue = queue
        self._numbers = random.Random(seed)
        self._serial = 0
        self._desk = FlowController(gate=ConcurrencyLimit(1), background=False)._state.turn
        self._flow = Unborn(FlowKey("tenant"))
        self.queued = [self._ticket() for _ in range(queued)]
        for ticket in self.queued:
            queue.push(ticket)

    def _ticket(self) -> Ticket:
        ticket = Ticket(self._desk, self._flow, 1, 100)
        self._serial += 1
        ticket.serial = self._serial
        ticket.wait = Wait(0.0, None)
        ticket.wait.order = self._numbers.random()
        return ticket

    def batch(self) -> float:
        """CPU seconds of a batch of operations."""
        script: list[tuple[Ticket, Ticket]] = []
        for _ in range(BATCH):
            newcomer, place = self._ticket(), self._numbers.randrange(len(self.queued))
            script.append((newcomer, self.queued[place]))
            self.queued[place] = newcomer
        queue = self.queue
        began = time.thread_time()
        for newcomer, leaver in script:
            queue.push(newcomer)
            queue.withdraw(leaver)
            queue.head  # noqa: B018 - it is what is measured
        return time.thread_time() - began

    def cost(self, seconds: float) -> float:
        """CPU nanoseconds an operation, over at least so many as are queued: a lazy queue is made anew once in them."""
        batches = 0
        took = 0.0
        while took < seconds or batches * BATCH < len(self.queued):
            took += self.batch()
            batches += 1
        return took * 1e9 / (batches * BATCH)


def _measure(queued: int, depth: Depth) -> Sequence[Row]:
    crowds = {name: Crowd(queue(), queued, depth.seed) for name, queue in QUEUES.items()}
    with no_gc():
        found = in_turns(ROUNDS, [partial(crowd.cost, depth.sample / 2) for crowd in crowds.values()])
    samples = {name: tuple(costs) for name, costs in zip(crowds, found, strict=True)}
    return [
        Row(
            name=f"{queued:,} queued: {ours} to {rival}",
            unit="ns",
            samples=samples[ours],
            rival=rival,
            rival_samples=samples[rival],
            at={"threads": 1, "queued": queued, "queue": ours},
        )
        for ours, rival in PAIRS
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    found = []
    for queued in depth.sizes:
        seconds = ROUNDS * len(QUEUES) * (depth.sample * 1.2 + queued * 7e-6)
        found.append(Step(f"{queued:,} queued", seconds, partial(_measure, queued, depth)))
    return found


QUESTION: Final = Question(
    "queues",
    "what a push, a withdrawal and a look at the head cost, by each kind",
    steps,
    plots=(Plot(title="CPU of a push, a withdrawal and a look", x="queued", by="queue", log_x=True, log_y=True),),
)
