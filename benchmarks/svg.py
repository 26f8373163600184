"""Inline SVG without a colour or a font of its own, drawn by matplotlib.

Matplotlib draws with stand-ins for colours; in the SVG each becomes a CSS variable of the page, so that one picture
suits a light page and a dark one. Text stays text, and ids are none but those that the picture itself refers to.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Final, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

INK: Final = "#010101"
FAINT: Final = "#020202"
GRID: Final = "#030303"
GOOD: Final = "#040404"
BAD: Final = "#050505"
SERIES: Final = tuple(f"#0{number}a0b0" for number in range(1, 9))
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
"""Series differ by their mark too, not by colour alone."""

WIDTH: Final = 4.7
"""Inches: about as wide as a phone, where the text is to keep its size."""

Dashes = Literal["-", "none"] | tuple[float, Sequence[float]]
DASHED: Final[Dashes] = (0, (4, 3))
DOTTED: Final[Dashes] = (0, (1, 2))


class Style(NamedTuple):
    """How a series looks."""

    colour: str
    mark: str


class Picture(NamedTuple):
    """SVG for a page; what it shows is in it in words too, for who does not see it."""

    caption: str
    svg: str


@contextmanager
def style() -> Iterator[None]:
    """Drawn within it, a picture can be put on any page."""
    with mpl.rc_context():
        mpl.rc("svg", fonttype="none")
        mpl.rc("font", family="DejaVu Sans", size=9.5)  # wider than any system font: what fits in it fits
        mpl.rc("text", color=INK)
        mpl.rc("axes", edgecolor=GRID, labelcolor=FAINT, linewidth=1, axisbelow=True, grid=True)
        mpl.rc("axes.spines", top=False, right=False)
        mpl.rc("xtick", color=GRID, labelcolor=FAINT)
        mpl.rc("ytick", color=GRID, labelcolor=FAINT)
        mpl.rc("grid", color=GRID, linewidth=0.8)
        yield


def canvas(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Inches."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06))
    return figure, figure.subplots()


def plain_ticks(axes: Axes, *, along: str, log: bool = False) -> None:
    """Numbers as one writes them, and no powers of ten; on a log scale 1, 2, 5 of each decade if these are few."""
    axis = axes.yaxis if along == "y" else axes.xaxis
    if log and axis.get_data_interval()[1] > 0:  # where all is 0, no logarithm is
        (axes.set_yscale if along == "y" else axes.set_xscale)("log")
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0,) if high > 150 * low else (1.0, 2.0, 5.0), numticks=8))
        axis.set_minor_locator(NullLocator())
    elif along == "x":
        axis.set_major_locator(MaxNLocator(4))  # numbers beside each other take more room than above each other
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def hairline(axes: Axes, place: float, colour: str, dashes: Dashes = "-", *, along: str) -> None:
    """Across the picture, where a value is."""
    draw = axes.axhline if along == "y" else axes.axvline
    draw(place, color=colour, linewidth=1, linestyle=dashes)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Below the picture, in as many columns as fit; the figure grows by its lines."""
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        width, height = figure.get_size_inches()
        columns = max(1, min(len(handles), int(width / (longest * 0.078 + 0.5))))
        figure.set_size_inches(width, height + 0.19 * -(-len(handles) // columns))
        figure.legend(
            handles=list(handles),
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            handlelength=1.8,
            columnspacing=1.2,
        )


def key(label: str, colour: str, mark: str, *, line: Dashes = "none", hollow: bool = False) -> Line2D:
    """An entry of the legend."""
    return Line2D(
        [],
        [],
        color=colour,
        marker=mark,
        markersize=10 if mark == "|" else 5,
        markeredgewidth=2 if mark == "|" else 1,
        markerfacecolor="none" if hollow else colour,
        linestyle=line,
        label=label,
    )


def picture(figure: Figure, title: str, caption: str, words: str) -> Picture:
    """What stands in the page. Ids are made from the title, so that two pictures share none."""
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    head, _, rest = text[text.index("<svg") :].strip().partition(">")
    size = re.search(r'viewBox="[^"]*"', head)
    assert size is not None, "matplotlib writes the size of its picture"
    name = re.sub(r"\W+", "-", title)
    titles = f'<title id="title-{name}">{escape(title)}</title><desc id="desc-{name}">{escape(words)}</desc>'
    attributes = f'{size[0]} role="img" aria-labelledby="title-{name} desc-{name}"'
    return Picture(caption, f"<svg {attributes}>{titles}{_tidied(rest)}")


def _tidied(svg: str) -> str:
    used = set(re.findall(r"#([\w-]+)(?=[\")])", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*(?:; )?", "", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL).replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
