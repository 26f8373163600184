"""Ordering: which request of a flow goes first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, SupportsFloat, SupportsIndex, final

from flowctl.policies.stateless import Stateless


class Waiting(Protocol):
    """A request that is about to be queued, as an ordering policy sees it. Times are seconds of the clock."""

    @property
    def arrived(self) -> float: ...

    @property
    def deadline(self) -> float:
        """When it has waited for long enough; infinite if it has no ttl."""

    @property
    def metadata(self) -> Mapping[str, object] | None: ...


class Ordering(Protocol):
    """Says where in its flow's queue a request stands."""

    def key(self, request: Waiting) -> float:
        """The smallest goes first, equal ones in order of arrival; infinite: last. Asked once, as it is queued."""


@final
class Fcfs(Stateless):
    """First come, first served: a flow's requests go in the order in which they arrived.

    The one policy that is never asked: a queue in order of arrival needs no keys.
    """

    __slots__ = ()

    def key(self, request: Waiting) -> float:
        return 0.0


@final
class EarliestDeadline(Stateless):
    """Whose deadline (arrival + ttl) comes first goes first; without a ttl: last."""

    __slots__ = ()

    def key(self, request: Waiting) -> float:
        return request.deadline


@final
class SloDeadline(Stateless):
    """Whose objective (arrival + `metadata["slo"]` seconds, a number or a string of one) comes first goes first.

    Missing, negative or no number at all: last.
    """

    __slots__ = ()

    def key(self, request: Waiting) -> float:
        slo = (request.metadata or {}).get("slo")
        if not isinstance(slo, str | SupportsFloat | SupportsIndex):
            return math.inf
        try:
            seconds = float(slo)
        except (ValueError, TypeError, OverflowError):
            return math.inf
        return request.arrived + seconds if seconds >= 0 else math.inf
