"""Mixed traffic: workers ask a controller for all that it can be asked for, whatever is thrown at them.

A worker counts a request when it begins and when it is over. An exception that is thrown into it may come between any
two steps: then one request has begun and is never over, and the books may have it or not. All others they must have.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Final, final

from flowctl import BandConfig, ConcurrencyLimit, Config, FlowControlError, FlowController, FlowKey, Request, Ticket
from flowctl.gate import Gate, Load
from flowctl.policies.displacement import Backlog, LowerPriority, Newcomer, T
from flowctl.request import WaitingRoom
from flowctl.ticket import ReleaseOutcome

LIMIT: Final = 8
LOST_AFTER: Final = 30.0
"""Seconds, beyond any deadline here, after which a request that is not settled is lost."""


class MischiefError(Exception):
    """What foreign code raises here."""


@final
class ForeignCode(Gate):
    """An observer, a gate and two policies that do their work, and raise once when they are told to."""

    def __init__(self) -> None:
        self._armed: dict[str, bool] = {}
        self.raised: deque[str] = deque()
        self.most_in_flight = 0

    def arm(self, what: str) -> None:
        self._armed[what] = True

    def maybe_raise(self, what: str) -> None:
        if self._armed.pop(what, False):
            self.raised.append(what)
            raise MischiefError(what)

    def settled(self, ticket: Ticket) -> None:
        self.maybe_raise("observer of settled")

    def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
        self.maybe_raise("observer of released")

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        self.maybe_raise("gate")
        if load.in_flight:  # else it may be larger than the limit, and runs alone
            self.most_in_flight = max(self.most_in_flight, load.in_flight + cost)
        return True

    def saturation(self, load: Load) -> float:
        return 0.0

    def charge(self, cost: int, weight: float) -> float:
        self.maybe_raise("fairness")
        return cost / weight

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        self.maybe_raise("displacement")
        return LowerPriority().victims(newcomer, backlogs)


class Thread(ABC):
    """Does one step after another until it is told to end. An interrupt costs it that step."""

    def __init__(self) -> None:
        self.interrupts = 0
        self.ident: int | None = None

    def run(self, over: threading.Event) -> None:
        self.ident = threading.get_ident()
        while True:
            try:
                while not over.is_set():
                    self.step()
                return
            except KeyboardInterrupt:
                self.interrupts += 1

    @abstractmethod
    def step(self) -> None: ...


@final
class HostileCollector(Thread):
    """Collects all the time, beside the controller's own collector."""

    def __init__(self, controller: FlowController) -> None:
        super().__init__()
        self._controller = controller
        self._pause = threading.Event()

    def step(self) -> None:
        self._controller.collect()
        self._controller._state.registry.sweep_bands()
        self._pause.wait(0.0005)  # one that spins would keep the interpreter's lock for 5 ms at each hand-over


@final
class Answer:
    """Gives back what its request was granted, and says that it is over."""

    def __init__(self, raising: Callable[[str], None]) -> None:
        self._raising = raising
        self._told: SimpleQueue[None] = SimpleQueue()

    def __call__(self, ticket: Ticket) -> None:
        try:
            if ticket.state == "dispatched":
                ticket.release()
            self._raising("on_settled")
        finally:
            self._told.put(None)

    def wait(self, ticket: Ticket) -> bool:
        """Until it was told; False if it was settled, and an exception that hit the callback kept it from saying so."""
        for _ in range(int(LOST_AFTER)):
            try:
                self._told.get(timeout=1.0)
            except Empty:
                if ticket.outcome is not None:
                    ticket.release()
                    return not self._told.empty()
            else:
                return True
        raise AssertionError(f"{ticket!r} is lost")


@final
class Worker(Thread):
    """A seeded mix of requests."""

    def __init__(self, town: Town, seed: int) -> None:
        super().__init__()
        self._town = town
        self._random = random.Random(seed)
        self._pause = threading.Event()
        self.begun = 0
        self.ended = 0
        self.untold = 0
        self._actions = [*[self._admit] * 6, self._try_admit, self._submit, self._cancel, self._probe]

    def step(self) -> None:
        if self._random.random() < 0.05:
            self._town.seats.set(self._random.randrange(1, LIMIT + 1))
        action = self._random.choice(self._actions)
        self.begun += 1
        try:
            action()
        except FlowControlError:
            pass
        self.ended += 1

    def _flow(self) -> FlowKey:
        n = self._random.randrange(12)
        return FlowKey(f"flow-{n}" if n else f"once-{self._random.random()}", self._random.randrange(-1, 3))

    def _admit(self) -> None:
        ttl, cost = self._random.choice([None, None, 0.0, 0.001, 0.01, 5.0]), self._random.randrange(1, 4)
        room = self._random.choice([None, self._town.room])
        with self._town.controller.admit(self._flow(), cost=cost, size=10, ttl=ttl, room=room):
            if self._random.random() < 0.02:
                self._pause.wait(0.002)

    def _try_admit(self) -> None:
        ticket = self._town.controller.try_admit(self._flow())
        assert ticket.release()
        assert not ticket.release(), "a seat is given back twice"

    def _submit(self) -> None:
        self._ask(self._random.choice([0.001, 0.02, 20.0]), cancel=False)

    def _cancel(self) -> None:
        self._ask(None, cancel=True)

    def _ask(self, ttl: float | None, *, cancel: bool) -> None:
        answer = Answer(self._town.foreign.maybe_raise)
        ticket = self._town.controller.submit(Request(self._flow(), size=5, ttl=ttl), on_settled=answer)
        if cancel:
            ticket.cancel()
        if not answer.wait(ticket):
            self.untold += 1

    def _probe(self) -> None:
        left = self._random.random() < 0.5
        self._town.controller.admit(self._flow(), ttl=0.2, cancel=lambda: left).release()


@final
class Town:
    """One controller with all that stands around it."""

    def __init__(self, workers: int, seed: int) -> None:
        self.foreign = ForeignCode()
        self.seats = ConcurrencyLimit(LIMIT)
        self.room = WaitingRoom(10, 5)
        config = Config(
            default_band=BandConfig(
                max_requests=40,
                max_bytes=300,
                max_requests_per_flow=10,
                fairness=self.foreign,
                displacement=self.foreign,
            ),
            max_requests=60,
            displacement=self.foreign,
            flow_gc_timeout=0,
            gc_interval=0.05,
        )
        self.controller = FlowController(config, gate=[self.seats, self.foreign], observer=self.foreign)
        self.workers = [Worker(self, seed + number) for number in range(workers)]
        self.collectors = [HostileCollector(self.controller) for _ in range(2)]

    @property
    def threads(self) -> list[Thread]:
        return [*self.workers, *self.collectors]

    @property
    def requests(self) -> int:
        return sum(worker.begun for worker in self.workers)
