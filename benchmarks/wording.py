"""How figures, bounds and machines are put in words: the same in the table, in the report and in documents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.compare import Change, Comparison
from benchmarks.harness import BUSY, WIDE, Doubt, Question, Row, Target
from benchmarks.machine import Machine

DOUBTS: dict[Doubt, str] = {
    "busy": f"busy: other processes took more than {BUSY:.0%} of the cores meanwhile",
    "wide": f"wide: the rival against itself strayed by more than {WIDE:.0%}",
    "late": "late: requests of an open loop came later than they were meant to",
}


def figure(value: float) -> str:
    """Three digits, or all before the point.

    >>> figure(12345.6), figure(0.12345)
    ('12,346', '0.123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float) -> str:
    return f"{value:.0%}" if value < 10 else ">999%"


def fine(value: float) -> str:
    """A share that may be a small one.

    >>> fine(0.0231), fine(0.231)
    ('2.3%', '23%')
    """
    return f"{value:.1%}" if value < 0.1 else share(value)


def bound(target: Target) -> str:
    """As in "<= 2x"."""
    sign = "<=" if target.side == "at most" else ">="
    return f"{sign} {target.bound:,g}{'x' if target.of == 'ratio' else ''}"


def interpreter(machine: Machine) -> str:
    return f"{machine.python} {'with the GIL' if machine.gil else 'without a GIL'}"


def version(machine: Machine) -> str:
    return f"flowctl {machine.flowctl}" + ("" if machine.commit is None else f" ({machine.commit})")


def headline(machine: Machine) -> str:
    load = "unknown" if machine.load_at_start is None else f"{machine.load_at_start:.2f}"
    return (
        f"{version(machine)} on {interpreter(machine)}, switch interval {machine.switch_interval * 1e3:g} ms; "
        f"{machine.processor}, {machine.cores} cores, load at start {load}"
    )


def targets(rows: Sequence[Row]) -> str:
    """How many were reached; nothing where there are none."""
    missed = sum(row.reached is False for row in rows)
    total = sum(row.reached is not None for row in rows)
    if not total:
        return ""
    return f"{total - missed} of {total} targets reached" + (f", {missed} missed" if missed else "")


def floors(found: dict[str, float]) -> str:
    """The noise floor, in a sentence; nothing where it was not measured."""
    if not found:
        return ""
    parts = [f"{fine(floor)} on {kind}" for kind, floor in found.items()]
    return f"The same code against itself may stray by {' and '.join(parts)}: a smaller difference is noise."


# --- changes -------------------------------------------------------------------------------------------------------


def change(found: Change) -> tuple[str, str, str, str]:
    """What was compared, before and now; by how much they differ, and how much of that noise can explain."""
    before, now = (
        (found.before.ratio, found.row.ratio) if found.of == "ratio" else (found.before.value, found.row.value)
    )
    mark = "x" if found.of == "ratio" else f" {found.row.unit}"
    shown = [
        f"{value:.2f}{mark}" if found.of == "ratio" else f"{figure(value)}{mark}"
        for value in (before, now)
        if value is not None
    ]
    if math.isnan(found.factor):
        return shown[0], shown[-1], "", ""
    return shown[0], shown[-1], signed(found.share), signed(found.noise)


def signed(share: float) -> str:
    return f"{share:+.0%}" if share < 10 else ">+999%"


def outcome(comparison: Comparison) -> list[str]:
    """The comparison in sentences, the gravest first."""
    count = {verdict: len(comparison.of(verdict)) for verdict in ("worse", "better", "doubtful", "changed", "same")}
    moved = f"{count['worse']} got worse, {count['better']} got better, and {count['same']} stayed within their noise"
    lines = [f"Of {len(comparison.changes)} rows in both runs {moved}."]
    if count["changed"]:
        lines.append(f"{count['changed']} changed, and nothing says which side is the better one.")
    if count["doubtful"]:
        lines.append(f"{count['doubtful']} look worse, but were measured while the machine was busy: run them again.")
    if comparison.differs:
        lines.append(
            f"The two runs are not of one machine and one interpreter ({'; '.join(comparison.differs)}): only ratios "
            f"are compared, and {len(comparison.of('not comparable'))} rows have none."
        )
    if comparison.depths is not None:
        then, now = comparison.depths
        lines.append(f"That was a {then} run, this is a {now} one: the shorter one is the rougher one.")
    if comparison.new or comparison.gone:
        lines.append(f"Only in this run: {len(comparison.new)} rows; only in the other: {len(comparison.gone)}.")
    if not any(comparison.floors.values()):
        lines.append("Neither run has the question noise: its floor, of the same code against itself, is not known.")
    return lines


# --- conclusions ---------------------------------------------------------------------------------------------------


def conclusions(questions: Sequence[Question], rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the questions conclude from their rows, with their names. A run that was interrupted may lack some rows."""
    found = []
    for question in questions:
        mine = [row for row in rows if row.question == question.name]
        if question.concludes is None or not mine:
            continue
        try:
            found += [(question.name, sentence) for sentence in question.concludes(mine)]
        except Exception as error:  # noqa: BLE001 - a sentence that cannot be had costs no figure: it is said instead
            found.append((question.name, f"No conclusion: {type(error).__name__}: {error}."))
    return found
