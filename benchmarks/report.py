"""How a run is shown: a table for people, JSON for comparing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.harness import BUSY, WIDE, Question, Row
from benchmarks.machine import Machine

DOUBTS = {
    "busy": f"busy: other processes took more than {BUSY:.0%} of the cores meanwhile",
    "wide": f"wide: the rival against itself strayed by more than {WIDE:.0%}",
}


def show(console: Console, rows: Sequence[Row], questions: Sequence[Question], machine: Machine) -> None:
    """Print the machine, one table of all rows, and what its marks mean."""
    console.print(_headline(machine))
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
        console.print(f"  {DOUBTS[doubt]}")
    missed = sum(row.reached is False for row in rows)
    targets = sum(row.reached is not None for row in rows)
    if targets:
        console.print(f"{targets - missed} of {targets} targets reached" + (f", {missed} missed" if missed else ""))


def _headline(machine: Machine) -> str:
    gil = "with the GIL" if machine.gil else "without a GIL"
    load = "unknown" if machine.load_at_start is None else f"{machine.load_at_start:.2f}"
    commit = "" if machine.commit is None else f" ({machine.commit})"
    return (
        f"flowctl {machine.flowctl}{commit} on {machine.python} {gil}, switch interval "
        f"{machine.switch_interval * 1e3:g} ms; {machine.processor}, {machine.cores} cores, load at start {load}"
    )


def _cells(row: Row) -> list[Text | str]:
    target = row.target
    bound = ""
    if target is not None:
        sign = "<=" if target.side == "at most" else ">="
        bound = f"{sign} {target.bound:,g}{'x' if target.of == 'ratio' else ''}"
    return [
        f"  {row.name}",
        f"{_figure(row.value)} {row.unit}",
        "" if row.rival_value is None else _figure(row.rival_value),
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        _share(row.spread) if len(row.samples) > 1 else "",
        "" if row.noise is None else _share(row.noise),
        bound,
        _verdict(row),
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(share: float) -> str:
    return f"{share:.0%}" if share < 10 else ">999%"


def _verdict(row: Row) -> Text:
    verdict = Text()
    if row.reached is not None:
        verdict.append("reached" if row.reached else "MISSED", style="green" if row.reached else "bold red")
    for doubt in row.doubts:
        verdict.append(f" {doubt}" if verdict else doubt, style="yellow")
    return verdict


def write(path: Path, rows: Sequence[Row], machine: Machine, run: dict[str, object]) -> None:
    """All that is known of a run: raw samples too, so that any other statistic can be had from it later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": 1, "run": run, "machine": asdict(machine), "rows": [_document(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _document(row: Row) -> dict[str, object]:
    return {
        "question": row.question,
        "name": row.name,
        "unit": row.unit,
        "value": row.value,
        "rival": row.rival,
        "rival_value": row.rival_value,
        "ratio": row.ratio,
        "spread": row.spread,
        "noise": row.noise,
        "target": None if row.target is None else asdict(row.target),
        "reached": row.reached,
        "doubts": row.doubts,
        "others": row.others,
        "at": dict(row.at),
        "samples": row.samples,
        "rival_samples": row.rival_samples,
    }
