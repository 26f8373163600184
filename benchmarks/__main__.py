"""``python -m benchmarks``: measure, print a table, write JSON. See benchmarks/README.md for how to read it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from benchmarks import (
    cancel,
    collection,
    crowd,
    dispatch,
    free,
    gates,
    hello,
    identities,
    lease,
    memory,
    queues,
    resize,
    saturated,
    servers,
)
from benchmarks.harness import DEFAULT, FULL, QUICK, Depth, Question, Row, Step
from benchmarks.machine import Neighbours, this_machine
from benchmarks.report import show, write

QUESTIONS: Final = (
    free.QUESTION,
    gates.QUESTION,
    saturated.QUESTION,
    dispatch.QUESTION,
    cancel.QUESTION,
    resize.QUESTION,
    identities.QUESTION,
    queues.QUESTION,
    lease.QUESTION,
    collection.QUESTION,
    memory.QUESTION,
    servers.QUESTION,
    hello.QUESTION,
    crowd.QUESTION,
)
LATEST: Final = Path(__file__).parent / "results" / "latest.json"


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what flowctl costs, on real threads, beside what one would use instead.",
        epilog="By way of make: make bench ARGS='--quick --only free,lease'. Ctrl-C ends a run early and keeps what it "
        "measured. How to read the table: benchmarks/README.md.",
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--quick", dest="depth", action="store_const", const=QUICK, help="2.5 minutes, and rougher (default: 3.5)"
    )
    depth.add_argument(
        "--full", dest="depth", action="store_const", const=FULL, help="11 to 12 minutes: all sizes, for runs to keep"
    )
    parser.set_defaults(depth=DEFAULT)
    parser.add_argument(
        "--only", type=_chosen, default=QUESTIONS, metavar="NAMES", help="questions, by commas: see --list"
    )
    parser.add_argument(
        "--json", type=Path, default=LATEST, metavar="FILE", help=f"where the results go (default: {LATEST})"
    )
    parser.add_argument("--list", action="store_true", help="list the questions and the rows that answer them, and end")
    return parser.parse_args(arguments)


def _chosen(names: str) -> tuple[Question, ...]:
    by_name = {question.name: question for question in QUESTIONS}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(by_name)}, not {', '.join(unknown) or names!r}")
    return tuple(question for question in QUESTIONS if question.name in wanted)


class Watch:
    """The progress line on stderr, with the time left.

    It moves between two steps only: it has no thread, and disturbs no measurement.
    """

    def __init__(self, console: Console, steps: Sequence[tuple[Question, Step]]) -> None:
        self._console = console
        self._number = 0
        self._expected = [step.seconds for _, step in steps]
        self._began = time.monotonic()
        columns = (TextColumn("{task.percentage:>3.0f} %"), BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self._task = self._bar.add_task("", total=sum(self._expected))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, question: Question, step: Step) -> None:
        done, left = sum(self._expected[: self._number]), sum(self._expected[self._number :])
        pace = (time.monotonic() - self._began) / done if done else 1.0
        line = f"about {left * pace:.0f} s left; {question.name}: {step.name}"
        self._number += 1
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, description=line, refresh=True)
        else:
            print(f"{self._number}/{len(self._expected)} {line}", file=sys.stderr, flush=True)


def measured(steps: Sequence[tuple[Question, Step]], rows: list[Row], errors: Console) -> bool:
    """Run the steps, and append what they measure; False if one failed (the others are run none the less)."""
    well = True
    with Watch(errors, steps) as watch:
        for question, step in steps:
            watch.begin(question, step)
            neighbours = Neighbours()
            try:
                found = step.run()
            except Exception:  # noqa: BLE001 - one row that cannot be had costs no other: it is shown, and the run fails
                errors.print(f"{question.name}: {step.name}: failed", style="bold red")
                errors.print_exception()
                well = False
            else:
                share = neighbours.share()
                rows.extend(replace(row, question=question.name, others=share) for row in found)
    return well


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status: 0, 1 if something failed, 130 after Ctrl-C. A target that is missed is no failure."""
    options = parsed(arguments)
    questions: tuple[Question, ...] = options.only
    depth: Depth = options.depth
    steps = [(question, step) for question in questions for step in question.steps(depth)]
    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    if options.list:
        for question in questions:
            console.print(f"{question.name}: {question.asks}", style="bold", highlight=False)
            for mine, step in steps:
                if mine is question:
                    console.print(f"  {step.name}", highlight=False)
        return 0
    machine, rows = this_machine(), list[Row]()
    began, began_at = time.monotonic(), datetime.now(UTC)
    status = 0
    try:
        status = 0 if measured(steps, rows, errors) else 1
    except KeyboardInterrupt:
        errors.print("interrupted: what follows is what was measured until then", style="yellow")
        status = 130
    took = time.monotonic() - began
    show(console, rows, questions, machine)
    run: dict[str, object] = {
        "depth": depth.name,
        "only": [question.name for question in questions],
        "began": began_at.isoformat(timespec="seconds"),
        "seconds": round(took, 1),
        "complete": status == 0,
    }
    write(options.json, rows, machine, run)
    console.print(f"{took:.0f} s; written to {options.json}", highlight=False)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
