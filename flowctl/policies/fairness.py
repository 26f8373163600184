"""Fairness: which flow of a band goes next.

The flow with the smallest start tag goes, and its tag then grows by what the dispatch is charged (start-time fair
queueing; Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996). So a fairness policy only says the charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final


class Fairness(Protocol):
    """Says by how much a dispatch moves its flow back."""

    def charge(self, cost: int, weight: float) -> float:
        """A finite number >= 0: what one dispatch of `cost` seats is charged to a flow of this weight."""


@final
@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Every flow one request in its turn, whatever it costs.

    >>> RoundRobin().charge(cost=5, weight=1.0)
    1
    """

    def charge(self, cost: int, weight: float) -> float:
        return 1
