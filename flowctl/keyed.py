"""The queued tickets of one flow, in the order of a policy. Guarded by the turn.

Beside `queue.py`, so that only who has such a band loads a sorted list.
"""

from __future__ import annotations

from sortedcontainers import SortedList

from flowctl.queue import FlowQueue
from flowctl.ticket import Ticket

Key = tuple[float, int]
"""What the policy says, and the number of arrival."""


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


def _key(ticket: Ticket) -> Key:
    return (0.0 if ticket.wait is None else ticket.wait.order), ticket.serial
