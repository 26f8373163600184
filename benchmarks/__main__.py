"""``python -m benchmarks``: measure, print a table, write JSON. See benchmarks/README.md for how to read it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from benchmarks import (
    arrivals,
    backends,
    cancel,
    collection,
    contention,
    crowd,
    dispatch,
    fairness,
    free,
    gates,
    hello,
    identities,
    idle,
    lease,
    matrix,
    memory,
    noise,
    peers,
    queues,
    resize,
    scenario,
    servers,
    wake,
)
from benchmarks.compare import Comparison, compare
from benchmarks.harness import Question, Row, Step
from benchmarks.kept import Kept, Run, write
from benchmarks.machine import Neighbours, this_machine
from benchmarks.options import Options, parsed
from benchmarks.report import show, show_comparison
from benchmarks.watch import Watch, in_words

QUESTIONS: Final = (
    noise.QUESTION,
    free.QUESTION,
    peers.QUESTION,
    contention.QUESTION,
    matrix.QUESTION,
    fairness.QUESTION,
    arrivals.QUESTION,
    gates.QUESTION,
    dispatch.QUESTION,
    wake.QUESTION,
    cancel.QUESTION,
    resize.QUESTION,
    identities.QUESTION,
    queues.QUESTION,
    lease.QUESTION,
    backends.QUESTION,
    collection.QUESTION,
    memory.QUESTION,
    idle.QUESTION,
    servers.QUESTION,
    hello.QUESTION,
    crowd.QUESTION,
)


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
                errors.print(f"{question.name}: {step.name}: failed", style="bold red", markup=False)
                errors.print_exception()
                well = False
            else:
                share = neighbours.share()
                rows.extend(replace(row, question=question.name, others=share) for row in found)
    return well


def run(options: Options, errors: Console) -> tuple[Kept, int]:
    """Measure; what came of it, and the exit status: 0, 1 if something failed, 130 after Ctrl-C."""
    steps = [(question, step) for question in options.questions for step in question.steps(options.depth)]
    machine, rows = this_machine(), list[Row]()
    began, began_at = time.monotonic(), datetime.now(UTC)
    try:
        status = 0 if measured(steps, rows, errors) else 1
    except KeyboardInterrupt:
        errors.print("interrupted: what follows is what was measured until then", style="yellow")
        status = 130
    how = Run(
        depth=options.depth.name,
        began=began_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        complete=status == 0,
        only=tuple(question.name for question in options.questions),
        left_out=tuple(question.name for question in options.left_out),
        threads=options.depth.threads,
        seed=options.depth.seed,
    )
    return Kept(how, machine, rows), status


def listed(console: Console, options: Options) -> None:
    """Print the questions, and what each measures at this depth."""
    total = 0.0
    for question in options.questions:
        steps = question.steps(options.depth)
        seconds = sum(step.seconds for step in steps)
        total += seconds
        about = f"about {in_words(seconds)}" if steps else f"not in a {options.depth.name} run"
        console.print(Text.assemble((f"{question.name}: {question.asks}", "bold"), f" ({about})"))
        for step in steps:
            console.print(Text(f"  {step.name}"))
    console.print(f"{options.depth.name}: about {in_words(total)}", highlight=False)


def since(options: Options, kept: Kept, comparison: Comparison | None) -> list[tuple[str, Comparison]]:
    """What the report compares with: the run that was named, or else the one that was written over."""
    if comparison is not None:
        return [("What changed", comparison)]
    return [] if options.last is None else [("What changed since the last run", compare(options.last, kept))]


def shown(options: Options, kept: Kept, questions: Sequence[Question]) -> list[Question]:
    """Those that were chosen, and those of a kept run that nobody asks any more, or that were somebody's own."""
    names = {question.name for question in (*questions, *options.questions)}
    old = dict.fromkeys(row.question for row in kept.rows if row.question not in names)
    own = {scenario.KEPT.name: scenario.KEPT}
    return [*options.questions, *(own.get(name, Question(name, "no longer asked", lambda _: ())) for name in old)]


def report(
    console: Console, options: Options, kept: Kept, questions: Sequence[Question], comparison: Comparison | None
) -> None:
    """Write the HTML, and say where; or say what it takes."""
    try:
        # not before all is measured: it is large, and without a GIL its extensions may ask for one
        from benchmarks.page import page  # noqa: PLC0415
    except ModuleNotFoundError as error:
        console.print(f"no report: {error.name} is not installed, which make bench does", highlight=False)
        return
    options.html.parent.mkdir(parents=True, exist_ok=True)
    options.html.write_text(page(kept, questions, since(options, kept, comparison), options.overlay), "utf-8")
    console.print(f"report: {options.html}", highlight=False, soft_wrap=True)


def main(arguments: Sequence[str], questions: Sequence[Question] = QUESTIONS) -> int:
    """Run it; the exit status: 0, 1 if a row failed or got worse, 130 after Ctrl-C. A missed target is no failure.

    Exits with 2 where the arguments are wrong.
    """
    options = parsed(arguments, questions)
    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=160)
    if options.list:
        listed(console, options)
        return 0
    status = 0
    kept = options.source
    if kept is None:
        kept, status = run(options, errors)
        if not kept.rows:
            errors.print("nothing was measured, and nothing is written")
            return status
        write(options.json, kept)  # before anything is made of it
    comparison = None if options.compare is None else compare(options.compare, kept)
    show(console, kept.rows, shown(options, kept, questions), kept.machine)
    if comparison is not None:
        show_comparison(console, comparison)
    if kept.run.left_out:
        console.print(f"A {kept.run.depth} run leaves out: {', '.join(kept.run.left_out)}.", highlight=False)
    if options.source is None:
        console.print(f"{in_words(kept.run.seconds)}; written to {options.json}", highlight=False, soft_wrap=True)
    report(console, options, kept, shown(options, kept, questions), comparison)
    if comparison is not None and comparison.regressed and status == 0:
        errors.print("at least one row got worse", style="bold red")
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
