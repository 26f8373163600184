"""The queued tickets of one flow, in order. Guarded by the turn.

A queue knows two orders: that of arrival, and the one in which tickets go. `FlowQueue` is for bands where these are the
same, `KeyedQueue` for those with another ordering policy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from sortedcontainers import SortedList

from flowctl.ticket import Ticket

Key = tuple[float, int]
"""What the policy says, and the number of arrival."""


class FlowQueue:
    """Tickets in order of arrival. All of it is O(1), also a withdrawal from the middle; both ends are visible."""

    __slots__ = ("_tickets", "size")

    def __init__(self) -> None:
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
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
        self.size += ticket.size

    def withdraw(self, ticket: Ticket) -> None:
        """Take it out from wherever it stands. `KeyError` if it is not in."""
        del self._tickets[ticket.serial]
        self.size -= ticket.size

    def _check(self) -> None:
        assert not EMPTY, "the shared empty queue is not empty"
        assert self.size == sum(ticket.size for ticket in self._tickets.values()), "bytes of a queue"
        assert list(self._tickets) == sorted(self._tickets), "a queue out of order"
        assert all(ticket.outcome is None for ticket in self._tickets.values()), "a settled ticket in a queue"


class KeyedQueue(FlowQueue):
    """Tickets by the key that the ordering policy gave them, equal ones in order of arrival: O(log queued)."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        super().__init__()
        self._order: SortedList[Key] = SortedList()

    @property
    def head(self) -> Ticket | None:
        return self._tickets[self._order[0][1]] if self._order else None

    def ahead(self, ticket: Ticket) -> int:
        return self._order.bisect_left(_key(ticket))

    def push(self, ticket: Ticket) -> None:
        self._order.add(_key(ticket))
        super().push(ticket)

    def withdraw(self, ticket: Ticket) -> None:
        super().withdraw(ticket)
        self._order.remove(_key(ticket))

    def _check(self) -> None:
        super()._check()
        assert list(self._order) == sorted(map(_key, self._tickets.values())), "the places of the tickets"


EMPTY: Final = FlowQueue()
"""Of all flows that have nothing queued: most of them, most of the time."""


def _key(ticket: Ticket) -> Key:
    return (0.0 if ticket.wait is None else ticket.wait.order), ticket.serial
