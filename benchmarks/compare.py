"""What changed between two runs, and whether that is more than noise.

C1  Compared are ratios to the rival, which was measured beside each sample; a value only where there is no ratio, and
    only if both runs are of one machine and one interpreter.
C2  A row is worse if it changed to the worse by more than its floor. Its floor is the largest of
      - what its own samples leave open: 3 standard errors of the difference of two medians;
      - what the same code against itself (A/A, the question `noise`) leaves open in either run, on one thread or on
        several, as the row is;
      - a constant, for what differs between two runs but within none: 5 % of a ratio, 30 % of a time or a rate.
C3  No verdict comes from a row that was measured while the machine was busy, and none from one without a better side.

Why 3 standard errors: a run has a hundred rows, and false alarms make the next true one go unread. The standard error
of a median of n samples is about 0.93 x the distance of their quartiles / sqrt(n). Of few samples the quartiles are
only guessed at: the widest of four guesses is taken (ratios and A/A of the row, in both runs), and sqrt(n - 2) for
sqrt(n). Of made-up rows in which nothing changed, at most one in 1,000 alarms, also where one sample in 20 is far
off.

Changes are factors, counted on a log scale: twice as slow and half as slow are as far from 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Literal, final

from benchmarks import noise
from benchmarks.harness import Row, quartiles
from benchmarks.kept import Kept
from benchmarks.machine import Machine

ERRORS: Final = 3.0
"""Standard errors that a change may have without being one."""

OF_A_MEDIAN: Final = 0.93
"""Its standard error, in distances of the quartiles / sqrt(samples): 1.253 sigma, and 1.349 sigma between quartiles."""

OF_RATIOS: Final = 0.05
OF_VALUES: Final = 0.30
OF_AMOUNTS: Final = 0.05
"""Floors that are there without any noise. Times and rates follow the clock of the processor, amounts do not."""

FEW: Final = 3
OF_FEW: Final = 0.50
"""With fewer samples than that nothing is known about their noise."""

AMOUNTS: Final = frozenset({"bytes", "KB", "MB"})
FIXED: Final = ("python", "gil", "switch_interval", "processor", "cores")
"""Of the machine: two runs that differ here have values that do not compare."""

Verdict = Literal["worse", "better", "same", "doubtful", "changed", "not comparable"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Of one row, from one run to another."""

    row: Row
    before: Row
    of: Literal["ratio", "value"]
    factor: float  # now / before; nan where that says nothing
    floor: float  # as a share: 0.05 is 5 % in either direction
    verdict: Verdict

    @property
    def share(self) -> float:
        """0.3 is 30 % more than before."""
        return self.factor - 1

    @property
    def noise(self) -> float:
        """The floor in the direction of the change: half as much is as far as twice as much, and -0.5."""
        return self.floor if self.factor > 1 else 1 / (1 + self.floor) - 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that changed."""

    before: Kept
    changes: Sequence[Change]
    differs: Sequence[str] = ()  # what is not the same about the machines, in words
    new: Sequence[Row] = ()
    gone: Sequence[Row] = ()
    floors: Mapping[str, float] = field(default_factory=dict)
    depths: tuple[str, str] | None = None  # then and now, where they differ

    def of(self, *verdicts: Verdict) -> list[Change]:
        """Those with one of these verdicts, the largest first."""
        found = [change for change in self.changes if change.verdict in verdicts]
        return sorted(found, key=lambda change: _distance(change.factor), reverse=True)

    @property
    def regressed(self) -> bool:
        return any(change.verdict == "worse" for change in self.changes)


def compare(before: Kept, now: Kept) -> Comparison:
    """The rows that both runs have, and what is to be said of the two runs."""
    differs = differences(before.machine, now.machine)
    old = {(row.question, row.name): row for row in before.rows}
    new = {(row.question, row.name): row for row in now.rows}
    floors = {kind: max(_floors(before.rows)[kind], _floors(now.rows)[kind]) for kind in KINDS}
    return Comparison(
        before=before,
        changes=[_change(old[key], row, floors, alike=not differs) for key, row in new.items() if key in old],
        differs=differs,
        new=[row for key, row in new.items() if key not in old],
        # what a run was not asked for is not gone
        gone=[
            row for key, row in old.items() if key not in new and row.question in {each.question for each in now.rows}
        ],
        floors=floors,
        depths=None if before.run.depth == now.run.depth else (before.run.depth, now.run.depth),
    )


def differences(before: Machine, now: Machine) -> list[str]:
    """What keeps their values from being compared, in words."""
    names = [part.name for part in fields(Machine) if part.name in FIXED]
    pairs = [(name.replace("_", " "), getattr(before, name), getattr(now, name)) for name in names]
    return [f"{name}: {then} then, {this} now" for name, then, this in pairs if then != this]


# --- noise ---------------------------------------------------------------------------------------------------------

KINDS: Final = ("1 thread", "several threads")


def kind(row: Row) -> str:
    """One that does not say its threads counts as on one: its own samples must tell its noise."""
    threads = row.at.get("threads", 1)
    return KINDS[isinstance(threads, int | float) and threads > 1]


def _floors(rows: Iterable[Row]) -> dict[str, float]:
    """By kind, what the same code against itself leaves open; 0.0 where it was not measured."""
    found = dict.fromkeys(KINDS, 0.0)
    for row in rows:
        if row.question == noise.NAME and row.ratio is not None and row.ratio > 0:
            strayed = _distance(row.ratio) + ERRORS * _error(row.spread, len(row.samples))
            found[kind(row)] = max(found[kind(row)], math.expm1(strayed))
    return found


def noise_floors(rows: Iterable[Row]) -> dict[str, float]:
    """The noise floor of one run, as shares, by `KINDS`; without those that were not measured."""
    return {kind: floor for kind, floor in _floors(rows).items() if floor}


def _error(width: float, samples: int) -> float:
    """The standard error of a median, as a share of it."""
    return OF_A_MEDIAN * width / math.sqrt(max(samples - 2, 1))


def _difference(row: Row) -> float:
    """The standard error of its median, in its own unit."""
    low, high = quartiles(row.samples)
    return _error(high - low, len(row.samples))


def _own(before: Row, now: Row) -> float:
    """What the samples of a row leave open, as a share."""
    few = min(len(before.samples), len(now.samples))
    if few < FEW:
        return OF_FEW
    width = max(before.spread, now.spread, before.noise or 0.0, now.noise or 0.0)
    return math.expm1(ERRORS * math.hypot(_error(width, len(before.samples)), _error(width, len(now.samples))))


# --- verdicts ------------------------------------------------------------------------------------------------------


def _change(before: Row, now: Row, floors: Mapping[str, float], *, alike: bool) -> Change:
    own = _own(before, now)
    if before.ratio is not None and now.ratio is not None:
        floor = max(own, floors[kind(now)], OF_RATIOS)
        factor = _factor(before.ratio, now.ratio)
        return Change(
            row=now, before=before, of="ratio", factor=factor, floor=floor, verdict=_verdict(before, now, factor, floor)
        )
    floor = max(own, OF_AMOUNTS if now.unit.partition(" ")[0] in AMOUNTS else OF_VALUES)
    factor = _factor(before.value, now.value)
    verdict = _verdict(before, now, factor, floor) if alike else "not comparable"
    return Change(row=now, before=before, of="value", factor=factor, floor=floor, verdict=verdict)


def _factor(before: float, now: float) -> float:
    if before == now:
        return 1.0
    return now / before if before > 0 and now > 0 else math.nan


def _distance(factor: float) -> float:
    """From 1, whichever way."""
    return math.inf if math.isnan(factor) else abs(math.log(factor))


def _verdict(before: Row, now: Row, factor: float, floor: float) -> Verdict:
    if math.isnan(factor):
        # of 0, or from one side of it to the other, there is no share: only the target can tell
        if abs(now.value - before.value) <= ERRORS * math.hypot(_difference(before), _difference(now)):
            return "same"
        missed = before.reached is True and now.reached is False
        return "worse" if missed else "changed"
    if _distance(factor) <= math.log1p(floor):
        return "same"
    if now.prefers is None:
        return "changed"
    if (factor > 1) is (now.prefers == "more"):
        return "better"
    return "doubtful" if "busy" in before.doubts + now.doubts else "worse"
