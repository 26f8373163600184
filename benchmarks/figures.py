"""The pictures of a report: a question's plots, and what changed between two runs.

Numbers along the axis make lines. Words make bars, or marks where a length would say nothing: on a log scale, and for a
ratio. Of a second run only the medians are drawn, hollow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from benchmarks import svg
from benchmarks.compare import Change
from benchmarks.harness import Plot, Row
from benchmarks.series import Place, Series, heights, in_words, named, numbers, places, rivals, series, target, units
from benchmarks.svg import BAD, DASHED, DOTTED, FAINT, GOOD, GRID, INK, MARKS, SERIES, Picture, Style

FACTORS: Final = (0.01, 0.1, 0.2, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 5, 10, 100)
"""Where ticks of changes may be."""

POINTS: Final = 200
"""Of a distribution: more would make the file large, and not the picture better."""


class Shown(NamedTuple):
    """What goes into one picture."""

    plot: Plot
    lines: Sequence[Series]
    rivals: Mapping[str, Mapping[Place, float]]
    second: Sequence[Series]  # of another run, as far as they have a line of this one beside them
    beside: str  # that run's name


def drawn(plot: Plot, of: str, rows: Sequence[Row], overlay: Sequence[Row] = (), beside: str = "") -> Picture | None:
    """The picture of a question's rows, and of a second run of this name; None where a table says as much."""
    lines = series(plot, rows)
    if len(lines) == 0 or (plot.shows != "samples" and len(places(lines)) < 2):
        return None
    known = {line.name for line in lines}
    second = [line for line in series(plot, overlay) if line.name in known]
    shown = Shown(plot, lines, rivals(plot, rows), second, beside)
    with svg.style():
        if plot.shows == "samples":
            figure, axes = svg.canvas(2.5)
            keys = _distributions(axes, shown)
        elif numbers(lines) is not None:
            figure, axes = svg.canvas(2.5)
            keys = _over_numbers(axes, shown)
        else:
            figure, axes = svg.canvas(0.65 + len(places(lines)) * max(0.3, 0.2 * len(lines)))
            keys = _over_words(axes, shown)
        svg.legend(figure, keys)
        return svg.picture(figure, f"{of}: {plot.title}", plot.title, in_words(plot, lines))


def _styles(names: Sequence[str], beside: Mapping[str, object]) -> dict[str, Style]:
    """A look for each name; a lone rival is grey."""
    found = {
        name: Style(SERIES[number % len(SERIES)], MARKS[number % len(MARKS)])
        for number, name in enumerate([*names, *beside])
    }
    if len(beside) == 1:
        found[next(iter(beside))] = Style(FAINT, ".")
    return found


# --- over numbers --------------------------------------------------------------------------------------------------


def _over_numbers(axes: Axes, shown: Shown) -> list[Line2D]:
    plot, lines, others, second, beside = shown
    styles = _styles([line.name for line in lines], others)
    for name, values in others.items():
        at = sorted(place for place in values if not isinstance(place, str))
        colour, mark = styles[name]
        axes.plot(at, [values[place] for place in at], color=colour, marker=mark, markersize=4, linestyle=DASHED)
    for line in second:
        _line(axes, plot, line, styles[line.name], hollow=True)
    for line in lines:
        _line(axes, plot, line, styles[line.name])
    _ticks(axes, plot, numbers(lines) or [])
    _values(axes, plot, lines, along="y")
    keys = [
        svg.key(line.name or "flowctl", *styles[line.name], line="-") for line in lines if line.name or others or second
    ]
    keys += [svg.key(name, *styles[name], line=DASHED) for name in others]
    return [*keys, svg.key(beside, INK, "o", line=DOTTED, hollow=True)] if second else keys


def _line(axes: Axes, plot: Plot, line: Series, style: Style, *, hollow: bool = False) -> None:
    at = sorted(place for place in line.points if not isinstance(place, str))
    middles, errors = heights(plot, [line.points[place] for place in at])
    axes.errorbar(
        at,
        middles,
        yerr=None if hollow else errors,
        color=style.colour,
        marker=style.mark,
        markersize=5,
        markerfacecolor="none" if hollow else style.colour,
        linestyle=DOTTED if hollow else "-",
        linewidth=1.2 if hollow else 1.6,
        elinewidth=1,
        capsize=2,
    )


def _ticks(axes: Axes, plot: Plot, at: Sequence[float]) -> None:
    if plot.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.08)
    axes.set_xticks(at, [f"{place:,g}" for place in at])
    axes.set_xlabel(plot.x)


# --- over words ----------------------------------------------------------------------------------------------------


def _over_words(axes: Axes, shown: Shown) -> list[Line2D]:
    plot, lines, others, second, beside = shown
    words = places(lines)
    styles = _styles([line.name for line in lines], {})
    bars = plot.shows == "value" and not plot.log_y
    thick = 0.72 / len(lines)
    offsets = {line.name: (number - (len(lines) - 1) / 2) * thick for number, line in enumerate(lines)}
    for line in lines:
        found = line.over(words)
        at = [index + offsets[line.name] for index, _ in found]
        middles, errors = heights(plot, [row for _, row in found])
        colour, mark = styles[line.name]
        if bars:
            axes.barh(at, middles, height=thick * 0.86, color=colour, alpha=0.85, linewidth=0)
        shape = "none" if bars else mark
        axes.errorbar(middles, at, xerr=errors, fmt=shape, color=INK if bars else colour, elinewidth=1, capsize=2)
        if plot.shows == "value":
            known = [(place, row.rival_samples) for place, (_, row) in zip(at, found, strict=True) if row.rival_samples]
            values = [statistics.median(samples) for _, samples in known]
            low, high = ([place + side * thick / 2 for place, _ in known] for side in (-1, 1))
            axes.vlines(values, low, high, color=INK, linewidth=2)
    for line in second:
        found = line.over(words)
        at = [index + offsets[line.name] for index, _ in found]
        middles, _ = heights(plot, [row for _, row in found])
        axes.plot(middles, at, marker="D", markersize=5, markerfacecolor="none", color=INK, linestyle="none")
    _names(axes, [named(word) for word in words])
    _values(axes, plot, lines, along="x")
    keys = [
        svg.key(line.name, styles[line.name].colour, "s" if bars else styles[line.name].mark)
        for line in lines
        if line.name
    ]
    if others:
        keys.append(svg.key(next(iter(others)) if len(others) == 1 else "the rival", INK, "|"))
    return [*keys, svg.key(beside, INK, "D", hollow=True)] if second else keys


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Along the left edge, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _values(axes: Axes, plot: Plot, lines: Sequence[Series], *, along: str) -> None:
    """The axis that has the values."""
    bound = target(plot, lines)
    if plot.shows == "ratio":
        svg.hairline(axes, 1, FAINT, along=along)
    if bound is not None:
        svg.hairline(axes, bound, BAD, DOTTED, along=along)
        transform = axes.get_yaxis_transform() if along == "y" else axes.get_xaxis_transform()
        x, y, side = (1.02, bound, "left") if along == "y" else (bound, 1.0, "center")
        height = "center" if along == "y" else "bottom"
        axes.text(x, y, "target", transform=transform, color=BAD, ha=side, va=height, fontsize=8)
    label = "times the rival's" if plot.shows == "ratio" else units(lines)
    (axes.set_ylabel if along == "y" else axes.set_xlabel)(label)
    if plot.shows == "value" and not plot.log_y:
        (axes.set_ylim if along == "y" else axes.set_xlim)(0)
    svg.plain_ticks(axes, along=along, log=plot.log_y)


# --- distributions -------------------------------------------------------------------------------------------------


def _distributions(axes: Axes, shown: Shown) -> list[Line2D]:
    """How much of each row's samples is at most so large."""
    plot, lines, _, second, beside = shown
    curves = _curves(lines)
    styles = _styles(list(curves), {})
    for name, row in _curves(second).items():
        if name in styles:
            _curve(axes, row, styles[name].colour, DOTTED)
    for name, row in curves.items():
        _curve(axes, row, styles[name].colour, "-")
    axes.set(ylim=(0, 101), ylabel="% of samples", xlabel=units(lines))
    svg.plain_ticks(axes, along="x", log=plot.log_x)
    keys = [svg.key(name, styles[name].colour, "", line="-") for name in curves]
    return [*keys, svg.key(beside, INK, "", line=DOTTED)] if second else keys


def _curves(lines: Sequence[Series]) -> dict[str, Row]:
    """Rows by the names of their lines and points."""
    return {
        ", ".join(filter(None, (line.name, named(place)))): row for line in lines for place, row in line.points.items()
    }


def _curve(axes: Axes, row: Row, colour: str, dashes: svg.Dashes) -> None:
    ordered = sorted(row.samples)
    step = -(-len(ordered) // POINTS)  # counted from the largest one: it is where a tail ends
    ranks = range(len(ordered), 0, -step)
    axes.step(
        [ordered[rank - 1] for rank in ranks][::-1],
        [100 * rank / len(ordered) for rank in ranks][::-1],
        where="post",
        color=colour,
        linestyle=dashes,
        linewidth=1.5,
    )


# --- changes -------------------------------------------------------------------------------------------------------


def changes(found: Sequence[Change], title: str) -> Picture | None:
    """By how much rows changed, each beside its noise floor, the first on top; None where there is nothing to draw."""
    shown = [change for change in found if not math.isnan(change.factor)]
    if not shown:
        return None
    looks = {"worse": Style(BAD, "X"), "better": Style(GOOD, "o")}
    with svg.style():
        figure, axes = svg.canvas(0.65 + 0.26 * len(shown), width=2.2 * svg.WIDTH)
        for place, change in enumerate(shown):
            low, high = 1 / (1 + change.floor), 1 + change.floor
            axes.barh(place, high - low, left=low, height=0.55, color=GRID, linewidth=0)
            colour, mark = looks.get(change.verdict, Style(INK, "D"))
            axes.plot(change.factor, place, color=colour, marker=mark, markersize=7, linestyle="none")
        svg.hairline(axes, 1, FAINT, along="x")
        _factors(axes)
        _names(axes, [f"{change.row.question}: {change.row.name}" for change in shown])
        axes.set_xlabel("now / before; grey: the noise floor of the row")
        svg.legend(figure, [svg.key(name, *look) for name, look in {**looks, "neither": Style(INK, "D")}.items()])
        words = "; ".join(f"{change.row.name}: {change.factor:.2f} times, {change.verdict}" for change in shown)
        return svg.picture(figure, title, "What changed by more than its noise", words)


def _factors(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    low, high = min(low / 1.03, 1 / 1.2), max(high * 1.03, 1.2)
    axes.set_xlim(low, high)
    ticks = [tick for tick in FACTORS if low <= tick <= high]
    if high / low > 6:
        ticks = [tick for tick in ticks if tick in {0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100}]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
