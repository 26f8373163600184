"""Gates: how much may be in flight."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol, final, runtime_checkable

from flowctl.request import check_count

Change = Callable[[Callable[[float], None]], None]
"""Runs a change under the turn, at a time in seconds of the clock, and then lets go whoever can go after it."""


@runtime_checkable
class Gate(Protocol):
    """Says whether a request may go now. It belongs to one controller, whose turn guards it.

    The turn counts the seats that are in flight, once for all gates; a gate compares and keeps no count. So several
    gates either all let a request go, or nothing has happened.
    """

    @property
    def limit(self) -> int | None:
        """The seats that there are; None where it does not count seats."""

    @property
    def sure_seats(self) -> int:
        """As long as no more than this are in flight, `admits` says yes to anyone, until the gate changes by its
        `Change`: then nobody asks. 0 where there is no such promise.
        """

    def admits(self, in_flight: int, cost: int, priority: int) -> bool:
        """May `cost` more seats be taken at this priority, while `in_flight` are? Plain arithmetic, no wait, no I/O."""

    def saturation(self, in_flight: int) -> float:
        """How full the back end is; at 1.0 it is full."""

    def bind(self, owner: object, change: Change) -> None:
        """Called by its controller, and again in a forked child. `ValueError` if another controller has it."""


@final
class ConcurrencyLimit:
    """At most so many seats in flight. A request of cost c takes c of them; one that is larger may run alone.

    >>> gate = ConcurrencyLimit(2)
    >>> gate.admits(in_flight=1, cost=1, priority=0), gate.admits(in_flight=2, cost=1, priority=0)
    (True, False)
    """

    __slots__ = ("_change", "_limit", "_owner")

    def __init__(self, limit: int) -> None:
        # guarded by the turn once it is bound
        self._limit = check_count("limit", limit, at_least=1)
        self._owner: weakref.ref[object] | None = None
        self._change: Change | None = None

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def sure_seats(self) -> int:
        return self._limit

    def set(self, limit: int) -> None:
        """Change the limit at once: a higher one lets waiters go, a lower one drains."""
        new = check_count("limit", limit, at_least=1)
        if self._change is None:
            self._store(new)
        else:
            self._change(lambda now: self._store(new))

    def _store(self, limit: int) -> None:
        self._limit = limit

    def admits(self, in_flight: int, cost: int, priority: int) -> bool:
        return in_flight + cost <= self._limit or not in_flight

    def saturation(self, in_flight: int) -> float:
        return in_flight / self._limit

    def bind(self, owner: object, change: Change) -> None:
        bound = None if self._owner is None else self._owner()
        if bound is not None and bound is not owner:
            raise ValueError("gate belongs to another controller: give each controller a gate of its own")
        self._owner, self._change = weakref.ref(owner), change
