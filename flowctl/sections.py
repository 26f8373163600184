"""Sections: one lock, and exceptions, signal handlers and finalisers that may come anywhere under it.

S1  After a section the round is done, or owed; whoever passes next does it.
S2  A section that an exception tore leaves the lock free and says so; the next one mends the books first.
S3  Who comes in the middle of a section of its own thread changes nothing there: what it wants is handed in, and done
    when that section ends. It cannot deadlock, and cannot see half a change.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from flowctl import sync
from flowctl.clock import Clock
from flowctl.flow import Flow
from flowctl.ledger import Ledger
from flowctl.news import News
from flowctl.ticket import Hold, Ticket

Act = Callable[[float], None]
"""A change, made under the lock at a time in seconds of the clock."""

T = TypeVar("T")

_Returns = deque[Hold[Flow] | int | Act]  # an int: the serial of a claim
_ToGrant = tuple[Callable[[], bool], sync.Mutex, Ledger, dict[int, Ticket], _Returns]
_ToRelease = tuple[*_ToGrant, deque[Ticket], Callable[[], float]]

AGED_A_SECTION: Final = 128
"""Tickets that the collector looks at under the lock in one go: a tenth of a millisecond, or two."""


class Sections(ABC):
    """The lock over a `Ledger`, and how one gets under it."""

    __slots__ = (
        "_now",
        "_observer",
        "_owed",
        "_rests",
        "_to_grant",
        "_to_release",
        "_returns",
        "_stuck_until",
        "_torn",
        "abandoned",
        "bar",
        "hand_in",
        "is_interrupted",
        "ledger",
        "lock",
        "news",
        "repairs",
    )

    def __init__(self, clock: Clock, news: News, lock: sync.Mutex | None = None) -> None:
        # fixed after construction
        self._now = clock.now
        self.news = news
        self._observer = news.observer
        # re-entrant for those who come in the middle of a section of their own thread: that it is theirs tells them
        # so. Rank: alone, but for words; taken by `with` only, but for the two sections of `Turn` that are plain
        self.lock: sync.Mutex = sync.RLock() if lock is None else lock
        # is the caller a signal handler or finaliser, in the middle of a section of its own thread?
        self.is_interrupted = sync.ownership(self.lock)
        # guarded by lock
        self.ledger = Ledger()
        # until then nobody who waits can go, unless a section changes something: the head's deadline
        self._stuck_until = -math.inf
        self._rests = False  # the act of this section let nobody go who could not before: it needs no round
        # whom an arrival must exceed in priority to go on the spot: everybody who waits, or nobody can while a section
        # runs, or was torn
        self.bar = self.ledger.top
        self.abandoned = 0
        self.repairs = 0
        # written under lock, read by anyone
        self._torn = False
        self._owed = False
        # fed in single steps by anyone, emptied under lock
        self._returns: _Returns = deque()
        self.hand_in = self._returns.append
        self._to_grant, self._to_release = self._at_hand()

    def _at_hand(self) -> tuple[_ToGrant, _ToRelease]:
        """What the plain sections need, in one piece each: it is quicker to unpack one than to look each up."""
        to_grant = self.lock.acquire, self.lock, self.ledger, self.ledger.young, self._returns
        return to_grant, (*to_grant, self.news.settled, self._now)

    @abstractmethod
    def _round_locked(self, now: float) -> None:
        """Let go whoever can go; or some of them, and set `_owed`."""

    def change(self, act: Act) -> None:
        """Run a change under the lock, and let go whoever can go after it. Never waits for a request.

        In a signal handler or finaliser that interrupted a section of its own thread, the change is made when that
        section ends.
        """
        if self.is_interrupted():
            self._returns.append(act)
            return
        with self.lock:
            self._section_locked(act)
        self.help()

    def book(self, act: Act) -> None:
        """Run an act that only stores, and lets nobody go who could not before; at once, also in the middle of a
        section of our own thread.
        """
        if self.is_interrupted():
            act(self._now())
            self.help()
            return
        with self.lock:
            self._alone_locked(lambda: act(self._now()))
        if self._owed or self._returns or self._torn or self.news.settled:
            self.help()

    def read(self, look: Callable[[Ledger], T]) -> T:
        """Look at the books under the lock, when what was handed in is in them, and what was torn is mended."""
        if self.ledger.young or self._returns or self._torn:
            self.change(_nothing)
        if self.is_interrupted():
            return look(self.ledger)
        with self.lock:
            seen = self._alone_locked(lambda: look(self.ledger))
        if self._returns or self.news.incidents:  # of a handler that came meanwhile, of a gate that failed
            self.help()
        return seen

    def age(self) -> None:
        """Know all tickets that were granted on the spot so far by weak holds, a few in a section: before whoever comes
        next has to do it in one.
        """
        for _ in range(-(-len(self.ledger.young) // AGED_A_SECTION)):
            if self.is_interrupted():
                return
            with self.lock:
                self._alone_locked(lambda: None, AGED_A_SECTION)
        self.help()

    def _alone_locked(self, act: Callable[[], T], most: int | None = None) -> T:
        """A section without a round, which ages so many tickets first (None: all)."""
        self.bar = math.inf
        try:
            self.ledger.age(self.hand_in, most)
            return act()
        except BaseException:
            self._torn = True
            raise
        finally:
            self.bar = math.inf if self._torn else self.ledger.top

    def help(self) -> None:
        """Finish what others left: owed rounds, returned holds, torn books, news. Costs little if there is nothing. In
        the middle of a section of our own thread it is that which helps, after it.
        """
        if self.is_interrupted():
            self._returns.append(_nothing)  # whatever has the lock looks here once it gave it back
            return
        while self._owed or self._returns or self._torn:
            with self.lock:
                self._section_locked(_nothing)
        self.news.tell(self.ledger.holds)

    def new_hold(self, ticket: Ticket) -> Hold[Flow]:
        """A hold for a ticket; once it is in the books, it comes back by itself when the ticket is dropped."""
        hold: Hold[Flow] = Hold(ticket, self.hand_in)
        hold.serial = 0
        return hold

    def _section_locked(self, act: Act) -> None:
        self.bar = math.inf
        try:
            now = self._now()
            if self.ledger.young:
                self.ledger.age(self.hand_in)
            if self._torn or self._returns:
                self._mend_locked(now)
                self._stuck_until, self._rests = -math.inf, False  # whatever those who were handed in have found
            act(now)
            if not self._rests:
                self._round_locked(now)
        except BaseException:
            self._torn = True
            raise
        finally:
            self._rests = False
            self.bar = math.inf if self._torn else self.ledger.top

    def _mend_locked(self, now: float) -> None:
        """Put right what an exception tore, and apply what was handed in while a section ran."""
        while self._torn or self._returns:
            if self._torn:
                self._repair_locked()
            else:
                self._take_in_locked(self._returns[0], now)

    def _repair_locked(self) -> None:
        if not self.ledger.is_sound():
            self.repairs += 1
        self.ledger.rebuild()
        self._torn = False

    def _take_in_locked(self, item: Hold[Flow] | int | Act, now: float) -> None:
        """Apply the first of what was handed in."""
        self._stuck_until = -math.inf
        if isinstance(item, Hold | int):
            self._give_back_locked(item, now)
            self._returns.popleft()  # when it is done: an exception on the way loses nothing
            return
        try:
            item(now)
        except Exception as error:  # noqa: BLE001 - whoever made the change is gone; it is reported
            self._torn = True  # it may have come anywhere: nobody goes on before the books are made anew
            self.news.incident("change made by a handler", error)
        finally:
            self._returns.popleft()  # done or failed: what fails once must not fail everybody after it

    def _give_back_locked(self, claim: Hold[Flow] | int, now: float) -> None:
        if isinstance(claim, int):
            self.ledger.drop(claim, now)
        else:
            self._drop_locked(claim, now)

    def _drop_locked(self, hold: Hold[Flow], now: float) -> None:
        """Give back what a hold held, if nobody did; one that never came into the books has no serial."""
        if self.ledger.drop(getattr(hold, "serial", 0), now) is not None and hold() is None:
            self.abandoned += 1

    def _after_fork_in_child(self, news: News) -> None:
        """Let go of everything without looking at it."""
        self.lock = sync.RLock()
        self.is_interrupted = sync.ownership(self.lock)
        self.ledger = Ledger()
        self.news = news
        self._torn = self._owed = self._rests = False
        self._stuck_until = -math.inf
        self.bar = self.ledger.top
        self._returns = deque()
        self.hand_in = self._returns.append
        self._to_grant, self._to_release = self._at_hand()

    def _check(self) -> None:
        with self.lock:
            assert self.bar == self.ledger.top, "a section that never ended"
            self.ledger.age(self.hand_in)
            self.ledger._check()


def _nothing(now: float) -> None:
    """A change that changes nothing."""
