"""How long locks are held: a controller that is made within `timed` has locks that say so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, final

from flowctl import sync

NAMES: Final = {
    "flowctl.sections": "the turn",
    "flowctl.registry": "the order of the idle",
    "flowctl.lease": "a table",
    "flowctl.shard": "a shard",
    "flowctl.state": "the cycle",
    "flowctl.topology": "the layout",
    "flowctl.bands": "the founding of bands",
}
"""Of locks, by the module that makes them; others are called after that."""


@final
class Holds:
    """The longest that each lock was held, in seconds of its holder's CPU: what else the machine does while a thread
    holds a lock is not the lock's.
    """

    def __init__(self) -> None:
        self.watching = False
        self._longest: dict[str, float] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Time what is held within the block."""
        self.watching = True
        try:
            yield
        finally:
            self.watching = False

    def note(self, name: str, seconds: float) -> None:
        self._longest[name] = max(seconds, self._longest.get(name, 0.0))

    def taken(self) -> dict[str, float]:
        """By lock, since it was asked for last."""
        found, self._longest = self._longest, {}
        return found


@final
class _Timed:
    """A re-entrant lock that notes how long it was held."""

    __slots__ = ("_depth", "_holds", "_lock", "_name", "_since")

    def __init__(self, lock: sync.Mutex, name: str, holds: Holds) -> None:
        self._lock = lock
        self._name = name
        self._holds = holds
        # guarded by the lock itself
        self._depth = 0
        self._since: float | None = None

    def acquire(self) -> bool:
        self._lock.acquire()
        self._depth += 1
        if self._depth == 1:
            self._since = time.thread_time() if self._holds.watching else None
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._since is not None:
            self._holds.note(self._name, time.thread_time() - self._since)
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.release()

    @property
    def _is_owned(self) -> Callable[[], bool]:
        return sync.ownership(self._lock)


@final
class _Side:
    """One use of one side of a reader-writer lock."""

    __slots__ = ("_holds", "_name", "_since", "_use")

    def __init__(self, use: sync._Side, name: str, holds: Holds) -> None:
        self._use = use
        self._name = name
        self._holds = holds

    def __enter__(self) -> None:
        self._use.__enter__()
        self._since = time.thread_time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        held = time.thread_time() - self._since
        self._use.__exit__(kind, error, trace)
        if self._holds.watching:
            self._holds.note(self._name, held)


@final
class _TimedRWLock:
    """A `sync.RWLock` whose sides are timed."""

    __slots__ = ("_holds", "_lock", "_name")

    def __init__(self, lock: sync.RWLock, name: str, holds: Holds) -> None:
        self._lock = lock
        self._name = name
        self._holds = holds

    def read(self) -> _Side:
        return _Side(self._lock.read(), f"{self._name}, read", self._holds)

    def write(self) -> _Side:
        return _Side(self._lock.write(), f"{self._name}, written", self._holds)


@contextmanager
def timed() -> Iterator[Holds]:
    """Whatever locks are made within this block note how long they are held, also after it."""
    holds, make_lock, make_rwlock = Holds(), sync.RLock, sync.RWLock

    def lock() -> _Timed:
        return _Timed(make_lock(), _made_in(sys._getframe(1)), holds)

    def rwlock(now: Callable[[], float] | None = None) -> _TimedRWLock:
        return _TimedRWLock(make_rwlock(now), _made_in(sys._getframe(1)), holds)

    _replace(lock, rwlock)
    try:
        yield holds
    finally:
        _replace(make_lock, make_rwlock)


def _replace(lock: object, rwlock: object) -> None:
    vars(sync).update(RLock=lock, RWLock=rwlock)


def _made_in(frame: FrameType) -> str:
    module: str = frame.f_globals["__name__"]
    return NAMES.get(module, module)
