"""All flows of one priority: who of them is active, and whose turn it is.

Start-time fair queueing over the active flows: the one with the smallest start tag goes. A flow that becomes active
starts at the band's virtual time, so that it has neither credit nor debt from when it was idle. Equal tags go in the
order in which the flows got them: by arrival for those that become active, and to the back of the ring for one that
was just served. (By the arrival of their heads, two flows with equal tags could go A B B A.)
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar, final

from flowctl.config import BandConfig
from flowctl.lease import Lease, Leased, LeaseTable
from flowctl.queue import FlowQueue
from flowctl.ticket import Ticket

Place = tuple[float, int, "ActiveFlow"]
"""A flow's place in the ring: its start tag, a number that settles every tie, the flow."""


class ActiveFlow(Leased, Protocol):
    """A flow, as far as its band cares. Guarded by the turn."""

    queue: FlowQueue
    start: float
    finish: float
    place: Place | None


F = TypeVar("F", bound=ActiveFlow)


@final
class PriorityBand(Generic[F]):
    """The flows of one priority, with their limits and policies.

    All but the first group is guarded by the turn.
    """

    __slots__ = (
        "_ring",
        "_horizon",
        "_last_place",
        "backlog",
        "config",
        "flows",
        "lease",
        "priority",
        "queued_bytes",
        "virtual_time",
    )

    def __init__(self, priority: int, config: BandConfig, lease: Lease) -> None:
        # fixed after construction; the lease has a pin for each flow, and one more if the band is configured
        self.priority = priority
        self.config = config
        self.lease = lease
        self.flows: LeaseTable[str, F] = LeaseTable()
        # everything queued here, in order of arrival
        self.backlog: OrderedDict[int, Ticket] = OrderedDict()
        self.queued_bytes = 0
        self.virtual_time: float = 0
        # the largest finish tag of any flow
        self._horizon: float = 0
        # heap of the active flows' places; one counts only while it is its flow's own `place`
        self._ring: list[tuple[float, int, F]] = []
        self._last_place = 0

    @property
    def queued(self) -> int:
        return len(self.backlog)

    def newest_first(self) -> Iterable[Ticket]:
        """What is queued, the latest arrival first. The backlog must not change meanwhile."""
        return reversed(self.backlog.values())

    def push(self, flow: F, ticket: Ticket) -> None:
        """Queue a ticket: O(log active flows) if its flow was idle, else O(1)."""
        flow.queue.push(ticket)
        self.backlog[ticket.serial] = ticket
        self.queued_bytes += ticket.size
        if flow.place is None:
            flow.start = max(self.virtual_time, flow.finish)
            self._place(flow)

    def withdraw(self, flow: F, ticket: Ticket) -> None:
        """Take a queued ticket out, wherever it stands: O(1)."""
        flow.queue.withdraw(ticket)
        del self.backlog[ticket.serial]
        self.queued_bytes -= ticket.size
        if not flow.queue:
            flow.place = None
        if not self.backlog:
            # capacity that was used while nobody else wanted it is not held against its flow
            self.virtual_time = max(self.virtual_time, self._horizon)

    def next_flow(self) -> F | None:
        """The active flow whose turn it is."""
        ring = self._ring
        while ring:
            place = ring[0]
            if place[2].place is place:
                return place[2]
            heapq.heappop(ring)
        return None

    def charge(self, flow: F, charge: float) -> None:
        """Account for one dispatch of this flow, whose turn it is: O(log active flows)."""
        self.virtual_time = max(self.virtual_time, flow.start)
        flow.start = flow.finish = flow.start + charge
        self._horizon = max(self._horizon, flow.finish)
        self._place(flow)

    def clear(self) -> None:
        """Forget what is queued; for books that are made anew."""
        for place in self._ring:
            place[2].place = None
        self._ring.clear()
        self.backlog.clear()
        self.queued_bytes = 0

    def _place(self, flow: F) -> None:
        self._last_place += 1
        place = (flow.start, self._last_place, flow)
        flow.place = place
        heapq.heappush(self._ring, place)
        if len(self._ring) > 2 * len(self.backlog) + 64:  # more stale places than live ones
            self._ring = [place for place in self._ring if place[2].place is place]
            heapq.heapify(self._ring)

    def _check(self) -> None:
        self.lease._check()
        live = [place[2] for place in self._ring if place[2].place is place]
        assert len(set(map(id, live))) == len(live), "a flow twice in the ring"
        assert sum(len(flow.queue) for flow in live) == len(self.backlog), "active flows against the backlog"
        assert self.queued_bytes == sum(ticket.size for ticket in self.backlog.values()), "bytes of a band"
        for flow in live:
            flow.queue._check()
            assert flow.queue, "an idle flow in the ring"
