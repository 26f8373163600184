"""Dispatch: who goes next, and whether there is room.

T2  After a round nobody who waits could go, or the rest of it is owed (S1).
T3  No grant takes what is in flight above what the gates admit at that moment, for a request of that priority.

Of foreign code only the arithmetic of policies and gates runs here, under the lock. What raises or returns nonsense is
an incident: its band is left out of this round, its gate says no, its ceilings hold nothing back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from flowctl import sync
from flowctl.band import NOBODY, PriorityBand
from flowctl.clock import Clock
from flowctl.config import Config
from flowctl.errors import Outcome
from flowctl.estimate import retry_after
from flowctl.flow import Flow
from flowctl.gate import Gate, Learner
from flowctl.news import News
from flowctl.policies.ceiling import Static, checked_ceilings
from flowctl.policies.revocation import Revocation
from flowctl.revocation import Revocations
from flowctl.sections import Act, Sections
from flowctl.ticket import Hold, ReleaseOutcome, Ticket, Wait

T = TypeVar("T")

DISPATCHED: Final = Outcome.DISPATCHED  # bound once: on 3.11 each look at an enum's member costs 100 ns
_TRY_AGAIN: Final = (Outcome.EVICTED_TTL, Outcome.EVICTED_DISPLACED)

SETTLED_A_SECTION: Final = 64
"""After so many the lock is offered to others, and the round goes on after them."""


class Dispatch(Sections):
    """The round, and what it is made of."""

    __slots__ = (
        "_ceilings",
        "_clock",
        "_config",
        "_gate_failed",
        "_gates",
        "_is_watched",
        "_learners",
        "_notes_grants",
        "_priorities",
        "_sure_seats",
        "_watches",
        "revocations",
    )

    def __init__(
        self,
        config: Config,
        gates: Sequence[Gate],
        clock: Clock,
        news: News,
        *,
        priorities: Callable[[], Iterable[int]],
        lock: sync.Mutex | None = None,
    ) -> None:
        super().__init__(clock, news, lock)
        # fixed after construction; `priorities` are those that have a band
        self._config = config
        self._gates = tuple(gates)
        self._learners = tuple(gate for gate in gates if isinstance(gate, Learner))
        self._watches = config.watches
        self._notes_grants = self._watches or bool(self._learners)  # when, and by whom
        # each grant and release is; and a lock that counts is not taken in one step: see `Turn._grant`
        self._is_watched = self._notes_grants or news.observer is not None or lock is not None
        self._clock = clock
        self._priorities = priorities
        # guarded by lock
        self.revocations = Revocations(config.revocation or Revocation())
        self._sure_seats = 0  # the least that a gate promises
        self._gate_failed = False  # in this round
        self._ceilings: dict[int, float] = {}  # by priority; replaced by an empty one where a band has gone

    def change_gate(self, act: Act) -> None:
        """Run a change of a gate: what gates are bound to."""

        def act_and_ask(now: float) -> None:
            self._sure_seats = 0  # should an exception keep us from asking, everybody asks
            act(now)
            self._ask_for_sure_seats_locked()

        self.change(act_and_ask)

    def _ask_for_sure_seats_locked(self) -> None:
        sure = min(gate.sure_seats for gate in self._gates)
        self._sure_seats = sure if self._config.ceilings == Static(1.0) else 0

    def see_bands(self) -> None:
        """Have the ceilings asked again if a band has gone."""

        def act(now: float) -> None:
            self._ceilings = {}

        if not self._ceilings.keys() <= set(self._priorities()):
            self.change(act)

    def _round_locked(self, now: float) -> None:
        """Let go whoever can go, in order, and settle whose deadline has come."""
        ledger = self.ledger
        self._stuck_until, self._gate_failed = -math.inf, False
        if ledger.top == NOBODY:  # and we are not closed
            self._owed = False
            return
        skipped: set[PriorityBand[Flow]] = set()
        for _ in range(SETTLED_A_SECTION):
            if ledger.closed and ledger.waiting:  # those who are paused too
                self._evict_locked(next(iter(ledger.waiting[-1].backlog.values())), Outcome.EVICTED_CLOSED, now)
                continue
            ready = [band for band in ledger.ready if band not in skipped] if skipped else ledger.ready
            band = ready[-1] if ready else None
            flow = None if band is None else band.next_flow()
            ticket = None if flow is None else flow.queue.head
            if band is None or flow is None or ticket is None or ticket.wait is None:
                assert band is None, "a ready band without a head"
                self._owed = False
                return
            if ticket.wait.deadline <= now:
                self._evict_locked(ticket, Outcome.EVICTED_TTL, now)
                continue
            if not self._has_room_locked(ticket.cost, band.priority):
                self._owed = False
                if self._sure_seats and not (skipped or self._gate_failed):
                    # all gates do no more than count: they say the same until something changes
                    self._stuck_until = ticket.wait.deadline
                return  # the head waits, and so do all behind it and below it: nobody overtakes
            charge = ticket.wait.price
            if charge is None:
                charge = self._price_locked(flow, ticket.cost, ticket.wait.metadata)
            if charge is None:
                skipped.add(band)
                continue
            band.charge(flow, charge)
            ticket.wait.charged, ticket.wait.activation = charge, flow.activation
            ledger.dequeue(ticket, ticket.wait, flow)
            band.drained.count(now)
            ledger.drained.count(now)
            self._grant_locked(ticket, ledger.holds[ticket.serial], ticket.wait, now)
        self._owed = True

    def _price_locked(
        self, flow: Flow, cost: int, metadata: Mapping[str, object] | None, usage: Mapping[str, object] | None = None
    ) -> float | None:
        """What the band's policy charges for a dispatch; None, and an incident, if it raises or returns nonsense."""
        try:
            if usage:
                metadata = {**(metadata or {}), **usage}
            return flow.band.price(cost, flow.band.config.weights.get(flow.id, 1.0), metadata)
        except Exception as error:  # noqa: BLE001 - a policy of the user's own; it is reported
            self.news.incident("fairness policy", error)
            return None

    def _price_head_locked(self, flow: Flow) -> float:
        """What the flow's next request will be charged, as far as that can be told."""
        head = flow.queue.head
        metadata = None if head is None or head.wait is None else head.wait.metadata
        return 0.0 if head is None else self._price_locked(flow, head.cost, metadata) or 0.0

    def _order_locked(self, band: PriorityBand[Flow], wait: Wait) -> float:
        """A request's key by the band's ordering policy; last, and an incident, if that raises or returns nonsense."""
        try:
            key = float(band.config.ordering.key(wait))
            if math.isnan(key):
                raise ValueError("an ordering key must not be NaN")
        except Exception as error:  # noqa: BLE001 - a policy of the user's own; it is reported
            self.news.incident("ordering policy", error)
            return math.inf
        return key

    def _has_room_locked(self, cost: int, priority: int) -> bool:
        """Do all gates agree? A gate that raises does not."""
        if self.ledger.in_flight + cost <= self._sure_seats:
            return True
        try:
            return self._ask_gates_locked(cost, priority)
        except Exception as error:  # noqa: BLE001 - a gate of the user's own; it is reported
            self._gate_failed = True
            self.news.incident("gate", error)
            return False

    def _ask_gates_locked(self, cost: int, priority: int) -> bool:
        ceiling = self._ceiling_locked(priority)
        for gate in self._gates:  # noqa: SIM110 - mostly one gate: a generator costs more than it
            if not gate.admits(self.ledger, cost, ceiling):
                return False
        return True

    def limit_locked(self) -> int | None:
        """The seats that there are, by the gate that has fewest; None if none counts seats."""
        limits = [self._said_by_gate(partial(_limit_of, gate), None) for gate in self._gates]
        return min([limit for limit in limits if limit is not None], default=None)

    def _said_by_gate(self, ask: Callable[[], T], instead: T) -> T:
        """What asking a gate returns; or, and an incident, something else if it raises."""
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - a gate of the user's own; it is reported
            self.news.incident("gate", error)
            return instead

    def saturation_locked(self) -> float:
        """How full the back end is, by the gate that says most; one that fails says 1.0."""
        return max([self._said_by_gate(partial(self._saturation_by, gate), 1.0) for gate in self._gates])

    def _saturation_by(self, gate: Gate) -> float:
        said = gate.saturation(self.ledger)
        return 1.0 if math.isnan(said) else max(float(said), 0.0)

    def _ceiling_locked(self, priority: int) -> float:
        """How full the back end may be for this priority."""
        try:
            return self._ceilings[priority]
        except KeyError:
            priorities = sorted({*self._priorities(), priority}, reverse=True)
            try:
                ceilings = checked_ceilings(self._config.ceilings, priorities)
            except Exception as error:  # noqa: BLE001 - a policy of the user's own; it is reported
                self.news.incident("ceiling policy", error)
                ceilings = [1.0] * len(priorities)
            self._ceilings = dict(zip(priorities, ceilings, strict=True))
            return self._ceilings[priority]

    def _learn_locked(self, ticket: Ticket, hold: Hold[Flow], now: float, outcome: ReleaseOutcome) -> None:
        """Tell the gates that learn from it of a release; its seats are given back already."""
        if outcome == "ok" and ticket.notice is not None and ticket.is_revoked:
            return  # how long it took says nothing of the back end
        try:
            self._tell_learners_locked(hold, now, outcome)
        except BaseException as error:
            self._sure_seats = 0  # it may have moved: everybody asks
            if not isinstance(error, Exception):
                raise
            self.news.incident("gate", error)

    def _tell_learners_locked(self, hold: Hold[Flow], now: float, outcome: ReleaseOutcome) -> None:
        # of its own: since 3.13 an exception that comes where a loop jumps back passes by the `except` around it
        for gate in self._learners:
            if gate.learn(hold.since, now, self.ledger.in_flight + hold.cost, outcome):
                self._ask_for_sure_seats_locked()

    def _grant_locked(
        self, ticket: Ticket, hold: Hold[Flow], wait: Wait | None, now: float, *, is_told: bool = True
    ) -> None:
        """Turn the hold of a ticket that is in no queue into seats; tell it, unless whoever asked does that himself."""
        ledger = self.ledger
        # plain stores up to the last line: no exception can come between them
        if wait is not None:
            wait.settled_at = now
        hold.cost = ticket.cost
        hold.since = now
        ledger.in_flight += ticket.cost
        ledger.undispatched -= 1
        ledger.seatless -= 1
        ticket.outcome = DISPATCHED
        if wait is not None and wait.parking is not None:
            self.news.waking[wait.parking] = None
        if is_told if wait is not None and wait.on_settled is not None else self._observer is not None:
            self.news.settled.append(ticket)

    def _evict_locked(self, ticket: Ticket, outcome: Outcome, now: float) -> bool:
        """Settle a queued ticket without a seat; False if it was settled before."""
        ledger, wait = self.ledger, ticket.wait
        if ticket.outcome is not None or wait is None:
            return False
        hold = ledger.holds.get(ticket.serial)
        if hold is not None:  # else it is in no book: an exception kept it from arriving, or this is a forked child
            if outcome in _TRY_AGAIN:
                wait.retry_after = retry_after(["band"], ledger, hold.flow, now)
            ledger.dequeue(ticket, wait, hold.flow)
        wait.settled_at = now
        ledger.evicted += 1
        ticket.outcome = outcome
        if wait.parking is not None:
            self.news.waking[wait.parking] = None
        if self._observer is not None or wait.on_settled is not None:
            self.news.settled.append(ticket)
        ledger.drop(ticket.serial, now)  # last: what has no hold cannot be mended
        return True

    def _expire_locked(self, now: float) -> None:
        for ticket in self.ledger.pop_due(now, SETTLED_A_SECTION):
            self._evict_locked(ticket, Outcome.EVICTED_TTL, now)


def _limit_of(gate: Gate) -> int | None:
    return gate.limit
