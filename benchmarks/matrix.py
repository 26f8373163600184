"""How many dispatches a second, by limit, shards, priorities, flows and threads?

The matrix is the one by which the flow control of the Gateway API Inference Extension, which is written in Go, was
measured; its workers are up to 50,000 goroutines, ours are up to 1,000 threads of the operating system. Each chooses a
flow by Zipf's law, asks for 100 to 9,099 bytes, and gives its seat back at once. A limit of 0 is no limit of seats. The
seats are those of a `ConcurrencyLimit`, which counts what is granted and nothing else: a gate that took a seat whenever
it is asked would leak one with each look at an empty queue. All flows exist before a cell is measured.

Two more: workers go on while 50,000 other flows are made and collected, and every request of all workers expires after
50 ms at a gate that is closed. After each, the books are looked through.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import accumulate, cycle, groupby
from typing import Final, NamedTuple

from benchmarks import churn, expiring
from benchmarks.crew import Window, on_threads
from benchmarks.harness import Depth, Plot, Question, Row, Step, percentile
from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController

SEED: Final = 1
EXPONENT: Final = 1.1
DRAWN: Final = 1 << 16
TABLE: Final = 2_000
"""Choices of one thread, which it goes through again and again: none is worked out while it is timed."""

NO_LIMIT: Final = 1 << 40
SLICES: Final = 3
TIMED: Final = 8
"""A thread times one of so many waits: to read the clock twice takes as long as a good part of a free dispatch."""

KEYS: Final = 50_000


class Topology(NamedTuple):
    """What a controller is made of; a limit of 0 is none."""

    limit: int
    shards: int
    priorities: int
    flows: int


class Cell(NamedTuple):
    """One cell of the matrix."""

    topology: Topology
    workers: int

    @property
    def name(self) -> str:
        """For example "L1 S8 P1 F5,000 W100"."""
        limit, shards, priorities, flows = self.topology
        return f"L{limit} S{shards} P{priorities} F{flows:,} W{self.workers:,}"

    @property
    def at(self) -> dict[str, str | float]:
        """Where it stands in plots."""
        return {**self.topology._asdict(), "workers": self.workers}


WORKERS: Final = (10, 100, 1_000)
ALL: Final = tuple(
    Cell(Topology(limit, shards, priorities, flows), workers)
    for limit in (0, 1, 100)
    for shards in (1, 8)
    for priorities in (1, 8)
    for flows in (10, 5_000, 50_000)
    for workers in WORKERS
)
SOME: Final = (
    # each limit by workers,
    *(Cell(Topology(limit, 1, 1, 10), workers) for limit in (0, 1, 100) for workers in WORKERS),
    # those of which figures of the one in Go are known,
    Cell(Topology(0, 1, 8, 5_000), 10),
    Cell(Topology(1, 1, 1, 5_000), 1_000),
    # and as many of everything as there can be
    *(Cell(Topology(limit, 8, 8, 50_000), 100) for limit in (0, 1)),
    Cell(Topology(100, 8, 8, 50_000), 1_000),
)
FEW: Final = (
    Cell(Topology(0, 1, 1, 10), 10),
    Cell(Topology(1, 1, 1, 10), 10),
    Cell(Topology(1, 8, 8, 5_000), 100),
    Cell(Topology(100, 1, 1, 10), 1_000),
)


class Choice(NamedTuple):
    """What a worker asks for."""

    flow: str
    priority: int
    size: int


# --- what is asked for ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def choices(flows: int, priorities: int) -> tuple[Choice, ...]:
    """One of each flow. Its size is a hash of its number, and so the same in each run."""
    return tuple(
        Choice(f"flow-{number}", number % priorities, 100 + number * 2_654_435_761 % 2**32 % 9_000)
        for number in range(flows)
    )


@lru_cache(maxsize=8)
def drawn(flows: int) -> tuple[int, ...]:
    """Numbers of flows, by Zipf's law: the one of number n comes up in proportion to 1 / (n + 1)^1.1."""
    heights = list(accumulate(1 / (number + 1) ** EXPONENT for number in range(flows)))
    return tuple(random.Random(SEED).choices(range(flows), cum_weights=heights, k=DRAWN))


def table(topology: Topology, worker: int) -> list[Choice]:
    """The choices of one worker: a part of what was drawn, which begins at a place of its own."""
    numbers, each = drawn(topology.flows), choices(topology.flows, topology.priorities)
    begin = random.Random(f"{SEED} {worker}").randrange(DRAWN)
    return [each[number] for number in (numbers[begin : begin + TABLE] + numbers[: max(begin + TABLE - DRAWN, 0)])]


def prepared(topology: Topology) -> FlowController:
    """A controller with all of its flows, without Zipf's law."""
    limit, shards, _, flows = topology
    band = BandConfig(max_requests=None, max_bytes=None)
    config = Config(default_band=band, shards=shards, max_flows=None, default_ttl=None)
    controller = FlowController(config, gate=ConcurrencyLimit(limit or NO_LIMIT))
    for flow, priority, size in choices(flows, topology.priorities):
        controller.admit(flow, priority=priority, size=size).release()
    return controller


# --- a cell --------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Dispatches a second, of parts of the window one after the other; milliseconds of the waits that were timed."""

    rates: list[float]
    waits: list[float]


def worker(controller: FlowController, choices: Sequence[Choice], window: Window) -> tuple[int, list[float]]:
    """Ask until the window is over: how often, and milliseconds of some of the waits."""
    admit, clock = controller.admit, time.perf_counter
    taken: list[float] = []
    done = 0
    for flow, priority, size in cycle(choices):
        if window.over:
            break
        if done % TIMED:
            admit(flow, priority=priority, size=size).release()
        else:
            began = clock()
            ticket = admit(flow, priority=priority, size=size)
            taken.append((clock() - began) * 1e3)
            ticket.release()
        done += 1
    return done, taken


def measured(controller: FlowController, cell: Cell, seconds: float) -> Found:
    """What so many workers get through in so long. Asserts that nothing of it is left."""
    tables = [table(cell.topology, number) for number in range(cell.workers)]
    window, rates = Window(), list[float]()
    before = controller.stats().dispatched
    done = on_threads(
        cell.workers,
        lambda number: worker(controller, tables[number], window),
        lambda: watch(controller, window, seconds, rates),
    )
    check(controller, before + sum(count for count, _ in done.results))
    return Found(rates, [wait for _, taken in done.results for wait in taken])


def watch(controller: FlowController, window: Window, seconds: float, rates: list[float]) -> None:
    """Let the window last, and append the dispatches a second of its parts, the first tenth left out."""
    try:
        time.sleep(seconds / 10)
        for _ in range(SLICES):
            before, began = controller.stats().dispatched, time.perf_counter()
            time.sleep(seconds * 0.9 / SLICES)
            rates.append((controller.stats().dispatched - before) / (time.perf_counter() - began))
    finally:
        window.over = True


def check(controller: FlowController, dispatched: int) -> None:
    """All that was asked for was dispatched, and given back."""
    stats = controller.stats()
    assert (stats.in_flight, stats.queued, stats.queued_bytes) == (0, 0, 0), f"something is left: {stats}"
    assert stats.dispatched == dispatched, f"{stats.dispatched:,} dispatched, but {dispatched:,} asked for"
    assert (stats.rejected, stats.evicted, stats.repairs) == (0, 0, 0), f"something went wrong: {stats}"
    controller._check()


def rows(cell: Cell, found: Found) -> list[Row]:
    """The dispatches, and the p99 of the wait with two other percentiles beside it."""
    p50, p99, p999 = (percentile(found.waits, share) for share in (0.5, 0.99, 0.999))
    return [
        Row(
            name=f"{cell.name}: dispatches",
            unit="/s",
            samples=tuple(found.rates),
            at={**cell.at, "of": "dispatches"},
        ),
        Row(
            name=f"{cell.name}: p99 of the wait",
            unit="ms",
            samples=(p99,),
            at={**cell.at, "of": "p99 of the wait", "p50 ms": p50, "p99.9 ms": p999},
        ),
    ]


def _cells(topology: Topology, cells: Sequence[Cell], seconds: float) -> Sequence[Row]:
    with prepared(topology) as controller:
        return [row for cell in cells for row in rows(cell, measured(controller, cell, seconds))]


# --- the question --------------------------------------------------------------------------------------------------


def steps(depth: Depth) -> list[Step]:
    seconds = depth.pick(0.3, 0.65, 1.7)
    cells = depth.pick(FEW, SOME, ALL)
    found = []
    for topology, group in groupby(cells, key=lambda cell: cell.topology):
        mine = list(group)
        name = mine[0].name.rpartition(" ")[0]
        setup = 0.1 + topology.flows * 35e-6
        expected = setup + sum(seconds + 0.05 + cell.workers * 0.0008 for cell in mine)
        found.append(Step(name, expected, partial(_cells, topology, mine, seconds)))
    keys = depth.pick(KEYS // 10, KEYS, KEYS)
    found.append(Step("topology churn", 0.2 + keys * 110e-6, partial(churn.measure, keys)))
    threads, rounds, window = depth.pick(100, 1_000, 1_000), depth.pick(1, 1, 5), depth.pick(0.3, 0.8, 1.5)
    expected = rounds * 2 * (window + threads * 0.0008)
    found.append(Step("mass cancellation", expected, partial(expiring.measure, threads, rounds, window)))
    return found


AXES: Final = (*Topology._fields, "workers")
SMALL: Final[dict[str, str | float]] = {"shards": 1, "priorities": 1, "flows": 10}
LARGE: Final[dict[str, str | float]] = {"priorities": 8, "flows": 50_000}
PLOTS: Final = tuple(
    Plot(title=f"{of} by {x}: {where}", x=x, by="limit", where={**fixed, "of": of}, log_x=x != "shards", log_y=True)
    for of in ("dispatches", "p99 of the wait")
    for x, where, fixed in (
        ("workers", "1 shard, 1 priority, 10 flows", SMALL),
        ("workers", "8 shards, 8 priorities, 50,000 flows", {**LARGE, "shards": 8}),
        ("flows", "1 shard, 1 priority, 100 workers", {"shards": 1, "priorities": 1, "workers": 100}),
        ("shards", "8 priorities, 50,000 flows, 100 workers", {**LARGE, "workers": 100}),
    )
)


def concludes(rows: Sequence[Row]) -> list[str]:
    """What more of one thing costs: the median over pairs of cells that differ in nothing else."""
    rates = {tuple(row.at[axis] for axis in AXES): row.value for row in rows if row.at.get("of") == "dispatches"}
    said = []
    for place, axis in enumerate(AXES):
        # a limit of 0 is none
        values = sorted(
            {cell[place] for cell in rates}, key=lambda value: float(value) or math.inf
        )  # a limit of 0 is none
        if len(values) < 2:
            continue
        least, most = values[0], values[-1]
        of_least = [(cell, rate) for cell, rate in rates.items() if cell[place] == least]
        others = [(rate, (*cell[:place], most, *cell[place + 1 :])) for cell, rate in of_least]
        changes = [rates[other] / rate for rate, other in others if other in rates]
        if changes:
            change = statistics.median(changes)
            said.append(f"{axis}: {change:.2f}x the dispatches with {_said(most)} as with {_said(least)}.")
    return said


def _said(value: str | float) -> str:
    return f"{float(value):,.0f}" if value else "none"


QUESTION: Final = Question(
    "matrix", "dispatches a second by limit, shards, priorities, flows and workers", steps, PLOTS, concludes
)
