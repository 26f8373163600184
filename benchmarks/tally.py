"""What became of requests under load, and what can be told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.harness import percentile

LATE: Final = 0.005
"""Seconds: the p99 of the lateness above which an open loop was not what it was meant to be."""


class Asked(NamedTuple):
    """What became of a request, in seconds after the begin; `refused` names why, and is empty if it was served."""

    tenant: int
    intended: float
    began: float
    settled: float
    ended: float
    refused: str


def latencies(asked: Sequence[Asked], tenant: int) -> list[float]:
    """Milliseconds from the intended moment to the end, of what was served."""
    return [(each.ended - each.intended) * 1e3 for each in asked if each.tenant == tenant and not each.refused]


def waits(asked: Sequence[Asked], tenant: int) -> list[float]:
    """Milliseconds from the intended moment until it had its seat, of what was served."""
    return [(each.settled - each.intended) * 1e3 for each in asked if each.tenant == tenant and not each.refused]


def lateness(asked: Sequence[Asked]) -> float:
    """Seconds: the p99 of how long after its moment a request was asked for."""
    return percentile([each.began - each.intended for each in asked], 0.99) if asked else 0.0


def rate(asked: Sequence[Asked]) -> float:
    """Served a second, from the begin until the last one's end."""
    return sum(not each.refused for each in asked) / max(each.ended for each in asked)


def served(asked: Sequence[Asked], tenant: int, begin: float, end: float) -> int:
    """How many of a tenant got their seat in this part of the time."""
    return sum(each.tenant == tenant and not each.refused and begin <= each.settled < end for each in asked)


def jain(services: Sequence[float]) -> float:
    """How even services are (Jain's index): 1.0 if all are the same, 1 / n if one of n has it all; 1.0 for nothing.

    >>> jain([5.0, 5.0]), jain([10.0, 0.0]), jain([0.0])
    (1.0, 0.5, 1.0)
    """
    squares = sum(service**2 for service in services)
    return sum(services) ** 2 / (len(services) * squares) if squares else 1.0


def fair(total: float, demands: Sequence[float], weights: Sequence[float]) -> list[float]:
    """What each should get of a total: by weight, and nobody more than he asks for (weighted max-min fairness).

    >>> fair(12.0, [100.0, 2.0, 100.0], [1.0, 1.0, 4.0])
    [2.0, 2.0, 8.0]
    """
    got = [0.0] * len(demands)
    left, hungry = total, sorted(range(len(demands)), key=lambda place: demands[place] / weights[place])
    weight = sum(weights)
    for place in hungry:  # who asks for least, by weight, first: what he leaves is for the others
        got[place] = min(demands[place], left * weights[place] / weight)
        left -= got[place]
        weight -= weights[place]
    return got
