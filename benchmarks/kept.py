"""A run as it is kept: JSON with the raw samples, so that any other statistic can be had from it later.

A reader takes what it knows and ignores the rest: a newer run may say more, an older one may lack `at`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

from benchmarks.harness import Row, Target
from benchmarks.machine import Machine

FORMAT: Final = 1


class UnreadableError(ValueError):
    """A file that holds no run, or one that cannot be read. The message says why."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How it was run."""

    depth: str
    began: str
    seconds: float
    complete: bool
    only: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # questions that this depth has no time for
    threads: tuple[int, ...] | None = None  # asked for in place of the usual ones
    seed: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """What was measured, where, and how."""

    run: Run
    machine: Machine
    rows: Sequence[Row]


def write(path: Path, kept: Kept) -> None:
    """Keep it in this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "format": FORMAT,
        "run": asdict(kept.run),
        "machine": asdict(kept.machine),
        "rows": [_document(row) for row in kept.rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _document(row: Row) -> dict[str, object]:
    return {
        "question": row.question,
        "name": row.name,
        "unit": row.unit,
        "value": row.value,
        "rival": row.rival,
        "rival_value": row.rival_value,
        "ratio": row.ratio,
        "spread": row.spread,
        "noise": row.noise,
        "target": None if row.target is None else asdict(row.target),
        "reached": row.reached,
        "better": row.better,
        "doubts": row.doubts,
        "others": row.others,
        "late": row.late,
        "at": dict(row.at),
        "samples": row.samples,
        "rival_samples": row.rival_samples,
    }


def read(path: Path) -> Kept:
    """What this file keeps. Raises `UnreadableError`."""
    try:
        document: object = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UnreadableError(f"{path} is not a run of these benchmarks: it is no JSON ({error})") from error
    if not isinstance(document, dict) or not {"format", "run", "machine", "rows"} <= document.keys():
        raise UnreadableError(f"{path} is not a run of these benchmarks: it lacks format, run, machine or rows")
    if document["format"] != FORMAT:
        raise UnreadableError(
            f"{path} has format {document['format']!r}; this version reads {FORMAT}: measure it again"
        )
    try:
        machine, rows = Part(document["machine"]), document["rows"]
        return Kept(_run(Part(document["run"])), _machine(machine), [_row(Part(row)) for row in rows])
    except (KeyError, TypeError) as error:
        raise UnreadableError(f"{path} is a damaged run: {error}") from error


@final
class Part:
    """An object of the file. Asked for what is of another kind it raises `TypeError`, for what is not there `KeyError`.

    An optional one is None where it is null or was not known yet.
    """

    def __init__(self, found: object) -> None:
        if not isinstance(found, dict):
            raise TypeError(f"an object was expected, not {found!r}")
        self._found: Mapping[str, object] = found

    def text(self, name: str, *allowed: str) -> str:
        value = self._found[name]
        if not isinstance(value, str) or (allowed and value not in allowed):
            raise TypeError(f"{name} is {value!r}, not {' or '.join(allowed) or 'a text'}")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._found.get(name) is None else self.text(name)

    def number(self, name: str) -> float:
        return _number(name, self._found[name])

    def number_or_none(self, name: str) -> float | None:
        return None if self._found.get(name) is None else self.number(name)

    def truth(self, name: str) -> bool:
        return self._found[name] is True

    def truth_or_false(self, name: str) -> bool:
        return self._found.get(name) is True

    def part_or_none(self, name: str) -> Part | None:
        return None if self._found.get(name) is None else Part(self._found[name])

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(_number(name, value) for value in _listed(name, self._found.get(name)))

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(str(value) for value in _listed(name, self._found.get(name)))

    def place(self, name: str) -> dict[str, str | float]:
        part = self.part_or_none(name)
        found = {} if part is None else part._found
        return {key: value if isinstance(value, str) else _number(key, value) for key, value in found.items()}


def _listed(name: str, value: object) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TypeError(f"{name} is {value!r}, not a list")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, not a number")
    return value


def _run(run: Part) -> Run:
    seed, threads = run.number_or_none("seed"), run.numbers("threads")
    return Run(
        depth=run.text("depth"),
        began=run.text("began"),
        seconds=run.number("seconds"),
        complete=run.truth("complete"),
        only=run.texts("only"),
        left_out=run.texts("left_out"),
        threads=tuple(map(int, threads)) or None,
        seed=None if seed is None else int(seed),
    )


def _machine(machine: Part) -> Machine:
    return Machine(
        python=machine.text("python"),
        gil=machine.truth("gil"),
        switch_interval=machine.number("switch_interval"),
        system=machine.text("system"),
        processor=machine.text("processor"),
        cores=int(machine.number("cores")),
        load_at_start=machine.number_or_none("load_at_start"),
        flowctl=machine.text("flowctl"),
        commit=machine.text_or_none("commit"),
    )


def _row(row: Part) -> Row:
    samples, rivals = row.numbers("samples"), row.numbers("rival_samples")
    if not samples:
        raise TypeError(f"{row.text('name')!r} has no samples")
    target = row.part_or_none("target")
    better = row.text_or_none("better")
    return Row(
        name=row.text("name"),
        unit=row.text("unit"),
        samples=samples,
        rival=row.text_or_none("rival"),
        rival_samples=rivals,
        divisible=not rivals or row.number_or_none("ratio") is not None,
        target=None if target is None else _target(target),
        others=row.number_or_none("others"),
        late=row.truth_or_false("late"),
        question=row.text("question"),
        at=row.place("at"),
        better=None if better is None else "less" if row.text("better", "less", "more") == "less" else "more",
    )


def _target(target: Part) -> Target:
    return Target(
        "value" if target.text("of", "value", "ratio") == "value" else "ratio",
        "at most" if target.text("side", "at most", "at least") == "at most" else "at least",
        target.number("bound"),
    )
