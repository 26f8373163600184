"""A run as a Markdown table, for documents: ``python -m benchmarks.markdown benchmarks/results/NAME.json``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.kept import read
from benchmarks.wording import figure, interpreter


def table(path: Path) -> str:
    """The rows of a run that have a target, with the machine in the first line."""
    kept = read(path)
    machine = kept.machine
    lines = [
        f"flowctl {machine.flowctl}, {interpreter(machine)}, {machine.processor}, {machine.cores} cores:",
        "",
        "| what | median | beside it | ratio | target |",
        "|---|---|---|---|---|",
    ]
    for row in kept.rows:
        target = row.target
        if target is None:
            continue
        rival = "" if row.rival_value is None else f"{row.rival}: {figure(row.rival_value)}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        bound = f"{target.side} {target.bound:,g}{'x' if target.of == 'ratio' else ''}"
        missed = "" if row.reached else ", missed"
        doubts = f" ({', '.join(row.doubts)})" if row.doubts else ""
        what = f"{row.question}: {row.name}"
        lines.append(f"| {what} | {figure(row.value)} {row.unit}{doubts} | {rival} | {ratio} | {bound}{missed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1])))
