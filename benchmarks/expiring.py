"""What if nobody gets through? All threads ask at a gate that is closed, and each request expires after 50 ms; then
they ask again. How many refusals a second is that, and how late do they come? A part of the question `matrix`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

from benchmarks.crew import Window, on_threads
from benchmarks.harness import Row, in_turns, percentile
from flowctl import Expired, ExpiredOnArrival, FlowController, Gate
from flowctl.gate import Load

TTL: Final = 0.05


@final
class Closed(Gate):
    """A gate that lets nobody through."""

    def saturation(self, load: Load) -> float:
        return 1.0


class Expiries(NamedTuple):
    """Refusals a second, and milliseconds by which each came after its time."""

    rate: float
    late: list[float]


def expiring(threads: int, seconds: float, wait: Callable[[int], None]) -> Expiries:
    """Have so many threads wait in vain, again and again: `wait(number)` gives up after `TTL`."""
    window = Window()

    def job(number: int) -> list[float]:
        late: list[float] = []
        while not window.over:
            began = time.perf_counter()
            wait(number)
            late.append((time.perf_counter() - began - TTL) * 1e3)
        return late

    done = on_threads(threads, job, lambda: window.last(seconds))
    late = [each for mine in done.results for each in mine]
    return Expiries(len(late) / done.wall, late)


def expired_by_flowctl(threads: int, seconds: float) -> Expiries:
    """At a closed gate. Asserts that every request was refused for its ttl, and that nothing is left of it."""
    with FlowController(gate=Closed()) as controller:

        def wait(number: int) -> None:
            try:
                controller.admit(f"flow-{number % 10}", size=100, ttl=TTL)
            except (Expired, ExpiredOnArrival):  # where so many want the lock, even arriving may take longer than that
                return
            raise AssertionError("a closed gate let somebody through")

        found = expiring(threads, seconds, wait)
        stats = controller.stats()
        assert (stats.in_flight, stats.queued, stats.queued_bytes) == (0, 0, 0), f"something is left: {stats}"
        assert (stats.evicted + stats.rejected, stats.dispatched) == (len(found.late), 0), f"wrong: {stats}"
        controller._check()
    return found


def expired_by_semaphore(threads: int, seconds: float) -> Expiries:
    """At a semaphore that somebody holds."""
    semaphore = threading.BoundedSemaphore(1)
    semaphore.acquire()

    def wait(number: int) -> None:
        assert not semaphore.acquire(timeout=TTL)

    return expiring(threads, seconds, wait)


def measure(threads: int, rounds: int, seconds: float) -> Sequence[Row]:
    ours, theirs = in_turns(
        rounds,
        [lambda: expired_by_flowctl(threads, seconds), lambda: expired_by_semaphore(threads, seconds)],
    )
    at: dict[str, str | float] = {"workers": threads, "of": "expiries"}
    found = [
        Row(
            name=f"{threads:,} threads at a closed gate: refusals",
            unit="/s",
            samples=tuple(each.rate for each in ours),
            rival="BoundedSemaphore",
            rival_samples=tuple(each.rate for each in theirs),
            at=at,
        )
    ]
    found.extend(
        Row(
            name=f"{threads:,} threads at a closed gate: p{share * 100:g} of how late they are refused",
            unit="ms",
            samples=tuple(percentile(each.late, share) for each in ours),
            rival="BoundedSemaphore",
            rival_samples=tuple(percentile(each.late, share) for each in theirs),
            at={**at, "of": f"p{share * 100:g} of the lateness"},
        )
        for share in (0.5, 0.99)
    )
    return found
