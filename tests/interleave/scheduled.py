"""What a scenario shares: `sync`'s primitives, a dict, a variable and the words' slots, each use of them a step.

Timers are off: who waits, waits until woken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Final, Generic, TypeVar, final

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

from flowctl import atomic, sync

K = TypeVar("K")
V = TypeVar("V")


def _always() -> bool:
    return True


# --- one step ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What an actor does next."""

    name: str
    thing: object
    writes: bool
    ready: Callable[[], bool]

    def is_independent_of(self, other: Step) -> bool:
        return self.thing is not other.thing or not (self.writes or other.writes)


class Actor(greenlet):
    """One thread of a scenario."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        super().__init__(self._live)
        self.number = number
        self.act = act
        self.next = Step("begin", self, writes=False, ready=_always)
        self.leaving = False  # the run is over: unwind without another step
        self.raised: BaseException | None = None

    def _live(self) -> None:
        try:
            self.act()
        except GreenletExit:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again, as the cause of a Violation
            self.raised = error


def pause(name: str, thing: object, *, writes: bool, ready: Callable[[], bool] = _always) -> None:
    """Before a shared access: let the explorer choose who goes on. Outside of an actor there is nothing to choose."""
    me = getcurrent()
    if not isinstance(me, Actor):
        assert ready(), f"{name}: would block, and no actor is running"
        return
    if me.leaving:
        raise GreenletExit
    me.next = Step(name, thing, writes, ready)
    assert me.parent is not None
    me.parent.switch()


# --- what is shared ------------------------------------------------------------------------------------------------


def get_ident() -> int:
    me = getcurrent()
    return -1 - me.number if isinstance(me, Actor) else threading.get_ident()


class ScheduledLock:
    """Stands for `sync.Lock`. A timeout never passes."""

    reentrant = False

    def __init__(self) -> None:
        self._owner: int | None = None
        self._depth = 0

    def _is_free(self, me: int) -> bool:
        return self._owner is None or (self.reentrant and self._owner == me)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = get_ident()
        pause("acquire", self, writes=True, ready=lambda: not blocking or self._is_free(me))
        if not self._is_free(me):
            return False
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        pause("release", self, writes=True)
        if self._owner is None or (self.reentrant and self._owner != get_ident()):
            raise RuntimeError("release of a lock that is not held")
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def locked(self) -> bool:
        pause("locked", self, writes=False)
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *raised: object) -> None:
        self.release()


@final
class ScheduledRLock(ScheduledLock):
    """Stands for `sync.RLock`."""

    reentrant = True


@final
class ScheduledParking:
    """Stands for `sync.Parking`: a wake-up that never comes is a deadlock."""

    def __init__(self) -> None:
        self._woken = 0

    def wake(self) -> None:
        pause("wake", self, writes=True)
        self._woken += 1

    def wait(self, seconds: float) -> bool:
        pause("wait", self, writes=True, ready=lambda: self._woken > 0)
        self._woken -= 1
        return True


class SharedDict(dict[K, V]):
    """A dict in which looking up, looking for, storing and deleting by key are steps. The rest of it is not."""

    def __getitem__(self, key: K) -> V:
        pause("look up", self, writes=False)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        pause("look for", self, writes=False)
        return super().__contains__(key)

    def __delitem__(self, key: K) -> None:
        pause("delete", self, writes=True)
        super().__delitem__(key)

    def __setitem__(self, key: K, value: V) -> None:
        pause("store", self, writes=True)
        super().__setitem__(key, value)

    def setdefault(self, key: K, default: V) -> V:
        pause("setdefault", self, writes=True)
        return super().setdefault(key, default)


@final
class ScheduledCell(SharedDict[int, "ScheduledCell"]):
    """Stands for `sync.Cell`; its value is never changed."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value


@final
class SharedValue(Generic[V]):
    """A variable each use of which is a step."""

    def __init__(self, value: V) -> None:
        self._value = value

    def get(self) -> V:
        pause("get", self, writes=False)
        return self._value

    def set(self, value: V) -> None:
        pause("set", self, writes=True)
        self._value = value


@final
class _SharedSlot:
    """Makes each use of a slot of a class of the library a step."""

    def __init__(self, slot: MemberDescriptorType) -> None:
        self._slot = slot

    def __get__(self, instance: object, owner: type | None = None) -> object:
        if instance is None:
            return self
        pause(f"get {self._slot.__name__}", instance, writes=False)
        return self._slot.__get__(instance, owner)

    def __set__(self, instance: object, value: object) -> None:
        pause(f"set {self._slot.__name__}", instance, writes=True)
        self._slot.__set__(instance, value)


_SLOTS: Final = ((atomic.CellWord, "_cell"), (atomic.LockWord, "_value"), (atomic.SectionWord, "value"))


@contextmanager
def swapped() -> Iterator[None]:
    """The library, on what is scheduled here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "Lock", ScheduledLock)
        patch.setattr(sync, "RLock", ScheduledRLock)
        patch.setattr(sync, "Cell", ScheduledCell)
        patch.setattr(sync, "Parking", ScheduledParking)
        patch.setattr(sync, "get_ident", get_ident)
        patch.setattr(sync, "_forked_mutex", {})
        for owner, name in _SLOTS:
            patch.setattr(owner, name, _SharedSlot(vars(owner)[name]))
        yield
