"""For tests of code that uses flowctl: a clock that moves only when it is told to."""

from __future__ import annotations

from typing import NamedTuple, final

from flowctl import sync
from flowctl.clock import SLICE
from flowctl.request import check_seconds
from flowctl.sync import Parking


class Seats(NamedTuple):
    """What is in flight, for tests of gates."""

    in_flight: int = 0
    granted: int = 0


@final
class FakeClock:
    """Time for `FlowController(clock=...)`, in seconds. Waiters whose deadline it passes wake.

    >>> clock = FakeClock(start=10.0)
    >>> clock.advance(2.5)
    >>> clock.now()
    12.5
    """

    def __init__(self, start: float = 0.0) -> None:
        if check_seconds("start", start) < 0:
            raise ValueError(f"start must be at least 0, not {start!r}")
        self._changed = sync.Condition()
        # written under _changed, read by anyone
        self._now = float(start)
        # guarded by _changed: who sleeps until when (None: until woken)
        self._asleep: list[tuple[float | None, Parking]] = []

    def now(self) -> float:
        """Seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move time on, and wake those who wait for it. Does not wait until they ran."""
        if check_seconds("seconds", seconds) < 0:
            raise ValueError(f"seconds must be at least 0, not {seconds!r}")
        with self._changed:
            self._now += seconds
            due = self._due_locked()
        for parking in due:
            parking.wake()

    def _due_locked(self) -> list[Parking]:
        return [parking for until, parking in self._asleep if until is not None and until <= self._now]

    def park(self, parking: Parking, until: float | None) -> None:
        """Block until woken, or time is advanced to `until`; or a slice of real time has passed."""
        sleeper = (until, parking)
        with self._changed:
            if until is not None and until <= self._now:
                return
            self._asleep.append(sleeper)
            self._changed.notify_all()
        try:
            parking.wait(SLICE)
        finally:
            with self._changed:
                self._asleep.remove(sleeper)

    def wait_for_sleepers(self, count: int, timeout: float = 30.0) -> None:
        """Block until so many threads are parked on this clock. `TimeoutError` after so many real seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._asleep) >= count, timeout):
                raise TimeoutError(f"{len(self._asleep)} threads are parked, not {count}")
