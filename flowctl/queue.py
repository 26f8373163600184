"""The queued tickets of one flow, in order."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, final

from flowctl.ticket import Ticket

_EMPTY: Final[OrderedDict[int, Ticket]] = OrderedDict()


@final
class FlowQueue:
    """Tickets in order of arrival. Every operation is O(1), also a withdrawal from the middle; both ends are visible.

    Guarded by the turn.
    """

    __slots__ = ("_tickets", "size")

    def __init__(self) -> None:
        # most flows are idle most of the time: those share one empty queue
        self._tickets = _EMPTY
        self.size = 0

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def head(self) -> Ticket | None:
        """The one that goes next."""
        return next(iter(self._tickets.values()), None)

    @property
    def newest(self) -> Ticket | None:
        """The one that came last."""
        return next(reversed(self._tickets.values()), None)

    def push(self, ticket: Ticket) -> None:
        if self._tickets is _EMPTY:
            self._tickets = OrderedDict()
        self._tickets[ticket.serial] = ticket
        self.size += ticket.size

    def withdraw(self, ticket: Ticket) -> None:
        """Take it out from wherever it stands. `KeyError` if it is not in."""
        del self._tickets[ticket.serial]
        self.size -= ticket.size
        if not self._tickets:
            self._tickets = _EMPTY

    def clear(self) -> None:
        self._tickets, self.size = _EMPTY, 0

    def _check(self) -> None:
        assert not _EMPTY, "the shared empty queue is not empty"
        assert self.size == sum(ticket.size for ticket in self._tickets.values()), "bytes of a queue"
        assert list(self._tickets) == sorted(self._tickets), "a queue out of order"
        assert all(ticket.outcome is None for ticket in self._tickets.values()), "a settled ticket in a queue"
