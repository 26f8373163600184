"""What counts as worse: made-up runs, with and without a change, and what is no run at all."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare import Change, Comparison, Verdict, compare, noise_floors
from benchmarks.harness import Row, Target
from benchmarks.kept import Kept, Run, UnreadableError, read, write
from benchmarks.machine import Machine

HERE = Machine(
    python="CPython 3.11.7",
    gil=True,
    switch_interval=0.005,
    system="Linux 6 x86_64",
    processor="a processor",
    cores=2,
    load_at_start=0.5,
    flowctl="0.1.0",
    commit="abc1234",
)
RUN = Run(depth="default", began="2026-01-01T00:00:00+00:00", seconds=300.0, complete=True)
ROWS = 60


def test_a_slowdown_of_30_percent_is_found_and_nothing_else() -> None:
    found, others = 0, 0
    for seed in range(30):
        before, now = made_up(seed, noise=0.04), made_up(1000 + seed, noise=0.04, slower={"row 0": 1.3})
        changed = compare(before, now)
        worse = [change.row.name for change in changed.of("worse")]
        found += "row 0" in worse
        others += len(worse) - ("row 0" in worse)
        assert changed.regressed is bool(worse)

    assert found >= 27
    assert others <= 30 * ROWS / 1000


def test_noise_alone_is_no_regression() -> None:
    """The control: 6,000 rows in which nothing changed."""
    alarms = 0
    for seed in range(100):
        noise = random.Random(seed).choice([0.01, 0.05, 0.2])
        alarms += len(compare(made_up(seed, noise=noise), made_up(1000 + seed, noise=noise)).of("worse"))

    assert alarms <= 100 * ROWS / 1000


def test_without_the_floor_noise_would_be_one() -> None:
    """The control of the control: these runs do differ."""
    found = [change for seed in range(5) for change in compare(made_up(seed), made_up(1000 + seed)).changes]

    assert sum(change.factor > 1.02 for change in found) > len(found) / 10


def test_what_the_same_code_strayed_by_is_no_regression_on_as_many_threads() -> None:
    strayed = noise_row(threads=8, ratio=1.25)
    one, many = row("one", ratio=1.0, threads=1), row("many", ratio=1.0, threads=8)
    before = kept(one, many, strayed)
    now = kept(row("one", ratio=1.2, threads=1), row("many", ratio=1.2, threads=8), noise_row(threads=8, ratio=1.0))

    assert verdicts(compare(before, now))["many"] == "same"
    assert verdicts(compare(before, now))["one"] == "worse"
    assert verdicts(compare(kept(one, many), now))["many"] == "worse"


def test_the_floor_of_a_run_is_how_far_the_same_code_strayed() -> None:
    found = noise_floors(
        [noise_row(threads=1, ratio=1.02), noise_row(threads=1, ratio=0.96), row("another", ratio=3.0)]
    )

    assert found == {"1 thread": pytest.approx(1 / 0.96 - 1)}


@pytest.mark.parametrize(
    ("unit", "before", "now", "verdict"),
    [
        ("ns", 1.0, 1.5, "worse"),
        ("ns", 1.5, 1.0, "better"),
        ("admissions/s", 1.0, 1.5, "better"),
        ("admissions/s", 1.5, 1.0, "worse"),
        ("ns", 1.0, 1.04, "same"),
        ("apples", 1.0, 1.5, "changed"),
    ],
)
def test_which_side_is_worse_follows_from_the_unit(unit: str, before: float, now: float, verdict: Verdict) -> None:
    changed = compare(kept(row("a", ratio=before, unit=unit)), kept(row("a", ratio=now, unit=unit)))

    assert verdicts(changed) == {"a": verdict}


def test_a_target_and_a_word_of_the_question_say_it_too() -> None:
    target = Target("value", "at least", 3.0)

    assert replace(row("a"), unit="apples", target=target).prefers == "more"
    assert replace(row("a"), unit="apples", better="less", target=target).prefers == "less"
    assert replace(row("a"), unit="apples").prefers is None


def test_a_value_without_a_ratio_is_compared_more_roughly() -> None:
    def single(value: float, unit: str) -> Kept:
        return kept(replace(row("a", unit=unit), samples=(value,) * 9, rival=None, rival_samples=()))

    assert verdicts(compare(single(1.0, "ns"), single(1.25, "ns"))) == {"a": "same"}
    assert verdicts(compare(single(1.0, "ns"), single(1.35, "ns"))) == {"a": "worse"}
    assert verdicts(compare(single(100.0, "bytes"), single(110.0, "bytes"))) == {"a": "worse"}


def test_one_sample_alone_hardly_proves_anything() -> None:
    before, now = (kept(replace(row("a"), samples=(value,), rival_samples=(1.0,))) for value in (1.0, 1.4))

    assert verdicts(compare(before, now)) == {"a": "same"}


def test_what_was_0_got_worse_only_if_a_target_is_missed_now() -> None:
    target = Target("value", "at most", 0)
    none, some = (replace(row("a"), samples=(value,), rival_samples=(), rival=None) for value in (0.0, 3.0))

    assert verdicts(compare(kept(none), kept(none))) == {"a": "same"}
    assert verdicts(compare(kept(none), kept(some))) == {"a": "changed"}
    found = compare(kept(replace(none, target=target)), kept(replace(some, target=target)))
    assert verdicts(found) == {"a": "worse"}


def test_a_row_that_was_measured_while_the_machine_was_busy_is_in_doubt() -> None:
    busy = replace(row("a", ratio=2.0), others=0.9)
    changed = compare(kept(row("a", ratio=1.0)), kept(busy))

    assert verdicts(changed) == {"a": "doubtful"}
    assert not changed.regressed


@pytest.mark.parametrize(
    "other", [replace(HERE, python="CPython 3.13.5"), replace(HERE, gil=False), replace(HERE, processor="another")]
)
def test_of_another_machine_or_interpreter_only_ratios_are_compared(other: Machine) -> None:
    alone = replace(row("alone"), rival=None, rival_samples=())
    before = Kept(RUN, other, [row("beside", ratio=1.0), alone])
    now = kept(row("beside", ratio=2.0), replace(alone, samples=tuple(9 * sample for sample in alone.samples)))
    changed = compare(before, now)

    assert verdicts(changed) == {"beside": "worse", "alone": "not comparable"}
    assert len(changed.differs) == 1
    assert compare(kept(), kept()).differs == []


def test_a_change_is_a_share_of_what_was() -> None:
    (change,) = compare(kept(row("a", ratio=1.0)), kept(row("a", ratio=1.5))).changes

    assert isinstance(change, Change)
    assert change.share == pytest.approx(0.5)


def test_rows_of_one_run_only_are_said_and_not_compared() -> None:
    changed = compare(kept(row("a"), row("gone")), kept(row("a"), row("new")))

    assert [change.row.name for change in changed.changes] == ["a"]
    assert ([each.name for each in changed.new], [each.name for each in changed.gone]) == (["new"], ["gone"])


# --- what is kept --------------------------------------------------------------------------------------------------


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    full = Row(
        name="a row",
        unit="ns",
        samples=(1.0, 2.5),
        rival="another",
        rival_samples=(0.0, 2.0),
        divisible=False,
        target=Target("value", "at least", 0.5),
        others=0.1,
        question="free",
        at={"threads": 8, "lock": "turn"},
        better="more",
    )
    run = replace(RUN, only=("free",), left_out=("lease",), threads=(1, 8), seed=3)
    path = tmp_path / "made" / "run.json"
    write(path, Kept(run, HERE, [full, row("plain")]))

    assert read(path) == Kept(run, HERE, [full, row("plain")])


def test_a_run_of_before_can_be_read() -> None:
    results = Path(__file__).parents[1] / "benchmarks" / "results"

    for path in results.glob("*.json"):
        assert read(path).rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda run: run.clear(), "lacks format", id="another JSON"),
        pytest.param(lambda run: run.update(format=99), "format 99; this version reads 1", id="another format"),
        pytest.param(lambda run: run.update(rows=[{"name": "x"}]), "damaged run", id="a row without samples"),
        pytest.param(lambda run: run["machine"].update(cores="two"), "cores is 'two', not a number", id="no number"),
        pytest.param(lambda run: run.update(run=[]), "an object was expected", id="no object"),
    ],
)
def test_what_is_no_run_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[dict[str, dict[str, object]]], object], message: str
) -> None:
    path = tmp_path / "run.json"
    write(path, kept(row("a")))
    document = json.loads(path.read_text("utf-8"))
    damage(document)
    path.write_text(json.dumps(document), "utf-8")

    with pytest.raises(UnreadableError, match=message):
        read(path)


def test_a_file_that_is_missing_or_no_json_is_refused_with_the_reason(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not JSON", "utf-8")

    with pytest.raises(UnreadableError, match="No such file"):
        read(tmp_path / "missing.json")
    with pytest.raises(UnreadableError, match="it is no JSON"):
        read(text)


# --- made-up runs --------------------------------------------------------------------------------------------------


def made_up(seed: int, noise: float = 0.05, slower: dict[str, float] | None = None) -> Kept:
    """Rows of 5 to 15 samples, of which one in 20 is far off; in the same order of magnitude in each run."""
    numbers = random.Random(seed)
    rows = []
    for number in range(ROWS):
        name = f"row {number}"
        count = (15, 7, 5)[number % 3]
        factor = (slower or {}).get(name, 1.0)
        samples = [[numbers.lognormvariate(0, noise) for _ in range(count)] for _ in range(2)]
        for side in samples:
            side[:] = [sample * (1.5 if numbers.random() < 0.05 else 1.0) for sample in side]
        ours, rival = samples
        rows.append(
            replace(row(name), samples=tuple(1000 * factor * each for each in ours), rival_samples=tuple(rival))
        )
    return kept(*rows)


def row(name: str, *, ratio: float = 1.0, unit: str = "ns", threads: int | None = None) -> Row:
    return Row(
        name=name,
        unit=unit,
        samples=(100.0 * ratio,) * 9,
        rival="another",
        rival_samples=(100.0,) * 9,
        question="made up",
        at={} if threads is None else {"threads": threads},
    )


def noise_row(*, threads: int, ratio: float) -> Row:
    return replace(row(f"itself on {threads}, {ratio}", ratio=ratio, threads=threads), question="noise")


def kept(*rows: Row) -> Kept:
    return Kept(RUN, HERE, list(rows))


def verdicts(changed: Comparison) -> dict[str, Verdict]:
    return {change.row.name: change.verdict for change in changed.changes if change.row.question != "noise"}
