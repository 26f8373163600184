"""What does a grant from the queue cost, and does it depend on how many flows there are?

One seat, and flows that always have something queued. A grant is one `release`: it gives the seat back, the round
picks the flow whose turn it is, and its ticket is told. After 50 of them as many requests are queued in their place,
which is timed apart. Python's own `gc` is off, on both sides: its pauses follow the number of queued objects.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple, final

from benchmarks.crew import no_gc
from benchmarks.harness import Depth, Plot, Question, Row, Step, Target, in_turns
from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    EarliestDeadline,
    Fcfs,
    FlowController,
    FlowKey,
    Outcome,
    Request,
    Ticket,
)
from flowctl.policies.ordering import Ordering

MANY: Final = 10_000
FEW: Final = 10
QUEUED: Final = 20_000
IDLE: Final = 100_000
BATCH: Final = 50
FINER: Final = 3
"""So many times the usual pairs, each as much shorter: a difference of 5 % is to be told from noise."""

SCALING: Final = Target("ratio", "at most", 2.0)
NO_DIFFERENCE: Final = Target("ratio", "at most", 1.05)


class Costs(NamedTuple):
    """CPU nanoseconds."""

    grant: float
    queueing: float


@final
class Backlog:
    """A controller with one seat, so many flows with as many requests queued each, and idle flows beside them."""

    def __init__(
        self, flows: int, each: int, *, idle: int = 0, ordering: Ordering | None = None, seed: int = 7
    ) -> None:
        assert flows * each > BATCH, "a batch would empty the queue"
        band = BandConfig(max_requests=None, ordering=Fcfs() if ordering is None else ordering)
        config = Config(default_band=band, max_flows=None, default_ttl=3000.0)
        self.controller = FlowController(config, gate=ConcurrencyLimit(1), background=False)
        for number in range(idle):
            self.controller.admit(f"idle-{number}").release()
        self._ttls = _ttls(seed)
        # the ticket in flight last; each release appends the one that it lets go
        self._granted: list[Ticket] = [self.controller.admit("the first")]
        keys = [FlowKey(f"tenant-{number}") for number in range(flows)]
        for _ in range(each):
            self._queue(keys)

    def _queue(self, keys: Sequence[FlowKey]) -> float:
        """CPU seconds that it takes to queue one request of each."""
        requests = [Request(key, ttl=next(self._ttls)) for key in keys]
        submit, granted = self.controller.submit, self._granted.append
        began = time.thread_time()
        for request in requests:
            submit(request, granted)
        return time.thread_time() - began

    def batch(self) -> Costs:
        """CPU seconds of a batch of grants, and of queueing as much again."""
        granted = self._granted
        began = time.thread_time()
        for _ in repeat(None, BATCH):
            granted[-1].release()
        grants = time.thread_time() - began
        served = granted[1:]
        assert len(served) == BATCH
        assert all(ticket.outcome is Outcome.DISPATCHED for ticket in served)
        del granted[:-1]
        return Costs(grants, self._queue([ticket.key for ticket in served]))

    def costs(self, seconds: float) -> Costs:
        """Of one grant, and of queueing one request, over so many CPU seconds of both."""
        grants = queueing = 0.0
        batches = 0
        while grants + queueing < seconds:
            batch = self.batch()
            grants, queueing, batches = grants + batch.grant, queueing + batch.queueing, batches + 1
        return Costs(grants * 1e9 / (batches * BATCH), queueing * 1e9 / (batches * BATCH))


def _ttls(seed: int) -> Iterator[float]:
    """Deadlines in no order, that do not come."""
    numbers = random.Random(seed)
    while True:
        yield numbers.uniform(1000.0, 3000.0)


def measure(
    name: str,
    rival: str,
    make: Callable[[int], tuple[Backlog, Backlog]],
    target: Target | None,
    depth: Depth,
) -> Sequence[Row]:
    """Grants and queueing of two backlogs in turns."""
    ours, others = make(depth.seed)
    with ours.controller, others.controller, no_gc():
        mine, theirs = in_turns(
            FINER * depth.pairs,
            [lambda: ours.costs(2 * depth.sample / FINER), lambda: others.costs(2 * depth.sample / FINER)],
        )
    return [
        Row(
            name=f"a grant, {name}",
            unit="ns",
            samples=tuple(costs.grant for costs in mine),
            rival=rival,
            rival_samples=tuple(costs.grant for costs in theirs),
            target=target,
            at={"threads": 1, "backlog": name, "what": "a grant"},
        ),
        Row(
            name=f"queueing, {name}",
            unit="ns",
            samples=tuple(costs.queueing for costs in mine),
            rival=rival,
            rival_samples=tuple(costs.queueing for costs in theirs),
            at={"threads": 1, "backlog": name, "what": "queueing"},
        ),
    ]


def many_and_few(seed: int) -> tuple[Backlog, Backlog]:
    """The same number of requests, of many flows and of few."""
    return Backlog(MANY, QUEUED // MANY, seed=seed), Backlog(FEW, QUEUED // FEW, seed=seed)


def beside_idle_and_alone(seed: int) -> tuple[Backlog, Backlog]:
    """Few flows beside many idle ones, and alone."""
    return Backlog(FEW, 20, idle=IDLE, seed=seed), Backlog(FEW, 20, seed=seed)


def by_deadline_and_by_arrival(seed: int) -> tuple[Backlog, Backlog]:
    """100 flows with 100 requests each, by another order than that of arrival, and by that."""
    return Backlog(100, 100, ordering=EarliestDeadline(), seed=seed), Backlog(100, 100, seed=seed)


def steps(depth: Depth) -> list[Step]:
    seconds = depth.pairs * depth.sample * 5
    found = []
    for name, rival, make, target, setup in (
        (f"{MANY:,} active flows", f"{FEW} active flows", many_and_few, SCALING, 1.5),
        (f"{FEW} active flows, {IDLE:,} idle beside", "none idle", beside_idle_and_alone, NO_DIFFERENCE, 3.0),
        ("EarliestDeadline", "Fcfs", by_deadline_and_by_arrival, None, 0.7),
    ):
        if make is beside_idle_and_alone and depth.level == 0:
            continue  # its flows take longer to make than it takes to measure
        found.append(Step(name, seconds + setup, partial(measure, name, rival, make, target, depth)))
    return found


QUESTION: Final = Question(
    "dispatch",
    "what a grant from the queue costs, whatever the number of flows",
    steps,
    plots=(Plot(title="CPU of a grant, and of queueing", x="backlog", by="what"),),
)
