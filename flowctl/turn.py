"""The turn: under one lock it is decided who goes next.

T1  A request settles exactly once, in a section of the turn: by never entering its queue, or by leaving it.

T2 and T3 are those of `dispatch.py`. Whoever changes anything that a decision reads does it by `change`, or by a
section that is one with its change (`try_grant`, `release`), and runs the round in that same section; but for one who
queues behind a head that has no room, since gates that only count say no until something changes. Wake-ups,
callbacks and reports come after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, final

from flowctl import sync
from flowctl.band import NOBODY, Halts, PriorityBand
from flowctl.capacity import make_room
from flowctl.config import BandConfig
from flowctl.dispatch import DISPATCHED
from flowctl.errors import Outcome
from flowctl.estimate import retry_after, wait_behind
from flowctl.flow import Flow
from flowctl.holders import Holders
from flowctl.lease import MAX_PINS
from flowctl.ledger import Ledger
from flowctl.queue import EMPTY
from flowctl.ticket import Hold, ReleaseOutcome, Ticket, Wait

_new: Final = object.__new__
_NEVER_CAME: Final = Outcome.REJECTED_OTHER  # bound once: on 3.11 to look up a member of an enum is a call


@final
class Turn(Holders):
    """Grants, queues, withdraws and releases tickets: the desk of every ticket of its controller."""

    __slots__ = ()

    # --- arriving --------------------------------------------------------------------------------------------------

    @property
    def grant_on_the_spot(self) -> Callable[[Flow, int, int, Wait | None], Ticket | None]:
        """A ticket of this flow, cost and size that is granted at once, if there is room, and nobody waits who has
        the same priority or a higher one; else None.
        """
        return self._grant_watched if self._is_watched else self._grant

    def _grant(self, flow: Flow, cost: int, size: int, wait: Wait | None) -> Ticket | None:
        """The same, where nobody has to be asked and nobody watches: the free path. See `docs/design.md`."""
        # what `Ticket` does, without the call
        ticket = _new(Ticket)
        ticket._desk = self
        ticket._flow = flow
        ticket.cost = cost
        ticket.size = size
        ticket.wait = wait
        ticket.notice = None
        acquire, lock, ledger, young, returns = self._to_grant
        serial = 0
        try:
            acquire()
            # from here on without a call: no exception can come, and no handler
            in_flight = ledger.in_flight + cost
            pins = flow.pins
            may_go = flow.band.door > self.bar and pins < MAX_PINS
            if may_go and in_flight <= self._sure_seats:
                ledger.serial = ticket.serial = serial = ledger.serial + 1
                young[serial] = ticket
                ledger.in_flight = in_flight
                flow.pins = pins + 1
                ticket.outcome = DISPATCHED
        except BaseException:
            self._torn = True
            self.bar = math.inf
            try:
                lock.release()
            except RuntimeError:
                pass  # it came before we had it
            raise
        lock.release()
        if serial:
            if returns:
                self.help()  # what a handler wanted that came while we had the lock
            return ticket
        return self._grant_watched(flow, cost, size, wait) if may_go else None

    def _grant_watched(self, flow: Flow, cost: int, size: int, wait: Wait | None) -> Ticket | None:
        """The same where gates have to be asked, or somebody is to know when it was granted."""
        ticket = Ticket(self, flow, cost, size)
        ticket.wait = wait
        granted = False
        try:
            with self.lock:
                granted = flow.band.door > self.bar and self._grant_watched_locked(ticket, flow, wait)
            if granted and (self._returns or self.news.settled or self.news.incidents):
                self.help()
        except BaseException:
            self.give_up(ticket)  # it goes to whoever asked, and he has no ticket
            raise
        return ticket if granted else None

    def _grant_watched_locked(self, ticket: Ticket, flow: Flow, wait: Wait | None) -> bool:
        self.bar = math.inf
        try:
            if not self._has_room_locked(ticket.cost, flow.band.priority):
                return False
            hold = self.new_hold(ticket)
            if not self.ledger.enter(ticket, hold, flow):
                return False
            if self._notes_grants:
                # who asked with a callback holds it elsewhere: nobody knows by which thread
                hold.thread = 0 if wait is not None and wait.on_settled is not None else sync.get_ident()
            self._grant_locked(ticket, hold, wait, self._now(), is_told=False)
        except BaseException:
            self._torn = True
            if ticket.outcome is None:
                ticket.outcome = _NEVER_CAME  # or whoever mends would take it for one that waits
            raise
        finally:
            self.bar = math.inf if self._torn else self.ledger.top
        return True

    def tell_granted(self, ticket: Ticket) -> None:
        """Call the callback of a ticket that was granted on the spot. If an exception comes before, nobody is told: it
        goes to whoever asked, and his ticket is to be given up.
        """
        self.news.settled.append(ticket)
        self.help()

    def adopt(self, hold: Hold[Flow], flow: Flow) -> None:
        """Enter the hold of a new flow's creator, which owns the pin that the flow was born with."""
        with self.lock:
            # plain stores: this takes no section
            self.ledger.adopt(hold, flow)
            if flow.band.priority not in self._ceilings:
                self._ceilings = {}  # it may be the first of a band that changes those of others
        if self.ledger.halts:
            self.change(lambda now: self.ledger.adopt_band(flow.band))

    def disown(self, hold: Hold[Flow]) -> None:
        """Take that hold back: its ticket has arrived by a hold of its own, or never will."""

        def act(now: float) -> None:
            self.ledger.drop(hold.serial, now)

        self.book(act)

    def arrive(self, ticket: Ticket, wait: Wait, flow: Flow, birth: Hold[Flow] | None = None) -> bool:
        """Decide or queue a ticket: afterwards it has an outcome, or it is queued. False if the flow cannot be pinned.
        `birth`: its hold already, if its thread created this flow.

        In a signal handler or finaliser that interrupted a section of its own thread nothing can be decided: a ticket
        with a callback arrives when that section ends, any other is refused as `REJECTED_OTHER`.
        """
        hold = birth if birth is not None and birth.flow is flow else self.new_hold(ticket)
        arrived = False

        def act(now: float) -> None:
            nonlocal arrived
            arrived = self._arrive_locked(ticket, hold, wait, flow, now)

        if self.is_interrupted():
            self._arrive_interrupted_locked(ticket, wait, flow)
            return True
        with self.lock:
            self._section_locked(act)
        self.help()
        return arrived

    def _arrive_interrupted_locked(self, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        """Our own thread is in the middle of a section, after which a ticket with a callback arrives."""
        if wait.on_settled is None:
            wait.why = RuntimeError("admit in a signal handler or finaliser that interrupted its own thread")
            self._refuse_locked(ticket, Outcome.REJECTED_OTHER)
            return
        hold = self.new_hold(ticket)  # if its thread created the flow, it takes that hold back

        def act(now: float) -> None:
            if ticket.outcome is not None or ticket.serial:
                return  # done before, up to the exception that has us come again
            try:
                if not self._arrive_locked(ticket, hold, wait, flow, now):
                    self._refuse_locked(ticket, Outcome.REJECTED_OTHER)
            except BaseException as error:
                self._torn = True
                if ticket.outcome is None:  # nobody waits for this arrival: it must end here
                    wait.why = error
                    self._refuse_locked(ticket, Outcome.REJECTED_OTHER)
                raise

        self._returns.append(act)

    def _arrive_locked(self, ticket: Ticket, hold: Hold[Flow], wait: Wait, flow: Flow, now: float) -> bool:
        ledger = self.ledger
        if hold.serial:
            ledger.renumber(ticket, hold, flow)
        elif not ledger.enter(ticket, hold, flow):
            return False
        if self._watches and wait.on_settled is None:
            hold.thread = sync.get_ident()
        refusal = self._decide_locked(ticket, hold, wait, flow, now)
        if refusal is not None:
            self._refuse_locked(ticket, refusal)
            ledger.drop(ticket.serial, now)
        return True

    def _decide_locked(self, ticket: Ticket, hold: Hold[Flow], wait: Wait, flow: Flow, now: float) -> Outcome | None:
        """Grant or queue a ticket that has entered; or why not."""
        ledger, band = self.ledger, flow.band
        refusal = self.refusal(wait, now)
        if refusal is not None:
            return refusal
        if band.is_drained(flow):
            wait.why = RuntimeError("its flow or band is being drained")
            return Outcome.REJECTED_OTHER
        if ledger.ready and now >= self._stuck_until:
            self._round_locked(now)  # a head whose deadline has come keeps nobody out
        may_go = band.priority > ledger.top and not band.is_paused(flow)
        if may_go and self._has_room_locked(ticket.cost, band.priority):
            self._grant_locked(ticket, hold, wait, now)
            return None
        return self._queue_locked(ticket, wait, flow, now)

    def _queue_locked(self, ticket: Ticket, wait: Wait, flow: Flow, now: float) -> Outcome | None:
        """Queue a ticket, if it may wait and there is room, or room is made; or why not."""
        ledger = self.ledger
        if wait.deadline == wait.arrived:
            wait.retry_after = retry_after(["band"], ledger, flow, now)
            return Outcome.REJECTED_SATURATED
        if ledger.deadlines:
            self._expire_locked(now)  # nobody whose deadline has come takes up room, but where its own thread is late
        if not ledger.queued:
            ledger.drained.begin(now)
        if not flow.band.queued:
            flow.band.drained.begin(now)
        if flow.band.is_keyed:
            wait.order = self._order_locked(flow.band, wait)
        room = make_room(self._config, ledger, ticket, wait, flow)
        if room.error is not None:
            self.news.incident("displacement policy", room.error)
        if room.full is not None:
            wait.scope = room.full
            wait.retry_after = retry_after(room.tripped, ledger, flow, now)
            return Outcome.REJECTED_CAPACITY
        if self._config.refuse_doomed and self._is_doomed_locked(ticket, wait, flow, now):
            return Outcome.REJECTED_CAPACITY
        for victim in room.victims:
            self._evict_locked(victim, Outcome.EVICTED_DISPLACED, now)
        self._enqueue_locked(ticket, wait, flow)
        self._rests = now < self._stuck_until and not room.victims and not self._is_next(flow, ticket)
        return None

    def _is_next(self, flow: Flow, ticket: Ticket) -> bool:
        """Does it go before all who wait?"""
        band = flow.band
        return band.priority >= self.ledger.top and band.next_flow() is flow and flow.queue.head is ticket

    def _enqueue_locked(self, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        if wait.on_settled is None:
            wait.parking = sync.Parking()
        if flow.band.has_gone and flow.queue is EMPTY:
            wait.price = self._price_locked(flow, ticket.cost, wait.metadata)
        self.ledger.enqueue(ticket, wait, flow)

    def _is_doomed_locked(self, ticket: Ticket, wait: Wait, flow: Flow, now: float) -> bool:
        """Will its deadline come before its turn?"""
        estimate = wait_behind(flow.queue.ahead(ticket), flow, now)
        if estimate is None or now + estimate <= wait.deadline:
            return False
        wait.scope = "ttl"
        wait.retry_after = retry_after(["flow"], self.ledger, flow, now)
        return True

    def refusal(self, wait: Wait, now: float) -> Outcome | None:
        """Why it would be refused whatever its flow; None if that is not sure yet. Takes no lock."""
        if self.ledger.closed:  # for good
            return Outcome.REJECTED_CLOSED
        if wait.arrived < wait.deadline <= now:
            return Outcome.REJECTED_EXPIRED
        return None

    def refuse(self, ticket: Ticket, outcome: Outcome) -> None:
        """Settle a ticket that never arrived: nothing was booked for it."""
        self.book(lambda now: self._refuse_locked(ticket, outcome))

    def _refuse_locked(self, ticket: Ticket, outcome: Outcome) -> None:
        self.ledger.rejected += 1
        ticket.outcome = outcome
        self.news.settled.append(ticket)

    # --- leaving ---------------------------------------------------------------------------------------------------

    def withdraw(self, ticket: Ticket, outcome: Outcome) -> bool:
        """Take a queued ticket out; False if it was settled before. Its place is free when this returns."""
        if ticket.outcome is not None:
            return False
        withdrawn = False

        def act(now: float) -> None:
            nonlocal withdrawn
            withdrawn = self._evict_locked(ticket, outcome, now)

        self.change(act)
        return withdrawn

    def give_up(self, ticket: Ticket) -> None:
        """Take a ticket back whatever became of it: an exception keeps its caller from ever using it."""
        if self.is_interrupted():
            self.change(partial(self._give_up_locked, ticket))  # whatever it may be by then
        elif not self.withdraw(ticket, Outcome.EVICTED_CANCELLED):
            self._release_watched(ticket, "ignored")

    def _give_up_locked(self, ticket: Ticket, now: float) -> None:
        if not self._evict_locked(ticket, Outcome.EVICTED_CANCELLED, now):
            self.ledger.drop(ticket.serial, now)

    def release(self, ticket: Ticket, outcome: ReleaseOutcome) -> bool:
        """Give back a granted ticket's seat and pin, and let go whoever waits for it; False if that was done before."""
        acquire, lock, ledger, young, returns, settled, clock = self._to_release
        given_back = False
        if young:  # else ours is not among them, and where somebody watches, or the lock counts, nobody is
            try:
                acquire()
                # read here and not before the lock: however long that took, the flow's idle time begins now
                now = clock()
                # from here on without a call: no exception can come, and no handler
                serial = ticket.serial
                if self.bar == NOBODY and serial in young:
                    flow: Flow = ticket._flow  # type: ignore[assignment]  # it is one, once it was granted
                    del young[serial]
                    ledger.in_flight -= ticket.cost
                    flow.pins -= 1
                    flow.since = now
                    given_back = True
            except BaseException:
                self._torn = True
                self.bar = math.inf
                try:
                    lock.release()
                except RuntimeError:
                    pass  # it came before we had it
                raise
            lock.release()
        if not given_back:
            if ticket.outcome is None:
                raise RuntimeError("release of a ticket that is still queued: cancel() takes it out")
            return self._release_watched(ticket, outcome)
        if returns or settled:
            self.help()
        return True

    def _release_watched(self, ticket: Ticket, outcome: ReleaseOutcome) -> bool:
        """The same where somebody waits, or watches, or looked at it meanwhile."""
        hold: Hold[Flow] | None = None

        def act(now: float) -> None:
            nonlocal hold
            hold = self.ledger.drop(ticket.serial, now)
            if hold is not None and self._learners:
                self._learn_locked(ticket, hold, now, outcome)

        if self.is_interrupted():
            return self._release_interrupted_locked(ticket)
        with self.lock:
            self._section_locked(act)
        self.help()
        if hold is not None and self._observer is not None:
            self.news.call(self._observer.released, "observer", ticket, outcome)
        return hold is not None

    def _release_interrupted_locked(self, ticket: Ticket) -> bool:
        """Our own thread is in the middle of a section, which gives the seat back when it has come to its end."""
        serial = ticket.serial
        if not self.ledger.is_held(serial):
            return False

        ticket.serial = 0  # for those who ask it has none any more
        self._returns.append(serial)  # no call between: no exception can come
        return True

    def ahead(self, ticket: Ticket) -> int | None:
        """How many of its flow go before a queued ticket; None if it is not queued."""
        return self.read(lambda ledger: self._ahead_locked(ticket))

    def estimated_wait(self, ticket: Ticket) -> float | None:
        """Seconds until a queued ticket's turn, as far as that can be told."""

        def look(ledger: Ledger) -> float | None:
            ahead = self._ahead_locked(ticket)
            return None if ahead is None else wait_behind(ahead, ledger.holds[ticket.serial].flow, self._now())

        return self.read(look)

    def _ahead_locked(self, ticket: Ticket) -> int | None:
        queued = self.ledger.queued_ticket(ticket.serial) is ticket
        return self.ledger.holds[ticket.serial].flow.queue.ahead(ticket) if queued else None

    # --- for the collector, and at the end -------------------------------------------------------------------------

    def halt(self, bands: Mapping[int, PriorityBand[Flow]], priority: int, change: Callable[[Halts], Halts]) -> None:
        """Change who is held back at this priority. `bands`: those that there are."""

        def act(now: float) -> None:
            halts = change(self.ledger.halts.get(priority, Halts()))
            self.ledger.halt(priority, halts, bands, self._price_head_locked)

        self.change(act)

    def retire(self, band: PriorityBand[Flow]) -> None:
        """Let a band take no new request; what is queued is served."""
        self.change(lambda now: band.retire())

    def open(self, band: PriorityBand[Flow], config: BandConfig) -> None:
        """Let a band take requests, with these limits."""

        def act(now: float) -> None:
            band.open(config)
            self._ceilings = {}

        self.change(act)

    def next_deadline(self) -> float:
        """When `tick` has a request to expire that no thread waits for; infinite if there is none."""
        return self.read(Ledger.next_deadline)

    def has_probes(self) -> bool:
        """Is a request queued whose client may leave?"""
        return bool(self.ledger.probed)

    def tick(self) -> None:
        """Settle what no thread of its own looks after: deadlines of callbacks, clients that left, owed work."""
        self.age()
        for ticket in self._with_gone_clients():
            self.withdraw(ticket, Outcome.EVICTED_CANCELLED)
        self.change(self._expire_locked)
        while self.next_deadline() <= self._now() and not self.is_interrupted():
            self.change(self._expire_locked)
        if self._watches:
            self.revoke()

    def _with_gone_clients(self) -> list[Ticket]:
        gone: list[Ticket] = []
        for serial, probe in self.ledger.probed.copy().items():
            if self.news.client_left(probe):
                hold = self.ledger.holds.get(serial)
                ticket = None if hold is None else hold()
                if ticket is not None:
                    gone.append(ticket)
        return gone

    def audit(self, suspects: Sequence[Flow], repairs: int) -> None:
        """Compare the books with the holds, and the pins of the suspects too, mend what differs, and count it.

        `repairs` were found elsewhere, and are counted here.
        """
        picture = self.read(lambda ledger: ledger.picture(suspects))
        overpinned = picture.overpinned()
        if not (picture.lost or repairs or overpinned) and picture.is_sound():
            return

        def act(now: float) -> None:
            # what the picture shows is looked for again: in a handler that tore a section open, it shows what is fine
            for hold in picture.lost:
                self._drop_locked(hold, now)
            if not self.ledger.is_sound():
                self._torn = True
                self._mend_locked(now)
            self.repairs += repairs + (self.ledger.recount(overpinned) if overpinned else 0)

        self.change(act)

    def close(self, until: float | None) -> bool:
        """Refuse what comes, evict what is queued, and wait for what is in flight; True if nothing is left of it."""
        self.change(lambda now: self.ledger.close())
        parking = sync.Parking()
        while until is not None and self.ledger.has_claims and self._now() < until and not self.is_interrupted():
            self.news.when_drained(parking)
            self.help()
            self._clock.park(parking, until)
        return not self.ledger.has_claims  # the young ones too: in the middle of a section they may be so yet

    def after_fork_in_child(self) -> None:
        """Let go of everything without looking at it: tickets of the parent find no hold here."""
        self._after_fork_in_child(self.news.anew())
