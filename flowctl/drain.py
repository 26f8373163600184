"""How fast a queue drains: what a `retry_after` and an estimated wait are made of.

The mean of the dispatches a second, exponentially weighted over folds of a second (alpha 0.3), of the time in which
somebody waited: when nobody does, the rate tells what was wanted, and not what the back end can do.
"""

from __future__ import annotations

from typing import Final, final

FOLD: Final = 1.0
ALPHA: Final = 0.3


@final
class DrainRate:
    """Dispatches a second from one queue. Guarded by the turn; times are seconds of the clock.

    >>> rate = DrainRate()
    >>> rate.begin(100.0)
    >>> for now in (100.5, 101.0, 101.5, 102.0):
    ...     rate.count(now)
    >>> rate.per_second(102.0)
    2.0
    """

    __slots__ = ("_began", "_count", "_last", "_rate")

    def __init__(self) -> None:
        self._rate: float | None = None
        self._began = 0.0  # of this fold
        self._count = 0  # in this fold
        self._last = 0.0  # dispatch

    def begin(self, now: float) -> None:
        """Somebody waits again: the time since the last dispatch does not count."""
        self._began += now - self._last
        self._last = now

    def count(self, now: float) -> None:
        """One was dispatched from the queue."""
        self._count += 1
        self._last = now
        if now - self._began >= FOLD:
            self._fold(now)

    def per_second(self, now: float) -> float | None:
        """The rate while somebody waits; None as long as that was for less than a fold, and before any dispatch."""
        if now - self._began >= FOLD:
            self._fold(now)
        return self._rate or None

    def _fold(self, now: float) -> None:
        seconds = now - self._began
        of_fold = self._count / seconds
        weight = 1 - (1 - ALPHA) ** (seconds / FOLD)
        self._rate = of_fold if self._rate is None else self._rate + weight * (of_fold - self._rate)
        self._began, self._count, self._last = now, 0, now
