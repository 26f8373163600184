"""News: what sections of the turn have settled, told after the lock by whoever passes.

N1  A ticket is told of once, in the order in which tickets were settled. Whose thread waits is woken first, and even
    if a callback dies.
N2  Whom an exception kept from being told is told by the next who passes.
N3  A callback that comes back here leaves the rest to the loop below it: a chain of callbacks needs no stack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from itertools import islice
from typing import ParamSpec, Protocol, TypeVar, final

from flowctl import sync
from flowctl.ticket import Notice, ReleaseOutcome, Ticket


class Observer(Protocol):
    """Told what happened, by whichever thread passes, with no lock held. What it raises is counted and logged."""

    def settled(self, ticket: Ticket) -> None:
        """The ticket was granted or refused."""

    def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
        """The ticket's seat was given back."""


Report = Callable[[str, BaseException], None]
"""Told what raised which exception; called with no lock held."""

P = ParamSpec("P")
T = TypeVar("T")


@final
class News:
    """What is still to be told. Sections append; `tell` empties, with no lock held."""

    __slots__ = ("_drainers", "_report", "_tellers", "incidents", "observer", "revoked", "settled", "waking")

    def __init__(self, observer: Observer | None, report: Report) -> None:
        # fixed after construction
        self.observer = observer
        self._report = report
        # fed and emptied in single steps by anyone: whose thread waits, and who has a callback or an observer
        self.waking: dict[sync.Parking, None] = {}
        self.settled: deque[Ticket] = deque()
        self.revoked: dict[Notice, None] = {}  # without a GIL a deque that changes cannot be copied
        self.incidents: deque[tuple[str, BaseException]] = deque()
        self._drainers: deque[sync.Parking] = deque()
        # the threads that are telling
        self._tellers: set[int] = set()

    def anew(self) -> News:
        """The same with nothing to tell, for a forked child."""
        return News(self.observer, self._report)

    def incident(self, what: str, error: BaseException) -> None:
        """Foreign code raised, under the lock: to be reported after it."""
        self.incidents.append((what, error))

    def when_drained(self, parking: sync.Parking) -> None:
        """Wake it once nothing is held."""
        self._drainers.append(parking)

    def wake(self) -> None:
        """Wake whose tickets were settled."""
        for parking in self.waking.copy():  # woken twice rather than not at all
            parking.wake()
            self.waking.pop(parking, None)

    def tell(self, holds: Sized) -> None:
        """Tell all there is. Costs little if there is nothing."""
        if self.waking:
            self.wake()
        # without a call: mostly there is nothing
        while (self.settled or self.revoked or self.incidents or (self._drainers and not holds)) and (
            me := sync.get_ident()
        ) not in self._tellers:
            telling: list[Ticket] = []
            try:
                self._tellers.add(me)
                self._tell_all(telling, holds)
            finally:
                try:
                    self.settled.extendleft(telling)
                finally:
                    self._tellers.discard(me)

    def _tell_all(self, telling: list[Ticket], holds: Sized) -> None:
        # of their own: since 3.13 an exception that comes where a loop jumps back passes by the `finally` around it
        while _move_first(self.settled, telling):
            self._tell(telling)
        while self.revoked:
            for notice in self.revoked.copy():  # set twice rather than not at all
                notice.event.set()
                self.revoked.pop(notice, None)
        while (incident := _first(self.incidents)) is not None:
            self._report(*incident)
        while not holds and (parking := _first(self._drainers)) is not None:
            parking.wake()

    def _tell(self, telling: list[Ticket]) -> None:
        """Tell the one ticket in the list, and take it off just before foreign code is told."""
        ticket = telling[0]
        callback = None if ticket.wait is None else ticket.wait.on_settled
        try:
            del telling[0]
            if callback is not None:
                callback(ticket)
        except Exception as error:  # noqa: BLE001 - foreign code; it is reported
            self._report("on_settled", error)
        finally:
            if self.observer is not None:
                self.call(self.observer.settled, "observer", ticket)

    def call(self, callback: Callable[P, None], what: str, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call foreign code, with no lock held. An exception of it is reported, anything worse is passed on."""
        try:
            callback(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - foreign code; it is reported
            self._report(what, error)

    def client_left(self, probe: Callable[[], object]) -> bool:
        """Ask a request's cancel probe. One that raises is reported, and says nothing."""
        try:
            return bool(probe())
        except Exception as error:  # noqa: BLE001 - foreign code; it is reported
            self._report("cancel probe", error)
            return False


def _move_first(source: deque[T], target: list[T]) -> bool:
    """Move the first thing, in one step that no exception can split; False if there is none."""
    if not source:
        return False
    try:
        # not `extend`: it would hold the list's own lock while it calls back (without a GIL)
        any(map(target.append, islice(iter(source.popleft, None), 1)))
    except IndexError:  # another thread was faster
        return False
    return True


def _first(things: deque[T]) -> T | None:
    """The first, taken off in one step; None if there is none."""
    if not things:
        return None
    try:
        return things.popleft()
    except IndexError:  # another thread was faster
        return None
