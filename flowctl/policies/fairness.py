"""Fairness: which flow of a band goes next.

The flow with the smallest start tag goes, and its tag then grows by what the dispatch is charged (start-time fair
queueing; Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996). So a fairness policy only says the charge.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeGuard, final

from flowctl.policies.stateless import Stateless


class Fairness(Protocol):
    """Says by how much a dispatch moves its flow back. With a true `by_head` it is not charges that decide, but the
    ordering key of each flow's head.
    """

    def charge(self, cost: int, weight: float) -> float:
        """A finite number >= 0: what one dispatch of `cost` is charged to a flow of this weight."""


class MeteredFairness(Protocol):
    """A `Fairness` that also reads what a request says about itself, and what `Ticket.adjust` says of it later.

    The default of `metadata` is for type checkers: it is always given.
    """

    def charge(self, cost: int, weight: float, metadata: Mapping[str, object] = ...) -> float: ...


def is_metered(policy: Fairness) -> TypeGuard[MeteredFairness]:
    """Does it take `metadata`?"""
    try:
        return "metadata" in inspect.signature(policy.charge).parameters
    except ValueError:  # some that are written in C have none that Python knows of
        return False


@final
class RoundRobin(Stateless):
    """Every flow one request in its turn, whatever it costs.

    >>> RoundRobin().charge(cost=5, weight=1.0)
    1
    """

    __slots__ = ()

    def charge(self, cost: int, weight: float) -> float:
        return 1


@final
class WeightedFair(Stateless):
    """Every flow what it weighs: in the long run, costs are served in proportion to the weights.

    >>> WeightedFair().charge(cost=5, weight=2.0)
    2.5
    """

    __slots__ = ()

    def charge(self, cost: int, weight: float) -> float:
        return cost / weight


@final
class GlobalStrict(Stateless):
    """No fairness between flows: the best head of all of them goes, as the band's ordering has it."""

    __slots__ = ()

    by_head: ClassVar[bool] = True

    def charge(self, cost: int, weight: float) -> float:
        return 0
