"""Time, and waiting for it: the only module that reads a clock."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, Protocol, final

from flowctl.sync import Parking

SLICE = 1.0
"""The longest that a waiter sleeps in one go, in seconds: then it looks round, whatever became of its waker."""


A_MOMENT: Final = 50e-6
"""Seconds. A sleep of 0 also lets go of the interpreter, and mostly has it back before whoever waits has woken."""

has_gil: Final[Callable[[], bool]] = getattr(sys, "_is_gil_enabled", lambda: True)
"""Is the GIL on now? Where it can be off, an extension may have switched it on; older versions of Python do not say."""


def give_way() -> None:
    """Let those run that wait for the interpreter. With a GIL, a thread that computes on and on makes each of them wait
    for a switch interval (5 ms), and often for two. Called with no lock held.
    """
    if has_gil():
        time.sleep(A_MOMENT)  # noqa: TID251 - nobody can be waited for: whoever waits does so within the interpreter


class Clock(Protocol):
    """A monotonic clock that owns waiting too, so that a test can hold both."""

    def now(self) -> float:
        """Seconds >= 0 since some moment; never goes back. Called under locks: it must not block, or call back."""

    def park(self, parking: Parking, until: float | None) -> None:
        """Block until `parking` is woken, `until` has come, or a `SLICE` has passed: the caller looks which.

        Called with no lock held.
        """


@final
class MonotonicClock:
    """The system's monotonic clock."""

    __slots__ = ()

    now = staticmethod(time.monotonic)

    def park(self, parking: Parking, until: float | None) -> None:
        parking.wait(SLICE if until is None else min(SLICE, until - time.monotonic()))
