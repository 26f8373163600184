"""Which rows a plot shows, and what of them. Nothing is drawn here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from benchmarks.harness import Plot, Row, quartiles
from benchmarks.wording import figure

Place = str | float


@final
@dataclass(slots=True)
class Series:
    """Rows of one name by their place along the axis."""

    name: str
    points: dict[Place, Row] = field(default_factory=dict)

    def over(self, places: Sequence[Place]) -> list[tuple[int, Row]]:
        """The rows at these places, with the places' indices."""
        return [(index, self.points[place]) for index, place in enumerate(places) if place in self.points]


def chosen(plot: Plot, rows: Iterable[Row]) -> list[Row]:
    """The rows that this plot shows."""
    return [
        row
        for row in rows
        if plot.x in row.at
        and (plot.by is None or plot.by in row.at)
        and all(row.at.get(key) == value for key, value in plot.where.items())
        and (plot.shows != "ratio" or row.ratio is not None)
    ]


def series(plot: Plot, rows: Iterable[Row]) -> list[Series]:
    """The rows by what tells them apart. Of two rows at one place the first stays."""
    found: dict[str, Series] = {}
    for row in chosen(plot, rows):
        name = "" if plot.by is None else _told_apart(plot.by, row.at[plot.by])
        found.setdefault(name, Series(name)).points.setdefault(row.at[plot.x], row)
    return list(found.values())


def _told_apart(by: str, place: Place) -> str:
    """A number alone would not say of what."""
    return place if isinstance(place, str) else f"{by}: {named(place)}"


def rivals(plot: Plot, rows: Iterable[Row]) -> dict[str, dict[Place, float]]:
    """Values of each rival by place, unless it has a line of its own. What several rows measured is the median."""
    found: dict[str, dict[Place, list[float]]] = {}
    mine = chosen(plot, rows)
    for row in mine:
        if row.rival is not None and row.rival_samples and plot.shows == "value":
            found.setdefault(row.rival, {}).setdefault(row.at[plot.x], []).extend(row.rival_samples)
    own = {line.name for line in series(plot, mine)}
    return {
        rival: {place: statistics.median(samples) for place, samples in places.items()}
        for rival, places in found.items()
        if rival not in own
    }


def places(lines: Sequence[Series]) -> list[Place]:
    """All places along the axis, in the order in which they were measured."""
    return list(dict.fromkeys(place for line in lines for place in line.points))


def numbers(lines: Sequence[Series]) -> list[float] | None:
    """The places in order if all are numbers, else None."""
    found = [place for place in places(lines) if not isinstance(place, str)]
    return sorted(found) if len(found) == len(places(lines)) else None


def heights(plot: Plot, rows: Iterable[Row]) -> tuple[list[float], list[list[float]]]:
    """Of each row: what is drawn; and how far the quartiles lie below it, and above it. nan: of one sample, none."""
    middles: list[float] = []
    below: list[float] = []
    above: list[float] = []
    for row in rows:
        samples = row.ratios if plot.shows == "ratio" else row.samples
        middle, (low, high) = statistics.median(samples), quartiles(samples)
        alone = len(samples) < 2
        middles.append(middle)
        below.append(math.nan if alone else max(middle - low, 0.0))
        above.append(math.nan if alone else max(high - middle, 0.0))
    return middles, [below, above]


def target(plot: Plot, lines: Sequence[Series]) -> float | None:
    """Where it lies, if it is the same for all rows and of what is drawn."""
    found = {row.target for line in lines for row in line.points.values()}
    only = found.pop() if len(found) == 1 else None
    return only.bound if only is not None and only.of == plot.shows else None


def units(lines: Sequence[Series]) -> str:
    return ", ".join(dict.fromkeys(row.unit for line in lines for row in line.points.values()))


def named(place: Place) -> str:
    return place if isinstance(place, str) else f"{place:,g}"


def in_words(plot: Plot, lines: Sequence[Series]) -> str:
    """What the picture shows, for who does not see it."""
    parts = []
    for line in lines:
        found = [
            f"{named(place)}: "
            + (f"{row.ratio:.2f} times" if plot.shows == "ratio" else f"{figure(row.value)} {row.unit}")
            for place, row in line.points.items()
        ]
        parts.append(f"{line.name or plot.title}, by {plot.x}: {', '.join(found)}")
    return ". ".join(parts) + "."
