"""A run as a Markdown table, for documents: ``python -m benchmarks.markdown benchmarks/results/NAME.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def table(path: Path) -> str:
    """The rows of a run that have a target, with the machine in the first line."""
    run = json.loads(path.read_text("utf-8"))
    machine = run["machine"]
    gil = "with the GIL" if machine["gil"] else "without a GIL"
    lines = [
        f"flowctl {machine['flowctl']}, {machine['python']} {gil}, {machine['processor']}, {machine['cores']} cores:",
        "",
        "| what | median | beside it | ratio | target |",
        "|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        target = row["target"]
        if target is None:
            continue
        rival = "" if row["rival_value"] is None else f"{row['rival']}: {_figure(row['rival_value'])}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        bound = f"{target['side']} {target['bound']:,g}{'x' if target['of'] == 'ratio' else ''}"
        missed = "" if row["reached"] else ", missed"
        doubts = f" ({', '.join(row['doubts'])})" if row["doubts"] else ""
        what = f"{row['question']}: {row['name']}"
        lines.append(
            f"| {what} | {_figure(row['value'])} {row['unit']}{doubts} | {rival} | {ratio} | {bound}{missed} |"
        )
    return "\n".join(lines) + "\n"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1])))
