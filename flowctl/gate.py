"""Gates: how much may be in flight."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, final, runtime_checkable

from flowctl.request import check_count
from flowctl.stats import SignalState
from flowctl.ticket import ReleaseOutcome

Change = Callable[[Callable[[float], None]], None]
"""Runs a change under the turn, at a time in seconds of the clock, and then lets go whoever can go after it."""


class Load(Protocol):
    """What is in flight, by the books of the turn."""

    @property
    def in_flight(self) -> int:
        """Seats."""

    @property
    def granted(self) -> int:
        """The requests that hold them."""


class Gate(ABC):
    """Says how full the back end is, and so whether a request may go now. It belongs to one controller.

    A gate of your own has one method, `saturation`: plain arithmetic, since it is asked under the turn, for each
    grant. What it raises is counted, and closes it for that moment, as NaN does. Where its answer changes for another
    reason than the load, it says so by `change`: nobody polls it. The turn counts what is in flight, once for all
    gates, and a gate only compares: so several gates either all let a request go, or nothing has happened.
    """

    # None until it is bound
    _owner: weakref.ref[object] | None = None
    _run: Change | None = None
    _now: Callable[[], float] | None = None

    @abstractmethod
    def saturation(self, load: Load) -> float:
        """How full the back end is; at 1.0 it is full."""

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        """May `cost` more seats be taken by somebody for whom the back end may be full up to `ceiling` (0 to 1)?"""
        return self.saturation(load) < ceiling

    def excess(self, load: Load, cost: int, ceiling: float) -> float:
        """How many seats have to be given back before it admits this; 0 or less if none, or if nobody knows."""
        return 0.0

    @property
    def limit(self) -> int | None:
        """The seats that there are; None where it does not count seats."""
        return None

    @property
    def sure_seats(self) -> int:
        """As long as no more than this are in flight, `admits` says yes to anyone whose ceiling is 1.0, until the gate
        changes: then nobody asks. 0 where there is no such promise.
        """
        return 0

    @property
    def parts(self) -> Sequence[Gate]:
        """The gates that it is made of: itself."""
        return (self,)

    def bind(self, owner: object, run: Change, now: Callable[[], float]) -> None:
        """Called by its controller, and again in a forked child. `ValueError` if another controller has it."""
        bound = None if self._owner is None else self._owner()
        if bound is not None and bound is not owner:
            raise ValueError("gate belongs to another controller: give each controller a gate of its own")
        self._owner, self._run, self._now = weakref.ref(owner), run, now

    def unbind(self) -> None:
        """Called if its controller could not be made."""
        self._owner = self._run = self._now = None

    @final
    def change(self, act: Callable[[], None]) -> None:
        """Run a change of what it answers, under the turn, and let go whoever can go after it."""
        if self._run is None:
            act()
        else:
            self._run(lambda now: act())


@runtime_checkable
class Learner(Protocol):
    """A gate that learns from releases."""

    def learn(self, granted_at: float, now: float, in_flight: int, outcome: ReleaseOutcome) -> bool:
        """Take in a release, under the turn; True if `sure_seats` has changed. `granted_at` and `now` are seconds of
        the clock, `in_flight` the seats before it, its own among them.
        """


@runtime_checkable
class Signal(Protocol):
    """A gate whose answer is sampled, every `interval` seconds, by a thread of its own."""

    @property
    def name(self) -> str: ...

    @property
    def interval(self) -> float: ...

    def sample(self) -> None:
        """Look again. May block, and raise."""

    def state(self) -> SignalState:
        """How it stands."""


class SeatLimit(Gate):
    """At most so many seats in flight. A request of cost c takes c of them; one that is larger may run alone."""

    # guarded by the turn once it is bound
    _limit: int

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def sure_seats(self) -> int:
        return self._limit

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        in_flight = load.in_flight
        return (in_flight + cost) / self._limit <= ceiling or not in_flight

    def excess(self, load: Load, cost: int, ceiling: float) -> float:
        most = math.floor(self._limit * ceiling)
        if (most + 1) / self._limit <= ceiling:  # as `admits` rounds
            most += 1
        elif most / self._limit > ceiling:
            most -= 1
        return min(load.in_flight, load.in_flight + cost - most)

    def saturation(self, load: Load) -> float:
        return load.in_flight / self._limit


@final
class ConcurrencyLimit(SeatLimit):
    """At most so many seats in flight. A request of cost c takes c of them; one that is larger may run alone.

    >>> from flowctl.testing import Seats
    >>> gate = ConcurrencyLimit(2)
    >>> gate.admits(Seats(1), cost=1, ceiling=1.0), gate.admits(Seats(2), cost=1, ceiling=1.0)
    (True, False)
    """

    def __init__(self, limit: int) -> None:
        self._limit = check_count("limit", limit, at_least=1)

    def set(self, limit: int) -> None:
        """Change the limit at once: a higher one lets waiters go, a lower one drains."""
        new = check_count("limit", limit, at_least=1)

        def store() -> None:
            self._limit = new

        self.change(store)


@final
class InFlight(Gate):
    """A signal that is always right: how much is in flight, against what the back end takes well.

    It is open below the ceiling, whatever the next request costs: unlike a `ConcurrencyLimit`, which no grant exceeds,
    it may be passed by the last one. `of` says what counts: "requests", or the "seats" that they take (tokens, say).
    """

    def __init__(self, limit: int, *, of: Literal["requests", "seats"] = "requests") -> None:
        self._most = check_count("limit", limit, at_least=1)
        if of not in ("requests", "seats"):
            raise ValueError(f'of must be "requests" or "seats", not {of!r}')
        self._of = of

    def saturation(self, load: Load) -> float:
        return (load.granted if self._of == "requests" else load.in_flight) / self._most


@final
class MaxOf(Gate):
    """Several gates as one: as full as the fullest, and open when all are."""

    def __init__(self, *gates: Gate) -> None:
        for gate in gates:
            if not isinstance(gate, Gate):
                raise TypeError(f"gates must be Gates, not {gate!r}")
        self._parts = tuple(part for gate in gates for part in gate.parts)
        if not gates or len(set(map(id, self._parts))) < len(self._parts):
            raise ValueError(f"gates must be at least one, and different ones, not {gates!r}")

    @property
    def parts(self) -> Sequence[Gate]:
        return self._parts

    def saturation(self, load: Load) -> float:
        return max(part.saturation(load) for part in self._parts)
