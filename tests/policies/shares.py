"""What each flow should get by weight: an ideal fluid schedule, and how far a real one is from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.policies.replay import Move
from tests.policies.trace import Asked, Trace

Weights = Mapping[str, float]
"""By flow; the others weigh 1."""


class Gap(NamedTuple):
    """By how much the normalised service of two flows differed over an interval in which both always waited."""

    flows: tuple[str, str]
    size: float
    bound: float  # the largest cost of each by its weight, added (Goyal, Vin and Cheng, SIGCOMM 1996, theorem 1)


class Gaps:
    """The largest gap of each two flows, over all intervals."""

    def __init__(self, trace: Trace, weights: Weights) -> None:
        self._asked = trace.asked
        self._weights = weights
        largest: Counter[str] = Counter()
        for asked in trace.asked:
            largest[asked.key.id] = max(largest[asked.key.id], asked.cost)
        self._slack = {flow: cost / weights.get(flow, 1.0) for flow, cost in largest.items()}
        self._served: dict[str, float] = defaultdict(float)  # normalised: by weight
        self._waiting: Counter[str] = Counter()
        # of each two flows that wait both: how far one was before the other, at least and at most, since both wait
        self._range: dict[tuple[str, str], tuple[float, float]] = {}
        self.largest: dict[tuple[str, str], Gap] = {}

    def see(self, moves: Sequence[Move]) -> None:
        for move in moves:
            asked = self._asked[move.number]
            flow = asked.key.id
            if move.what == "came":
                self._waiting[flow] += 1
                if self._waiting[flow] == 1:
                    for pair in self._pairs(flow):
                        self._range[pair] = self._lead(pair), self._lead(pair)
                continue
            if move.what == "started":
                self._served[flow] += asked.cost / self._weights.get(flow, 1.0)
                for pair in self._pairs(flow):
                    self._widen(pair)
            self._waiting[flow] -= 1
            if not self._waiting[flow]:
                del self._waiting[flow]

    def _pairs(self, flow: str) -> Iterator[tuple[str, str]]:
        return (min((flow, other), (other, flow)) for other in self._waiting if other != flow)

    def _lead(self, pair: tuple[str, str]) -> float:
        return self._served[pair[0]] - self._served[pair[1]]

    def _widen(self, pair: tuple[str, str]) -> None:
        low, high = self._range[pair]
        low, high = min(low, self._lead(pair)), max(high, self._lead(pair))
        self._range[pair] = low, high
        if pair not in self.largest or high - low > self.largest[pair].size:
            self.largest[pair] = Gap(pair, high - low, self._slack[pair[0]] + self._slack[pair[1]])


class Fluid:
    """Generalised processor sharing: what is served at any moment is shared by weight among those who wait; what one
    of them does not need, the others get (progressive filling).
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._backlog: dict[str, float] = {}
        self.served: dict[str, float] = defaultdict(float)

    def come(self, asked: Asked) -> None:
        self._backlog[asked.key.id] = self._backlog.get(asked.key.id, 0.0) + asked.cost

    def serve(self, work: float) -> None:
        while work > 1e-9 and self._backlog:
            total = sum(self._weights.get(flow, 1.0) for flow in self._backlog)
            level = min(backlog / self._weights.get(flow, 1.0) for flow, backlog in self._backlog.items())
            level = min(level, work / total)  # until somebody has enough, or nothing is left to share
            for flow, backlog in list(self._backlog.items()):
                share = level * self._weights.get(flow, 1.0)
                self.served[flow] += share
                self._backlog[flow] = backlog - share
                if self._backlog[flow] < 1e-9:
                    del self._backlog[flow]
            work -= level * total


def distances(trace: Trace, moves: Sequence[Move], weights: Weights) -> dict[str, tuple[float, float]]:
    """How far each flow ever was behind and before the ideal, in units of cost. Nobody may leave."""
    fluid, served = Fluid(weights), Counter[str]()
    found = {asked.key.id: (0.0, 0.0) for asked in trace.asked}
    for move in moves:
        asked = trace.asked[move.number]
        if move.what == "came":
            fluid.come(asked)
            continue
        served[asked.key.id] += asked.cost
        fluid.serve(asked.cost)
        for flow, (behind, before) in found.items():
            ahead = served[flow] - fluid.served[flow]
            found[flow] = max(behind, -ahead), max(before, ahead)
    return found
