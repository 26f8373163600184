"""What one would use instead of flowctl, behind one face: each lets at most so many callers work at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, repeat
from queue import PriorityQueue, SimpleQueue
from typing import Final, Protocol, TypeVar, final

import aiologic

from flowctl import ConcurrencyLimit, FlowController

OURS: Final = "flowctl"
SEMAPHORE: Final = "BoundedSemaphore"
LINE: Final = "lock and conditions"
DISPATCHER: Final = "dispatcher thread"
BY_EVENTS: Final = "dispatcher, events"
POOL: Final = "ThreadPoolExecutor"
AIOLOGIC: Final = "aiologic"

T = TypeVar("T")


class Peer(Protocol):
    """A number of seats, and callers that are known by their numbers."""

    def loop(self, number: int, times: int) -> None:
        """Take a seat and give it back, so many times."""

    def serve(self, number: int, work: Callable[[], T]) -> T:
        """Have the work done with a seat, and return what it returns."""

    def close(self) -> None:
        """End the threads of its own."""


class Seats(Protocol):
    """Something that is taken and given back by two calls."""

    def acquire(self) -> object: ...

    def release(self) -> object: ...


@final
class Line:
    """First come, first served: one lock, and a condition for each who waits. The seat is handed over."""

    def __init__(self, seats: int) -> None:
        self._lock = threading.Lock()
        self._free = seats
        self._line: deque[tuple[threading.Condition, list[bool]]] = deque()

    def acquire(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            condition, served = threading.Condition(self._lock), [False]
            self._line.append((condition, served))
            while not served[0]:
                condition.wait()

    def release(self) -> None:
        with self._lock:
            if not self._line:
                self._free += 1
                return
            condition, served = self._line.popleft()
            served[0] = True
            condition.notify()


@final
@final
class Dispatcher:
    """The gate that most people write: who comes puts himself into a queue by priority, and one thread takes a seat,
    then whoever is first, and tells him.
    """

    def __init__(self, seats: int, bell: Callable[[], Bell]) -> None:
        self._seats = threading.Semaphore(seats)
        self._bell = bell
        self._numbers = count()
        self._waiting: PriorityQueue[tuple[int, int, Callable[[], object] | None]] = PriorityQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def acquire(self, priority: int = 0) -> None:
        ring, wait = self._bell()
        self._waiting.put((priority, next(self._numbers), ring))
        wait()

    def release(self) -> None:
        self._seats.release()

    def close(self) -> None:
        self._waiting.put((0, next(self._numbers), None))
        self._seats.release()  # should somebody have gone with a seat
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._seats.acquire()
            ring = self._waiting.get()[2]
            if ring is None:
                return
            ring()


Bell = tuple[Callable[[], object], Callable[[], object]]
"""How one thread tells another: the first call is made by who tells, the second blocks until then."""


def by_queue() -> Bell:
    queue: SimpleQueue[None] = SimpleQueue()
    return partial(queue.put, None), queue.get


def by_event() -> Bell:
    event = threading.Event()
    return event.set, event.wait


@final
class Taken:
    """Seats that are taken and given back by their callers."""

    def __init__(self, seats: Seats, close: Callable[[], object] = lambda: None) -> None:
        self._seats = seats
        self._close = close

    def loop(self, number: int, times: int) -> None:
        acquire, release = self._seats.acquire, self._seats.release
        for _ in repeat(None, times):
            acquire()
            release()

    def serve(self, number: int, work: Callable[[], T]) -> T:
        self._seats.acquire()
        try:
            return work()
        finally:
            self._seats.release()

    def close(self) -> None:
        self._close()


@final
class Aiologic:
    """The semaphore of aiologic, which threads take by calls of their own."""

    def __init__(self, seats: int) -> None:
        semaphore = aiologic.BoundedSemaphore(seats)
        self.acquire = semaphore.green_acquire
        self.release = semaphore.green_release


@final
class Pool:
    """As many threads as there are seats: who has work to do hands it in, and waits for what comes of it."""

    def __init__(self, seats: int) -> None:
        self._pool = ThreadPoolExecutor(seats)

    def loop(self, number: int, times: int) -> None:
        submit = self._pool.submit
        for _ in repeat(None, times):
            submit(_nothing).result()

    def serve(self, number: int, work: Callable[[], T]) -> T:
        return self._pool.submit(work).result()

    def close(self) -> None:
        self._pool.shutdown()


@final
class Ours:
    """A controller, and a flow for each caller."""

    def __init__(self, seats: int, callers: int) -> None:
        self._controller = FlowController(gate=ConcurrencyLimit(seats))
        self._ids = [f"tenant-{number}" for number in range(callers)]
        for flow in self._ids:
            self._controller.admit(flow).release()  # what a new flow costs is another question

    def loop(self, number: int, times: int) -> None:
        controller, flow = self._controller, self._ids[number]
        for _ in repeat(None, times):
            controller.admit(flow).release()

    def serve(self, number: int, work: Callable[[], T]) -> T:
        ticket = self._controller.admit(self._ids[number])
        try:
            return work()
        finally:
            ticket.release()

    def close(self) -> None:
        self._controller.close()


def _nothing() -> None:
    pass


def _dispatched(bell: Callable[[], Bell], seats: int, callers: int) -> Peer:
    dispatcher = Dispatcher(seats, bell)
    return Taken(dispatcher, dispatcher.close)


PEERS: Final[Mapping[str, Callable[[int, int], Peer]]] = {
    OURS: Ours,
    SEMAPHORE: lambda seats, callers: Taken(threading.BoundedSemaphore(seats)),
    LINE: lambda seats, callers: Taken(Line(seats)),
    DISPATCHER: partial(_dispatched, by_queue),
    BY_EVENTS: partial(_dispatched, by_event),
    POOL: lambda seats, callers: Pool(seats),
    AIOLOGIC: lambda seats, callers: Taken(Aiologic(seats)),
}
"""By their names, for so many seats and callers."""
