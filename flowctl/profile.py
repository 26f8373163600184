"""What `Config.profile` counts: the locks and the words of one controller.

Without it there is nothing of this: plain locks and plain words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, final

from flowctl import sync
from flowctl.atomic import AtomicWord, CountedWord, WordUsage
from flowctl.usage import Usage

if TYPE_CHECKING:
    from flowctl.snapshot import Contention


@final
class Profile:
    """The counts of one controller, but for its shards' locks, which have their own."""

    __slots__ = ("_bands", "_idle", "_tables", "_turn", "now")

    def __init__(self, now: Callable[[], float]) -> None:
        # fixed after construction
        self.now = now
        # each counted under its one lock
        self._turn = Usage()
        self._idle = Usage()
        # shared by all tables, and by the words of all bands: what is collected takes no counts away
        self._tables = sync.SharedUsage()
        self._bands = WordUsage()

    def turn(self) -> sync.Mutex:
        """The lock of the one turn."""
        return sync.CountedRLock(self.now, self._turn)

    def idle(self) -> sync.Mutex:
        """The mutex of the one order of the idle."""
        return sync.CountedRLock(self.now, self._idle)

    def table(self) -> sync.Mutex:
        """The mutex of a lease table."""
        return sync.CountedRLock(self.now, self._tables)

    def band_word(self, word: AtomicWord) -> AtomicWord:
        """The word of a band's lease."""
        return CountedWord(word, self._bands)

    def seen(self, shards: Sequence[sync.RWLock]) -> Contention:
        """All that was counted, with that of these shards' locks."""
        from flowctl.snapshot import Contention, ShardUse  # noqa: PLC0415 - see there

        return Contention(
            turn=self._turn.seen(),
            shards=tuple(
                ShardUse(read=lock.reads.seen(), write=lock.writes.seen())
                for lock in shards
                if lock.reads is not None and lock.writes is not None
            ),
            tables=self._tables.seen(),
            idle=self._idle.seen(),
            bands=self._bands.seen(),
        )
