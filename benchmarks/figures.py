"""Pictures of rows, as inline SVG without a colour or a font of their own.

Matplotlib draws with stand-ins for colours; in the SVG each becomes a CSS variable of the page, so that one picture
suits a light page and a dark one. Text stays text, and ids are none but those that the picture itself refers to. Series
differ by their marks too, not by colour alone.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final, final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.compare import Change
from benchmarks.harness import Plot, Row, quartiles
from benchmarks.wording import figure as worded

INK: Final = "#010101"
FAINT: Final = "#020202"
GRID: Final = "#030303"
SERIES: Final = tuple(f"#0{number}a0b0" for number in range(1, 9))
GOOD: Final = "#0c0c0c"
BAD: Final = "#0d0d0d"
VARIABLES: Final = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--line)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
}
"""Stand-ins, and what they become."""

MARKS: Final = "osD^vPX*"
WIDE: Final = 4.7
"""Inches: on a phone as wide as the screen, so that the text keeps its size."""

Number = int | float


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """SVG for a page; what it shows is in it in words too, for who does not see it."""

    caption: str
    svg: str


@final
@dataclass(slots=True)
class Series:
    """Points of one name: rows by their place along the axis."""

    name: str
    points: dict[str | float, Row] = field(default_factory=dict)


# --- which rows ----------------------------------------------------------------------------------------------------


def chosen(plot: Plot, rows: Iterable[Row]) -> list[Row]:
    """The rows that this plot shows."""
    return [
        row
        for row in rows
        if plot.x in row.at
        and all(row.at.get(key) == value for key, value in plot.where.items())
        and (plot.shows != "ratio" or row.ratio is not None)
    ]


def series(plot: Plot, rows: Iterable[Row]) -> list[Series]:
    """The rows by what tells them apart. Of two rows at one place the first stays."""
    found: dict[str, Series] = {}
    for row in chosen(plot, rows):
        name = "" if plot.by is None else _name(row.at.get(plot.by, ""))
        found.setdefault(name, Series(name)).points.setdefault(row.at[plot.x], row)
    return list(found.values())


def rivals(lines: Sequence[Series]) -> dict[str, dict[str | float, float]]:
    """Values of each rival by place, unless it has a line of its own. What several rows measured is the median."""
    found: dict[str, dict[str | float, list[float]]] = {}
    for line in lines:
        for place, row in line.points.items():
            if row.rival is not None and row.rival_samples:
                found.setdefault(row.rival, {}).setdefault(place, []).extend(row.rival_samples)
    own = {line.name for line in lines}
    return {
        rival: {place: statistics.median(samples) for place, samples in places.items()}
        for rival, places in found.items()
        if rival not in own
    }


def _name(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,g}"


def _numeric(lines: Sequence[Series]) -> bool:
    return all(isinstance(place, Number) for line in lines for place in line.points)


# --- pictures ------------------------------------------------------------------------------------------------------


def drawn(
    plot: Plot, rows: Sequence[Row], overlay: Sequence[Row] = (), overlay_name: str = "", *, of: str = ""
) -> Picture | None:
    """The picture; None where there are too few rows for one: a single figure is better read in the table."""
    lines = series(plot, rows)
    title = f"{of}: {plot.title}" if of else plot.title
    if sum(len(line.points) for line in lines) < 2 and plot.shows != "samples":
        return None
    if not lines:
        return None
    others = [line for line in series(plot, overlay) if line.name in {mine.name for mine in lines}]
    with mpl.rc_context():
        _set_style()
        if plot.shows == "samples":
            figure = _distribution(plot, lines, others, overlay_name)
        elif _numeric(lines):
            figure = _over_numbers(plot, lines, others, overlay_name)
        else:
            figure = _over_words(plot, lines, others, overlay_name)
        return Picture(plot.title, _svg(figure, title, _in_words(plot, lines)))


def _over_numbers(plot: Plot, lines: Sequence[Series], others: Sequence[Series], overlay_name: str) -> Figure:
    figure, axes = _canvas(2.9)
    places = sorted({float(place) for line in lines for place in line.points if isinstance(place, Number)})
    beside = rivals(lines) if plot.shows == "value" else {}
    styles = _styles([line.name for line in lines], beside)
    for rival, values in beside.items():
        colour, mark = styles[rival]
        known = [place for place in places if place in values]
        axes.plot(
            known, [values[place] for place in known], color=colour, linestyle=(0, (4, 3)), marker=mark, markersize=4
        )
    for line in others:
        colour, mark = styles[line.name]
        _line(axes, plot, line, colour, mark, hollow=True)
    for line in lines:
        colour, mark = styles[line.name]
        _line(axes, plot, line, colour, mark)
    if plot.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.08)
    axes.set_xticks(places, [f"{place:,g}" for place in places])
    axes.set_xlabel(plot.x)
    _value_axis(axes, plot, lines)
    _legend(figure, styles, [line.name for line in lines], beside, overlay_name if others else "")
    return figure


def _line(axes: Axes, plot: Plot, line: Series, colour: str, mark: str, *, hollow: bool = False) -> None:
    points = sorted((float(place), row) for place, row in line.points.items() if isinstance(place, Number))
    heights, below, above = _heights(plot, [row for _, row in points])
    axes.errorbar(
        [place for place, _ in points],
        heights,
        yerr=None if hollow else [below, above],
        color=colour,
        marker=mark,
        markersize=5,
        markerfacecolor="none" if hollow else colour,
        linestyle=":" if hollow else "-",
        linewidth=1.2 if hollow else 1.6,
        elinewidth=1,
        capsize=2,
        zorder=3,
    )


def _over_words(plot: Plot, lines: Sequence[Series], others: Sequence[Series], overlay_name: str) -> Figure:
    places = list(dict.fromkeys(place for line in lines for place in line.points))
    figure, axes = _canvas(0.95 + len(places) * max(0.3, 0.2 * len(lines)))
    bars = plot.shows == "value" and not plot.log_y  # a bar's length says nothing on a log scale, or from 0 for a ratio
    beside = rivals(lines) if plot.shows == "value" else {}
    styles = _styles([line.name for line in lines], beside)
    thick = 0.72 / len(lines)
    second = {line.name: line for line in others}
    for number, line in enumerate(lines):
        colour, mark = styles[line.name]
        offset = (number - (len(lines) - 1) / 2) * thick
        known = [(index + offset, line.points[place]) for index, place in enumerate(places) if place in line.points]
        heights, below, above = _heights(plot, [row for _, row in known])
        ys = [y for y, _ in known]
        if bars:
            axes.barh(ys, heights, height=thick * 0.86, color=colour, alpha=0.85, linewidth=0)
            axes.errorbar(heights, ys, xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        else:
            axes.errorbar(
                heights,
                ys,
                xerr=[below, above],
                color=colour,
                marker=mark,
                markersize=5,
                linestyle="none",
                elinewidth=1,
                capsize=2,
            )
        if plot.shows == "value":
            pairs = [(y, row.rival_value) for y, row in known if row.rival_value is not None]
            axes.plot(
                [value for _, value in pairs],
                [y for y, _ in pairs],
                marker="|",
                markersize=11,
                markeredgewidth=2,
                color=FAINT,
                linestyle="none",
            )
        other = second.get(line.name)
        if other is not None:
            both = [
                (index + offset, other.points[place]) for index, place in enumerate(places) if place in other.points
            ]
            axes.plot(
                _heights(plot, [row for _, row in both])[0],
                [y for y, _ in both],
                marker="D",
                markersize=5,
                markerfacecolor="none",
                color=INK,
                linestyle="none",
            )
    axes.set_yticks(range(len(places)), [_name(place) for place in places])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    _value_axis(axes, plot, lines, along="x")
    names = [line.name for line in lines]
    handles = [_handle(name, *styles[name], bar=bars) for name in names if name]
    if beside:
        handles.append(
            Line2D(
                [],
                [],
                color=FAINT,
                marker="|",
                markersize=10,
                markeredgewidth=2,
                linestyle="none",
                label=_one(beside, "the rival"),
            )
        )
    if others:
        handles.append(
            Line2D(
                [],
                [],
                color=INK,
                marker="D",
                markerfacecolor="none",
                markersize=5,
                linestyle="none",
                label=overlay_name,
            )
        )
    _legend_of(figure, handles)
    return figure


def _distribution(plot: Plot, lines: Sequence[Series], others: Sequence[Series], overlay_name: str) -> Figure:
    """How much of a row's samples is at most so large."""
    figure, axes = _canvas(2.9)
    names = [_curve(line, place, lines) for line in lines for place in line.points]
    styles = _styles(names, {})
    for group, dashes in ((others, ":"), (lines, "-")):
        for line in group:
            for place, row in line.points.items():
                name = _curve(line, place, lines)
                if name in styles:
                    ordered = sorted(row.samples)
                    shares = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
                    axes.step(ordered, shares, where="post", color=styles[name][0], linestyle=dashes, linewidth=1.5)
    axes.set(ylim=(0, 101), ylabel="% of samples", xlabel=_units(lines))
    if plot.log_x:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    _legend_of(
        figure,
        [Line2D([], [], color=styles[name][0], label=name) for name in names]
        + ([Line2D([], [], color=INK, linestyle=":", label=overlay_name)] if others else []),
    )
    return figure


def _curve(line: Series, place: str | float, lines: Sequence[Series]) -> str:
    """A line's name, its point's name, or both, as far as they tell curves apart."""
    if len(lines) == 1:
        return _name(place)
    return line.name if all(len(each.points) == 1 for each in lines) else f"{line.name}, {_name(place)}"


def changes(found: Sequence[Change], title: str) -> Picture | None:
    """By how much rows changed, each beside its noise floor, the worst on top."""
    shown = [change for change in found if change.factor == change.factor and change.factor > 0]
    if not shown:
        return None
    with mpl.rc_context():
        _set_style()
        figure, axes = _canvas(0.8 + 0.26 * len(shown), width=2 * WIDE)
        for place, change in enumerate(shown):
            low, high = 1 / (1 + change.floor), 1 + change.floor
            axes.barh(place, high - low, left=low, height=0.55, color=GRID, linewidth=0)
            colour, mark = {"worse": (BAD, "X"), "better": (GOOD, "o")}.get(change.verdict, (INK, "D"))
            axes.plot(change.factor, place, color=colour, marker=mark, markersize=7, linestyle="none")
        axes.axvline(1, color=FAINT, linewidth=1)
        axes.set_xscale("log")
        _factor_ticks(axes)
        axes.set_yticks(range(len(shown)), [f"{change.row.question}: {change.row.name}" for change in shown])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("now / before, beside the noise floor of each row")
        handles = [
            Line2D([], [], color=colour, marker=mark, markersize=7, linestyle="none", label=name)
            for name, colour, mark in (("worse", BAD, "X"), ("better", GOOD, "o"), ("neither", INK, "D"))
        ]
        _legend_of(figure, handles)
        words = "; ".join(f"{change.row.name}: {change.factor:.2f} times, {change.verdict}" for change in shown)
        return Picture(title, _svg(figure, title, words))


def _factor_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    low, high = min(low, 1 / 1.2), max(high, 1.2)
    axes.set_xlim(low, high)
    wanted: Sequence[float] = (0.01, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 100)
    if high / low > 6:
        wanted = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100)
    ticks = [tick for tick in wanted if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


# --- parts ---------------------------------------------------------------------------------------------------------


def _heights(plot: Plot, rows: Sequence[Row]) -> tuple[list[float], list[float], list[float]]:
    """Of each row: what is drawn, and how far the quartiles lie below and above it."""
    heights, below, above = [], [], []
    for row in rows:
        samples = row.ratios if plot.shows == "ratio" else row.samples
        low, high = quartiles(samples)
        middle = statistics.median(samples)
        heights.append(middle)
        below.append(max(middle - low, 0.0))
        above.append(max(high - middle, 0.0))
    return heights, below, above


def _value_axis(axes: Axes, plot: Plot, lines: Sequence[Series], along: str = "y") -> None:
    """Scale, label and ticks of the axis that has the values, and the target if all rows have the same."""
    axis = axes.yaxis if along == "y" else axes.xaxis
    if plot.shows == "ratio":
        (axes.axhline if along == "y" else axes.axvline)(1, color=FAINT, linewidth=1)
    bound = _target(plot, lines)
    if bound is not None:
        (axes.axhline if along == "y" else axes.axvline)(bound, color=BAD, linewidth=1, linestyle=(0, (1, 2)))
        (x, y), ha = ((1.0, bound), "right") if along == "y" else ((bound, 1.0), "center")
        transform = axes.get_yaxis_transform() if along == "y" else axes.get_xaxis_transform()
        axes.text(x, y, "target", transform=transform, color=BAD, ha=ha, va="bottom", fontsize=8)
    label = "of the rival's" if plot.shows == "ratio" else _units(lines)
    (axes.set_ylabel if along == "y" else axes.set_xlabel)(label)
    if plot.log_y:
        (axes.set_yscale if along == "y" else axes.set_xscale)("log")
    elif plot.shows == "value":
        (axes.set_ylim if along == "y" else axes.set_xlim)(0)
    axis.set_major_formatter(FuncFormatter(_tick))


def _target(plot: Plot, lines: Sequence[Series]) -> float | None:
    found = {row.target for line in lines for row in line.points.values()}
    target = found.pop() if len(found) == 1 else None
    return target.bound if target is not None and target.of == plot.shows else None


def _units(lines: Sequence[Series]) -> str:
    return ", ".join(dict.fromkeys(row.unit for line in lines for row in line.points.values()))


def _tick(value: float, _: object = None) -> str:
    return f"{value:,g}"


def _styles(names: Sequence[str], beside: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """A colour and a mark for each name; a lone rival is grey."""
    found = {name: (SERIES[number % len(SERIES)], MARKS[number % len(MARKS)]) for number, name in enumerate(names)}
    for number, rival in enumerate(beside, len(names)):
        grey = len(beside) == 1
        found[rival] = (FAINT if grey else SERIES[number % len(SERIES)], "." if grey else MARKS[number % len(MARKS)])
    return found


def _legend(
    figure: Figure, styles: Mapping[str, tuple[str, str]], names: Sequence[str], beside: Iterable[str], overlay: str
) -> None:
    handles = [_handle(name or "flowctl", *styles[name]) for name in names if name or beside or overlay]
    handles += [
        Line2D(
            [], [], color=styles[rival][0], marker=styles[rival][1], markersize=4, linestyle=(0, (4, 3)), label=rival
        )
        for rival in beside
    ]
    if overlay:
        handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle=":", label=overlay))
    _legend_of(figure, handles)


def _handle(name: str, colour: str, mark: str, *, bar: bool = False) -> Line2D:
    if bar:
        return Line2D([], [], color=colour, marker="s", markersize=7, linestyle="none", label=name)
    return Line2D([], [], color=colour, marker=mark, markersize=5, label=name)


def _legend_of(figure: Figure, handles: Sequence[Line2D]) -> None:
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), int(figure.get_figwidth() * 12 / (longest + 5))))
        figure.legend(
            handles=list(handles),
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            handlelength=1.8,
            columnspacing=1.2,
        )


def _one(names: Iterable[str], many: str) -> str:
    found = list(names)
    return found[0] if len(found) == 1 else many


def _canvas(height: float, width: float = WIDE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    return figure, axes


def _set_style() -> None:
    mpl.rc("svg", fonttype="none")
    mpl.rc("font", family="DejaVu Sans", size=9)  # wider than any system font: what fits in it fits
    mpl.rc("text", color=INK)
    mpl.rc("axes", edgecolor=GRID, labelcolor=FAINT, linewidth=1)
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("xtick", color=GRID, labelcolor=FAINT)
    mpl.rc("ytick", color=GRID, labelcolor=FAINT)
    mpl.rc("grid", color=GRID, linewidth=0.8)


# --- SVG -----------------------------------------------------------------------------------------------------------


def _svg(figure: Figure, title: str, words: str) -> str:
    """What stands in the page. Ids are made from the title, so that two pictures share none."""
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    head, _, rest = text[text.index("<svg") :].strip().partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None, "matplotlib writes the size of its picture"
    used = set(re.findall(r"#([\w-]+)(?=[\")])", rest))
    rest = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", rest)
    rest = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", rest)
    rest = re.sub(r"<!--.*?-->\s*", "", rest, flags=re.DOTALL).replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        rest = rest.replace(colour, variable)
    name = re.sub(r"\W+", "-", title)
    titles = f'<title id="title-{name}">{escape(title)}</title><desc id="desc-{name}">{escape(words)}</desc>'
    return f'<svg {view[0]} role="img" aria-labelledby="title-{name} desc-{name}">{titles}{rest}'


def _in_words(plot: Plot, lines: Sequence[Series]) -> str:
    """For who does not see the picture."""
    parts = []
    for line in lines:
        found = [
            f"{_name(place)}: "
            + (f"{row.ratio:.2f} times" if plot.shows == "ratio" else f"{worded(row.value)} {row.unit}")
            for place, row in line.points.items()
        ]
        parts.append(f"{line.name or plot.title}, by {plot.x}: {', '.join(found)}")
    return ". ".join(parts) + "."
