"""What does a flow cost that nobody has seen before, and what can somebody do who makes up one id after the other?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, repeat
from typing import Final, final

from benchmarks import flood
from benchmarks.harness import Depth, Pairs, Question, Row, Step, Target, in_turns, percentile
from benchmarks.machine import ROOT
from benchmarks.waiting import THREADS, waits
from flowctl import ConcurrencyLimit, Config, FlowController

FULL: Final = 10_000
PACE: Final = 500
"""Made-up ids a second: what leaves the cores to others."""

WINDOW: Final = 0.4
"""Of the usual one."""

RATE: Final = Target("value", "at least", 60_000)
MEMORY: Final = Target("value", "at most", 64)
BOUND: Final = Target("value", "at most", FULL + Config().overflow_flows)
WAIT: Final = Target("ratio", "at most", 1.2)


@final
class Stranger:
    """Asks with an id that was never seen, each time."""

    def __init__(self, controller: FlowController) -> None:
        self.controller = controller
        self._names = (f"stranger-{number}" for number in count())

    def visit(self, times: int) -> float:
        """New flows a CPU second."""
        names = [next(self._names) for _ in repeat(None, times)]
        admit = self.controller.admit
        began = time.thread_time()
        for flow in names:
            admit(flow).release()
        return times / (time.thread_time() - began)

    def attack(self, seconds: float, pace: float) -> None:
        """So many ids a second, for so long."""
        began = time.perf_counter()
        for number in count(1):
            self.controller.admit(next(self._names)).release()
            now = time.perf_counter()
            if now - began > seconds:
                return
            if pace:
                time.sleep(max(began + number / pace - now, 0.0))


def _creation(depth: Depth) -> Sequence[Row]:
    """With Python's own `gc` on: what makes flows pays for it too."""
    times = int(depth.sample * 40_000)
    unbounded = FlowController(Config(max_flows=None), gate=ConcurrencyLimit(1))
    bounded = FlowController(Config(max_flows=FULL), gate=ConcurrencyLimit(1))
    with unbounded, bounded:
        free, full, pairs = Stranger(unbounded), Stranger(bounded), Pairs()
        full.visit(FULL + times)
        free.visit(times)
        pairs.take(depth.pairs, lambda: full.visit(times), lambda: free.visit(times))
        stats = bounded.stats()
        assert (stats.flows, stats.folded) == (FULL, 0), f"not each new flow took the place of an idle one: {stats}"
    return [
        Row(name="new flows, 1 thread", unit="flows/s", samples=tuple(pairs.rival), target=RATE),
        Row(
            name=f"the same, each in the place of the longest idle of {FULL:,}",
            unit="flows/s",
            samples=tuple(pairs.ours),
            rival="no max_flows",
            rival_samples=tuple(pairs.rival),
        ),
    ]


def flooded(ids: int) -> dict[str, float]:
    """`benchmarks.flood` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.flood", str(ids)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    return {str(name): float(figure) for name, figure in found.items()}


def _memory(depth: Depth) -> Sequence[Row]:
    found = flooded(depth.ids)
    return [
        Row(
            name=f"peak memory above base, {depth.ids:,} made-up ids",
            unit="MB",
            samples=(found["idle"],),
            target=MEMORY,
        ),
        Row(
            name=f"the same, with {FULL:,} flows in use and {depth.ids // 10:,} more ids",
            unit="MB",
            samples=(found["used"],),
            target=MEMORY,
        ),
        Row(
            name="flows that there were at most, in both",
            unit="flows",
            samples=(found["flows"],),
            target=BOUND,
        ),
        Row(name="requests of the second that shared a flow", unit="folded", samples=(found["folded"],)),
    ]


def _honest(room: str, seats: int, depth: Depth) -> Sequence[Row]:
    seconds = depth.window * WINDOW
    with FlowController(Config(max_flows=FULL), gate=ConcurrencyLimit(seats)) as controller:
        stranger = Stranger(controller)
        stranger.visit(FULL)

        def p99(beside: Callable[[], None]) -> float:
            return percentile(waits(controller, lambda number: repeat(f"tenant-{number}"), beside), 0.99)

        p99(lambda: time.sleep(seconds / 4))  # warm
        paced, unpaced, alone = in_turns(
            depth.windows,
            [
                lambda: p99(lambda: stranger.attack(seconds, PACE)),
                lambda: p99(lambda: stranger.attack(seconds, 0.0)),
                lambda: p99(lambda: time.sleep(seconds)),
            ],
        )
        assert controller.stats().flows <= FULL, "more flows than there may be"
    return [
        Row(
            name=f"p99 of an honest admit's wait, {room}, beside {how}",
            unit="ms",
            samples=tuple(samples),
            rival="no attacker",
            rival_samples=tuple(alone),
            target=target,
        )
        for how, samples, target in (
            (f"{PACE} made-up ids/s", paced, WAIT),
            ("as many as one thread can", unpaced, None),
        )
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    found = [Step("new flows", 1.0 + depth.pairs * depth.sample * 2, partial(_creation, depth))]
    if flood.MEMORY.exists():
        found.append(Step("memory of made-up ids", 0.5 + depth.ids * 5e-5, partial(_memory, depth)))
    for seats, room in ((2 * THREADS, "seats for all"), (THREADS // 2, "4 seats")):
        name = f"honest tenants beside made-up ids, {room}"
        found.append(Step(name, 0.5 + depth.windows * depth.window * 3 * WINDOW, partial(_honest, room, seats, depth)))
    return found


QUESTION: Final = Question("identities", "what new flows cost, and what somebody can do who makes up ids", steps)
