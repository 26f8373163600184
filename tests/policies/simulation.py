"""``python -m tests.policies.simulation``: what adaptive limits make of a back end, written to docs/gates.md.

The back end is simulated, on virtual time and with seeded random numbers; the controller and its gates are real. A
request takes 50 ms, 30% more or less, as long as there are no more in flight than the capacity. Beyond that they share
it: n requests take n / capacity times as long. 64 clients always want one more. The capacity changes twice.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Final, NamedTuple, final

from flowctl import BandConfig, Config, FlowController, FlowKey, Holdback, Request, Static, Ticket
from flowctl.adaptive import AdaptiveLimit
from flowctl.gate import ConcurrencyLimit, SeatLimit
from flowctl.policies.limits import Aimd, Estimate, Gradient2, LimitAlgorithm, QueueWait, Window
from flowctl.testing import FakeClock
from tests.policies.choices import Rows, write

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "gates.md"
SERVICE: Final = 0.05
CLIENTS: Final = 64
INITIAL: Final = 4
NEAR: Final = 0.25
"""A limit is near the right one, the capacity, if it differs by no more than this part of it."""


class Phase(NamedTuple):
    """A stretch of time, in seconds, in which the back end has this capacity."""

    begins: float
    ends: float
    capacity: int


PHASES: Final = (Phase(0, 20, 8), Phase(20, 40, 4), Phase(40, 60, 16))


class Answer(NamedTuple):
    """When it came, and how long it had been in the back end."""

    at: float
    took: float


class Run(NamedTuple):
    """What came of one limit."""

    limits: Sequence[tuple[float, int]]  # from when, how many
    answers: Sequence[Answer]

    def limit_at(self, moment: float) -> int:
        return self.limits[bisect_right(self.limits, (moment, math.inf)) - 1][1]

    def good(self) -> int:
        """The answers that took at most three times as long as at rest."""
        return sum(answer.took <= 3 * SERVICE for answer in self.answers)

    def p99(self) -> float:
        return quantiles([answer.took for answer in self.answers], n=100)[98]

    def sampled(self, begins: float, ends: float) -> Sequence[int]:
        """The limit every 50 ms."""
        return [self.limit_at(begins + 0.05 * step) for step in range(round((ends - begins) / 0.05))]

    def reached(self, phase: Phase) -> float | None:
        """The seconds from its beginning until the limit was near the right one; None if it never was."""
        for step, limit in enumerate(self.sampled(phase.begins, phase.ends)):
            if near(limit, phase.capacity):
                return 0.05 * step
        return None

    def _since_reached(self, phase: Phase) -> Sequence[int]:
        seconds = self.reached(phase)
        return [] if seconds is None else self.sampled(phase.begins + seconds, phase.ends)

    def median_since(self, phase: Phase) -> float:
        """The limit in the middle, from when it was reached; NaN if it never was."""
        limits = self._since_reached(phase)
        return median(limits) if limits else math.nan

    def kept(self, phase: Phase) -> float:
        """The part of the time for which it stayed near, from when it was reached."""
        limits = self._since_reached(phase)
        return sum(near(limit, phase.capacity) for limit in limits) / len(limits) if limits else 0.0


def near(limit: float, capacity: int) -> bool:
    return abs(limit - capacity) <= NEAR * capacity


@final
class BackEnd:
    """Works on what it is given at full speed, up to its capacity; beyond it, all share it equally."""

    def __init__(self, clock: FakeClock, on_answer: Callable[[Ticket, float], None]) -> None:
        self.capacity = 1
        self._clock, self._on_answer = clock, on_answer
        self._served = 0.0  # seconds of work that one request got which was there from the start
        self._order = count()
        self._working: list[tuple[float, int, float, Ticket]] = []  # the served that ends it, order, start

    def start(self, ticket: Ticket, work: float) -> None:
        heapq.heappush(self._working, (self._served + work, next(self._order), self._clock.now(), ticket))

    def run(self, until: float) -> None:
        """Work, and answer what is done, until that moment."""
        while self._clock.now() < until:
            speed = min(1.0, self.capacity / max(len(self._working), 1))
            left = until - self._clock.now()
            if not self._working or self._working[0][0] - self._served > left * speed:
                self._served += left * speed
                self._clock.advance(left)
                return
            ends, _, started, ticket = heapq.heappop(self._working)
            self._clock.advance(max(ends - self._served, 0.0) / speed)
            self._served = ends
            self._on_answer(ticket, started)


def even(rng: random.Random) -> float:
    """What a request takes, of what one takes in the mean: 30% more or less."""
    return rng.uniform(0.7, 1.3)


def log_normal(rng: random.Random) -> float:
    """The same, scattered: one in a hundred takes nearly three times as long as the mean."""
    return rng.lognormvariate(-0.125, 0.5)


Work = Callable[[random.Random], float]


def simulate(
    gate: SeatLimit,
    *,
    oracle: bool = False,
    phases: Sequence[Phase] = PHASES,
    work: Work = even,
    seed: int = 7,
) -> Run:
    """Drive a controller with this gate through the phases. `oracle`: the gate is told the capacity, as it changes."""
    clock, rng = FakeClock(), random.Random(seed)
    limits, answers = [(0.0, gate.limit)], list[Answer]()
    controller = FlowController(Config(), gate=gate, clock=clock, background=False)

    def on_settled(ticket: Ticket) -> None:
        if ticket.state == "dispatched":
            back_end.start(ticket, SERVICE * work(rng))

    ask = partial(controller.submit, Request(FlowKey("client")), on_settled)

    def on_answer(ticket: Ticket, started: float) -> None:
        answers.append(Answer(clock.now(), clock.now() - started))
        ticket.release("ok")
        ask()
        if gate.limit != limits[-1][1]:
            limits.append((clock.now(), gate.limit))

    back_end = BackEnd(clock, on_answer)
    for phase in phases:
        back_end.capacity = phase.capacity
        if oracle and isinstance(gate, ConcurrencyLimit):
            gate.set(phase.capacity)
            limits.append((clock.now(), gate.limit))
        if phase is phases[0]:
            for _ in range(CLIENTS):
                ask()
        back_end.run(phase.ends)
    controller.close()
    return Run(limits, answers)


Ours = Aimd | Gradient2 | QueueWait
ALGORITHMS: Final[Mapping[str, Ours]] = {
    "Aimd(latency=0.06)": Aimd(latency=0.06),
    "Gradient2()": Gradient2(),
    "QueueWait()": QueueWait(),
}
FIXED: Final = (32, 2)


@cache
def adaptive(algorithm: Ours, work: Work = even) -> Run:
    return simulate(AdaptiveLimit(algorithm, initial=INITIAL), work=work)


@cache
def fixed(limit: int, work: Work = even) -> Run:
    return simulate(ConcurrencyLimit(limit), work=work)


@cache
def oracle(work: Work = even) -> Run:
    """The limit is always the capacity."""
    return simulate(ConcurrencyLimit(PHASES[0].capacity), oracle=True, work=work)


def adaptation() -> Rows:
    """A back end of 8 seats has 4 after 20 s, and 16 after 40 s."""
    head = (
        "limit",
        *(f"near {phase.capacity} after" for phase in PHASES),
        "kept",
        "goodput",
        "p99",
        "goodput, scattered",
    )
    rows: Rows = [head]
    rows += [_row(f"`{name}`", partial(adaptive, algorithm)) for name, algorithm in ALGORITHMS.items()]
    rows += [_row(f"`ConcurrencyLimit({limit})`", partial(fixed, limit)) for limit in FIXED]
    return [*rows, _row("always the capacity", oracle)]


def _row(name: str, run_with: Callable[[Work], Run]) -> Sequence[str]:
    run = run_with(even)
    reached = ["never" if seconds is None else f"{seconds:.1f} s" for seconds in map(run.reached, PHASES)]
    kept = "/".join(f"{100 * run.kept(phase):.0f}" for phase in PHASES)
    goodput, scattered = (f"{100 * run_with(work).good() / oracle(work).good():.0f}%" for work in (even, log_normal))
    return name, *reached, f"{kept}%", goodput, f"{1000 * run.p99():.0f} ms", scattered


def endless() -> Rows:
    """A back end of 8 seats is saturated without a pause; the arithmetic alone, a window of 40 requests each 250 ms."""
    rows: Rows = [("limit", *(f"after {minutes} min" for minutes in MINUTES))]
    for name, algorithm in ALGORITHMS.items():
        limits = saturated(algorithm, capacity=8, minutes=MINUTES[-1])
        rows.append((f"`{name}`", *(f"{median(limits[240 * minutes - 240 :][:240]):.0f}" for minutes in MINUTES)))
    return rows


MINUTES: Final = (1, 10, 60)


def saturated(algorithm: LimitAlgorithm, *, capacity: int, minutes: int) -> Sequence[float]:
    """The limit after each window, four a second, where whatever it allows is in flight."""
    rng, estimate, limits = random.Random(7), Estimate(float(INITIAL)), list[float]()
    for _ in range(240 * minutes):
        in_flight = max(1, round(estimate.limit))
        mean = SERVICE * max(1.0, in_flight / capacity) * rng.uniform(0.95, 1.05)
        window = Window(requests=40, dropped=0, mean=mean, least=0.7 * mean, in_flight=in_flight)
        estimate = algorithm.step(estimate, window)
        limits.append(estimate.limit)
    return limits


SEATS: Final = 8
BURST: Final = 4


class Bursts(NamedTuple):
    """What came of bursts of a high priority over a load of a low one."""

    waits: Sequence[float]  # of the high ones, in seconds
    low_served: int


@cache
def bursts(ceilings: Static | Holdback, seconds: float = 60.0) -> Bursts:
    """64 clients of priority 0 always want one more; every half second 4 requests of priority 10 come at once."""
    clock, rng = FakeClock(), random.Random(7)
    config = Config(bands=[BandConfig(priority=10), BandConfig(priority=0)], ceilings=ceilings)
    controller = FlowController(config, gate=ConcurrencyLimit(SEATS), clock=clock, background=False)
    waits, low_served = list[float](), 0

    def on_settled(ticket: Ticket) -> None:
        if ticket.state == "dispatched":
            if ticket.key.priority:
                waits.append(ticket.waited)
            back_end.start(ticket, SERVICE * even(rng))

    def ask(priority: int) -> None:
        controller.submit(Request(FlowKey("client", priority)), on_settled)

    def on_answer(ticket: Ticket, started: float) -> None:
        nonlocal low_served
        ticket.release("ok")
        if not ticket.key.priority:
            low_served += 1
            ask(0)

    back_end = BackEnd(clock, on_answer)
    back_end.capacity = SEATS
    for _ in range(CLIENTS):
        ask(0)
    for burst in range(round(seconds / 0.5)):
        back_end.run(0.5 * burst + 0.25)
        for _ in range(BURST):
            ask(10)
    controller.close()
    return Bursts(waits, low_served)


CEILINGS: Final[Mapping[str, Static | Holdback]] = {
    "Static()": Static(),
    "Holdback(0.25)": Holdback(0.25),
    "Holdback(0.5)": Holdback(0.5),
}


def headroom() -> Rows:
    """8 seats, full of low requests; every half second 4 high ones come at once."""
    rows: Rows = [("ceilings", "kept free", "a high one waits, mean", "at most", "low ones served")]
    for name, ceilings in CEILINGS.items():
        seen = bursts(ceilings)
        free = SEATS - math.floor(SEATS * ceilings.ceilings([10, 0])[1])
        mean, longest = (f"{1000 * wait:.0f} ms" for wait in (sum(seen.waits) / len(seen.waits), max(seen.waits)))
        rows.append((f"`{name}`", str(free), mean, longest, f"{seen.low_served / bursts(Static()).low_served:.0%}"))
    return rows


TABLES: Final[Sequence[Callable[[], Rows]]] = (adaptation, endless, headroom)


if __name__ == "__main__":
    write(DOCUMENT, TABLES)
