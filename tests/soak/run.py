"""What every phase of a soak shares: its threads, the rules that it broke, and what the process takes."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

PROGRESS: Final = 10.0
PATIENCE: Final = 60.0
"""Seconds after which a thread that was told to end is a failure. A broken RW lock alone takes 5 to heal."""


@final
class Run:
    """One run of the soak."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.began = time.monotonic()
        self.broken: list[str] = []
        self._next_line = self.began + PROGRESS

    def rule(self, holds: bool, sentence: str) -> None:
        """Note the sentence as broken, unless it holds."""
        if not holds:
            self.broken.append(sentence)
            self.say(f"BROKEN: {sentence}")

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {line}", flush=True)

    def progress(self, line: str) -> None:
        """Say it, if it is time for a line."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PROGRESS
            self.say(line)


@final
class Crew:
    """The threads of one phase. When the block ends, however it ends, they are told, and waited for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._threads: list[threading.Thread] = []
        self.deaths: list[str] = []  # how threads of it died
        self.over = threading.Event()

    def start(self, work: Callable[[], None]) -> threading.Thread:
        def call() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - it is a broken rule, and told as one
                self.deaths.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread

    def wait(self) -> None:
        """Until all have ended by themselves; Ctrl-C gets through."""
        for thread in self._threads:
            while thread.is_alive() and not self.deaths:
                thread.join(0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.over.set()
        until = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        left = sum(thread.is_alive() for thread in self._threads)
        self._run.rule(not left, f"every thread ends when it is told to: {left} did not")
        self._run.rule(not self.deaths, f"no thread dies: {'; '.join(self.deaths[:3])}")


def resident_bytes() -> int:
    """What the process has in memory, once the garbage is out."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def live_blocks() -> int:
    """How many blocks of memory Python objects take, once the garbage is out. Only while no other thread runs."""
    gc.collect()
    return sys.getallocatedblocks()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How fast y grows with x, by least squares."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
