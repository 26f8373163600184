"""Revocation: who is asked to stop so that more important work can go (cooperative: nobody is killed).

R1  Only as many are asked as make room for the head that waits, with those who were asked and still hold; and nobody
    if all together could not.
R2  The lowest priority first, and of one priority the newest: what is lost is the least, and the least far on.
R3  Who does not stop is given up on after the timeout, and counted: others are asked instead.

Guarded by the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from flowctl.flow import Flow
from flowctl.gate import Gate
from flowctl.ledger import Ledger
from flowctl.policies.revocation import Revocation
from flowctl.stats import RevocationStats
from flowctl.ticket import Hold, Notice, Ticket


@final
class Revocations:
    """Who was asked to stop, and what became of it."""

    __slots__ = ("_asked", "_given", "_policy", "confirmed", "issued", "timed_out")

    def __init__(self, policy: Revocation) -> None:
        self._policy = policy
        # who was asked, how, and when, by serial; what was given back since, and until when a signal may not know it
        self._asked: dict[int, tuple[Hold[Flow], Notice, float]] = {}
        self._given: list[tuple[int, float]] = []
        self.issued = 0
        self.confirmed = 0
        self.timed_out = 0

    def stats(self) -> RevocationStats:
        return RevocationStats(self.issued, self.confirmed, self.timed_out)

    def ask(self, hold: Hold[Flow], reason: str, now: float) -> None:
        """Ask a holder to stop, unless it was asked before, or is gone."""
        ticket = hold()
        if ticket is not None and not ticket.is_revoked:
            fresh = Notice()
            if ticket.notice is None:  # no call between: no handler can come
                ticket.notice = fresh
            self._asked[hold.serial] = hold, ticket.notice, now
            ticket.notice.reason = reason
            self.issued += 1

    def untold(self) -> list[Notice]:
        """Those whose event is still to be set, with the lock free; also of an earlier time that an exception ended."""
        return [notice for _, notice, _ in self._asked.values() if not notice.event.is_set()]

    def look_after(self, ledger: Ledger, now: float) -> None:
        """See who has stopped, and who will not."""
        for serial, (hold, _, asked_at) in list(self._asked.items()):
            if serial not in ledger.holds:
                self.confirmed += 1
                self._given.append((hold.cost, now + self._policy.grace))
            elif now - asked_at > self._policy.timeout:
                self.timed_out += 1
            else:
                continue
            del self._asked[serial]
        self._given = [(seats, until) for seats, until in self._given if until > now]

    def victims(self, ledger: Ledger, gates: Sequence[Gate], head: Ticket, ceiling: float) -> list[Hold[Flow]]:
        """Who is to be asked so that this ticket, which waits, may go; nobody if that were in vain."""
        excess = max([self._excess(gate, ledger, head.cost, ceiling) for gate in gates])
        if excess <= 0:
            return []
        holds = [hold for hold in list(ledger.holds.values()) if self._is_revocable(hold, head.key.priority)]
        if sum([hold.cost for hold in holds]) < excess:
            return []
        chosen: list[Hold[Flow]] = []
        for hold in sorted(holds, key=lambda hold: (hold.flow.band.priority, -hold.since, -hold.serial)):
            if excess <= 0 or len(chosen) == self._policy.most:
                break
            chosen.append(hold)
            excess -= hold.cost
        return chosen

    def _excess(self, gate: Gate, ledger: Ledger, cost: int, ceiling: float) -> float:
        """The seats that are to be asked for, for this gate: without those that are awaited, or not yet seen by it."""
        if gate.admits(ledger, cost, ceiling):
            return 0.0
        awaited = sum([hold.cost for hold, _, _ in self._asked.values()])
        given = sum([seats for seats, _ in self._given]) if gate.limit is None else 0
        return gate.excess(ledger, cost, ceiling) - awaited - given

    def _is_revocable(self, hold: Hold[Flow], priority: int) -> bool:
        ticket = hold()
        if not hold.cost or hold.flow.band.priority >= priority or ticket is None or ticket.is_revoked:
            return False
        marked = None if ticket.wait is None else ticket.wait.revocable
        return hold.flow.band.priority < self._policy.below if marked is None else marked
