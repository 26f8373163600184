"""The report: one file with everything in it, for every eye and every page; and the rows that its pictures show."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from benchmarks import free, noise, wording
from benchmarks.__main__ import QUESTIONS
from benchmarks.compare import compare
from benchmarks.figures import changes, drawn
from benchmarks.harness import DEFAULT, Plot, Question, Row, Target
from benchmarks.kept import Kept, Run
from benchmarks.machine import Machine
from benchmarks.page import page
from benchmarks.series import heights, rivals, series, target
from benchmarks.svg import VARIABLES

HERE = Machine(
    python="CPython 3.11.7",
    gil=True,
    switch_interval=0.005,
    system="Linux 6 x86_64",
    processor="a <fast> processor",
    cores=2,
    load_at_start=None,
    flowctl="0.1.0",
    commit=None,
)
RUN = Run(depth="default", began="2026-01-01T00:00:00+00:00", seconds=300.0, complete=True, left_out=("crowd",))
BY_THREADS = Plot(title="Time by threads", x="threads", by="lock", log_x=True)
BY_WORD = Plot(title="Time by word", x="word")


def row(threads: float | str, lock: str, value: float, *, x: str = "threads", rival: str = "a mutex") -> Row:
    return Row(
        name=f"{lock} on {threads}",
        unit="ns",
        samples=(value * 0.9, value, value * 1.1),
        rival=rival,
        rival_samples=(value / 2,) * 3,
        question="locks",
        at={x: threads, "lock": lock},
    )


ROWS = [row(threads, lock, threads * 10.0) for lock in ("turn", "shard <1>") for threads in (1, 8, 64)]
WORDS = [row(word, "", 10.0, x="word") for word in ("CellWord", "LockWord")]
QUESTION = Question("locks", "what a lock costs", lambda _: (), plots=(BY_THREADS, BY_WORD))


def kept(rows: Sequence[Row]) -> Kept:
    return Kept(RUN, HERE, rows)


class Found(HTMLParser):
    """What a browser would fetch, run or refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "srcset", "xlink:href", "data", "action"}:
                self.refers.append(value or "")
            if name == "aria-labelledby":
                self.refers += [f"#{each}" for each in (value or "").split()]


@pytest.fixture(scope="module")
def whole() -> str:
    """A report with all that one can have."""
    slower = [replace(each, samples=tuple(2 * sample for sample in each.samples)) for each in ROWS]
    missed = replace(ROWS[0], name="missed", target=Target("ratio", "at most", 1.0), others=0.9)
    changed = compare(kept(ROWS), kept([*slower, *WORDS]))
    question = replace(QUESTION, concludes=lambda _: ["The turn hurts first."])
    return page(kept([*slower, *WORDS, missed]), [question], [("What changed", changed)], kept(ROWS))


def test_a_report_needs_nothing_but_itself(whole: str) -> None:
    found = Found(whole)

    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(found.tags)
    assert all(each.startswith("#") for each in found.refers)
    assert set(re.findall(r"url\(([^)]*)\)", whole)) <= {f"#{each}" for each in found.ids}
    assert "@import" not in whole
    assert not re.search(r"https?://", whole)


def test_what_a_report_refers_to_is_there_once(whole: str) -> None:
    found = Found(whole)

    assert len(set(found.ids)) == len(found.ids)
    assert {each.removeprefix("#") for each in found.refers} <= set(found.ids)


def test_a_report_is_light_and_dark_and_readable_on_a_phone(whole: str) -> None:
    variables = set(re.findall(r"var\((--[\w-]+)\)", whole))
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", whole, re.DOTALL))

    assert light == dark >= variables
    assert "prefers-color-scheme: dark" in whole
    assert 'name="viewport"' in whole
    assert not any(stand_in in whole for stand_in in VARIABLES)


def test_a_report_says_what_was_missed_and_doubted_in_words(whole: str) -> None:
    assert "✗ missed" in whole
    assert "⚠ busy" in whole
    assert "✗ worse" in whole
    assert "The turn hurts first." in whole
    assert "a &lt;fast&gt; processor" in whole
    assert "A default run leaves out: crowd." in whole


def test_a_conclusion_that_cannot_be_had_costs_no_report() -> None:
    def broken(rows: Sequence[Row]) -> Sequence[str]:
        raise KeyError("turn")

    text = page(kept(ROWS), [replace(QUESTION, concludes=broken)])

    assert "No conclusion: KeyError: &#39;turn&#39;." in text


def test_a_report_of_a_run_without_some_questions_has_no_sections_for_them() -> None:
    text = page(kept(ROWS), [*QUESTIONS, QUESTION])

    assert 'id="locks"' in text
    assert 'id="memory"' not in text


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plot", "rows"),
    [
        pytest.param(BY_THREADS, ROWS, id="lines"),
        pytest.param(replace(BY_THREADS, shows="ratio"), ROWS, id="ratios over numbers"),
        pytest.param(replace(BY_THREADS, log_y=True), ROWS, id="lines on a log scale"),
        pytest.param(BY_WORD, WORDS, id="bars"),
        pytest.param(replace(BY_WORD, shows="ratio"), WORDS, id="ratios over words"),
        pytest.param(replace(BY_WORD, log_y=True), WORDS, id="marks on a log scale"),
        pytest.param(replace(BY_WORD, shows="samples", log_x=True), WORDS, id="distributions"),
    ],
)
def test_a_picture_is_xml_that_says_what_it_shows(plot: Plot, rows: Sequence[Row]) -> None:
    picture = drawn(plot, "locks", rows, rows, "another interpreter")

    assert picture is not None
    root = ET.fromstring(picture.svg)
    words = "".join(root.itertext())
    assert root.get("role") == "img"
    assert picture.caption == plot.title
    assert "another interpreter" in words
    for each in rows:
        assert str(each.at[plot.x]) in words
    assert "#000000" not in picture.svg
    assert "DejaVu" not in picture.svg


def test_a_distribution_of_many_samples_stays_small() -> None:
    many = replace(WORDS[0], samples=tuple(float(number) for number in range(1, 50_001)))
    picture = drawn(replace(BY_WORD, shows="samples", log_x=True), "locks", [many])

    assert picture is not None
    assert len(picture.svg) < 30_000


def test_a_single_figure_makes_no_picture() -> None:
    assert drawn(BY_THREADS, "locks", ROWS[:1]) is None
    assert drawn(BY_THREADS, "locks", []) is None
    assert changes([], "What changed") is None


def test_a_plot_shows_the_rows_that_have_its_place_and_all_of_where() -> None:
    plot = replace(BY_THREADS, where={"lock": "turn"})
    lines = series(plot, [*ROWS, *WORDS, replace(ROWS[0], name="the same place again")])

    assert [(line.name, list(line.points)) for line in lines] == [("turn", [1, 8, 64])]
    assert lines[0].points[1] is ROWS[0]


def test_rivals_of_one_name_are_one_line_and_those_with_a_line_of_their_own_none() -> None:
    same_place = row(1, "turn", 8.0, rival="a queue")
    rows = [*ROWS, same_place, row(1, "mutex", 7.0, rival="turn")]

    assert rivals(BY_THREADS, rows) == {"a mutex": {1: 5.0, 8: 40.0, 64: 320.0}, "a queue": {1: 4.0}}
    assert rivals(replace(BY_THREADS, shows="ratio"), rows) == {}


def test_error_bars_reach_from_one_quartile_to_the_other() -> None:
    middles, (below, above) = heights(BY_THREADS, [replace(ROWS[0], samples=(8.0, 9.0, 10.0, 12.0, 99.0))])

    assert (middles, below, above) == ([10.0], [1.0], [2.0])


def test_one_sample_has_no_error_bar() -> None:
    middles, errors = heights(BY_THREADS, [replace(ROWS[0], samples=(8.0,))])

    assert middles == [8.0]
    assert all(math.isnan(each) for (each,) in errors)


def test_a_line_that_is_told_by_a_number_says_of_what() -> None:
    plot = Plot(title="by lock", x="lock", by="threads")

    assert [line.name for line in series(plot, ROWS)] == ["threads: 1", "threads: 8", "threads: 64"]


def test_a_row_that_does_not_say_which_line_it_is_on_is_on_none() -> None:
    assert series(BY_THREADS, [replace(ROWS[0], at={"threads": 1})]) == []


@pytest.mark.parametrize("question", [free.QUESTION, noise.QUESTION], ids=lambda question: question.name)
def test_rows_of_a_question_stand_in_its_pictures(question: Question) -> None:
    tiny = replace(DEFAULT, pairs=2, sample=0.001, contended=0.001, turns=1, threads=(1, 2))
    rows = [row for step in question.steps(tiny) for row in step.run()]

    assert all(drawn(plot, question.name, rows) is not None for plot in question.plots)


def test_a_target_is_drawn_where_all_rows_have_the_same_one() -> None:
    mine = Target("ratio", "at most", 2.0)
    all_have = [replace(each, target=mine) for each in ROWS]
    ratio = replace(BY_THREADS, shows="ratio")

    assert target(ratio, series(ratio, all_have)) == 2.0
    assert target(BY_THREADS, series(BY_THREADS, all_have)) is None
    assert target(ratio, series(ratio, [*all_have[:-1], ROWS[-1]])) is None


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_titles_of_a_questions_plots_differ(question: Question) -> None:
    titles = [plot.title for plot in question.plots]

    assert len(set(titles)) == len(titles)


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert wording.floors({}) == ""
    assert wording.targets(ROWS) == ""
