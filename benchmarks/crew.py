"""Work on real threads that start together, timed.

One thread alone is timed by its own CPU clock, which other processes do not disturb; several by the wall clock, from
the moment at which the last one is ready until the last one is done.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar, final

from benchmarks.harness import Depth, Pairs

PATIENCE: Final = 120.0
"""Seconds after which threads that do not end are given up: something hangs."""

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What each thread returned, by its number; seconds of wall clock for all, of CPU for each."""

    results: Sequence[T]
    wall: float
    cpu: Sequence[float]


def on_threads(threads: int, job: Callable[[int], T], meanwhile: Callable[[], None] | None = None) -> Outcome[T]:
    """Run `job(number)` on so many threads that start together; `meanwhile` runs here, and is to make them end.

    Raises what a job raised, and `TimeoutError` if some do not end.
    """
    began: list[float] = []
    line = threading.Barrier(threads + 1, action=lambda: began.append(time.perf_counter()))
    results: dict[int, T] = {}
    ends: list[float] = []
    cpu = [0.0] * threads
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            line.wait(PATIENCE)
            mine = time.thread_time()
            results[number] = job(number)
            cpu[number] = time.thread_time() - mine
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for all
            errors.append(error)
        ends.append(time.perf_counter())

    crew = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for thread in crew:
        thread.start()
    line.wait(PATIENCE)
    if meanwhile is not None:
        meanwhile()
    until = time.monotonic() + PATIENCE
    for thread in crew:
        thread.join(max(until - time.monotonic(), 0.0))
    if errors:
        raise errors[0]
    running = sum(thread.is_alive() for thread in crew)
    if running:
        raise TimeoutError(f"{running} of {threads} threads did not end within {PATIENCE:.0f} s")
    return Outcome([results[number] for number in range(threads)], max(ends) - began[0], cpu)


@final
class Window:
    """A time in which threads do as much as they can."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False

    def last(self, seconds: float) -> None:
        """Block for so long, then end it."""
        try:
            time.sleep(seconds)
        finally:
            self.over = True


def served_in_window(threads: int, seconds: float, serve: Callable[[int], None]) -> Outcome[int]:
    """How often each thread was served while all ask again and again: `serve(number)` is one time. At least once, also
    where a busy machine lets none of them run before the window is over.
    """
    window = Window()

    def job(number: int) -> int:
        serve(number)
        served = 1
        while not window.over:
            serve(number)
            served += 1
        return served

    return on_threads(threads, job, lambda: window.last(seconds))


@contextmanager
def no_gc() -> Iterator[None]:
    """Without Python's own `gc`, whose pauses follow the number of objects in the process."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --- loops ---------------------------------------------------------------------------------------------------------

Loop = Callable[[int, int], None]
"""Does what is measured: on the thread of this number, so many times."""

BATCH: Final = 50
"""Operations between two looks at whether the window is over."""


def per_operation(loop: Loop, threads: int, seconds: float) -> float:
    """Seconds an operation: of wall clock, over all operations of several threads; of CPU, on one.

    Several threads go on for as long as the window lasts. Where a thread is done before the GIL is taken from it,
    threads only run one after the other.
    """
    if threads == 1:
        count = operations_in(loop, seconds)
        return on_threads(1, lambda number: loop(number, count)).cpu[0] / count
    done = served_in_window(threads, seconds, lambda number: loop(number, BATCH))
    return done.wall / (sum(done.results) * BATCH)


def operations_in(loop: Loop, seconds: float) -> int:
    """How many fill about so many seconds on one thread. Warms the loop up, too."""
    count = BATCH
    while True:
        took = on_threads(1, partial(_repeat, loop, count)).cpu[0]
        if took >= seconds / 16:
            return max(int(count * seconds / took), 1)
        count *= 4


def _repeat(loop: Loop, count: int, number: int) -> None:
    loop(number, count)


def race(ours: Loop, rival: Loop, threads: int, depth: Depth) -> Pairs:
    """Nanoseconds an operation, of both in turns."""
    seconds = sample_seconds(threads, depth)
    pairs = Pairs()
    pairs.take(
        depth.pairs,
        lambda: per_operation(ours, threads, seconds) * 1e9,
        lambda: per_operation(rival, threads, seconds) * 1e9,
    )
    return pairs


def race_seconds(threads: int, depth: Depth) -> float:
    """How long `race` takes, about."""
    return depth.pairs * 2 * (sample_seconds(threads, depth) * 1.1 + threads * 0.0005)


def sample_seconds(threads: int, depth: Depth) -> float:
    """How long one sample lasts: on several threads long enough for each to run and be interrupted."""
    if threads == 1:
        return depth.sample
    return max(depth.contended, threads * depth.turns * sys.getswitchinterval())
