"""What happens when there are more threads than seats: how many get through, and does everyone get a share?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from benchmarks.crew import Outcome, served_in_window
from benchmarks.harness import Depth, Pairs, Question, Row, Step, Target
from benchmarks.machine import with_gil
from flowctl import ConcurrencyLimit, FlowController

THREADS: Final = 64
RATE: Final = Target("value", "at least", 25_000)
SHARE: Final = Target("value", "at least", 0.9)


def rate(served: Outcome[int]) -> float:
    """Admissions a second."""
    return sum(served.results) / served.wall


def least_to_most(served: Outcome[int]) -> float:
    """What the least-served thread got, of what the most-served one got."""
    return min(served.results) / max(served.results)


def _windows(seats: int, hold: float, figure: Callable[[Outcome[int]], float], depth: Depth) -> Pairs:
    semaphore = threading.BoundedSemaphore(seats)
    ids = [f"tenant-{number}" for number in range(THREADS)]

    def rival(number: int) -> None:
        semaphore.acquire()
        if hold:
            time.sleep(hold)
        semaphore.release()

    with FlowController(gate=ConcurrencyLimit(seats)) as controller:

        def ours(number: int) -> None:
            ticket = controller.admit(ids[number])
            if hold:
                time.sleep(hold)
            ticket.release()

        pairs = Pairs()
        pairs.take(
            depth.windows,
            lambda: figure(served_in_window(THREADS, depth.window, ours)),
            lambda: figure(served_in_window(THREADS, depth.window, rival)),
        )
    return pairs


def _throughput(name: str, depth: Depth) -> Sequence[Row]:
    pairs = _windows(1, 0.0, rate, depth)
    return [
        Row(
            name=name,
            unit="admissions/s",
            samples=tuple(pairs.ours),
            rival="BoundedSemaphore",
            rival_samples=tuple(pairs.rival),
            target=with_gil(RATE),
            at={"threads": THREADS},
        )
    ]


def _fairness(name: str, depth: Depth) -> Sequence[Row]:
    pairs = _windows(8, 0.001, least_to_most, depth)
    return [
        Row(
            name=name,
            unit="least/most",
            samples=tuple(pairs.ours),
            rival="BoundedSemaphore",
            rival_samples=tuple(pairs.rival),
            divisible=False,  # a semaphore may leave a thread out altogether
            target=SHARE,
            at={"threads": THREADS},
        )
    ]


def steps(depth: Depth) -> list[Step]:
    seconds = depth.windows * 2 * (depth.window + 0.1)
    throughput = f"{THREADS} threads, a flow each, 1 seat, no hold"
    fairness = f"{THREADS} threads, a flow each, 8 seats of 1 ms"
    return [
        Step(throughput, seconds, partial(_throughput, throughput, depth)),
        Step(fairness, seconds, partial(_fairness, fairness, depth)),
    ]


QUESTION: Final = Question("saturated", "how many get through a full gate, and whether all get a share", steps)
