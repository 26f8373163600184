"""Ways to park a thread until another one wakes it, and how fast two threads pass the baton by each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol, final

from benchmarks.crew import Window, on_threads
from benchmarks.harness import percentile
from flowctl import sync

PATIENCE: Final = 10.0
"""Seconds after which a thread that is not woken is given up."""


class Spot(Protocol):
    """Where one thread waits; a wake-up that comes first is kept."""

    def wake(self) -> None: ...

    def wait(self, seconds: float) -> bool: ...


@final
class LockSpot:
    """A lock that is always held: to release it is to wake, and whoever is woken holds it again."""

    __slots__ = ("_lock", "wake")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.wake = self._lock.release

    def wait(self, seconds: float) -> bool:
        return self._lock.acquire(timeout=seconds)


@final
class ConditionSpot:
    """A condition with its flag."""

    __slots__ = ("_condition", "_is_woken")

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_woken = False

    def wake(self) -> None:
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def wait(self, seconds: float) -> bool:
        with self._condition:
            woken = self._condition.wait_for(lambda: self._is_woken, seconds)
            self._is_woken = False
        return woken


@final
class EventSpot:
    """An event that is cleared by whom it woke."""

    __slots__ = ("_event", "wake")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.wake = self._event.set

    def wait(self, seconds: float) -> bool:
        woken = self._event.wait(seconds)
        self._event.clear()
        return woken


OURS: Final = "SimpleQueue (sync.Parking)"

SPOTS: Final[Mapping[str, Callable[[], Spot]]] = {
    OURS: sync.Parking,
    "Lock": LockSpot,
    "Condition": ConditionSpot,
    "Event": EventSpot,
}


class Passed(NamedTuple):
    """What two threads did in a window: round trips a second, and the median microseconds from wake to awake."""

    trips: float
    one_way: float


def pass_the_baton(make: Callable[[], Spot], seconds: float) -> Passed:
    """Let two threads wake each other in turns for so long."""
    spots, window = (make(), make()), Window()
    sent = [0.0, 0.0]
    took: tuple[list[float], list[float]] = ([], [])

    def send(number: int) -> None:
        sent[number] = time.perf_counter()
        spots[number].wake()

    def run(number: int) -> int:
        mine, awake = spots[number], took[number].append
        trips, over = 0, False
        if number == 0:
            send(1)
        while not over:
            if not mine.wait(PATIENCE):
                raise TimeoutError(f"not woken within {PATIENCE:.0f} s")
            awake(time.perf_counter() - sent[number])
            trips += 1
            over = window.over  # looked at before the other is woken, who then sees it too, and ends after us
            send(1 - number)
        return trips

    done = on_threads(2, run, lambda: window.last(seconds))
    assert abs(done.results[0] - done.results[1]) <= 1, "a wake-up is lost, or came twice"
    return Passed(min(done.results) / done.wall, percentile(took[0] + took[1], 0.5) * 1e6)
