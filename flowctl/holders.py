"""Holders: what may happen to seats while somebody holds them. They are corrected, watched, and asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import final

from flowctl.dispatch import DISPATCHED, Dispatch
from flowctl.flow import Flow
from flowctl.ledger import Ledger
from flowctl.ticket import Hold, Notice, Ticket


@final
class Overdue:
    """Seats that are held for too long: whose, how many, for how many seconds, and by which thread (0: unknown)."""

    __slots__ = ("key", "seats", "seconds", "serial", "thread")

    def __init__(self, hold: Hold[Flow], now: float) -> None:
        self.serial = hold.serial
        self.key = hold.flow.key
        self.seats = hold.cost
        self.seconds = now - hold.since
        self.thread = hold.thread


class Holders(Dispatch):
    """Who holds seats."""

    __slots__ = ()

    def is_held(self, ticket: Ticket) -> bool:
        """Has the ticket a hold that nobody gave back?"""
        return self.ledger.is_held(ticket.serial)

    def notice(self, ticket: Ticket) -> Notice:
        """What tells the ticket's holder to stop: one for all who ask."""

        def look(ledger: Ledger) -> Notice:
            fresh = Notice()
            if ticket.notice is None:  # no call between: no handler can come
                ticket.notice = fresh
            return ticket.notice

        return self.read(look)

    def adjust(self, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool:
        """Have a ticket that is in flight hold other seats, and charge it anew; False if it is not in flight. One that
        nobody waited for was never charged.
        """
        in_flight: bool | None = None

        def act(now: float) -> None:
            nonlocal in_flight
            wait, hold = ticket.wait, self.ledger.holds.get(ticket.serial)
            in_flight = hold is not None and hold.cost > 0
            if hold is None or not in_flight:
                return
            # plain stores: no exception can come between them
            more = 0 if cost is None else (cost or 1) - hold.cost
            hold.cost += more
            self.ledger.in_flight += more
            if wait is None or wait.charged is None:
                return
            charge = self._price_locked(hold.flow, hold.cost if cost is None else cost, wait.metadata, usage)
            if charge is not None:
                hold.flow.band.correct(hold.flow, wait, charge)

        self.change(act)
        # in a handler that interrupted its own thread it will be done when that section ends
        return self.is_held(ticket) and ticket.outcome is DISPATCHED if in_flight is None else in_flight

    def revoke(self) -> None:
        """Ask to stop whose seats a more important request waits for, and who has held his for too long."""
        self.change(self._revoke_locked)

    def _revoke_locked(self, now: float) -> None:
        ledger, revocations, most = self.ledger, self.revocations, self._config.max_hold
        self._tell_locked()  # whom an exception kept from being told
        revocations.look_after(ledger, now)
        if most is not None:
            for hold in _held_longer(ledger, most, now):
                if _may_be_asked(hold):
                    revocations.ask(hold, f"it holds its seats for more than {most} s", now)
        head = self._head_locked()
        if head is not None and self._config.revocation is not None:
            priority = head.key.priority
            ceiling = self._ceiling_locked(priority)
            victims = partial(revocations.victims, ledger, self._gates, head, ceiling)
            nobody: list[Hold[Flow]] = []
            for hold in self._said_by_gate(victims, nobody):
                revocations.ask(hold, f"a request of priority {priority} waits", now)
        self._tell_locked()

    def _tell_locked(self) -> None:
        for notice in self.revocations.untold():
            self.news.revoked[notice] = None

    def _head_locked(self) -> Ticket | None:
        """Who is next, if anybody waits who is not paused."""
        flow = self.ledger.ready[-1].next_flow() if self.ledger.ready else None
        return None if flow is None else flow.queue.head

    def overdue(self) -> list[Overdue]:
        """Who holds seats for longer than `hold_warning`."""
        most = self._config.hold_warning
        if most is None:
            return []

        def look(ledger: Ledger) -> list[Overdue]:
            now = self._now()
            return [Overdue(hold, now) for hold in _held_longer(ledger, most, now)]

        return self.read(look)


def _may_be_asked(hold: Hold[Flow]) -> bool:
    """Did its holder not say that nobody would hear?"""
    ticket = hold()
    return ticket is None or ticket.wait is None or ticket.wait.revocable is not False


def _held_longer(ledger: Ledger, seconds: float, now: float) -> list[Hold[Flow]]:
    """The holds whose seats were granted longer ago than that."""
    return [hold for hold in list(ledger.holds.values()) if hold.cost and now - hold.since > seconds]
