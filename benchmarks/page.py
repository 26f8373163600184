"""The report: one HTML file with everything in it. It asks no network, runs no script, and is light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import wording
from benchmarks.compare import Comparison, Verdict, noise_floors
from benchmarks.figures import changes, drawn
from benchmarks.harness import BUSY, WIDE, Question, Row
from benchmarks.kept import Kept
from benchmarks.svg import Picture

MOST: Final = 30
"""Changes in the picture: more are in the table only."""

MARKS: Final[dict[Verdict, str]] = {"worse": "✗", "better": "✓", "doubtful": "⚠", "changed": "≠"}


class Tile(NamedTuple):
    """A figure, and what it says."""

    figure: str
    says: str


class Mark(NamedTuple):
    """A sign with a word: never a colour alone."""

    kind: str
    says: str


class Line(NamedTuple):
    """A row of a table."""

    question: str
    name: str
    value: str
    rival: str
    ratio: str
    spread: str
    noise: str
    other: str
    target: str
    marks: Sequence[Mark]


class Section(NamedTuple):
    """A question with its answers."""

    name: str
    asks: str
    rivals: Sequence[str]
    sentences: Sequence[str]
    pictures: Sequence[Picture]
    rows: Sequence[Line]


class Changed(NamedTuple):
    """A row of a comparison's table."""

    name: str
    before: str
    now: str
    by: str
    noise: str
    verdict: str
    mark: str


class Compared(NamedTuple):
    """What changed since another run."""

    id: str
    title: str
    machine: str
    began: str
    sentences: Sequence[str]
    picture: Picture | None
    changes: Sequence[Changed]


def page(
    kept: Kept,
    questions: Sequence[Question],
    comparisons: Sequence[tuple[str, Comparison]] = (),
    overlay: Kept | None = None,
) -> str:
    """The report of a run: what changed since others, by their titles, and beside it the run of another interpreter."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    others = {} if overlay is None else {(row.question, row.name): row for row in overlay.rows}
    sentences = wording.conclusions(questions, kept.rows)
    return environment.get_template("page.html").render(
        interpreter=wording.interpreter(kept.machine),
        machine=kept.machine,
        run=kept.run,
        facts=_facts(kept),
        tiles=_tiles(kept, comparisons),
        sentences=sentences,
        missed=[_line(row, others) for row in kept.rows if row.reached is False],
        comparisons=[_compared(title, found) for title, found in comparisons],
        sections=[
            section
            for section in (_section(question, kept, overlay, sentences) for question in questions)
            if section.rows
        ],
        overlay="" if overlay is None else _short(overlay),
        busy=f"{BUSY:.0%}",
        wide=f"{WIDE:.0%}",
    )


def _facts(kept: Kept) -> list[tuple[str, str]]:
    machine, run = kept.machine, kept.run
    load = "unknown" if machine.load_at_start is None else f"{machine.load_at_start:.2f}"
    facts = [
        ("version", wording.version(machine)),
        ("interpreter", wording.interpreter(machine)),
        ("switch interval", f"{machine.switch_interval * 1e3:g} ms"),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("system", machine.system),
        ("load at start", load),
        ("began", run.began.replace("T", " ").replace("+00:00", " UTC")),
        ("took", f"{run.seconds:.0f} s, {run.depth}"),
    ]
    if run.threads is not None:
        facts.append(("threads", ", ".join(map(str, run.threads))))
    if run.seed is not None:
        facts.append(("seed", str(run.seed)))
    return facts


def _tiles(kept: Kept, comparisons: Sequence[tuple[str, Comparison]]) -> list[Tile]:
    tiles = []
    targets = [row.reached for row in kept.rows if row.reached is not None]
    if targets:
        tiles.append(Tile(f"{sum(targets)} of {len(targets)}", "targets reached"))
    for kind, floor in noise_floors(kept.rows).items():
        tiles.append(Tile(f"±{wording.fine(floor)}", f"noise floor on {kind}: the same code against itself"))
    doubtful = sum(bool(row.doubts) for row in kept.rows)
    tiles.append(Tile(f"{doubtful} of {len(kept.rows)}", "rows in doubt: the machine was busy, or the rival strayed"))
    for title, found in comparisons:
        worse, better = len(found.of("worse")), len(found.of("better"))
        tiles.append(Tile(f"{worse} worse, {better} better", f"{title[0].lower()}{title[1:]}, beyond noise"))
    return tiles


def _section(question: Question, kept: Kept, overlay: Kept | None, sentences: Sequence[tuple[str, str]]) -> Section:
    mine = [row for row in kept.rows if row.question == question.name]
    theirs = [] if overlay is None else [row for row in overlay.rows if row.question == question.name]
    name = "" if overlay is None else _short(overlay)
    pictures = [drawn(plot, question.name, mine, theirs, name) for plot in question.plots]
    others = {(row.question, row.name): row for row in theirs}
    return Section(
        name=question.name,
        asks=question.asks[:1].upper() + question.asks[1:],
        rivals=list(dict.fromkeys(row.rival for row in mine if row.rival is not None)),
        sentences=[sentence for asked, sentence in sentences if asked == question.name],
        pictures=[picture for picture in pictures if picture is not None],
        rows=[_line(row, others) for row in mine],
    )


def _line(row: Row, others: dict[tuple[str, str], Row]) -> Line:
    other = others.get((row.question, row.name))
    return Line(
        question=row.question,
        name=row.name,
        value=f"{wording.figure(row.value)} {row.unit}",
        rival="" if row.rival_value is None else wording.figure(row.rival_value),
        ratio="" if row.ratio is None else f"{row.ratio:.2f}x",
        spread=wording.share(row.spread) if len(row.samples) > 1 else "",
        noise="" if row.noise is None else wording.share(row.noise),
        other="" if other is None else _beside(other),
        target="" if row.target is None else wording.bound(row.target).replace("<=", "≤").replace(">=", "≥"),
        marks=_marks(row),
    )


def _beside(row: Row) -> str:
    return wording.figure(row.value) + ("" if row.ratio is None else f", {row.ratio:.2f}x")


def _marks(row: Row) -> list[Mark]:
    marks = []
    if row.reached is not None:
        marks.append(Mark("reached", "✓ reached") if row.reached else Mark("missed", "✗ missed"))
    return marks + [Mark("busy", f"⚠ {doubt}") for doubt in row.doubts]


def _compared(title: str, found: Comparison) -> Compared:
    changed = found.of("worse", "doubtful", "changed", "better")
    return Compared(
        id=title.lower().replace(" ", "-"),
        title=title,
        machine=wording.headline(found.before.machine),
        began=found.before.run.began.replace("T", " ").replace("+00:00", " UTC"),
        sentences=wording.outcome(found),
        picture=changes(changed[:MOST], title),
        changes=[
            Changed(
                f"{change.row.question}: {change.row.name}",
                *wording.change(change),
                change.verdict,
                MARKS[change.verdict],
            )
            for change in changed
        ],
    )


def _short(kept: Kept) -> str:
    """As in "CPython 3.13.5, no GIL"."""
    return kept.machine.python + ("" if kept.machine.gil else ", no GIL")
