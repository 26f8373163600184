"""The queued tickets of one flow, in order. Guarded by the turn.

A queue knows two orders: that of arrival, and the one in which tickets go. `FlowQueue` is for bands where these are the
same, `KeyedQueue` (`keyed.py`) for those with another ordering policy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from flowctl.ticket import Ticket


class FlowQueue:
    """Tickets in order of arrival. All of it is O(1), also a withdrawal from the middle; both ends are visible."""

    __slots__ = ("_tickets", "requests", "size")

    def __init__(self) -> None:
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
        self.requests = 0
        self.size = 0  # bytes

    @property
    def head(self) -> Ticket | None:
        """The one that goes next."""
        return next(iter(self._tickets.values()), None)

    @property
    def newest(self) -> Ticket | None:
        """The one that came last."""
        return next(reversed(self._tickets.values()), None)

    def newest_first(self) -> Iterable[Ticket]:
        """All of them, the latest arrival first. The queue must not change meanwhile."""
        return reversed(self._tickets.values())

    def ahead(self, ticket: Ticket) -> int:
        """How many go before it; all that are queued, if it is still to come. O(that many)."""
        if ticket.serial not in self._tickets:
            return len(self._tickets)
        return next(place for place, serial in enumerate(self._tickets) if serial == ticket.serial)

    def push(self, ticket: Ticket) -> None:
        self._tickets[ticket.serial] = ticket
        self.requests += 1
        self.size += ticket.size

    def withdraw(self, ticket: Ticket) -> None:
        """Take it out from wherever it stands. `KeyError` if it is not in."""
        del self._tickets[ticket.serial]
        self.requests -= 1
        self.size -= ticket.size

    def _check(self) -> None:
        assert not EMPTY.requests, "the shared empty queue is not empty"
        assert self.requests == len(self._tickets), "requests of a queue"
        assert self.size == sum(ticket.size for ticket in self._tickets.values()), "bytes of a queue"
        assert list(self._tickets) == sorted(self._tickets), "a queue out of order"
        assert all(ticket.outcome is None for ticket in self._tickets.values()), "a settled ticket in a queue"


EMPTY: Final = FlowQueue()
"""Of all flows that have nothing queued: most of them, most of the time."""
