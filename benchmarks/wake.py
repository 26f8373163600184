"""How long does it take from `release()` until the next waiter runs?

One thread gives, and blocks at once; the one that was waiting reads the clock first thing. Between two times all others
are left to park, so that nothing else runs. A bare `SimpleQueue` between two threads is the least that it can take.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Final, Protocol, final

from benchmarks.harness import Depth, Plot, Question, Row, Step, Target, in_turns, percentile
from flowctl import ConcurrencyLimit, FlowControlError, FlowController, FlowKey, Request, Ticket

WAITING: Final = (1, 64)
PAUSE: Final = 0.0003
"""Seconds in which a thread that has passed a seat on gets back to where it waits."""

WARM: Final = 3
PATIENCE: Final = 10.0
TARGET: Final = Target("ratio", "at most", 1.5)

OURS: Final = "flowctl"
CALLBACK: Final = "flowctl, submit"
QUEUE: Final = "SimpleQueue"
SEMAPHORE: Final = "Semaphore"
CONDITION: Final = "Condition"


class Way(Protocol):
    """How a seat is passed to one of those who wait."""

    def wait(self, number: int) -> bool:
        """Block until it is given to the thread of this number; False once nothing is passed on any more."""

    def settle(self) -> None:
        """Block until all wait that are to, as far as that can be told."""

    def give(self) -> None:
        """Give it to the next."""

    def close(self) -> None:
        """Let those go who wait, now or later."""


@final
class ByTicket:
    """One seat, and a flow for each who waits. The seat is given back by the thread that measures."""

    def __init__(self, waiting: int) -> None:
        self._controller = FlowController(gate=ConcurrencyLimit(1))
        self._waiting = waiting
        self._ticket = self._controller.admit("first")

    def wait(self, number: int) -> bool:
        try:
            self._ticket = self._controller.admit(f"tenant-{number}")
        except FlowControlError:
            return False
        return True

    def settle(self) -> None:
        _until(lambda: self._controller.stats().queued == self._waiting)

    def give(self) -> None:
        self._ticket.release()

    def close(self) -> None:
        self._controller.close()


@final
class ByQueue:
    """A queue for each who waits."""

    def __init__(self, waiting: int) -> None:
        self._queues = [SimpleQueue[bool]() for _ in range(waiting)]
        self._line = deque(self._queues)

    def wait(self, number: int) -> bool:
        return self._queues[number].get()

    def settle(self) -> None:
        """Who comes late finds it there."""

    def give(self) -> None:
        self._line[0].put(True)
        self._line.rotate(-1)

    def close(self) -> None:
        for queue in self._queues:
            queue.put(False)


@final
class BySemaphore:
    """One semaphore for all."""

    def __init__(self, waiting: int) -> None:
        self._semaphore = threading.Semaphore(0)
        self._waiting = waiting
        self._over = False

    def wait(self, number: int) -> bool:
        self._semaphore.acquire()
        return not self._over

    def settle(self) -> None:
        """Who comes late finds it there."""

    def give(self) -> None:
        self._semaphore.release()

    def close(self) -> None:
        self._over = True
        self._semaphore.release(self._waiting)


@final
class ByCondition:
    """One condition for all, and how many seats there are."""

    def __init__(self, waiting: int) -> None:
        self._condition = threading.Condition()
        self._seats = 0
        self._over = False

    def wait(self, number: int) -> bool:
        with self._condition:
            while not (self._seats or self._over):
                self._condition.wait()
            self._seats -= 1
            return not self._over

    def settle(self) -> None:
        """Who comes late finds it there."""

    def give(self) -> None:
        with self._condition:
            self._seats += 1
            self._condition.notify()

    def close(self) -> None:
        with self._condition:
            self._over = True
            self._condition.notify_all()


WAYS: Final[Mapping[str, Callable[[int], Way]]] = {
    OURS: ByTicket,
    QUEUE: ByQueue,
    SEMAPHORE: BySemaphore,
    CONDITION: ByCondition,
}


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            raise TimeoutError("those who are to wait did not come")
        time.sleep(PAUSE)


# --- the threads ---------------------------------------------------------------------------------------------------


@final
class Relay:
    """So many threads that wait; who is woken says when, and waits again."""

    def __init__(self, way: Way, waiting: int) -> None:
        self._way = way
        self._woken: SimpleQueue[float] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(waiting)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        wait, clock, tell = self._way.wait, time.perf_counter, self._woken.put
        while wait(number):
            tell(clock())

    def passed(self) -> float:
        """Microseconds from giving to running, once."""
        self._way.settle()
        time.sleep(PAUSE)
        began = time.perf_counter()
        self._way.give()
        return (self._woken.get(timeout=PATIENCE) - began) * 1e6

    def close(self) -> None:
        self._way.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@final
class Callbacks:
    """Requests that wait without a thread: who releases calls the next one's callback."""

    def __init__(self, waiting: int) -> None:
        self._controller = FlowController(gate=ConcurrencyLimit(1))
        self._called = 0.0
        self._ticket = self._controller.admit("first")
        self._requests = [Request(FlowKey(f"tenant-{number}", 0)) for number in range(waiting)]
        for request in self._requests:
            self._controller.submit(request, self._settled)

    def _settled(self, ticket: Ticket) -> None:
        self._called = time.perf_counter()
        self._ticket = ticket

    def passed(self) -> float:
        """Microseconds from giving to running, once."""
        time.sleep(PAUSE)
        began = time.perf_counter()
        self._ticket.release()
        took = (self._called - began) * 1e6
        self._controller.submit(Request(self._ticket.key), self._settled)
        return took

    def close(self) -> None:
        self._controller.close()


Passing = Callable[[], float]


@contextmanager
def relays(waiting: int) -> Iterator[dict[str, Passing]]:
    """Each way to pass a seat on, whose threads end with the block."""
    with ExitStack() as closing:
        found: dict[str, Passing] = {}
        for name, way in WAYS.items():
            relay = Relay(way(waiting), waiting)
            closing.callback(relay.close)
            found[name] = relay.passed
        callbacks = Callbacks(waiting)
        closing.callback(callbacks.close)
        found[CALLBACK] = callbacks.passed
        yield found


# --- the rows ------------------------------------------------------------------------------------------------------


def _batch(passing: Passing, count: int) -> list[float]:
    return [passing() for _ in range(count)]


def measure(waiting: int, rounds: int, count: int) -> list[Row]:
    """The median of each batch of so many, of each way in turns; and the p99 of all."""
    with relays(waiting) as ways:
        for passing in ways.values():
            _batch(passing, WARM)
        batches = in_turns(rounds, [partial(_batch, passing, count) for passing in ways.values()])
    found = dict(zip(ways, batches, strict=True))
    medians = {name: tuple(percentile(batch, 0.5) for batch in mine) for name, mine in found.items()}
    p99s = {name: (percentile([took for batch in mine for took in batch], 0.99),) for name, mine in found.items()}
    target = TARGET if waiting == 1 else None
    return [
        *_rows(f"release to wake, {waiting} waiting", medians, {"waiting": waiting, "figure": "median"}, target),
        *_rows(f"p99, {waiting} waiting", p99s, {"waiting": waiting, "figure": "p99"}),
    ]


def _rows(
    name: str,
    found: Mapping[str, tuple[float, ...]],
    at: Mapping[str, str | float],
    target: Target | None = None,
) -> list[Row]:
    return [
        Row(
            name=f"{name}: {way}",
            unit="us",
            samples=samples,
            rival=None if way == QUEUE else QUEUE,
            rival_samples=() if way == QUEUE else found[QUEUE],
            divisible=at["figure"] == "median",
            target=target if way == OURS else None,
            at={**at, "way": way},
        )
        for way, samples in found.items()
    ]


def steps(depth: Depth) -> list[Step]:
    rounds, count = depth.pick(5, 11, 21), depth.pick(60, 150, 500)
    seconds = rounds * count * (len(WAYS) + 1) * (PAUSE + 0.00025)
    return [Step(f"{waiting} waiting", seconds, partial(measure, waiting, rounds, count)) for waiting in WAITING]


PLOTS: Final = (
    Plot(title="release to wake (us, median)", x="way", by="waiting", where={"figure": "median"}),
    Plot(title="release to wake (us, p99)", x="way", by="waiting", where={"figure": "p99"}),
)

QUESTION: Final = Question("wake", "how long it takes from release until the next waiter runs", steps, PLOTS)
