"""The one door through which threads, locks and queues come in.

Everything else writes ``from flowctl import sync`` and constructs ``sync.Lock()``, so that a test can put its own
primitives in their place and run the real code one step at a time. The lock order stands in ``docs/design.md``.
"""

from __future__ import annotations

import _thread
import math
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, final

from flowctl.usage import Usage

if TYPE_CHECKING:
    from readerwriterlock import rwlock

    from flowctl.snapshot import LockUse

Lock = threading.Lock
RLock = threading.RLock
Condition = threading.Condition
Thread = threading.Thread
Handover = SimpleQueue  # its `put` takes no lock that a finaliser could find held
get_ident = threading.get_ident


@final
class Cell(dict[int, "Cell"]):
    """One value of an `atomic.CellWord`, and under the key 1 the cell that came after it.

    `cell.setdefault(1, new) is new` is the one step in which exactly one of many threads wins: a dict does it whole,
    with the GIL and without.
    """

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class Mutex(Protocol):
    """A re-entrant lock, taken by ``with``; see `Turn` for the two places where that costs too much."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def ownership(lock: Mutex) -> Callable[[], bool]:
    """What to ask whether the calling thread holds it."""
    is_owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]  # every RLock has it; not in the stubs
    return is_owned


@final
class Parking(SimpleQueue[None]):
    """Where one thread waits to be woken; a wake-up that comes first is kept.

    Of all that Python has, this hands over fastest where there is no GIL, and ties elsewhere.
    """

    __slots__ = ()

    def wake(self) -> None:
        """Wake the waiter, now or when it comes. Never blocks."""
        self.put(None)

    def wait(self, seconds: float) -> bool:
        """Block until woken, for at most so many seconds; True if woken."""
        try:
            self.get(timeout=max(seconds, 0.0))
        except Empty:
            return False
        return True


@final
class Flag:
    """Is set once, and can be waited for; a `threading.Event` without a lock: a signal handler that sets it in the
    middle of its own thread's `wait` does not wait for itself, and there is nothing for a fork to mend.
    """

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        # written by anyone, once; read by anyone
        self._is_set = False
        # fed and emptied in single steps by anyone; a dict, since without a GIL a deque that changes cannot be copied
        self._waiters: dict[Parking, None] = {}

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Set it, and wake who waits. Never blocks."""
        self._is_set = True
        for parking in self._waiters.copy():
            parking.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, for at most so many seconds (None: for as long as that takes); True if it is."""
        parking = Parking()
        self._waiters[parking] = None
        try:
            self._sleep(parking, math.inf if timeout is None else timeout)
        finally:
            del self._waiters[parking]
        return self._is_set

    def _sleep(self, parking: Parking, seconds: float) -> None:
        # of its own: since 3.13 an exception that comes where a loop jumps back passes by the `finally` around it
        while not self._is_set and seconds > 0:
            parking.wait(min(seconds, _SLICE))
            seconds -= _SLICE


_SLICE: Final = 1.0
"""The longest that `Flag.wait` sleeps in one go, in seconds."""


def start_thread(run: Callable[[], None], name: str, *, daemon: bool = True) -> threading.Thread:
    """Start a thread. Raises `RuntimeError` where the system or an exiting interpreter has none to give."""
    thread = threading.Thread(target=run, name=name, daemon=daemon)  # said, or it would be what its creator is
    thread.start()
    return thread


def stack_of(ident: int) -> str:
    """Where a thread is, as a traceback shows it; empty if there is no such thread."""
    frame = sys._current_frames().get(ident)
    return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else ""


def check_threads_are_real() -> None:
    """Raise `RuntimeError` where gevent or eventlet has put its own threads in the place of those of the system: a lock
    that was made before would stop all of them at once, and a thread of ours would never run beside one that computes.
    """
    for patcher, question, module in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        ask = getattr(sys.modules.get(patcher), question, None)
        if ask is not None and ask(module):
            raise RuntimeError(
                f"flowctl needs the threads of the system, and {patcher.partition('.')[0]} has patched them:"
                " serve with threads (gunicorn: --worker-class=gthread), or leave threads out when patching"
            )


def exiting() -> bool:
    """True once the main thread has ended: what waits now holds up the interpreter's exit."""
    return not threading.main_thread().is_alive()


def before_exit(call: Callable[[], None]) -> None:
    """Call this once the main thread has ended, before threads that are no daemons are joined. `RuntimeError` if that
    has begun.
    """
    # not public, and the only way to end such threads: `atexit` comes after they were joined
    threading._register_atexit(call)  # type: ignore[attr-defined]  # not in the stubs


# --- locks that count ---------------------------------------------------------------------------------------------


class Counts(Protocol):
    """Told of each acquisition, while the lock is held."""

    def count(self, waited: float | None, thread: int) -> None: ...


@final
class SharedUsage:
    """One `Usage` of several locks, or of one that several threads may hold."""

    __slots__ = ("_mutex", "_usage")

    def __init__(self) -> None:
        self._mutex = RLock()  # rank: innermost
        # guarded by _mutex, read by anyone
        self._usage = Usage()

    def count(self, waited: float | None, thread: int) -> None:
        with self._mutex:
            self._usage.count(waited, thread)

    def seen(self) -> LockUse:
        return self._usage.seen()


_take = _thread.RLock.acquire


@final
class CountedRLock(_thread.RLock):  # type: ignore[misc]  # CPython lets it be derived from
    """An `RLock` that counts. Leaving it is the base's own: an exception cannot come before it is released."""

    def __init__(self, now: Callable[[], float], usage: Counts) -> None:
        self._usage = usage
        self._now = now

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As that of any `RLock`. An exception within leaves it as it was."""
        before = self._recursion_count()  # type: ignore[attr-defined]  # not in the stubs
        try:
            waited = None
            taken = _take(self, False)
            if not taken and blocking:
                began = self._now()
                taken = _take(self, True, timeout)
                waited = self._now() - began
            if taken:
                self._usage.count(waited, get_ident())
        except BaseException:
            if self._recursion_count() > before:  # type: ignore[attr-defined]
                self.release()
            raise
        return taken

    __enter__ = acquire  # the same, and not a call of it: between two returns an exception would leave it held


# --- a reader-writer lock that heals -----------------------------------------------------------------------------

STUCK_AFTER = 5.0
"""Seconds without any movement after which a `RWLock` is taken for broken."""


@final
class _BoundedLock:
    """The lock that `RWLockFair` is built of. An untimed `acquire` gives up in the end: the library's own `release`
    takes a lock without a timeout, and would wait for ever behind a thread that an exception threw out of it.
    """

    __slots__ = ("_lock", "release")

    def __init__(self) -> None:
        self._lock = Lock()
        self.release = self._lock.release

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not blocking:
            return self._lock.acquire(blocking=False)
        return self._lock.acquire(timeout=STUCK_AFTER if timeout < 0 else timeout)

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.release()


def _new_fair_lock() -> rwlock.RWLockFair:
    from readerwriterlock import rwlock  # noqa: PLC0415 - with what it imports, an eighth of the import of all of flowctl

    return rwlock.RWLockFair(lock_factory=_BoundedLock)


@final
class RWLock:
    """Many readers or one writer, first come first served between them. Not re-entrant.

    An exception that lands inside the library's own code (a signal handler that raises) leaves its lock broken for
    ever. So a lock on which nothing has moved for `STUCK_AFTER` seconds is replaced by a new one, and counted in
    `replaced`. What it guards must therefore survive a reader and a writer at once: each single step on it is atomic.
    """

    __slots__ = ("_lock", "_mending", "_moves", "_now", "reads", "replaced", "writes")

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        # how its sides are used, counted if there is a clock to do it by
        self._now = now
        self.reads = None if now is None else SharedUsage()
        self.writes = None if now is None else SharedUsage()
        self._mending = Lock()  # rank: innermost
        # guarded by _mending, read by anyone
        self._lock = _new_fair_lock()
        self.replaced = 0
        # a sign of life: written by anyone, only ever compared for change
        self._moves = 0

    def read(self) -> _Side:
        """A context manager that shares the lock with other readers. Blocks."""
        return _Side(self, "read")

    def write(self) -> _Side:
        """A context manager that has the lock alone. Blocks."""
        return _Side(self, "write")

    def acquire(self, side: Literal["read", "write"]) -> rwlock.Lockable:
        """Take one side; what has to be released. Blocks."""
        usage = self.reads if side == "read" else self.writes
        if usage is None or self._now is None:
            return self._acquire(side)
        return self._acquire_counted(side, usage, self._now)

    def _acquire_counted(
        self, side: Literal["read", "write"], usage: SharedUsage, now: Callable[[], float]
    ) -> rwlock.Lockable:
        waited = None
        handle = self._handle(self._lock, side)
        if handle.acquire(blocking=False):
            self._moves += 1
        else:
            began = now()
            handle = self._acquire(side)
            waited = now() - began
        try:
            usage.count(waited, get_ident())
        except BaseException:
            handle.release()
            raise
        return handle

    def _acquire(self, side: Literal["read", "write"]) -> rwlock.Lockable:
        while True:
            lock, moves = self._lock, self._moves
            handle = self._handle(lock, side)
            if handle.acquire():  # within the bounds of its locks
                self._moves += 1
                return handle
            with self._mending:
                if self._lock is lock and self._moves == moves:
                    self._lock = _new_fair_lock()
                    self.replaced += 1

    @staticmethod
    def _handle(lock: rwlock.RWLockFair, side: Literal["read", "write"]) -> rwlock.Lockable:
        """A fresh one: each is good for one use."""
        return lock.gen_rlock() if side == "read" else lock.gen_wlock()


@final
class _Side:
    """One use of one side of a `RWLock`."""

    __slots__ = ("_handle", "_lock", "_side")

    def __init__(self, lock: RWLock, side: Literal["read", "write"]) -> None:
        self._lock = lock
        self._side: Literal["read", "write"] = side

    def __enter__(self) -> None:
        self._handle = self._lock.acquire(self._side)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._handle.release()


# --- fork ---------------------------------------------------------------------------------------------------------


class Forked(Protocol):
    """Something whose state a forked child must not share with its parent."""

    def after_fork_in_child(self) -> None:
        """Replace the state; read nothing that another thread of the parent may have been changing."""


# a tuple that is replaced, never changed: the child may read it whatever the parent's threads were doing
_forked: tuple[weakref.ref[Forked], ...] = ()
# guards _forked; made on first use, since an import makes no lock
_forked_mutex: dict[str, threading.Lock] = {}


def renew_after_fork(thing: Forked) -> None:
    """From now on call `thing.after_fork_in_child()` in each forked child, for as long as the thing lives."""
    global _forked  # noqa: PLW0603 - the one registry of the process
    with _forked_mutex.setdefault("mutex", Lock()):
        _forked = (*(ref for ref in _forked if ref() is not None), weakref.ref(thing))


def _after_fork_in_child() -> None:
    global _forked_mutex  # noqa: PLW0603 - a thread of the parent may have held it
    _forked_mutex = {}
    for ref in _forked:
        thing = ref()
        if thing is not None:
            thing.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
