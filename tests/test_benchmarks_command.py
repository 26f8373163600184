"""The command line of the benchmarks, with questions that are answered at once."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks import options, wording
from benchmarks.__main__ import QUESTIONS, main
from benchmarks.harness import Depth, Question, Row, Step
from benchmarks.kept import read
from benchmarks.watch import in_words

SPEED = [100.0]
"""What the made-up rows cost now."""


def made_up(name: str) -> Question:
    """A question whose rows are as many as its numbers of threads."""

    def answer(threads: int) -> Sequence[Row]:
        samples = (SPEED[0] * threads,) * 9
        at = {"threads": threads}
        return [Row(name=f"on {threads}", unit="ns", samples=samples, rival="1", rival_samples=(1.0,) * 9, at=at)]

    def steps(depth: Depth) -> Sequence[Step]:
        return [Step(f"on {threads}", 0.1, partial(answer, threads)) for threads in depth.threads_of(1, 8)]

    return Question(name, f"what {name} costs", steps)


def going_wrong(error: type[BaseException]) -> Question:
    def fail() -> Sequence[Row]:
        raise error

    return Question("wrong", "what goes wrong", lambda _: [Step("a step", 0.1, fail)])


LOCK, WORD = made_up("lock"), made_up("word")
SLOW = Question("slow", "what takes long", lambda depth: depth.pick((), *2 * [LOCK.steps(depth)]))


@pytest.fixture(autouse=True)
def _speed() -> None:
    SPEED[0] = 100.0


def run(path: Path, *arguments: str, questions: Sequence[Question] = (LOCK, WORD)) -> int:
    return main(["--json", str(path), *arguments], questions)


def test_a_run_prints_a_table_and_keeps_all_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made" / "run.json"

    assert run(path, "--seed", "11") == 0

    printed = capsys.readouterr()
    assert "what lock costs" in printed.out
    assert "4/4" in printed.err
    kept = read(path)
    assert [row.name for row in kept.rows] == ["on 1", "on 8"] * 2
    assert [row.question for row in kept.rows] == ["lock", "lock", "word", "word"]
    assert (kept.run.depth, kept.run.complete, kept.run.seed) == ("default", True, 11)


def test_some_questions_and_numbers_of_threads_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "run.json"

    assert run(path, "--only", "word", "--threads", "64,2,2") == 0

    kept = read(path)
    assert [(row.question, row.name) for row in kept.rows] == [("word", "on 2"), ("word", "on 64")]
    assert (kept.run.only, kept.run.threads) == (("word",), (2, 64))


def test_a_depth_says_which_questions_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"

    assert run(path, "--quick", questions=(LOCK, SLOW)) == 0

    assert "A quick run leaves out: slow." in capsys.readouterr().out
    assert read(path).run.left_out == ("slow",)


def test_a_step_that_fails_costs_no_other_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"

    assert run(path, questions=(going_wrong(OSError), WORD)) == 1

    assert "wrong: a step: failed" in capsys.readouterr().err
    kept = read(path)
    assert len(kept.rows) == 2
    assert not kept.run.complete


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "run.json"

    assert run(path, questions=(LOCK, going_wrong(KeyboardInterrupt), WORD)) == 130

    kept = read(path)
    assert [row.question for row in kept.rows] == ["lock", "lock"]
    assert not kept.run.complete


def test_ctrl_c_before_anything_was_measured_leaves_the_last_run_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run(path)

    assert run(path, questions=(going_wrong(KeyboardInterrupt),)) == 130

    assert read(path).run.complete


def test_ctrl_c_ends_a_real_run(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "noise", "--json", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        began = next((line for line in process.stderr if line.startswith("2/")), "")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        status = process.wait(30)

    assert began
    assert status == 130, said
    assert "interrupted" in said
    assert read(path).rows


# --- beside another run --------------------------------------------------------------------------------------------


def test_what_got_worse_is_shown_and_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    run(before)
    SPEED[0] = 130.0

    assert run(now, "--compare", str(before)) == 1

    printed = capsys.readouterr()
    assert "WORSE" in printed.out
    assert "Of 4 rows in both runs 4 got worse" in printed.out
    assert "at least one row got worse" in printed.err


def test_what_stayed_as_it_was_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    run(path)
    SPEED[0] = 103.0

    assert run(path, "--compare", str(path)) == 0  # read before it is written over

    assert "4 stayed within their noise" in capsys.readouterr().out


def test_a_kept_run_is_shown_again_and_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    run(path, "--only", "lock")
    text = path.read_text("utf-8")
    capsys.readouterr()

    assert main(["--from", str(path), "--overlay", str(path)], [WORD, going_wrong(OSError)]) == 0

    assert "lock: no longer asked" in capsys.readouterr().out
    assert path.read_text("utf-8") == text


def test_the_report_stands_beside_the_run_and_tells_it_from_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run(path)
    first = path.with_suffix(".html").read_text("utf-8")
    SPEED[0] = 200.0
    run(path)
    run(path, "--html", str(tmp_path / "other.html"))

    assert "What changed since the last run" not in first
    assert "What changed since the last run" in path.with_suffix(".html").read_text("utf-8")
    assert (tmp_path / "other.html").exists()


# --- what is asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--only lock,apple", "--only: apple: choose from lock, word, slow"),
        ("--only ,", "--only: ',': choose from lock, word, slow"),
        ("--only slow --quick", "--only: slow: there is no time for any of this at the depth 'quick'"),
        ("--threads 0", "--threads: '0': whole numbers from 1 to 2,000"),
        ("--threads 1,x", "--threads: '1,x': whole numbers"),
        ("--threads 4000", "--threads: '4000': whole numbers"),
        ("--seed -3x", "--seed: expected one argument"),
        ("--seed x", "--seed: 'x': a whole number of at least 0"),
        ("--quick --full", "--full: not allowed with argument --quick"),
        ("--apple", "unrecognized arguments: --apple"),
        ("--compare missing.json", "--compare: missing.json cannot be read: No such file"),
        ("--overlay {here}/page.txt", "page.txt is not a run of these benchmarks: it is no JSON"),
        ("--from {here}/other.json", "other.json is not a run of these benchmarks: it lacks format"),
        ("--json {here}", "a file is needed that can be written"),
        ("--json {here}/page.txt/run.json", "its directory cannot be made"),
        ("--json {here}/x.json --html {here}/x.json", "--html: {here}/x.json: it needs another file than --json"),
        ("--from {here}/run.json --quick", "--quick or --full: not with --from"),
        ("--from {here}/run.json --threads 8", "--threads: not with --from"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_what_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (tmp_path / "page.txt").write_text("not JSON", "utf-8")
    (tmp_path / "other.json").write_text("{}", "utf-8")
    run(tmp_path / "run.json")
    capsys.readouterr()

    with pytest.raises(SystemExit) as ended:
        main(arguments.format(here=tmp_path).split(), (LOCK, WORD, SLOW))

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert message.format(here=tmp_path) in said
    assert said.count("\n") == 1


def test_questions_are_listed_with_their_steps_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--quick"], (LOCK, SLOW)) == 0

    said = capsys.readouterr().out
    assert "lock: what lock costs (about 0 s)" in said
    assert "  on 8" in said
    assert "slow: what takes long (not in a quick run)" in said


def test_help_names_every_option_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    for option in ("quick", "full", "only", "threads", "seed", "list", "json", "html", "compare", "overlay", "from"):
        assert f"--{option}" in said
    assert "exit status: 0" in said


def test_every_option_is_explained_in_the_readme() -> None:
    readme = (Path(options.__file__).parent / "README.md").read_text("utf-8")
    known = {flag for action in options._parser(QUESTIONS)._actions for flag in action.option_strings}

    assert {flag for flag in known if flag.startswith("--") and flag != "--help"} <= set(re.findall(r"--\w+", readme))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (99.4, "99 s"), (150.0, "2 min 30 s"), (2400, "40 min 00 s")]
)
def test_times_are_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_json_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run(path)
    document = json.loads(path.read_text("utf-8"))

    assert document["format"] == 1
    assert document["rows"][0]["ratio"] == 100.0
    assert document["rows"][0]["at"] == {"threads": 1}
    assert wording.figure(document["rows"][0]["value"]) == "100"
