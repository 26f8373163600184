"""What does it cost when there is nothing to wait for? Admit and release, beside a `threading.BoundedSemaphore`.

The whole public path: arguments checked, flow found and pinned, seat taken and held, ticket made; then all of it back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Final, final

from benchmarks.crew import race, race_seconds
from benchmarks.harness import Depth, Question, Row, Step, Target
from benchmarks.machine import with_gil
from flowctl import ConcurrencyLimit, FlowController

SEATS: Final = 64
TARGET: Final = Target("ratio", "at most", 2.0)


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


def _measure(name: str, form: str, ids: Sequence[str], depth: Depth) -> list[Row]:
    ours, rival = Ours(ids), Rival()
    with ours.controller:
        if form == "with":
            pairs = race(ours.block, rival.block, len(ids), depth)
        else:
            pairs = race(ours.call, rival.call, len(ids), depth)
    target = with_gil(TARGET) if form == "call" else None
    return [
        Row(
            name=name,
            unit="ns",
            samples=tuple(pairs.ours),
            rival="BoundedSemaphore",
            rival_samples=tuple(pairs.rival),
            target=target,
        )
    ]


def steps(depth: Depth) -> list[Step]:
    found = []
    for form, what in (("call", "admit().release()"), ("with", "with admit()")):
        for threads in (1, 8, 64):
            shared = ["tenant"] * threads
            own = [f"tenant-{number}" for number in range(threads)]
            sets = [("one flow", shared)] if threads == 1 else [("one flow", shared), ("a flow each", own)]
            if form == "with" and threads > 8 and depth.level < 2:
                continue
            for flows, ids in sets:
                name = f"{what}, {threads} thread{'s' * (threads > 1)}, {flows}"
                found.append(Step(name, race_seconds(threads, depth), partial(_measure, name, form, ids, depth)))
    return found


QUESTION: Final = Question("free", "what admit + release costs when nobody has to wait", steps)
