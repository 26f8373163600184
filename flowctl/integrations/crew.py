"""Threads that run what is put before them, for a server whose requests were queued before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import final

from flowctl import sync

logger = logging.getLogger("flowctl")


@final
class Crew:
    """Threads that run what is put before them, first come first served."""

    __slots__ = ("_name", "_running", "_tasks", "_threads")

    def __init__(self, name: str) -> None:
        # fixed after construction
        self._name = name
        # fed by anyone, emptied by the threads
        self._tasks: sync.Handover[Callable[[], None] | None] = sync.Handover()
        # changed by whoever starts and ends the server
        self._threads: list[sync.Thread] = []
        self._running = 0

    def put(self, task: Callable[[], None]) -> None:
        """Have it run. Takes no lock that a finaliser or signal handler could find held."""
        self._tasks.put(task)

    def resize(self, count: int) -> None:
        """Have so many threads. Those that are too many end once they have run what was put before."""
        while self._running < count:
            self._threads.append(sync.start_thread(self._run, f"{self._name}-{len(self._threads)}"))
            self._running += 1
        while self._running > count:
            self._tasks.put(None)
            self._running -= 1

    def join(self) -> None:
        """Wait for all of them, after `resize(0)`."""
        while self._threads:
            self._threads.pop().join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException:  # an application's SystemExit ends no thread of the server's
                logger.exception("a thread of the server's got an exception out of a request")
            del task  # it holds a connection
