"""What does it cost to forget idle flows, and who notices?

1,000 flows expire at a time, among 100,000 (and 10,000) that are idle for less long. Time is a dial that this file
turns; no collector thread runs, so that its work can be timed alone. Python's own `gc` is off meanwhile, in quiet runs
too: its pauses at this number of objects are its own, and would hide what is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, final

from benchmarks.crew import Window, no_gc
from benchmarks.harness import Depth, Pairs, Plot, Question, Row, Step, Target, percentile
from flowctl import ConcurrencyLimit, Config, FlowController
from flowctl.sync import Parking

EXPIRED: Final = 1_000
TIMEOUT: Final = 3_200.0
AGE: Final = 110.0
"""Seconds between two groups of flows: more than the collector's own precision, a thirty-second of the timeout."""

PERIOD: Final = 0.001
COST: Final = Target("value", "at most", 10.0)
SCALING: Final = Target("ratio", "at most", 1.3)


@final
class Dial:
    """A clock that shows what it was set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def park(self, parking: Parking, until: float | None) -> None:
        parking.wait(0.01)


@final
class Population:
    """So many idle flows, of which the oldest 1,000 expire with each call of `age`; as many new ones follow them."""

    def __init__(self, idle: int, cycles: int) -> None:
        self._dial = Dial()
        self._born = 0
        self.controller = FlowController(
            Config(flow_gc_timeout=TIMEOUT, max_flows=None),
            gate=ConcurrencyLimit(1),
            clock=self._dial,
            background=False,
        )
        for group in range(cycles):
            self._dial.seconds = group * AGE
            self._visit(EXPIRED)
        self._dial.seconds = cycles * AGE
        self._visit(idle - cycles * EXPIRED)
        self.controller.collect()  # nothing is due: it files what is new
        self._dial.seconds = TIMEOUT - AGE

    def _visit(self, count: int) -> None:
        for number in range(self._born, self._born + count):
            self.controller.admit(f"tenant-{number}").release()
        self._born += count

    def age(self) -> None:
        """Let the next 1,000 expire."""
        self._dial.seconds += AGE

    def collect(self) -> None:
        """One whole cycle."""
        collected = self.controller.collect().flows
        assert collected == EXPIRED, f"{collected} flows were collected, not {EXPIRED}"

    def renew(self) -> None:
        """Put new flows in the place of those that were collected, and have them filed."""
        self._visit(EXPIRED)
        self.controller.collect()


def _cost(population: Population) -> float:
    """CPU microseconds a collected flow, of one cycle."""
    population.age()
    began = time.thread_time()
    population.collect()
    cost = (time.thread_time() - began) * 1e6 / EXPIRED
    population.renew()
    return cost


def _costs(depth: Depth) -> Sequence[Row]:
    many, few = Population(100_000, depth.cycles), Population(10_000, depth.cycles)
    pairs = Pairs()
    with no_gc():
        pairs.take(depth.cycles, lambda: _cost(many), lambda: _cost(few))
    return [
        Row(
            name="CPU a collected flow, 1,000 of 100,000 idle",
            unit="us",
            samples=tuple(pairs.ours),
            target=COST,
            at={"threads": 1},
        ),
        Row(
            name="the same against 1,000 of 10,000 idle",
            unit="us",
            samples=tuple(pairs.ours),
            rival="10,000 idle",
            rival_samples=tuple(pairs.rival),
            target=SCALING,
            at={"threads": 1},
        ),
    ]


@final
class Sleeper:
    """A thread that means to wake every millisecond, and notes how much later than that it does.

    Against the intended moments: if it comes 20 ms late, it was late for 20 of them.
    """

    def __init__(self) -> None:
        self._window = Window()
        self._seen: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        intended = time.perf_counter()
        while not self._window.over:
            intended += PERIOD
            pause = intended - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            self._seen.append((intended, time.perf_counter()))

    def __enter__(self) -> Sleeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._window.over = True
        self._thread.join()

    def lateness(self, spans: Sequence[tuple[float, float]]) -> list[float]:
        """Milliseconds, of each moment that fell into one of these spans."""
        return [
            (seen - intended) * 1e3
            for intended, seen in tuple(self._seen)
            if any(begin <= intended <= end for begin, end in spans)
        ]


def _lateness(depth: Depth) -> Sequence[Row]:
    population = Population(100_000, depth.cycles)
    busy: list[tuple[float, float]] = []
    quiet: list[tuple[float, float]] = []
    with no_gc(), Sleeper() as sleeper:
        for _ in range(depth.cycles):
            population.age()
            began = time.perf_counter()
            population.collect()
            ended = time.perf_counter()
            busy.append((began, ended))
            population.renew()
            time.sleep(0.02)  # the sleeper catches up
            began = time.perf_counter()
            time.sleep(max(ended - busy[-1][0], 0.1))  # as quiet as this process gets
            quiet.append((began, time.perf_counter()))
    late, rest = sleeper.lateness(busy), sleeper.lateness(quiet)
    return [
        Row(
            name=f"another thread is late by, {share:.0%} of moments" if share < 1 else "the same, worst",
            unit="ms",
            samples=(percentile(late, share),),
            rival="nothing to collect",
            rival_samples=(percentile(rest, share),),
            divisible=False,
            at={"share": f"{share:.0%} of moments" if share < 1 else "the worst"},
        )
        for share in (0.5, 0.99, 1.0)
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []  # 100,000 flows take longer to make than a quick run has
    return [
        Step("CPU a collected flow", 2 + depth.cycles * 0.1, partial(_costs, depth)),
        Step("lateness of another thread", 2 + depth.cycles * 0.2, partial(_lateness, depth)),
    ]


QUESTION: Final = Question(
    "collection",
    "what it costs to forget idle flows, and how late others are meanwhile",
    steps,
    plots=(Plot(title="How late another thread is", x="share"),),
)
