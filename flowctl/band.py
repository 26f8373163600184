"""All flows of one priority: who of them is active, and whose turn it is.

Start-time fair queueing over the active flows: the one with the smallest start tag goes. A flow that becomes active has
neither credit nor debt from when it was idle: where somebody has gone since others wait, it stands as if it had gone
just now too, one charge of its own behind the band's virtual time (as in self-clocked fair queueing; Golestani, INFOCOM
1994). At the virtual time itself newcomers would go before all who have gone once, and if enough of them came, nobody
else would ever go again. When nobody waits any more, all begins anew: capacity that was used while nobody else wanted
it is not held against its flow.

Equal tags go in the order in which the flows got them: by arrival for those that become active, and to the back of the
ring for one that was just served. (By the arrival of their heads, two flows with equal tags could go A B B A.)

Where the fairness policy goes `by_head`, a flow's tag is the ordering key of its head instead, and ties go by arrival.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Generic, NamedTuple, Protocol, TypeVar, final

from flowctl import sync
from flowctl.config import BandConfig
from flowctl.drain import DrainRate
from flowctl.lease import Lease, Leased, LeaseTable
from flowctl.policies.fairness import is_metered
from flowctl.policies.ordering import Fcfs
from flowctl.queue import EMPTY, FlowQueue
from flowctl.ranking import Ranking
from flowctl.request import MAX_COUNT
from flowctl.ticket import Ticket, Wait

NOBODY: Final = -math.inf
"""Below every priority."""


class Halts(NamedTuple):
    """Whose requests are held back in a band: flow ids, and None for all."""

    paused: frozenset[str | None] = frozenset()  # they wait
    drained: frozenset[str | None] = frozenset()  # new ones are refused, those that wait are served


Place = tuple[float, int, "ActiveFlow"]
"""A flow's place in the ring: its start tag, a number that settles every tie, the flow."""


class ActiveFlow(Leased, Protocol):
    """A flow, as far as its band cares. Guarded by the turn."""

    id: str
    queue: FlowQueue
    start: float
    finish: float
    place: Place | None
    # which activation of its band this is, and by how much virtual time had overtaken its finish tag then
    activation: int
    slack: float


F = TypeVar("F", bound=ActiveFlow)


@final
class PriorityBand(Generic[F]):
    """The flows of one priority, with their limits and policies.

    All but the first group is guarded by the turn.
    """

    __slots__ = (
        "_began",
        "_by_head",
        "_last_place",
        "_metered",
        "_new_queue",
        "_paused",
        "_ranking",
        "_ring",
        "active",
        "backlog",
        "config",
        "door",
        "drained",
        "flow_by_id",
        "flows",
        "halts",
        "has_gone",
        "is_keyed",
        "is_retired",
        "lease",
        "priority",
        "queued_bytes",
        "roomy_bytes",
        "roomy_requests",
        "virtual_time",
    )

    def __init__(self, priority: int, config: BandConfig, lease: Lease, mutex: sync.Mutex | None = None) -> None:
        # fixed after construction; the lease has a pin for each flow, and one more if the band is configured
        self.priority = priority
        self.lease = lease
        self.flows: LeaseTable[str, F] = LeaseTable(mutex)
        self.flow_by_id = self.flows.entries
        self.is_keyed = not isinstance(config.ordering, Fcfs)
        self._new_queue = _keyed_queue() if self.is_keyed else FlowQueue
        self._by_head = bool(getattr(config.fairness, "by_head", False))
        self._metered = config.fairness if is_metered(config.fairness) else None
        # written under the turn, read by anyone: takes no new request any more
        self.is_retired = False
        # its configuration, as it was opened last
        self._limit(config)
        # its priority, if whoever comes may go before all that wait below it; else that of nobody
        self.door: float = priority
        self.halts = Halts()
        # everything queued here, in order of arrival
        self.backlog: OrderedDict[int, Ticket] = OrderedDict()
        self.queued_bytes = 0
        self.drained = DrainRate()
        self.virtual_time: float = 0
        # the last place before all began anew: tags of flows that were activated up to then are of no account
        self._began = 0
        self.has_gone = False  # somebody, since then
        # heap of the active flows' places; one counts only while it is its flow's own `place`
        self._ring: list[tuple[float, int, F]] = []
        self.active = 0  # flows in the ring
        # the others where something is queued
        self._paused: dict[F, None] = {}
        self._last_place = 0
        self._ranking: Ranking[F] = Ranking(self.share)

    @property
    def queued(self) -> int:
        return len(self.backlog)

    def newest_first(self) -> Iterable[Ticket]:
        """What is queued, the latest arrival first. The backlog must not change meanwhile."""
        return reversed(self.backlog.values())

    def longest_first(self) -> Iterator[tuple[float, Ticket]]:
        """What is queued, the newest of the largest flow first: see `Ranking.longest_first`."""
        return self._ranking.longest_first(self._waiting_flows)

    def share(self, requests: int, size: int) -> float:
        """How much of the band so many requests of so many bytes take: their larger part of its limits (the dominant
        share; Ghodsi et al., "Dominant Resource Fairness", NSDI 2011).
        """
        most_requests, most_bytes = self.config.max_requests, self.config.max_bytes
        return max(requests / (most_requests or MAX_COUNT), size / most_bytes if most_bytes else 0)

    def push(self, flow: F, ticket: Ticket) -> None:
        """Queue a ticket: O(log active flows) if its flow was idle or has a new head, and what its queue takes."""
        if flow.queue is EMPTY:
            flow.queue = self._new_queue()
        flow.queue.push(ticket)
        self.backlog[ticket.serial] = ticket
        self.queued_bytes += ticket.size
        if flow.place is None:
            self._enter(flow, 0.0 if ticket.wait is None else ticket.wait.price or 0.0)
        elif self._by_head and flow.queue.head is ticket:
            self._place(flow)
        self._ranking.grew(flow, len(self.backlog))

    def withdraw(self, flow: F, ticket: Ticket) -> None:
        """Take a queued ticket out, wherever it stands. Costs what it costs its queue."""
        was_head = self._by_head and flow.queue.head is ticket
        flow.queue.withdraw(ticket)
        del self.backlog[ticket.serial]
        self.queued_bytes -= ticket.size
        if not flow.queue.requests:
            flow.queue = EMPTY
            self._leave(flow)
        elif was_head and flow.place is not None:
            self._place(flow)
        if not self.backlog:
            self.virtual_time, self._began, self.has_gone = 0, self._last_place, False
            self._ranking.forget()

    def next_flow(self) -> F | None:
        """The active flow whose turn it is."""
        ring = self._ring
        while ring:
            place = ring[0]
            if place[2].place is place:
                return place[2]
            heapq.heappop(ring)
        return None

    def price(self, cost: int, weight: float, metadata: Mapping[str, object] | None) -> float:
        """What the fairness policy charges for this. Raises what the policy raises, `ValueError` for nonsense."""
        if self._metered is not None:
            charge = self._metered.charge(cost, weight, metadata=metadata or {})
        else:
            charge = self.config.fairness.charge(cost, weight)
        if not 0 <= charge < math.inf:
            raise ValueError(f"charge must be finite and at least 0, not {charge!r}")
        return float(charge)  # whatever number it is, it can be added to others from here on

    def charge(self, flow: F, charge: float) -> None:
        """Account for one dispatch of this flow, whose head goes and is still queued: O(log active flows)."""
        self.has_gone = True
        self.virtual_time = max(self.virtual_time, flow.start)
        flow.start = flow.finish = flow.start + charge
        if not self._by_head and flow.queue.requests > 1:  # else it is about to leave the ring
            self._place(flow)

    def correct(self, flow: F, wait: Wait, charge: float) -> None:
        """Charge a flow this for a request, and no longer what it was charged: O(log active flows).

        What virtual time had overtaken meanwhile was never held against the flow: it is neither given back nor charged.
        """
        change, slack = charge - (wait.charged or 0.0), flow.slack
        if wait.activation <= self._began:
            change = 0.0
        elif wait.activation != flow.activation:
            slack -= change
            change = max(0.0, -slack) - max(0.0, -flow.slack)
        start = flow.start + change
        # plain stores: an exception leaves all of it or nothing
        wait.charged = charge
        flow.slack = slack
        if not change:
            return
        flow.start = start
        flow.finish = start
        if flow.place is not None and not self._by_head:
            self._place(flow)

    # --- whether it takes requests, and lets them go -----------------------------------------------------------------

    def is_paused(self, flow: F) -> bool:
        return bool(self.halts.paused) and (flow.id in self.halts.paused or None in self.halts.paused)

    def is_drained(self, flow: F) -> bool:
        return bool(self.halts.drained) and (flow.id in self.halts.drained or None in self.halts.drained)

    def halt(self, halts: Halts, price: Callable[[F], float]) -> None:
        """Hold back these, and nobody else. Whoever may go again stands as if it had gone just now, and `price` says
        what that was. O(flows that wait).
        """
        flows = self._waiting_flows()
        self.align(halts)
        for flow in flows:
            if self.is_paused(flow) != (flow.place is None):
                self._leave(flow)
                self._enter(flow, price(flow))

    def align(self, halts: Halts) -> None:
        """Hold back these from now on; whom it finds in the ring it leaves there."""
        door = NOBODY if self.is_retired or any(halts) else self.priority
        # plain stores: no exception can come between the two
        self.halts = halts
        self.door = door

    def retire(self) -> None:
        """Take no new request."""
        self.is_retired = True
        self.door = NOBODY

    def open(self, config: BandConfig) -> None:
        """Take requests, with these limits; ordering and fairness stay what they are."""
        self._ranking.forget()
        for ticket in self.backlog.values():
            if ticket.wait is not None:
                ticket.wait.price = None  # weights may differ
        door = NOBODY if any(self.halts) else self.priority
        self._limit(config)
        self.is_retired = False
        self.door = door

    def _limit(self, config: BandConfig) -> None:
        """Hold to these limits from now on."""
        requests = [most for most in (config.max_requests, config.max_requests_per_flow) if most is not None]
        in_bytes = [most for most in (config.max_bytes, config.max_bytes_per_flow) if most is not None]
        roomy_requests, roomy_bytes = min(requests, default=math.inf), min(in_bytes, default=math.inf)
        # plain stores: no exception can come between them
        self.config = config
        # who comes exceeds none of them while fewer requests, and with it no more bytes, are in all queues
        self.roomy_requests = roomy_requests
        self.roomy_bytes = roomy_bytes

    # --- the ring ----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget what is queued; for books that are made anew."""
        for place in self._ring:
            place[2].place = None
        self._ring.clear()
        self._paused.clear()
        self.active = 0
        self._ranking.forget()
        self.backlog.clear()
        self.queued_bytes = 0

    def _waiting_flows(self) -> list[F]:
        """Those where something is queued, in the order in which they would go; the paused ones last."""
        return [place[2] for place in sorted(self._ring) if place[2].place is place] + list(self._paused)

    def _enter(self, flow: F, price: float) -> None:
        """A flow has something queued, or may go again; `price`: what its next request will be charged."""
        if self.is_paused(flow):
            self._paused[flow] = None
            return
        if flow.activation <= self._began:
            flow.finish = 0
        just_gone = self.virtual_time + price if self.has_gone else self.virtual_time
        flow.slack = just_gone - flow.finish
        flow.start = max(just_gone, flow.finish)
        self.active += 1
        self._last_place += 1
        flow.activation = self._last_place
        self._place(flow)

    def _leave(self, flow: F) -> None:
        """A flow has nothing queued any more, or may not go."""
        if flow.place is None:
            del self._paused[flow]
        else:
            flow.place = None
            self.active -= 1

    def _place(self, flow: F) -> None:
        head = flow.queue.head if self._by_head else None
        if head is not None and head.wait is not None:
            place = (head.wait.order, head.serial, flow)
        else:
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
        assert len(set(map(id, live))) == len(live) == self.active, "active flows"
        assert all(self.is_paused(flow) and flow.place is None for flow in self._paused), "a flow that is not paused"
        assert not any(self.is_paused(flow) for flow in live), "a paused flow in the ring"
        live += self._paused
        assert sum(flow.queue.requests for flow in live) == len(self.backlog), "active flows against the backlog"
        assert self.queued_bytes == sum(ticket.size for ticket in self.backlog.values()), "bytes of a band"
        for flow in live:
            flow.queue._check()
            assert flow.queue.requests, "an idle flow in the ring"


def _keyed_queue() -> type[FlowQueue]:
    from flowctl.keyed import KeyedQueue  # noqa: PLC0415 - few bands need it, and it loads a library

    return KeyedQueue
