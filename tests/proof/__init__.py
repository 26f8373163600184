"""What was shown, and how: proofs note it while they run, and `make proof` makes `docs/proof.md` of the notes.

A line of JSON a note, appended to a file: so test runs, the models, the soak and the mutants all note in one way.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, final

Unit = Literal["schedules", "states", "examples", "operations", "points", "runs", "mutants"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A claim that held."""

    promise: str  # "L1, L2" or "P8": as docs/proof.md and the modules number them
    claim: str  # one short sentence
    method: str  # "explored", "explored, 2 preemptions", "PCT", "spin", "property", "faults", "soak", ...
    count: int
    unit: Unit
    seconds: float


@dataclass(frozen=True, slots=True)
class Missed:
    """A negative control: a protection was taken away, and a claim failed for want of it."""

    claim: str  # the one that `Shown` names
    removed: str  # the protection, in a few words
    found_after: int
    unit: Unit


Note = Shown | Missed


@final
class Proof:
    """Where a proof notes what it shows. Without a file it notes nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._begun = time.perf_counter()

    def shown(self, promise: str, claim: str, method: str, count: int, unit: Unit) -> None:
        """The claim held, `count` times; it took the time since this object was made."""
        self._append(Shown(promise, claim, method, count, unit, time.perf_counter() - self._begun))

    def missed(self, claim: str, removed: str, found_after: int, unit: Unit) -> None:
        """Without this protection the claim failed, after so many tries."""
        self._append(Missed(claim, removed, found_after, unit))

    def _append(self, note: Note) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as notes:
                notes.write(json.dumps(asdict(note)) + "\n")


def read(path: Path) -> tuple[list[Shown], list[Missed]]:
    """The notes of a file, in their order."""
    shown: list[Shown] = []
    missed: list[Missed] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if "promise" in fields:
            shown.append(Shown(**fields))
        else:
            missed.append(Missed(**fields))
    return shown, missed
