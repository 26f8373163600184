"""Arrival traces: who asks when, for how much, for how long, and who gives up. Made of a seed.

All times are whole ticks of 1/16 s, so that sums of them are exact and equal instants are frequent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from flowctl import FlowKey

TICK: Final = 1 / 16
"""Seconds."""


class Asked(NamedTuple):
    """One request."""

    number: int  # by arrival
    at: float
    key: FlowKey
    cost: int
    service: float  # seconds for which it keeps its seats
    ttl: float | None = None
    cancel_at: float | None = None

    @property
    def deadline(self) -> float | None:
        return None if self.ttl is None else self.at + self.ttl


class Trace(NamedTuple):
    """All requests in order of arrival, and the moments at which somebody looks round for what is idle."""

    asked: Sequence[Asked]
    looks: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a trace looks like. Times in ticks."""

    requests: int = 2_000
    flows: int = 50
    skew: float = 1.1  # the exponent of Zipf's law: how often the n-th flow is chosen
    present: int = 30  # of these flows, in each burst
    priorities: Sequence[int] = (0,)
    costs: Sequence[int] = (1,)
    services: Sequence[int] = (1, 2, 3, 5, 8)
    burst: int = 60  # requests in one, at most
    spread: int = 20  # over which a burst's arrivals are strewn; 0: all at once
    gaps: Sequence[int] = (0, 10, 40, 160, 1600)  # between two bursts; a long one empties every queue
    impatient: float = 0.0  # how many have a ttl
    fickle: float = 0.0  # how many give up
    look_every: int = 0  # 0: never


def make_trace(shape: Shape, seed: int) -> Trace:
    """Bursts of requests, each of another choice of flows."""
    rng = random.Random(seed)
    often = list(accumulate(1 / rank**shape.skew for rank in range(1, shape.flows + 1)))
    now, arrivals = 16, list[tuple[int, str]]()
    while len(arrivals) < shape.requests:
        present = set(rng.sample(range(shape.flows), shape.present))
        length = rng.randint(shape.burst // 4, shape.burst)
        wanted = [nth for nth in rng.choices(range(shape.flows), cum_weights=often, k=4 * length) if nth in present]
        arrivals += sorted((now + rng.randint(0, shape.spread), f"flow-{nth}") for nth in wanted[:length])
        now = arrivals[-1][0] + rng.choice(shape.gaps)
    asked = [_ask(rng, shape, number, at, flow) for number, (at, flow) in enumerate(sorted(arrivals))]
    looks = range(0, now, shape.look_every) if shape.look_every else ()
    return Trace(asked, [look * TICK for look in looks])


def _ask(rng: random.Random, shape: Shape, number: int, at: int, flow: str) -> Asked:
    return Asked(
        number=number,
        at=at * TICK,
        key=FlowKey(flow, rng.choice(shape.priorities)),
        cost=rng.choice(shape.costs),
        service=rng.choice(shape.services) * TICK,
        ttl=rng.randint(1, 240) * TICK if rng.random() < shape.impatient else None,
        cancel_at=(at + rng.randint(0, 160)) * TICK if rng.random() < shape.fickle else None,
    )


def served_by_cost(trace: Trace) -> Trace:
    """The same, with a time of service in proportion to the cost: so that one seat is a server of constant speed."""
    return trace._replace(asked=[asked._replace(service=asked.cost * TICK) for asked in trace.asked])


def all_at_once(flows: Sequence[str], requests: int, costs: Sequence[int], seed: int) -> Trace:
    """So many requests of each flow, all of them waiting before the first goes; for that one seat is taken first."""
    rng = random.Random(seed)
    keys = [FlowKey(flow) for flow in flows for _ in range(requests)]
    rng.shuffle(keys)
    first = Asked(0, 0.0, FlowKey("first", priority=1), 1, TICK)
    return Trace([first, *(Asked(nth, 0.0, key, rng.choice(costs), TICK) for nth, key in enumerate(keys, start=1))])
