"""How a run is shown in a terminal: one table of all rows, what changed, and what follows."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import wording
from benchmarks.compare import Change, Comparison, noise_floors
from benchmarks.harness import Question, Row
from benchmarks.machine import Machine

STYLES = {"worse": "bold red", "better": "green", "doubtful": "yellow", "changed": "cyan"}


def show(console: Console, rows: Sequence[Row], questions: Sequence[Question], machine: Machine) -> None:
    """Print the machine, one table of all rows, what its marks mean, and what the questions conclude."""
    console.print(wording.headline(machine), highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("median", "rival's", "ratio", "spread", "A/A", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for question in questions:
        mine = [row for row in rows if row.question == question.name]
        if not mine:
            continue
        rivals = {row.rival: None for row in mine if row.rival is not None}
        against = f" (rival: {', '.join(rivals)})" if rivals else ""
        table.add_section()
        table.add_row(Text(f"{question.name}: {question.asks}{against}", style="bold"))
        for row in mine:
            table.add_row(*_cells(row))
    console.print(table)
    for doubt in sorted({doubt for row in rows for doubt in row.doubts}):
        console.print(f"  {wording.DOUBTS[doubt]}")
    for line in (wording.floors(noise_floors(rows)), wording.targets(rows)):
        if line:
            console.print(line)
    for name, sentence in wording.conclusions(questions, rows):
        console.print(Text.assemble((f"{name}: ", "bold"), sentence))


def _cells(row: Row) -> list[Text | str]:
    return [
        Text(f"  {row.name}"),
        Text(f"{wording.figure(row.value)} {row.unit}"),
        "" if row.rival_value is None else wording.figure(row.rival_value),
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        wording.share(row.spread) if len(row.samples) > 1 else "",
        "" if row.noise is None else wording.share(row.noise),
        "" if row.target is None else wording.bound(row.target),
        _verdict(row),
    ]


def _verdict(row: Row) -> Text:
    verdict = Text()
    if row.reached is not None:
        verdict.append("reached" if row.reached else "MISSED", style="green" if row.reached else "bold red")
    for doubt in row.doubts:
        verdict.append(f" {doubt}" if verdict else doubt, style="yellow")
    return verdict


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print what changed by more than its noise, and what is to be said of the comparison."""
    changed = comparison.of("worse", "doubtful", "changed", "better")
    if changed:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="what changed", title_justify="left")
        table.add_column("", overflow="fold")
        for heading in ("before", "now", "change", "noise"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for change in sorted(changed, key=lambda change: change.verdict != "worse"):
            table.add_row(*_changed(change))
        console.print(table)
    for line in wording.outcome(comparison):
        console.print(line, highlight=False)


def _changed(change: Change) -> list[Text | str]:
    name = f"{change.row.question}: {change.row.name}"
    verdict = Text(change.verdict.upper() if change.verdict == "worse" else change.verdict, STYLES[change.verdict])
    return [Text(name), *wording.change(change), verdict]
