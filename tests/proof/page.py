"""The page of what is proven, made of the notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from tests.proof import Missed, Shown

COLUMNS = ("promise", "what was shown", "how", "how much", "seconds", "missed without (found after)")
PROMISES = re.compile(r"([A-Z]+)(\d+)")


PROMISED = {
    "P1": "a request settles exactly once, and who loses that race gives back all it took",
    "P2": "no queue is orphaned, no flow resurrected, none finalised twice (L1 to L7)",
    "P3": "seats and places are conserved at every step, exact at rest, never negative, never above the limit",
    "P4": "no seat is free while a ticket waits that could go",
    "P5": "strict priority between bands, the stated fairness within one",
    "P6": "an `admit` ends by its deadline, even if the collector or a policy is dead",
    "P7": "an exception anywhere leaks nothing, and leaves no lock held",
    "P8": "an interrupted or abandoned ticket is found, returned and counted",
    "P9": "after a fork: fresh state, nothing in flight",
    "P10": "`close` settles everything, and the interpreter always exits",
    "P12": "the collector is supervised: it goes on after an error, says so once, shows a heartbeat",
}


_PAGE = """\
# What is proven, and how

Made by `make proof`, not by hand. L, T, S, B, N and R with a number are the promises at the top of `flowctl/lease.py`,
`turn.py`, `sections.py`, `ledger.py`, `news.py` and `registry.py`, and L3 to L7 those of `docs/design.md`. P with a
number is what a user gets:

{promises}

{claims} claims; {controls} negative controls: in each a protection was taken away, and was missed. {machine}. Seconds
are those of a shared machine, and only say what it takes.

{table}

- *explored*: every schedule of the real code, at the granularity of its shared accesses, or every one with so many
  preemptions; *PCT*: so many schedules drawn at random (`tests/interleave`).
- *spin*: every state of a model (`tests/model`, and its table in `docs/design.md`).
- *property*: random use, compared step by step with a simple model of a controller (`tests/oracle.py`).
- *faults*: an exception, a handler, a fork or an end at each of so many points (`tests/faults`, `tests/test_fork.py`).
- *soak*: real threads for long (`make soak`). *mutants*: changes of the core at random, noticed by the fast tests
  (`make mutants`).
- In brackets: after how many of the row's units the removal was found.
"""


def page(shown: Sequence[Shown], missed: Sequence[Missed], machine: str) -> str:
    """All of `docs/proof.md`."""
    rows = [_row(notes, missed) for notes in _by_claim(shown)]
    table = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    return _PAGE.format(
        promises="\n".join(f"- **{name}** {text}" for name, text in PROMISED.items()),
        claims=len(rows),
        controls=len(_by_removal(missed)),
        machine=machine,
        table="\n".join(f"| {' | '.join(cells)} |" for cells in table),
    )


def _row(notes: Sequence[Shown], missed: Sequence[Missed]) -> tuple[str, ...]:
    first = notes[0]
    count, seconds = sum(note.count for note in notes), sum(note.seconds for note in notes)
    controls = [
        f"{removed} ({min(note.found_after for note in group):,})"
        for removed, group in _by_removal(note for note in missed if note.claim == first.claim)
    ]
    return (
        first.promise,
        first.claim,
        first.method,
        f"{count:,} {first.unit}",
        f"{seconds:,.1f}",
        "; ".join(controls) or "-",
    )


def _by_claim(shown: Iterable[Shown]) -> Sequence[list[Shown]]:
    """In the order of their first promises; tests with parameters note the same claim several times."""
    ordered = sorted(shown, key=lambda note: (_place(note.promise), note.promise, note.method, note.claim))
    return [list(group) for _, group in groupby(ordered, key=lambda note: (note.promise, note.method, note.claim))]


def _place(promise: str) -> tuple[int, str, int]:
    found = PROMISES.search(promise)
    return (0, "", 0) if found is None else (1 + (found[1] == "P"), found[1], int(found[2]))


def _by_removal(missed: Iterable[Missed]) -> Sequence[tuple[str, list[Missed]]]:
    ordered = sorted(missed, key=lambda note: (note.claim, note.removed))
    return [(removed, list(group)) for (_, removed), group in groupby(ordered, key=lambda n: (n.claim, n.removed))]
