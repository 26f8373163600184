"""What does it cost to forget idle flows, and who notices?

1,000 flows expire at a time, among a million (`--full`; 100,000 otherwise, 30,000 at `--quick`) and among 10,000 that
are idle for less long. Time is a dial that this file turns; no collector thread runs, so that its work can be timed
alone. Python's own `gc` is off meanwhile, in quiet runs too: its pauses at this number of objects are its own, and
would hide what is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, final

from benchmarks.crew import Window, no_gc
from benchmarks.harness import Depth, Pairs, Plot, Question, Row, Step, Target, percentile
from benchmarks.holding import timed
from flowctl import ConcurrencyLimit, Config, FlowController
from flowctl.sync import Parking

EXPIRED: Final = 1_000
TIMEOUT: Final = 3_200.0
AGE: Final = 110.0
"""Seconds between two groups of flows: more than the collector's own precision, a thirty-second of the timeout."""

PERIOD: Final = 0.001
FEW: Final = 10_000
IN_FLIGHT: Final = 1_000
COST: Final = Target("value", "at most", 6.0)
SCALING: Final = Target("ratio", "at most", 1.2)
LATER: Final = Target("value", "at most", 5.0)
HELD: Final = Target("value", "at most", 0.5)


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

    def __init__(self, idle: int, cycles: int, seats: int = 1) -> None:
        assert (cycles + 1) * AGE < TIMEOUT
        assert cycles * EXPIRED <= idle
        self._dial = Dial()
        self._born = 0
        self.controller = FlowController(
            Config(flow_gc_timeout=TIMEOUT, max_flows=None),
            gate=ConcurrencyLimit(seats),
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
        self.refill()
        self.controller.collect()

    def refill(self) -> None:
        """Put as many new flows there as expire at a time; the next cycle files them."""
        self._visit(EXPIRED)


def _cost(population: Population) -> float:
    """CPU microseconds a collected flow, of one cycle."""
    population.age()
    began = time.thread_time()
    population.collect()
    cost = (time.thread_time() - began) * 1e6 / EXPIRED
    population.renew()
    return cost


def costs(many: Population, few: Population, cycles: int, names: tuple[str, str]) -> Sequence[Row]:
    """What each of the expired flows costs, among many that stay and among few."""
    pairs = Pairs()
    with no_gc():
        pairs.take(cycles, lambda: _cost(many), lambda: _cost(few))
    return [
        Row(
            name=f"CPU a collected flow, 1,000 of {names[0]}",
            unit="us",
            samples=tuple(pairs.ours),
            target=COST,
            at={"threads": 1},
        ),
        Row(
            name=f"the same against 1,000 of {names[1]}",
            unit="us",
            samples=tuple(pairs.ours),
            rival=names[1],
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


def lateness(population: Population, cycles: int, name: str) -> Sequence[Row]:
    """How late another thread is while flows are collected, and while nothing is."""
    busy: list[tuple[float, float]] = []
    quiet: list[tuple[float, float]] = []
    with no_gc(), Sleeper() as sleeper:
        for _ in range(cycles):
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
    rows = [
        Row(
            name=f"another thread is late by, 1,000 of {name}, {what}",
            unit="ms",
            samples=(percentile(late, share),),
            rival="nothing to collect",
            rival_samples=(percentile(rest, share),),
            divisible=False,
            at={"share": what},
        )
        for what, share in (("50% of moments", 0.5), ("99.9%", 0.999), ("worst", 1.0))
    ]
    later = percentile(late, 0.999) - percentile(rest, 0.999)
    rows.append(Row(name="the 99.9% above a quiet run's", unit="ms", samples=(later,), target=LATER))
    return rows


def held(idle: int, cycles: int, name: str) -> Sequence[Row]:
    """The longest that each lock is held in a cycle that collects 1,000 flows and files as many new ones, while some
    requests are in flight.
    """
    with timed() as holds:
        population = Population(idle, cycles, seats=IN_FLIGHT + 1)
    tickets = [population.controller.admit(f"in flight {number}") for number in range(IN_FLIGHT)]
    population.controller.collect()
    longest: list[dict[str, float]] = []
    with no_gc():
        for _ in range(cycles):
            population.refill()
            population.age()
            with holds.watched():
                population.collect()
            longest.append(holds.taken())
    for ticket in tickets:
        ticket.release()
    rows = [
        Row(
            name=f"{lock}: longest held, 1,000 of {name}, {IN_FLIGHT:,} in flight",
            unit="ms of CPU",
            samples=tuple(held[lock] * 1e3 for held in longest if lock in held),
            target=HELD,
            at={"lock": lock},
        )
        for lock in {lock: None for held in longest for lock in held}
    ]
    return sorted(rows, key=lambda row: -row.value)


def steps(depth: Depth) -> list[Step]:
    idle = depth.pick(30_000, 100_000, 1_000_000)
    cycles = depth.pick(4, 8, 14)  # of each kind
    names = f"{idle:,} idle", f"{FEW:,} idle"

    paired = min(cycles, FEW // EXPIRED - 1)  # for as long as there are some left of the few

    def timing() -> Sequence[Row]:
        many, few = Population(idle, paired + cycles), Population(FEW, paired)
        return [*costs(many, few, paired, names), *lateness(many, cycles, names[0])]

    each = 25e-6 * idle
    return [
        Step("CPU a collected flow, lateness of another thread", each + cycles * 0.3 + 0.3, timing),
        Step("how long locks are held", each * 1.5 + cycles * 0.1, partial(held, idle, cycles, names[0])),
    ]


PLOTS: Final = (
    Plot(title="How late another thread is", x="share"),
    Plot(title="longest held while flows are collected (ms of CPU)", x="lock"),
)

QUESTION: Final = Question(
    "collection", "what it costs to forget idle flows, and how late others are meanwhile", steps, PLOTS
)
