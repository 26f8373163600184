"""What a scenario shares, each use of it a step: `sync`'s primitives, a clock, variables, dicts and deques.

Timers are off: who waits, waits until woken, or until an actor moves the clock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MemberDescriptorType
from typing import Final, Generic, NamedTuple, SupportsIndex, TypeVar, final

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

from flowctl import atomic, registry, sync
from flowctl.band import PriorityBand
from flowctl.bands import Bands
from flowctl.flow import Flow
from flowctl.lease import ONE_PIN, LeaseTable, SectionWord, to_ms
from flowctl.ledger import Ledger
from flowctl.news import News
from flowctl.registry import FlowRegistry
from flowctl.sections import Sections
from flowctl.shard import Shard
from flowctl.sync import Parking
from flowctl.ticket import Ticket
from flowctl.topology import Topology
from tests.support import without_cycle_collector

K = TypeVar("K")
V = TypeVar("V")


def always() -> bool:
    return True


# --- one step ------------------------------------------------------------------------------------------------------


class Touch(NamedTuple):
    """What a step does to one shared thing, or to one part of it."""

    thing: object
    part: str
    writes: bool


def reads(thing: object, part: str = "") -> Touch:
    return Touch(thing, part, writes=False)


def writes(thing: object, part: str = "") -> Touch:
    return Touch(thing, part, writes=True)


@dataclass(frozen=True, slots=True)
class Step:
    """What an actor does next."""

    name: str
    touches: Sequence[Touch]
    ready: Callable[[], bool]
    is_call: bool = True  # in real code; else no exception can arrive there

    def is_independent_of(self, other: Step) -> bool:
        for mine in self.touches:
            for theirs in other.touches:
                if mine.thing is theirs.thing and mine.part == theirs.part and (mine.writes or theirs.writes):
                    return False
        return True


class Actor(greenlet):
    """One thread of a scenario."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        super().__init__(self._live)
        self.number = number
        self.act = act
        self.next = Step("begin", [writes(self)], always)
        self.has_handlers = False
        self.may_raise = False  # a handler that raises is among them
        self.leaving = False  # the run is over: unwind without another step
        self.handler: Callable[[], object] | None = None  # to be run in the middle of what this thread does
        self.raised: BaseException | None = None

    def _live(self) -> None:
        try:
            self.act()
        except GreenletExit:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again, as the cause of a Violation
            self.raised = error


def pause(name: str, *touches: Touch, ready: Callable[[], bool] = always, is_call: bool = True) -> None:
    """Before a shared access: let the explorer choose who goes on. Outside of an actor there is nothing to choose.

    Never from within `list.extend`, `list.sort` or the like, which hold their list's own lock while they call back:
    without a GIL the thread would go on with the list of such locks of another C stack, and crash.
    """
    me = getcurrent()
    if not isinstance(me, Actor):
        assert ready(), f"{name}: would block, and no actor is running"
        return
    if me.leaving:
        if not ready():
            raise GreenletExit
        return
    step = Step(name, [*touches, writes(me)], ready, is_call)
    while True:
        me.next = step
        assert me.parent is not None
        me.parent.switch()
        handler, me.handler = me.handler, None
        if handler is None:
            return
        handler()


def leave(name: str) -> None:
    """After a shared access that is a call: an exception may also come as it is left. Nobody can tell the order of
    this and another actor's step.
    """
    me = getcurrent()
    if isinstance(me, Actor) and me.may_raise and not me.leaving:
        pause(f"leave {name}")


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
        pause("acquire", writes(self), ready=lambda: not blocking or self._is_free(me))
        if not self._is_free(me):
            return False
        self._owner = me
        self._depth += 1
        return True

    def _is_owned(self) -> bool:
        return self._owner == get_ident()

    def release(self) -> None:
        pause("release", writes(self), is_call=False)
        self._give_back()

    def _give_back(self) -> None:
        if self._owner is None or (self.reentrant and self._owner != get_ident()):
            raise RuntimeError("release of a lock that is not held")
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def locked(self) -> bool:
        pause("locked", reads(self))
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *raised: object) -> None:
        self.release()


@final
class ScheduledRLock(ScheduledLock):
    """Stands for `sync.RLock`. Giving it back is a step only for a handler to come before it: nobody can see it held
    but by waiting for it, so that any step of another actor before it can as well come after it.
    """

    reentrant = True

    def release(self) -> None:
        me = getcurrent()
        if isinstance(me, Actor) and me.has_handlers:
            pause("release", writes(self), is_call=False)
        self._give_back()


@final
class ScheduledRWLock:
    """Stands for `sync.RWLock`, in one step each way: that one's own steps have a test of their own."""

    replaced = 0

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._readers = 0
        self._is_written = False

    @contextmanager
    def read(self) -> Iterator[None]:
        pause("read lock", writes(self), ready=lambda: not self._is_written)
        self._readers += 1
        try:
            yield
        finally:
            pause("read unlock", writes(self), is_call=False)
            self._readers -= 1

    @contextmanager
    def write(self) -> Iterator[None]:
        pause("write lock", writes(self), ready=lambda: not self._is_written and not self._readers)
        self._is_written = True
        try:
            yield
        finally:
            pause("write unlock", writes(self), is_call=False)
            self._is_written = False


@final
class ScheduledParking:
    """Stands for `sync.Parking`: a wake-up that never comes is a deadlock."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        pause("wake", writes(self))
        self.woken += 1

    def wait(self, seconds: float) -> bool:
        pause("wait", writes(self), ready=lambda: self.woken > 0)
        self.woken -= 1
        return True


@final
class ScheduledClock:
    """Stands for the clock. Time moves when an actor moves it."""

    def __init__(self, now: float = 1000.0, *, moves: bool = True) -> None:
        self._now = now
        self._moves = moves  # while the actors run

    def now(self) -> float:
        if self._moves:
            pause("now", reads(self))
        return self._now

    def advance(self, seconds: float) -> None:
        pause("advance", writes(self))
        self._now += seconds

    def park(self, parking: Parking, until: float | None) -> None:
        assert isinstance(parking, ScheduledParking)

        def ready() -> bool:
            return parking.woken > 0 or (until is not None and until <= self._now)

        pause("park", writes(parking), reads(self), ready=ready)
        parking.woken -= parking.woken > 0


class SharedDict(dict[K, V]):
    """A dict each use of which is a step."""

    def __getitem__(self, key: K) -> V:
        pause("look up", reads(self), is_call=False)
        return super().__getitem__(key)

    def get(self, key: K, default: V | None = None) -> V | None:  # type: ignore[override]  # the library's only form
        pause("look up", reads(self))
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        pause("look for", reads(self), is_call=False)
        return super().__contains__(key)

    def __len__(self) -> int:
        pause("count", reads(self), is_call=False)
        return super().__len__()

    def __iter__(self) -> Iterator[K]:
        pause("list", reads(self))
        return iter(list(super().__iter__()))  # in real code it is a step too, or a copy that is one

    def copy(self) -> dict[K, V]:
        pause("copy", reads(self))
        copied = dict(super().items())  # dict's own copy would look each key up, since we are no plain dict
        leave("copy")
        return copied

    def __delitem__(self, key: K) -> None:
        pause("delete", writes(self), is_call=False)
        super().__delitem__(key)

    def __setitem__(self, key: K, value: V) -> None:
        pause("store", writes(self), is_call=False)
        super().__setitem__(key, value)

    def setdefault(self, key: K, default: V) -> V:
        pause("setdefault", writes(self))
        stored = super().setdefault(key, default)
        leave("setdefault")
        return stored

    def pop(self, key: K, default: V | None = None) -> V | None:  # type: ignore[override]  # the library's only form
        pause("pop", writes(self))
        popped = super().pop(key, default)
        leave("pop")
        return popped


class SharedDeque(deque[V]):
    """A deque each use of which is a step."""

    def __getitem__(self, index: SupportsIndex) -> V:  # type: ignore[override]  # deques have no slices
        pause("look at", reads(self), is_call=False)
        return super().__getitem__(index)

    def __len__(self) -> int:
        pause("count", reads(self), is_call=False)
        return super().__len__()

    def append(self, item: V) -> None:
        pause("append", writes(self))
        super().append(item)
        leave("append")

    def popleft(self) -> V:
        pause("take the first", writes(self))
        first = super().popleft()
        leave("take the first")
        return first

    def extendleft(self, items: Iterable[V]) -> None:
        pause("put back", writes(self))
        super().extendleft(items)


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
        pause("get", reads(self))
        return self._value

    def set(self, value: V) -> None:
        pause("set", writes(self))
        self._value = value


class _Shared:
    """Makes each use of a slot of a class of the library a step."""

    def __init__(self, slot: MemberDescriptorType) -> None:
        self._slot = slot

    def __get__(self, instance: object, owner: type | None = None) -> object:
        if instance is None:
            return self
        pause(f"get {self._slot.__name__}", reads(instance, self._slot.__name__), is_call=False)
        return self._slot.__get__(instance, owner)

    def __set__(self, instance: object, value: object) -> None:
        try:
            self._slot.__get__(instance)
        except AttributeError:
            pass  # nobody else can see what is just being made
        else:
            pause(f"set {self._slot.__name__}", writes(instance, self._slot.__name__), is_call=False)
        self._slot.__set__(instance, value)


@final
class _SharedContent(_Shared):
    """Makes each use of the container in a slot that is fixed a step."""

    def __get__(self, instance: object, owner: type | None = None) -> object:
        return self if instance is None else self._slot.__get__(instance, owner)

    def __set__(self, instance: object, value: object) -> None:
        if type(value) is dict:
            value = SharedDict(value)
        elif type(value) is deque:
            value = SharedDeque(value)
        self._slot.__set__(instance, value)


# what is used without a lock, or also without it
_SHARED: Final[Sequence[tuple[type, str]]] = (
    (atomic.CellWord, "_cell"),
    (atomic.LockWord, "_value"),
    (SectionWord, "pins"),
    (Ticket, "outcome"),
    (Flow, "detached"),
    (FlowRegistry, "_begun"),
    (PriorityBand, "is_retired"),
    (Bands, "configured"),
    (Topology, "_layout"),
    (Shard, "size"),
    (Shard, "dropped"),
    (Sections, "_owed"),
    (Sections, "_torn"),
    (sync.Flag, "_is_set"),
)
_SHARED_CONTENT: Final[Sequence[tuple[type, str]]] = (
    (LeaseTable, "entries"),
    (FlowRegistry, "_moves"),
    (FlowRegistry, "_newborn"),
    (Sections, "_returns"),
    (Ledger, "holds"),
    (News, "waking"),
    (News, "settled"),
    (News, "incidents"),
    (News, "_drainers"),
    (News, "revoked"),
    (sync.Flag, "_waiters"),
)


_PINS: Final[MemberDescriptorType] = vars(SectionWord)["pins"]
_SINCE: Final[MemberDescriptorType] = vars(SectionWord)["since"]


def word_of(flow: Flow) -> int:
    """Without a step: it is read from within a sort, and no more than a hint at whom to look first."""
    pins, since = _PINS.__get__(flow), _SINCE.__get__(flow)
    assert isinstance(pins, int)
    assert isinstance(since, float)
    return pins * ONE_PIN + to_ms(since)


@contextmanager
def swapped() -> Iterator[None]:
    """The library, on what is scheduled here."""
    # a cycle of another run must not be finalised in the middle of an actor's step
    with pytest.MonkeyPatch.context() as patch, without_cycle_collector():
        patch.setattr(sync, "Lock", ScheduledLock)
        patch.setattr(sync, "RLock", ScheduledRLock)
        patch.setattr(sync, "RWLock", ScheduledRWLock)
        patch.setattr(sync, "Cell", ScheduledCell)
        patch.setattr(sync, "Parking", ScheduledParking)
        patch.setattr(sync, "get_ident", get_ident)
        patch.setattr(sync, "_forked_mutex", {})
        patch.setattr(registry, "_word", word_of)
        for owner, name in _SHARED:
            patch.setattr(owner, name, _Shared(vars(owner)[name]))
        for owner, name in _SHARED_CONTENT:
            patch.setattr(owner, name, _SharedContent(vars(owner)[name]))
        yield
