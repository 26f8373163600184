"""``python -m tests.policies.figures``: the figures of docs/, from the same runs as its tables (needs matplotlib).

The same input draws the same bytes with one version of matplotlib. No background, and greys and colours between: they
are to be read on a light page and on a dark one.
"""

# ruff: noqa: T201 - it talks to a terminal

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.policies.simulation import ALGORITHMS, FIXED, PHASES, Run, adaptive, fixed

FIGURES: Final = Path(__file__).parents[2] / "docs" / "figures"
GREY: Final = "#808890"
TIMES: Final = (50, 100, 200, 400)
COLOURS: Final = ("#d9822b", "#3b8fd9", "#2ca25f")
DASHES: Final = ("--", ":")


def set_style() -> None:
    mpl.rc("svg", hashsalt="flowctl", fonttype="none")  # ids that stay the same, and text that stays text
    mpl.rc("font", family="sans-serif", size=10)
    mpl.rc("text", color=GREY)
    mpl.rc("axes", edgecolor=GREY, labelcolor=GREY)
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("xtick", color=GREY)
    mpl.rc("ytick", color=GREY)
    mpl.rc("grid", color=GREY, alpha=0.25)


def adaptation() -> Figure:
    """The limits beside the capacity, and how long a request is in the back end: a column for each algorithm."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    columns = figure.subplots(2, len(ALGORITHMS), sharex=True, sharey="row").T
    edges = [PHASES[0].begins, *(phase.ends for phase in PHASES)]
    for (name, algorithm), colour, (above, below) in zip(ALGORITHMS.items(), COLOURS, columns, strict=True):
        above.stairs([phase.capacity for phase in PHASES], edges, fill=True, color=GREY, alpha=0.3, label="capacity")
        for limit, dashes in zip(FIXED, DASHES, strict=True):
            _draw(above, below, fixed(limit), colour=GREY, dashes=dashes, name=f"always {limit}")
        _draw(above, below, adaptive(algorithm), colour=colour, dashes="-", name="adaptive")
        above.set_title(name, color=colour, fontsize=11)
        above.set(xlim=(edges[0], edges[-1]), xticks=edges, ylim=(0, 34))
        below.set(xlabel="seconds", yscale="log", ylim=(40, 600))
        below.minorticks_off()
        below.set_yticks(TIMES, [str(time) for time in TIMES])
        for axes in (above, below):
            axes.grid(visible=True)
    columns[0][0].set_ylabel("seats in flight, at most")
    columns[0][1].set_ylabel("ms in the back end, median")
    handles, labels = columns[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw(above: Axes, below: Axes, run: Run, *, colour: str, dashes: str, name: str) -> None:
    moments = [moment for moment, _ in run.limits]
    limits = [limit for _, limit in run.limits]
    above.step(
        [*moments, PHASES[-1].ends],
        [*limits, limits[-1]],
        where="post",
        color=colour,
        linestyle=dashes,
        linewidth=1.3,
        label=name,
    )
    halves: dict[int, list[float]] = {}
    for answer in run.answers:
        halves.setdefault(int(2 * answer.at), []).append(1000 * answer.took)
    medians = [(half / 2 + 0.25, median(times)) for half, times in sorted(halves.items())]
    below.plot(*zip(*medians, strict=True), color=colour, linestyle=dashes, linewidth=1.3)


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / "adaptive-limits.svg"
    with mpl.rc_context():
        set_style()
        adaptation().savefig(path, transparent=True, metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
