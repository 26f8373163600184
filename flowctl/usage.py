"""How often a lock was taken, and how long that took: counted as it happens.

No lock of its own: each count is made under the lock that is counted, or under a mutex of whoever counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from flowctl.snapshot import LockUse

_LAST: Final = 35  # the open end of the histogram: from 4 hours


@final
class Usage:
    """What became of all who took a lock."""

    __slots__ = ("_histogram", "_last", "acquisitions", "handoffs", "longest", "waited", "waits")

    def __init__(self) -> None:
        self.acquisitions = 0
        self.handoffs = 0
        self.waits = 0
        self.waited = 0.0
        self.longest = 0.0
        # of those that waited, by the power of 2 of microseconds that is more than they did
        self._histogram = [0] * (_LAST + 1)
        # the thread that took it last; 0: nobody has yet
        self._last = 0

    def count(self, waited: float | None, thread: int) -> None:
        """One more acquisition by this thread, which waited for so many seconds; None: it found the lock free."""
        seconds, power, longest = 0.0, 0, self.longest
        if waited is not None:
            seconds = max(waited, 0.0)
            power, longest = min(int(seconds * 1e6).bit_length(), _LAST), max(seconds, longest)
        # plain stores from here on: an exception comes before all of them, or after
        self.acquisitions += 1
        if thread != self._last:
            self.handoffs += self._last != 0
            self._last = thread
        if waited is not None:
            self.waits += 1
            self.waited += seconds
            self.longest = longest
            self._histogram[power] += 1

    def seen(self) -> LockUse:
        """All of it. Exact where nobody counts at that moment."""
        from flowctl.snapshot import LockUse  # noqa: PLC0415 - see there

        return LockUse(
            acquisitions=self.acquisitions,
            waits=self.waits,
            waited=self.waited,
            longest=self.longest,
            handoffs=self.handoffs,
            histogram=tuple(self._histogram),
        )
