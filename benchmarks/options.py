"""The command line: what is to be measured, beside what, and where it goes.

Whatever is wrong ends in one line that names the option, the value and the rule, and in exit status 2, before anything
is measured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, final

from benchmarks.harness import DEFAULT, FULL, QUICK, Depth, Question
from benchmarks.kept import Kept, UnreadableError, read
from benchmarks.scenario import question

LATEST: Final = Path(__file__).parent / "results" / "latest.json"
MOST_THREADS: Final = 2_000

EPILOG: Final = """\
examples, by way of make:
  make bench                                              about 5 minutes
  make bench ARGS=--quick                                 under 1 minute, and rough
  make bench ARGS="--only free,lease --threads 1,8,64"    some questions, on these numbers of threads
  make bench ARGS="--scenario mine.toml"                  a mix of your own: who asks for what, how often
  make bench ARGS="--json before.json"                    a run to keep ...
  make bench ARGS="--compare before.json"                 ... and what changed since: exit status 1 if a row got worse
  make bench PYTHON=python3.13t ARGS="--json free.json"   another interpreter ...
  make bench ARGS="--from before.json --overlay free.json"    ... drawn beside this one, without measuring

Ctrl-C ends a run early, and keeps what it measured.
exit status: 0 measured, whatever the targets; 1 a row could not be measured, or got worse (--compare); 2 bad input;
130 Ctrl-C. How to read the table, and what noise is: benchmarks/README.md.
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for."""

    depth: Depth
    questions: tuple[Question, ...]
    left_out: tuple[Question, ...]  # those that this depth has no time for
    json: Path
    html: Path
    compare: Kept | None
    last: Kept | None  # what the JSON will be written over
    overlay: Kept | None
    source: Kept | None  # a kept run that is shown again: nothing is measured
    list: bool


@final
class Parser(argparse.ArgumentParser):
    """Its errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help explains all options)\n")


def parsed(arguments: Sequence[str], questions: Sequence[Question]) -> Options:
    """The command line. Exits with a message if it is wrong."""
    parser = _parser(questions)
    found = parser.parse_args(arguments)
    if found.source is not None:
        measuring = {"--quick or --full": found.depth, "--threads": found.threads, "--seed": found.seed}
        measuring |= {"--scenario": found.scenario, "--json": found.json}
        for name, value in measuring.items():
            if value is not None:
                parser.error(f"argument {name}: not with --from, which measures nothing")
    depth: Depth = found.depth or DEFAULT
    depth = replace(depth, threads=found.threads, seed=depth.seed if found.seed is None else found.seed)
    wanted: tuple[Question, ...] = found.only or (tuple(questions) if found.scenario is None else ())
    if found.scenario is not None:
        wanted = (found.scenario, *wanted)
    left_out = tuple(question for question in wanted if not question.steps(depth))
    if found.only and len(left_out) == len(wanted) and found.source is None:
        names = ",".join(question.name for question in wanted)
        parser.error(f"argument --only: {names}: there is no time for any of this at the depth {depth.name!r}")
    json: Path = found.json or LATEST
    html: Path = found.html or (found.source or json).with_suffix(".html")
    if json == html:
        parser.error(f"argument --html: {html}: it needs another file than --json")
    for name, path in (("--json", json), ("--html", html)):
        _must_be_writable(parser, name, path)
    kept = partial(_kept, parser)
    source = kept("--from", found.source)
    if source is not None and found.only:
        chosen = {question.name for question in wanted}
        source = replace(source, rows=[row for row in source.rows if row.question in chosen])
    return Options(
        depth=depth,
        questions=wanted,
        left_out=left_out,
        json=json,
        html=html,
        compare=kept("--compare", found.compare),
        last=_last(json) if found.source is None else None,
        overlay=kept("--overlay", found.overlay),
        source=source,
        list=found.list,
    )


def _must_be_writable(parser: Parser, name: str, path: Path) -> None:
    """Asked now: it would be a pity after five minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument {name}: {path}: its directory cannot be made: {error.strerror}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        parser.error(f"argument {name}: {path}: a file is needed that can be written")


def _kept(parser: Parser, name: str, path: Path | None) -> Kept | None:
    """Read now: it is an error at once, not after five minutes, and the file may be the one that is written."""
    try:
        return None if path is None else read(path)
    except UnreadableError as error:
        parser.error(f"argument {name}: {error}")


def _last(path: Path) -> Kept | None:
    try:
        return read(path)
    except UnreadableError:
        return None


def _parser(questions: Sequence[Question]) -> Parser:
    parser = Parser(
        prog="benchmarks",
        usage="make bench ARGS='[options]', or python -m benchmarks [options]",
        description="Measure where threads contend in flowctl and what that costs, on real threads, beside what one\n"
        "would use instead. Prints a table, and writes JSON and a report in HTML.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is measured")
    depth = what.add_mutually_exclusive_group()
    depth.add_argument("--quick", dest="depth", action="store_const", const=QUICK, help="under 1 minute, and rough")
    depth.add_argument("--full", dest="depth", action="store_const", const=FULL, help="up to 40 minutes")
    what.add_argument(
        "--only", type=partial(_chosen, questions), metavar="NAMES", help="questions, by commas: see --list"
    )
    what.add_argument(
        "--threads",
        type=_threads,
        metavar="NUMBERS",
        help="numbers of threads, by commas, for the questions that ask by number of threads",
    )
    what.add_argument("--seed", type=_seed, metavar="NUMBER", help="of what is made up at random (default: 7)")
    what.add_argument(
        "--scenario",
        type=_scenario,
        metavar="FILE",
        help="a mix of your own, in TOML (benchmarks/scenarios has examples), and else only what --only names",
    )
    what.add_argument("--list", action="store_true", help="list the questions and what they measure, and end")
    where = parser.add_argument_group("where it goes")
    where.add_argument(
        "--json", type=Path, metavar="FILE", help="the run, with all samples (default: benchmarks/results/latest.json)"
    )
    where.add_argument("--html", type=Path, metavar="FILE", help="the report (default: beside the JSON)")
    beside = parser.add_argument_group("beside another run", "Each FILE is the JSON of a run.")
    beside.add_argument(
        "--compare", type=Path, metavar="FILE", help="show what changed since; exit status 1 if a row got worse"
    )
    beside.add_argument(
        "--overlay", type=Path, metavar="FILE", help="draw that run, of another interpreter for one, beside this one"
    )
    beside.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="show that run again, and measure nothing"
    )
    return parser


def _chosen(questions: Sequence[Question], names: str) -> tuple[Question, ...]:
    by_name = {question.name: question for question in questions}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or repr(names)}: choose from {', '.join(by_name)}")
    return tuple(question for question in questions if question.name in wanted)


def _scenario(path: str) -> Question:
    try:
        return question(Path(path))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error


def _threads(text: str) -> tuple[int, ...]:
    try:
        numbers = sorted({int(number) for number in text.split(",")})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1 or numbers[-1] > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1 to {MOST_THREADS:,} are needed, by commas")
    return tuple(numbers)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 0 is needed")
    return int(text)
