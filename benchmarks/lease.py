"""What does it cost to keep a flow, by each kind of word, and how often does the optimistic loop have to try again?

Beside the plain thing: a count that goes up and down under a `threading.Lock`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Final

from benchmarks.crew import BATCH, Loop, race, race_seconds, sample_seconds, served_in_window
from benchmarks.harness import Depth, Plot, Question, Row, Step
from benchmarks.words import OWN
from flowctl.atomic import CountedWord, WordUsage
from flowctl.lease import Lease, born


def pin_and_unpin(lease: Lease) -> Loop:
    """One pin, one unpin."""
    now = time.monotonic

    def loop(number: int, count: int) -> None:
        for _ in repeat(None, count):
            lease.try_pin()
            lease.unpin(now)

    return loop


def plain_count() -> Loop:
    """One up, one down, each under a lock."""
    mutex = threading.Lock()
    users = 0

    def loop(number: int, count: int) -> None:
        nonlocal users
        for _ in repeat(None, count):
            with mutex:
                users += 1
            with mutex:
                users -= 1

    return loop


def _measure(name: str, backend: str, threads: int, depth: Depth) -> Sequence[Row]:
    loop = pin_and_unpin(Lease(OWN[backend](born(0.0, pins=0))))
    pairs = race(loop, plain_count(), threads, depth)
    return [
        Row(
            name=name,
            unit="ns",
            samples=tuple(pairs.ours),
            rival="int under a Lock",
            rival_samples=tuple(pairs.rival),
            at={"threads": threads, "word": backend},
        )
    ]


def _retries(name: str, backend: str, threads: int, depth: Depth) -> Sequence[Row]:
    # in a run of its own: counting makes each step longer
    usage = WordUsage()
    lease = Lease(CountedWord(OWN[backend](born(0.0, pins=0)), usage))
    loop = pin_and_unpin(lease)
    samples = []
    for _ in range(3):
        before = usage.seen().lost
        done = served_in_window(threads, sample_seconds(threads, depth), lambda number: loop(number, BATCH))
        lost = usage.seen().lost - before
        samples.append(1000 * lost / (2 * BATCH * sum(done.results) + lost))
    assert lease.pins == 0, f"{lease.pins} pins are left of a balanced loop"
    return [Row(name=name, unit="lost / 1,000", samples=tuple(samples), at={"threads": threads, "lost by": backend})]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []  # the words themselves are in `backends`
    found = []
    for backend in OWN:
        for threads in depth.threads_of(*depth.pick((), (1, 8), (1, 2, 8, 64))):
            name = f"{backend}: pin + unpin, {threads} thread{'s' * (threads > 1)}"
            found.append(Step(name, race_seconds(threads, depth), partial(_measure, name, backend, threads, depth)))
    for backend in OWN:
        name = f"{backend}: exchanges lost, 8 threads"
        found.append(Step(name, 3 * sample_seconds(8, depth), partial(_retries, name, backend, 8, depth)))
    return found


QUESTION: Final = Question(
    "lease",
    "what a pin and an unpin cost by each kind of word, and how often they retry",
    steps,
    plots=(Plot(title="Time of a pin and an unpin", x="threads", by="word", log_x=True),),
)
