"""Scenarios: what a file may say, what is wrong with one, and what is told of it."""

import tomllib
from pathlib import Path

import pytest

from benchmarks import kept, mix, scenario
from benchmarks.__main__ import QUESTIONS, shown
from benchmarks.harness import QUICK, Row
from benchmarks.kept import Run
from benchmarks.machine import this_machine
from benchmarks.options import parsed
from benchmarks.tally import Asked
from flowctl import RoundRobin, WeightedFair

EXAMPLES = sorted((Path(scenario.__file__).parent / "scenarios").glob("*.toml"))
CLOSED = """
seats = 2
hold = 0.001
seconds = 0.1
threads = 6
[[tenants]]
name = "a"
weight = 2
[[tenants]]
name = "b"
"""
BOTH = "threads (a closed loop) or rate (an open loop) is required, not both"
OPEN = """
seats = 2
hold = 0.001
holds = "exponential"
seconds = 0.1
rate = 300
[[tenants]]
name = "a"
share = 2
cost = 2
ttl = 1
[[tenants]]
name = "b"
priority = 5
[[bands]]
priority = 5
max_requests = 10
default_ttl = 0.5
ordering = "earliest-deadline"
"""


def read(text: str) -> mix.Scenario:
    return mix.parsed(tomllib.loads(text), "a file")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_right_and_explained(path: Path) -> None:
    (step,) = scenario.question(path).steps(QUICK)

    assert 0 < step.seconds < 10
    assert path.name in (path.parents[1] / "README.md").read_text("utf-8")


@pytest.mark.parametrize("text", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_scenario_tells_of_each_tenant(text: str) -> None:
    found = read(text)
    rows = scenario.rows(found, [scenario.run(found, "a seed")])

    assert len({row.name for row in rows}) == len(rows)
    for tenant in ("a", "b"):
        assert {"offered", "served", "refused"} <= {row.at["of"] for row in rows if row.at.get("tenant") == tenant}
    assert next(row for row in rows if row.name == "a: served").value > 0


def test_a_file_says_all_that_it_says() -> None:
    found = read(OPEN)

    assert (found.name, found.seats, found.hold, found.holds, found.rate, found.threads) == (
        "a file", 2, 0.001, "exponential", 300.0, 0,
    )  # fmt: skip
    assert [(tenant.share, tenant.cost, tenant.ttl, tenant.priority) for tenant in found.tenants] == [
        (2.0, 2, 1.0, 0),
        (1.0, 1, None, 5),
    ]
    (band,) = found.bands
    assert (band.priority, band.max_requests, band.default_ttl, band.fairness) == (5, 10, 0.5, RoundRobin())


def test_weights_make_a_band_go_by_weight_without_a_table() -> None:
    (band,) = read(CLOSED).bands

    assert band.fairness == WeightedFair()
    assert band.weights == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seats = 2", "", "seats is required"),
        ("seats = 2", "seats = 0", "seats must be at least 1, not 0"),
        ("seats = 2", "seats = 2.5", "seats must be an int, not 2.5 (float)"),
        ("seats = 2", "seats = 5000", "seats must be at most 1,000, not 5000"),
        ("seats = 2", "seets = 2\nseats = 2", "seets is not known: choose from name, seats, hold, holds, seconds, "),
        ("hold = 0.001", "hold = 0", "hold must be above 0 to 60, not 0"),
        ("hold = 0.001", "hold = nan", "hold must be finite, not nan (float)"),
        ("hold = 0.001", 'hold = "1 ms"', "hold must be a number, not '1 ms' (str)"),
        ("hold = 0.001", 'hold = 1\nholds = "normal"', "holds must be constant or exponential, not 'normal' (str)"),
        ("seconds = 0.1", "seconds = 1e9", "seconds must be above 0 to 600, not 1000000000.0 (float)"),
        ("threads = 6", "", "threads (a closed loop) or rate (an open loop) is required"),
        (
            "threads = 6",
            "threads = 6\nrate = 5",
            "threads (a closed loop) or rate (an open loop) is required, not both",
        ),
        ("threads = 6", "threads = 1", "threads must be at least one for each of 2 tenants, not 1"),
        ("threads = 6", "threads = 1001", "threads must be at most 1,000, not 1001"),
        ("threads = 6", "rate = 9999999", "rate must be above 0 to 5000, not 9999999"),
        ('name = "a"', "", "tenants[0].name is required"),
        ('name = "a"', 'name = "b"', "tenants[1].name must be another than those before, not 'b' (str)"),
        ('name = "a"', 'name = ""', "tenants[0].name must be a line of text, not '' (str)"),
        ('name = "a"', "name = 7", "tenants[0].name must be a line of text, not 7"),
        ('name = "a"', f'name = "{"a" * 300}"', "tenants[0].name must have at most 256 bytes of UTF-8"),
        ("weight = 2", "weight = 0", "tenants[0].weight must be from 1e-06 to 1e+06, not 0"),
        ("weight = 2", "share = -1", "tenants[0].share must be above 0 to 1e+06, not -1"),
        ("weight = 2", "ttl = -1", "tenants[0].ttl must be from 0 to 600, not -1"),
        ("weight = 2", "cost = 0", "tenants[0].cost must be at least 1, not 0"),
        ("weight = 2", "priority = 1.5", "tenants[0].priority must be an int, not 1.5 (float)"),
        ("weight = 2", "wieght = 2", "tenants[0].wieght is not known: choose from name, share, weight, "),
        ('name = "b"', 'name = "b"\n[[bands]]', "bands[0].priority is required"),
        ('name = "b"', 'name = "b"\n[[bands]]\npriority = 3', "bands[0].priority must be that of a tenant, not 3"),
        (
            'name = "b"',
            'name = "b"\n[[bands]]\npriority = 0\n[[bands]]\npriority = 0',
            "bands[1].priority must be another than those before, not 0",
        ),
        (
            'name = "b"',
            'name = "b"\n[[bands]]\npriority = 0\nfairness = "fair"',
            "bands[0].fairness must be one of round-robin, weighted-fair, global-strict, not 'fair' (str)",
        ),
        (
            'name = "b"',
            'name = "b"\n[[bands]]\npriority = 0\nfairness = "round-robin"',
            "bands[0].fairness must be weighted-fair where weights differ, not 'round-robin'",
        ),
        (
            'name = "b"',
            'name = "b"\n[[bands]]\npriority = 0\nmax_requests = 0',
            "bands[0].max_requests must be at least 1, not 0",
        ),
        ("[[tenants]]", "[[bands]]", "tenants is required"),
    ],
)
def test_what_is_wrong_is_said_by_field_value_and_rule(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole line is compared below
        read(CLOSED.replace(old, new))

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("tenants = 5", "tenants must be at least one table ([[tenants]]), not 5"),
        ("tenants = []", "tenants must be at least one table ([[tenants]]), not [] (list)"),
        ("tenants = [5]", "tenants[0] must be a table, not 5"),
    ],
)
def test_tenants_that_are_no_tables_are_refused(field: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole line is compared below
        read(CLOSED[: CLOSED.index("[[")] + field)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file or directory"), (b"= 1", "must be TOML: "), (b"\xff", "must be UTF-8: ")],
)
def test_a_file_that_cannot_be_used_ends_the_command_in_one_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SystemExit) as ended:
        parsed(["--scenario", str(path)], QUESTIONS)

    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"benchmarks: argument --scenario: {path}: {message}")
    assert error.count("\n") == 1


def test_with_a_scenario_nothing_else_is_run_but_what_is_named() -> None:
    def asked(*arguments: str) -> list[str]:
        return [question.name for question in parsed(arguments, QUESTIONS).questions]

    path = str(EXAMPLES[0])

    assert asked("--scenario", path) == ["scenario"]
    assert asked("--scenario", path, "--only", "free") == ["scenario", "free"]
    assert asked() == [question.name for question in QUESTIONS]


def test_a_scenario_that_was_kept_is_shown_without_its_file(tmp_path: Path) -> None:
    row = Row(
        name="served", unit="/s", samples=(1.0,), question="scenario", late=True, at={"tenant": "a", "of": "served"}
    )
    path = tmp_path / "run.json"
    run = Run(depth="quick", began="", seconds=1.0, complete=True)
    kept.write(path, kept.Kept(run, this_machine(), [row]))
    options = parsed(["--from", str(path)], ())

    assert options.source is not None
    assert [row.late for row in options.source.rows] == [True]
    assert shown(options, options.source, ()) == [scenario.KEPT]


def test_who_asks_for_less_than_his_weight_gives_him_leaves_the_rest_to_others() -> None:
    found = read(OPEN.replace("priority = 5\n[[bands]]", "[[bands]]").replace("priority = 5", "priority = 0"))
    greedy = [Asked(0, 0.0, 0.0, 0.01, 0.02, "")] * 4 + [Asked(0, 0.0, 0.0, 0.01, 0.02, "Expired")] * 4
    modest = [Asked(1, 0.0, 0.0, 0.01, 0.02, "")] * 2

    assert scenario.shares(found, 0, greedy + modest) == {0: 1.0, 1: 1.0}
    assert scenario.shares(found, 0, []) == {0: 1.0, 1: 1.0}


def test_an_open_scenario_has_threads_for_all_that_may_wait() -> None:
    found = read(OPEN)

    assert 50 < scenario.threads_for(found) < 200
    assert scenario.threads_for(read(CLOSED)) == 6
