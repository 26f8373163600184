"""The books of the turn: who holds what, who waits where, and what that adds up to.

B1  Seats in flight are the sum of the costs of the holds; a flow's pins are the number of its holds.
B2  A ticket is queued exactly while it is in its flow's queue, in its band's backlog, and in every count of both.
B3  All other books can be made anew from the holds (`rebuild`).

An exception may arrive wherever a thread makes or leaves a call, and nowhere else. So each step that has to be whole
is a run of plain stores without a call between them; what takes calls (queues, heaps) is what `rebuild` can mend: a
hold is entered before its ticket is queued, and leaves after it.

Guarded by the turn, all of it.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import final

from flowctl.band import NOBODY, Halts, PriorityBand
from flowctl.drain import DrainRate
from flowctl.flow import Flow
from flowctl.lease import MAX_PINS
from flowctl.queue import EMPTY
from flowctl.request import WaitingRoom
from flowctl.ticket import Hold, Ticket, Wait


@final
class Picture:
    """The books beside the holds, as they are when it is taken, under the lock; they are compared after that.

    Every change of the books keeps them in agreement. So where one picture shows none, something tore them: whoever
    moved on since has nothing to do with it.
    """

    __slots__ = (
        "_backlogs",
        "_costs",
        "_flows",
        "_in_flight",
        "_pins",
        "_queued",
        "_seatless",
        "_suspected",
        "_suspects",
        "_waiting",
        "lost",
    )

    def __init__(self, ledger: Ledger, suspects: Sequence[Flow]) -> None:
        holds = list(ledger.holds.values())
        self._in_flight = ledger.in_flight
        self._seatless = ledger.seatless
        self._queued = ledger.queued
        self._backlogs = sum([band.queued for band in ledger.waiting])
        # of each hold: its seats, its flow, the pins of that
        self._costs = [hold.cost for hold in holds]
        self._flows = [hold.flow for hold in holds]
        self._pins = [flow.pins for flow in self._flows]
        # holds whose ticket is queued
        self._waiting = len([hold for hold in holds if not hold.cost and ledger.queued_ticket(hold.serial) is not None])
        # flows that may have pins that no hold has, and the pins of each
        self._suspects = suspects
        self._suspected = [flow.pins for flow in suspects]
        # holds whose tickets are gone
        self.lost = [hold for hold in holds if hold() is None]

    def is_sound(self) -> bool:
        """Do the books agree with the holds?"""
        held = Counter(self._flows)
        return (
            self._in_flight == sum(self._costs)
            and self._seatless == self._costs.count(0)
            and self._queued == self._waiting == self._backlogs
            and all(pins == held[flow] for flow, pins in zip(self._flows, self._pins, strict=True))
        )

    def overpinned(self) -> list[Flow]:
        """The suspects, but for those that are marked, whose pins are not those of their holds."""
        held = Counter(self._flows) if self._suspects else {}
        pairs = zip(self._suspects, self._suspected, strict=True)
        return [flow for flow, pins in pairs if pins <= MAX_PINS and pins != held.get(flow, 0)]


@final
class Ledger:
    """Plain books: no lock, no clock, no decision."""

    __slots__ = (
        "deadlines",
        "waiting_in",
        "waiting_of",
        "closed",
        "drained",
        "evicted",
        "holds",
        "in_flight",
        "halts",
        "probed",
        "queued",
        "queued_bytes",
        "ready",
        "rejected",
        "seatless",
        "serial",
        "top",
        "undispatched",
        "waiting",
        "young",
    )

    def __init__(self) -> None:
        # how many wait in each room, in all and of each flow
        self.waiting_in: Counter[WaitingRoom] = Counter()
        self.waiting_of: Counter[tuple[WaitingRoom, Flow]] = Counter()
        # all claims: those that were granted on the spot, until somebody looks, and the others
        self.young: dict[int, Ticket] = {}
        self.holds: dict[int, Hold[Flow]] = {}
        self.serial = 0  # of the latest arrival
        self.in_flight = 0  # seats
        self.seatless = 0  # holds
        self.queued = 0
        self.queued_bytes = 0
        self.waiting: list[PriorityBand[Flow]] = []  # the bands where something is queued, lowest priority first
        self.ready: list[PriorityBand[Flow]] = []  # those of them where somebody is not paused
        self.top = NOBODY  # whom an arrival must exceed in priority to go before everybody who is ready
        # who is held back, by priority; replaced as a whole
        self.halts: Mapping[int, Halts] = {}
        # of the queued tickets that no thread waits for, with what was settled since: (deadline, serial), a heap
        self.deadlines: list[tuple[float, int]] = []
        # of the queued tickets whose client may leave: how to ask
        self.probed: dict[int, Callable[[], object]] = {}
        self.closed = False
        self.drained = DrainRate()  # all bands
        self.undispatched = 0  # serials of requests that did not go, or not yet
        self.rejected = 0
        self.evicted = 0

    def is_held(self, serial: int) -> bool:
        """Is there a claim of this serial? Takes no lock."""
        return serial in self.young or serial in self.holds  # in the order in which it goes from one to the other

    @property
    def has_claims(self) -> bool:
        """Is anything held, or queued? Takes no lock."""
        return bool(self.young or self.holds)

    def age(self, hand_in: Callable[[Hold[Flow]], None], most: int | None = None) -> None:
        """Know the tickets that were granted on the spot by weak holds, so many of them, the oldest first. Whoever was
        dropped is handed in by that.
        """
        # of a list: whoever looks for the first one of a dict passes by all that were deleted before it
        for serial, ticket in list(islice(self.young.items(), most)):
            hold: Hold[Flow] = Hold(ticket, hand_in)
            flow: Flow = ticket._flow  # type: ignore[assignment]  # it is one, once it was granted
            # plain stores: no exception can come between them
            hold.flow = flow
            hold.cost = ticket.cost
            hold.serial = serial
            hold.since = 0.0
            hold.thread = 0
            self.holds[serial] = hold
            del self.young[serial]

    @property
    def granted(self) -> int:
        """How many requests hold seats."""
        return len(self.young) + len(self.holds) - self.seatless

    @property
    def dispatched(self) -> int:
        """How many were granted so far."""
        return self.serial - self.undispatched

    # --- holds -----------------------------------------------------------------------------------------------------

    def adopt(self, hold: Hold[Flow], flow: Flow) -> None:
        """Enter the hold of a flow's creator: it owns the pin that the flow was born with."""
        self.serial = serial = self.serial + 1
        self.undispatched += 1
        hold.flow = flow
        hold.serial = serial
        hold.cost = 0
        hold.since = 0.0
        hold.thread = 0
        self.holds[serial] = hold
        self.seatless += 1

    def enter(self, ticket: Ticket, hold: Hold[Flow], flow: Flow) -> bool:
        """Enter an arrival's hold, with a pin; False if the flow cannot be pinned."""
        if flow.pins >= MAX_PINS:
            return False
        self.serial = serial = self.serial + 1
        self.undispatched += 1
        hold.flow = flow
        hold.serial = serial
        hold.cost = 0
        hold.since = 0.0
        hold.thread = 0
        ticket._flow = flow
        ticket.serial = serial
        self.holds[serial] = hold
        self.seatless += 1
        flow.pins += 1
        return True

    def renumber(self, ticket: Ticket, hold: Hold[Flow], flow: Flow) -> None:
        """Enter an arrival by the hold that its flow was adopted with: it arrives now, and not when that was."""
        adopted = hold.serial
        self.serial = serial = self.serial + 1
        self.undispatched += 1
        ticket._flow = flow
        ticket.serial = serial
        hold.serial = serial
        self.holds[serial] = hold
        del self.holds[adopted]

    def drop(self, serial: int, now: float) -> Hold[Flow] | None:
        """Take a hold out, with its pin and its seats; None if it was out already."""
        try:
            hold = self.holds[serial]
        except KeyError:
            return None
        flow = hold.flow
        # from here to the end without a call: no exception can come between the hold and what it held
        del self.holds[serial]
        if not hold.cost:
            self.seatless -= 1
        self.in_flight -= hold.cost
        flow.pins -= 1
        flow.since = now
        return hold

    # --- the queues ------------------------------------------------------------------------------------------------

    def enqueue(self, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        """Book a place for a ticket that has entered, and queue it."""
        band = flow.band
        band.push(flow, ticket)
        self.queued += 1
        self.queued_bytes += ticket.size
        if wait.room is not None:
            self._count_waiting(wait.room, flow, 1)
        if wait.cancel is not None:
            self.probed[ticket.serial] = wait.cancel
        if wait.on_settled is not None and wait.deadline < math.inf:
            self._file_deadline(wait.deadline, ticket.serial)
        self.relist(band)

    def dequeue(self, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        """Take a queued ticket out, wherever it stands, and give its place back."""
        band = flow.band
        band.withdraw(flow, ticket)
        self.queued -= 1
        self.queued_bytes -= ticket.size
        if wait.room is not None:
            self._count_waiting(wait.room, flow, -1)
        self.probed.pop(ticket.serial, None)
        self.relist(band)

    def relist(self, band: PriorityBand[Flow]) -> None:
        """List a band among those where somebody waits, and where somebody is ready, if that is so."""
        is_waiting, is_ready = bool(band.backlog), bool(band.active)
        if is_waiting == (band in self.waiting) and is_ready == (band in self.ready):
            return
        for bands, belongs in ((self.waiting, is_waiting), (self.ready, is_ready)):
            if belongs != (band in bands):
                if belongs:
                    insort(bands, band, key=_priority)
                else:
                    bands.remove(band)
        self._retop()

    def adopt_band(self, band: PriorityBand[Flow]) -> None:
        """Have a band that may be new hold back who is held back at its priority."""
        halts = self.halts.get(band.priority)
        if halts is not None and band.halts is not halts:
            band.halt(halts, lambda flow: 0.0)  # nobody waits there to be let go
            self.relist(band)

    def halt(
        self,
        priority: int,
        halts: Halts,
        bands: Mapping[int, PriorityBand[Flow]],
        price: Callable[[Flow], float],
    ) -> None:
        """Hold back these in a band, one of these bands or one still to come; `price`: see `PriorityBand.halt`."""
        others = {other: them for other, them in self.halts.items() if other != priority}
        self.halts = {**others, priority: halts} if any(halts) else others
        band = bands.get(priority)  # looked up now: who founds one from here on sees the new halts
        if band is not None:
            band.halt(halts, price)
            self.relist(band)

    def next_deadline(self) -> float:
        """When to look for those that no thread waits for: at the earliest of their deadlines, or of one that was
        settled since the last look. Infinite if there is none.
        """
        # a handler may ask in the middle of a look: nothing is changed here
        return self.deadlines[0][0] if self.deadlines else math.inf

    def pop_due(self, now: float, most: int) -> list[Ticket]:
        """At most so many of them whose deadline has come."""
        due: list[Ticket] = []
        while self.deadlines and len(due) < most:
            deadline, serial = self.deadlines[0]
            ticket = self.queued_ticket(serial)
            if ticket is not None and deadline > now:
                break
            heapq.heappop(self.deadlines)
            if ticket is not None:
                due.append(ticket)
        return due

    def _file_deadline(self, deadline: float, serial: int) -> None:
        heapq.heappush(self.deadlines, (deadline, serial))
        if len(self.deadlines) > 2 * self.queued + 64:  # more stale entries than live ones
            self.deadlines = [entry for entry in self.deadlines if self.queued_ticket(entry[1]) is not None]
            heapq.heapify(self.deadlines)

    def queued_ticket(self, serial: int) -> Ticket | None:
        """The ticket of this serial, if it is queued."""
        hold = self.holds.get(serial)
        ticket = None if hold is None else hold()
        return None if ticket is None or ticket.outcome is not None or ticket.serial != serial else ticket

    def close(self) -> None:
        """Nobody goes first any more."""
        self.closed = True
        self._retop()

    def _retop(self) -> None:
        self.top = math.inf if self.closed else self.ready[-1].priority if self.ready else NOBODY

    def _count_waiting(self, room: WaitingRoom, flow: Flow, change: int) -> None:
        self.waiting_in[room] += change
        self.waiting_of[room, flow] += change
        if not self.waiting_of[room, flow]:
            del self.waiting_of[room, flow]
        if not self.waiting_in[room]:
            del self.waiting_in[room]

    # --- repair ----------------------------------------------------------------------------------------------------

    def pins_by_flow(self) -> Counter[Flow]:
        """How many holds each flow has."""
        return Counter([hold.flow for hold in list(self.holds.values())])

    def picture(self, suspects: Sequence[Flow] = ()) -> Picture:
        """What there is to compare, all of one moment; the pins of the suspects too. O(holds), but little for each."""
        return Picture(self, suspects)

    def is_sound(self) -> bool:
        """Do the books agree with the holds? O(holds)."""
        return self.picture().is_sound()

    def recount(self, flows: Sequence[Flow]) -> int:
        """Take away those pins of these flows that no hold has; of how many flows."""
        pins = self.pins_by_flow()
        mended = 0
        for flow in flows:
            if flow.pins <= MAX_PINS and flow.pins != pins[flow]:
                flow.pins = pins[flow]
                mended += 1
        return mended

    def rebuild(self) -> None:
        """Make every other book anew from the holds. O(holds log holds)."""
        holds = sorted(self.holds.values(), key=_serial)
        flows = {hold.flow for hold in holds}
        alive = [hold() for hold in holds]  # some tickets live by their queue alone, and that is emptied now
        for hold, ticket in zip(holds, alive, strict=True):
            if ticket is not None and ticket.outcome is not None and not hold.cost and ticket.serial == hold.serial:
                del self.holds[hold.serial]  # it was refused, and its hold was to be next
        for flow in flows:
            flow.queue = EMPTY
            flow.place = None
        for band in {flow.band for flow in flows} | set(self.waiting):
            band.clear()
            band.align(self.halts.get(band.priority, Halts()))
        self.waiting_in.clear()
        self.waiting_of.clear()
        self.waiting.clear()
        self.ready.clear()
        self.probed.clear()
        self.deadlines.clear()
        self.queued = self.queued_bytes = 0
        self.in_flight = sum([hold.cost for hold in holds])
        self.seatless = len([hold for hold in self.holds.values() if not hold.cost])
        pins = self.pins_by_flow()
        for flow in flows:
            flow.pins = pins[flow]
        for hold, ticket in zip(holds, alive, strict=True):
            if ticket is not None and self.queued_ticket(hold.serial) is ticket:
                assert ticket.wait is not None
                self.enqueue(ticket, ticket.wait, hold.flow)
        self._retop()

    def _check(self) -> None:
        holds = self.holds.values()
        queued = [(ticket, hold.flow) for hold in holds if (ticket := self.queued_ticket(hold.serial)) is not None]
        assert self.in_flight == sum(hold.cost for hold in holds), "B1: seats against holds"
        assert self.in_flight >= 0, "B1: seats below 0"
        assert self.granted == sum(hold.cost > 0 for hold in holds), "B1: requests against holds"
        for flow, pins in self.pins_by_flow().items():
            assert flow.pins <= MAX_PINS, f"L1: {flow.key} is held and marked"
            assert _pins(flow) == pins, f"B1: {flow.key} has {_pins(flow)} pins and {pins} holds"
        assert self.queued == len(queued), "B2: queued"
        assert self.queued_bytes == sum(ticket.size for ticket, _ in queued), "B2: queued bytes"
        priorities = [band.priority for band in self.waiting]
        assert priorities == sorted({flow.band.priority for _, flow in queued}), "B2: waiting bands"
        assert self.queued == sum(band.queued for band in self.waiting), "B2: backlogs"
        assert self.ready == [band for band in self.waiting if band.active], "B2: ready bands"
        in_rooms = Counter(ticket.wait.room for ticket, _ in queued if ticket.wait is not None and ticket.wait.room)
        assert self.waiting_in == in_rooms, "B2: waiting rooms"
        assert self.waiting_of.total() == in_rooms.total(), "B2: waiting rooms, by flow"
        for band in self.waiting:
            band._check()


def _pins(flow: Flow) -> int:
    return flow.lease.pins


def _serial(hold: Hold[Flow]) -> int:
    return hold.serial


def _priority(band: PriorityBand[Flow]) -> int:
    return band.priority
