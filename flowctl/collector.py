"""The one background thread: it sleeps until something is due, and outlives whatever goes wrong in a cycle.

It is given its work and knows nobody. All that it does are plain methods, which a test calls by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol, final

from flowctl import sync
from flowctl.clock import Clock

TICK: Final = 0.05
"""Seconds between two looks at what only looking tells: whether a client left, what a signal says."""

STOP_LIMIT: Final = 5.0
"""Seconds to wait for the thread to end."""


class Work(Protocol):
    """What there is to do."""

    def collect(self) -> object:
        """One whole cycle."""

    def tick(self) -> None:
        """The part of a cycle that does not wait for the next one."""

    def needs_ticks(self) -> bool:
        """Is there anything now that only looking tells?"""

    def next_deadline(self) -> float:
        """When something falls due that no other thread looks after; infinite if nothing does."""

    def in_use(self) -> bool:
        """False once nobody can ask for anything any more."""


@final
class Collector:
    """Runs `collect` every `interval` seconds and `tick` whenever something is due between; one daemon thread."""

    __slots__ = (
        "_awake_by",
        "_clock",
        "_interval",
        "_mutex",
        "_name",
        "_next_cycle",
        "_parking",
        "_report",
        "_starting",
        "_stopping",
        "_thread",
        "_work",
        "failures",
        "heartbeat",
    )

    def __init__(
        self,
        work: Work,
        clock: Clock,
        interval: float,
        report: Callable[[str, BaseException], None],
        name: str = "flowctl-collector",
    ) -> None:
        # fixed after construction
        self._work = work
        self._clock = clock
        self._interval = interval
        self._report = report
        self._name = name
        self._parking = sync.Parking()
        self._mutex = sync.RLock()  # re-entrant for a handler that comes while the thread is started; rank: alone
        # guarded by _mutex
        self._thread: sync.Thread | None = None
        self._starting = False
        self._stopping = False
        # the thread's own; the first three read by anyone
        self._awake_by = math.inf
        self.heartbeat: float | None = None
        self.failures = 0
        self._next_cycle = 0.0

    def ensure(self, awake_by: float = math.inf) -> None:
        """Start the thread if it does not run, and see that it looks round at `awake_by`. Never raises for want of a
        thread: then the next call tries again.
        """
        if self._thread is None or not self._thread.is_alive():
            self._start()
        if awake_by < self._awake_by:
            self._awake_by = awake_by  # a burst wakes it once
            self._parking.wake()

    def _start(self) -> None:
        with self._mutex:
            if self._stopping or self._starting or (self._thread is not None and self._thread.is_alive()):
                return
            try:
                self._starting = True
                self._next_cycle = self._clock.now() + self._interval
                self._thread = sync.start_thread(self._run, self._name)
            except RuntimeError as error:  # no thread to be had, or the interpreter is exiting
                failed = error
            else:
                return
            finally:
                self._starting = False
        self._report("start of the collector", failed)

    def stop(self, *, wait: bool = True) -> None:
        """Stop the thread for good, and wait for it, unless it is the caller's own; at most `STOP_LIMIT` seconds,
        since it may be in foreign code that waits for the caller.
        """
        with self._mutex:
            self._stopping = True
            thread, self._thread = self._thread, None
        self._parking.wake()
        if wait and thread is not None and thread.ident != sync.get_ident():
            thread.join(STOP_LIMIT)

    def _run(self) -> None:
        while not self._stopping:
            try:
                if not self._work.in_use():
                    return
                self.look_round()
            except BaseException as error:  # noqa: BLE001 - the thread outlives anything; it counts and reports
                self._survive(error)

    def _survive(self, error: BaseException) -> None:
        self.failures += 1
        try:
            self._report("collector", error)
        except BaseException:  # noqa: BLE001, S110 - the log's own; what it was told of is counted
            pass
        finally:
            self._parking.wait(TICK)

    def look_round(self) -> None:
        """Do what is due, and sleep until something else is."""
        now = self._clock.now()
        if now >= self._next_cycle:
            self._next_cycle = now + self._interval
            self._work.collect()
        else:
            self._work.tick()
        self.heartbeat = now
        self._awake_by = math.inf  # whoever files something while the next moment is worked out wakes the thread
        due = min(self._next_cycle, self._work.next_deadline())
        if self._work.needs_ticks():
            due = min(due, now + TICK)
        self._awake_by = due
        self._clock.park(self._parking, due)
