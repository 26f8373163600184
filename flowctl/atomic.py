"""One 63-bit word that changes in one step: the ground under every lease.

Two backends, and `lease.SectionWord`; one contract (`tests/test_atomic.py` runs the same tests over all):

`CellWord`     compare-and-swap without a lock, on the one step that a dict does for us atomically
`LockWord`     compare-and-swap under a lock of its own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from flowctl import sync

if TYPE_CHECKING:
    from flowctl.snapshot import WordUse


class AtomicWord(Protocol):
    """An int in [0, 2^63) that any thread may change, also a signal handler in the middle of its own thread's call."""

    def load(self) -> int:
        """The value at some moment of this call. Never blocks."""

    def compare_exchange(self, expected: int, new: int) -> bool:
        """Store `new` if the value is `expected`, in one step; False if it is not."""

    def fetch_add(self, amount: int) -> int:
        """Add in one step; the value before."""


@final
class CellWord:
    """Compare-and-swap emulated without a lock: nothing to get stuck on, and nothing for a fork to mend.

    Each value is a cell. To exchange it is to give its cell a successor, which `setdefault` lets exactly one thread do.
    """

    __slots__ = ("_cell",)

    def __init__(self, value: int = 0) -> None:
        # a hint: whoever stores it may come late, so that a reader follows the successors to the newest cell. A thread
        # that stalls before it stores keeps the chain behind its cell alive for that long.
        self._cell = sync.Cell(value)

    def _newest(self) -> sync.Cell:
        cell = self._cell
        while 1 in cell:
            cell = cell[1]
        return cell

    def load(self) -> int:
        return self._newest().value

    def compare_exchange(self, expected: int, new: int) -> bool:
        cell = self._newest()
        if cell.value != expected:
            return False
        successor = sync.Cell(new)
        if cell.setdefault(1, successor) is not successor:
            return False  # another thread exchanged this very value first
        self._cell = successor
        return True

    def fetch_add(self, amount: int) -> int:
        while True:
            value = self.load()
            if self.compare_exchange(value, value + amount):
                return value


@final
class LockWord:
    """Compare-and-swap under a re-entrant lock of its own.

    Between the comparison and the store there is no call, hence no place for a handler of the same thread to run.
    """

    __slots__ = ("_mutex", "_value")

    def __init__(self, value: int = 0) -> None:
        self._mutex = sync.RLock()  # rank: words, innermost
        self._value = value

    def load(self) -> int:
        return self._value

    def compare_exchange(self, expected: int, new: int) -> bool:
        with self._mutex:
            if self._value != expected:
                return False
            self._value = new
            return True

    def fetch_add(self, amount: int) -> int:
        with self._mutex:
            value = self._value
            self._value = value + amount
            return value


# --- words that count ----------------------------------------------------------------------------------------------


@final
class WordUsage:
    """How words of one kind were exchanged."""

    __slots__ = ("_attempts", "_handoffs", "_lost", "_mutex")

    def __init__(self) -> None:
        self._mutex = sync.RLock()  # rank: words, innermost
        # guarded by _mutex, read by anyone
        self._attempts = 0
        self._lost = 0
        self._handoffs = 0

    def count(self, *, exchanged: bool, last: int, thread: int) -> None:
        """One more attempt by this thread; `last`: who exchanged that word before (0: nobody)."""
        with self._mutex:
            self._attempts += 1
            self._lost += not exchanged
            self._handoffs += exchanged and last not in (0, thread)

    def seen(self) -> WordUse:
        from flowctl.snapshot import WordUse  # noqa: PLC0415 - see there

        return WordUse(self._attempts, self._lost, self._handoffs)


@final
class CountedWord:
    """A word that counts how it is exchanged."""

    __slots__ = ("_last", "_usage", "_word")

    def __init__(self, word: AtomicWord, usage: WordUsage) -> None:
        self._word = word
        self._usage = usage
        self._last = 0  # who exchanged it, as far as is known: two who do at once may store it in the other order

    def load(self) -> int:
        return self._word.load()

    def compare_exchange(self, expected: int, new: int) -> bool:
        exchanged, last, thread = self._word.compare_exchange(expected, new), self._last, sync.get_ident()
        if exchanged:
            self._last = thread
        self._usage.count(exchanged=exchanged, last=last, thread=thread)
        return exchanged

    def fetch_add(self, amount: int) -> int:
        return self._word.fetch_add(amount)
