"""How far a run is, on stderr. It moves between two steps only: it has no thread, and disturbs no measurement."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from benchmarks.harness import Question, Step


@final
class Watch:
    """A bar with the time left, by the pace of the steps so far; lines where there is no terminal."""

    def __init__(self, console: Console, steps: Sequence[tuple[Question, Step]]) -> None:
        self._console = console
        self._number = 0
        self._expected = [step.seconds for _, step in steps]
        self._began = time.monotonic()
        columns = (TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self._bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._task = self._bar.add_task("", total=sum(self._expected))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, question: Question, step: Step) -> None:
        """The next step begins now."""
        done, left = sum(self._expected[: self._number]), sum(self._expected[self._number :])
        pace = (time.monotonic() - self._began) / done if done else 1.0
        line = f"{in_words(left * pace)} left; {question.name}: {step.name}"
        self._number += 1
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, description=line, refresh=True)
        else:
            print(f"{self._number}/{len(self._expected)} {line}", file=sys.stderr, flush=True)


def in_words(seconds: float) -> str:
    """About how long.

    >>> in_words(41.7), in_words(150.0)
    ('42 s', '2 min 30 s')
    """
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02} s"
