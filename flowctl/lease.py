"""Leases: keep a thing while someone uses it, forget it once it was idle for long enough.

L1  A marked lease has no pins and never gains one.
L2  An entry leaves its table only after its lease was marked.

The whole lease is one word, `[1 bit marked_for_deletion | 22 bits pins | 40 bits idle since, ms]`, and its whole
protocol is the three steps below. While there are pins the stamp means nothing; a mark is final.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, final

from flowctl import sync
from flowctl.atomic import AtomicWord

ONE_PIN = 1 << 40
MARKED_FOR_DELETION = 1 << 62
STAMP_MASK = ONE_PIN - 1
MAX_PINS = MARKED_FOR_DELETION // ONE_PIN - 1
PINNABLE_BELOW = MARKED_FOR_DELETION - ONE_PIN
"""A word below this is unmarked and has room for one pin more."""


MAX_IDLE = ONE_PIN / 4000
"""The longest idle timeout, in seconds (8 years): stamps are compared around a circle of 34 years."""


def to_ms(seconds: float) -> int:
    """The whole milliseconds of a stamp. They wrap, so that a clock may count from any moment."""
    return int(seconds * 1000) & STAMP_MASK


def since(stamp: int, now_ms: int) -> int:
    """Milliseconds from a stamp until now, the shorter way round; negative for a thread that comes late."""
    half = ONE_PIN // 2
    return (now_ms - stamp + half & STAMP_MASK) - half


def born(now: float, *, pins: int) -> int:
    """The word of a lease that begins with so many pins."""
    return pins * ONE_PIN + to_ms(now)


def pinned(word: int) -> int | None:
    """One pin more, the stamp kept; None if marked, or full (refused, never carried into the mark)."""
    return word + ONE_PIN if word < PINNABLE_BELOW else None


def unpinned(word: int, now_ms: int, pins: int = 1) -> int:
    """So many pins less, idle since now; a late thread cannot turn the stamp back."""
    stamp = word & STAMP_MASK
    return word - pins * ONE_PIN - stamp + (now_ms if since(stamp, now_ms) > 0 else stamp)


def marked(word: int, now_ms: int, timeout_ms: int) -> int | None:
    """Marked for deletion; None while it is pinned, or not idle for the timeout, or if it is marked."""
    return word | MARKED_FOR_DELETION if word < ONE_PIN and since(word, now_ms) >= timeout_ms else None


@final
class Lease:
    """The reason why something may not be collected: one atomic word, changed by an optimistic loop.

    No step waits for another thread: who loses an exchange has lost it to somebody who got ahead.

    >>> from flowctl.atomic import CellWord
    >>> lease = Lease(CellWord(born(0.0, pins=1)))
    >>> lease.try_mark(now=99.0, idle_timeout=5.0)
    False
    >>> lease.unpin(lambda: 99.0)
    >>> lease.try_mark(now=103.9, idle_timeout=5.0), lease.try_mark(now=104.0, idle_timeout=5.0), lease.try_pin()
    (False, True, False)
    """

    __slots__ = ("word",)

    def __init__(self, word: AtomicWord) -> None:
        self.word = word

    def try_pin(self) -> bool:
        """Take a pin; False once the lease is marked (it will never be pinnable again), or if it is full."""
        word = self.word
        while True:
            seen = word.load()
            new = pinned(seen)
            if new is None:
                return False
            if word.compare_exchange(seen, new):
                return True

    def unpin(self, now: Callable[[], float], pins: int = 1) -> None:
        """Give pins back: idle since now, if these were the last. `RuntimeError` if there are none to give."""
        word = self.word
        while True:
            seen = word.load()
            if not pins * ONE_PIN <= seen < MARKED_FOR_DELETION:
                raise RuntimeError("unpin of a lease that has no pin")
            # the clock is read after the load: a use that lasted longer than the timeout ends now, not when it began
            if word.compare_exchange(seen, unpinned(seen, to_ms(now()), pins)):
                return

    def try_mark(self, now: float, idle_timeout: float) -> bool:
        """Mark for deletion what has no pin and had none for `idle_timeout` seconds; True if this call did."""
        word = self.word
        seen = word.load()
        new = marked(seen, to_ms(now), int(idle_timeout * 1000))
        # one exchange, not a loop: who loses it lost to a pin, or to another collection
        return new is not None and word.compare_exchange(seen, new)

    @property
    def pins(self) -> int:
        return (self.word.load() & ~MARKED_FOR_DELETION) // ONE_PIN

    @property
    def is_marked(self) -> bool:
        return self.word.load() >= MARKED_FOR_DELETION

    def idle_for(self, now: float) -> float:
        """Seconds since the last pin was given back; means nothing while there are pins."""
        return max(since(self.word.load() & STAMP_MASK, to_ms(now)), 0) / 1000

    def _check(self) -> None:
        word = self.word.load()
        assert 0 <= word < 2 * MARKED_FOR_DELETION, f"a word of {word:#x}"
        assert word < MARKED_FOR_DELETION or not self.pins, "L1: a marked lease has pins"


class SectionWord:
    """The word of a lease that is pinned and unpinned in a section of its own, the busiest path, which changes it in
    place: its two parts are kept apart, as what they mean. Everybody else comes by `compare_exchange`.

    Who is inside the section may change both, without a call between. Who loads without it may get the parts of two
    moments: an exchange for that fails, unless it has come true.
    """

    __slots__ = ("_section", "pins", "since")

    def __init__(self, section: sync.Mutex, value: int = 0) -> None:
        self._section = section  # re-entrant; rank: the turn
        self.pins = value // ONE_PIN  # with the mark
        self.since = _middle_of(value & STAMP_MASK)  # seconds

    def load(self) -> int:
        return self.pins * ONE_PIN + to_ms(self.since)

    def compare_exchange(self, expected: int, new: int) -> bool:
        pins, since = new // ONE_PIN, _middle_of(new & STAMP_MASK)
        seen_pins, seen_since = self.pins, self.since
        if seen_pins * ONE_PIN + to_ms(seen_since) != expected:
            return False
        with self._section:
            # without a call: no handler of this thread can come between, or find its own thread in the section
            is_unchanged = self.pins == seen_pins and self.since == seen_since
            if is_unchanged:
                self.pins = pins
                self.since = since
            return is_unchanged

    def fetch_add(self, amount: int) -> int:
        while True:
            value = self.load()
            if self.compare_exchange(value, value + amount):
                return value


def _middle_of(ms: int) -> float:
    """Seconds that fall into this millisecond whichever way they are rounded."""
    return (ms + 0.5) / 1000


class Leased(Protocol):
    """Something that is kept by a lease."""

    @property
    def lease(self) -> Lease: ...


K = TypeVar("K")
V = TypeVar("V", bound=Leased)


@final
class LeaseTable(Generic[K, V]):
    """Who exists, by key. Looking up takes no lock; it may be done on `entries` directly.

    An entry enters by `publish`, and leaves by `remove` once it is marked. Whoever meets a marked one removes it and
    goes on, so that nobody ever waits for a collector.
    """

    __slots__ = ("_mutex", "entries")

    def __init__(self, mutex: sync.Mutex | None = None) -> None:
        # re-entrant for the signal handler that removes in the middle of a removal; rank: after a shard's lock
        self._mutex: sync.Mutex = sync.RLock() if mutex is None else mutex
        # read by anyone; entered in one step by `publish`; deleted from under _mutex
        self.entries: dict[K, V] = {}

    def pin(self, key: K) -> V | None:
        """The entry, pinned once for the caller; None if there is none (any more). Never blocks on a collector."""
        while True:
            try:
                entry = self.entries[key]  # not .get: without the GIL that is a hundred times slower
            except KeyError:
                return None
            if entry.lease.try_pin():
                return entry
            if not entry.lease.is_marked:
                raise OverflowError(f"{MAX_PINS} pins on one lease")
            self.remove(key, entry)  # help: the collector may be slow, or dead

    def publish(self, key: K, entry: V) -> V:
        """Enter it if the key is free; whoever is in the table then."""
        return self.entries.setdefault(key, entry)

    def remove(self, key: K, entry: V) -> bool:
        """Take out this very object, if it is still in; True if this call did. A successor of it stays."""
        assert entry.lease.is_marked, "L2: removed without a mark"
        with self._mutex:
            # compared and deleted in one section: in two steps it would delete a successor
            try:
                if self.entries[key] is not entry:
                    return False
                del self.entries[key]
            except KeyError:
                return False
            return True

    def _check(self) -> None:
        for entry in list(self.entries.values()):
            entry.lease._check()
