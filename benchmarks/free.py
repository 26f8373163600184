"""What does it cost when there is nothing to wait for? Admit and release, beside a `threading.BoundedSemaphore`.

The whole public path: arguments checked, flow found and pinned, seat taken and held, ticket made; then all of it back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Final, final

from benchmarks.crew import race, race_seconds
from benchmarks.harness import Depth, Plot, Question, Row, Step, Target
from flowctl import ConcurrencyLimit, FlowController
from flowctl.clock import has_gil

SEATS: Final = 64
FORMS: Final = {"call": "admit().release()", "with": "with admit()"}


@final
class Ours:
    """A controller with seats for everyone, and the id that each thread asks with."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.controller = FlowController(gate=ConcurrencyLimit(SEATS))
        self.ids = ids

    def call(self, number: int, count: int) -> None:
        controller, flow = self.controller, self.ids[number]
        for _ in repeat(None, count):
            controller.admit(flow).release()

    def block(self, number: int, count: int) -> None:
        controller, flow = self.controller, self.ids[number]
        for _ in repeat(None, count):
            with controller.admit(flow):
                pass


@final
class Rival:
    """The same by a semaphore."""

    def __init__(self) -> None:
        self.semaphore = threading.BoundedSemaphore(SEATS)

    def call(self, number: int, count: int) -> None:
        semaphore = self.semaphore
        for _ in repeat(None, count):
            semaphore.acquire()
            semaphore.release()

    def block(self, number: int, count: int) -> None:
        semaphore = self.semaphore
        for _ in repeat(None, count):
            with semaphore:
                pass


def _measure(name: str, form: str, flows: str, ids: Sequence[str], depth: Depth) -> list[Row]:
    ours, rival = Ours(ids), Rival()
    with ours.controller:
        if form == "with":
            pairs = race(ours.block, rival.block, len(ids), depth)
        else:
            pairs = race(ours.call, rival.call, len(ids), depth)
    target = Target("ratio", "at most", 1.0 if has_gil() else 1.7) if form == "call" else None
    return [
        Row(
            name=name,
            unit="ns",
            samples=tuple(pairs.ours),
            rival="BoundedSemaphore",
            rival_samples=tuple(pairs.rival),
            target=target,
            at={"threads": len(ids), "flows": flows, "form": form},
        )
    ]


def _cases(depth: Depth) -> Iterator[tuple[str, int]]:
    """Forms and numbers of threads; `with` is asked on many threads in a full run only."""
    for threads in depth.threads_of(*depth.pick((1, 8), (1, 8, 64), (1, 8, 64))):
        yield "call", threads
    for threads in depth.pick((), depth.threads_of(1)[:1], depth.threads_of(1, 8, 64)):
        yield "with", threads


def steps(depth: Depth) -> list[Step]:
    found = []
    for form, threads in _cases(depth):
        # the samples of many threads are long ones
        mine = depth if threads < 64 else replace(depth, pairs=depth.pick(depth.pairs, 5, depth.pairs))
        sets = {"one flow": ["tenant"] * threads}
        if threads > 1:
            sets["a flow each"] = [f"tenant-{number}" for number in range(threads)]
        for flows, ids in sets.items():
            name = f"{FORMS[form]}, {threads} thread{'s' * (threads > 1)}, {flows}"
            found.append(Step(name, race_seconds(threads, mine), partial(_measure, name, form, flows, ids, mine)))
    return found


QUESTION: Final = Question(
    "free",
    "what admit + release costs when nobody has to wait",
    steps,
    plots=(
        Plot(title="Time of an admit and release", x="threads", by="flows", where={"form": "call"}, log_x=True),
        Plot(title="To the semaphore", x="threads", by="flows", where={"form": "call"}, shows="ratio", log_x=True),
    ),
)
