"""What foreign code raised, counted and logged."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from typing import final

from flowctl import sync

logger = logging.getLogger("flowctl")


@final
class Incidents:
    """Counts and logs what foreign code raised: the 1st, 2nd, 4th, 8th, ... of a kind with its traceback."""

    __slots__ = ("_by_kind", "_mutex", "count")

    def __init__(self) -> None:
        self._mutex = sync.RLock()  # re-entrant for handlers; rank: alone
        # written under _mutex, read by anyone
        self._by_kind: Counter[str] = Counter()
        self.count = 0

    def report(self, what: str, error: BaseException) -> None:
        with self._mutex:
            self.count += 1
            self._by_kind[what] += 1
            nth = self._by_kind[what]
        if nth & (nth - 1) == 0:
            # as text: a record that keeps the exception would keep its frames, and their tickets, alive
            text = "".join(traceback.format_exception(error)).rstrip()
            logger.error("%s failed (no. %d of its kind)\n%s", what, nth, text)
