"""Whose code runs: the ticket of the request that a server's middleware, or an executor's worker, serves just now.

K1  A ticket is current only while its request's code runs: whoever calls that code puts back what was there before.
    If an exception keeps him from that, what is left there keeps no ticket alive, and so no seat.
K2  A passenger has no seat, no pin and no place in any book. It is in flight as long as its host is.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Literal, final, get_args

from flowctl.errors import Outcome
from flowctl.ticket import Notice, ReleaseOutcome, Ticket

Nested = Literal["pass", "error", "separate"]
"""What a further `admit` by the code of a request means: it rides on that request's ticket, it is a mistake, or it is a
request of its own.
"""


NESTED: Final[tuple[str, ...]] = get_args(Nested)


class Serving:
    """A request whose code runs."""

    __slots__ = ("__weakref__", "around", "controller", "nested", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        controller: object = None,
        nested: Nested = "separate",
        around: weakref.ref[Serving] | None = None,
    ) -> None:
        self.ticket = ticket
        self.controller = controller  # on whose tickets others may ride
        self.nested: Nested = nested
        self.around = around  # whose code called the middleware: another controller's, if two are around each other


serving: Final[ContextVar[weakref.ref[Serving] | None]] = ContextVar("flowctl.serving", default=None)
"""Set around each call of a request's code, in the thread or task that makes it."""


def _at(found: weakref.ref[Serving] | None) -> Serving | None:
    return None if found is None else found()


def _served_by(controller: object) -> Serving | None:
    """The innermost request of this controller's whose code this is."""
    found = _at(serving.get())
    while found is not None and found.controller is not controller:
        found = _at(found.around)
    return found


def current_ticket() -> Ticket | None:
    """The ticket of the request whose code this is; None outside of one. Costs less than a microsecond.

    It is known in the thread that a middleware or a `FlowExecutor` has called the code in, and wherever its context was
    copied to: tasks of asyncio, and `asyncio.to_thread`.

    >>> from flowctl import current_ticket
    >>> current_ticket() is None
    True
    """
    found = _at(serving.get())
    return None if found is None else found.ticket


def passenger_of(controller: object) -> Ticket | None:
    """A ticket that rides on the current one of this controller; None if there is none to ride on.

    Raises `RuntimeError` if the middleware says that nested admissions are mistakes.
    """
    found = _served_by(controller)
    if found is None or found.nested == "separate":
        return None
    host = found.ticket
    if host.state == "released":
        return None  # its seat was given back: there is nothing to ride on
    # one that is only watched may be queued, behind which its own code must not wait, or refused, and runs all the same
    if found.nested == "error":
        raise RuntimeError(
            "admit() within a request that has its seat: it could wait for itself"
            ' (nested="pass" lets it ride on that seat, nested="separate" asks for another one)'
        )
    return _aboard(host)


def _aboard(host: Ticket) -> Ticket:
    ticket = Ticket(_Passenger(host), host, host.cost, host.size)
    ticket.notice = _notice_of(host)
    ticket.outcome = Outcome.DISPATCHED
    return ticket


def _notice_of(host: Ticket) -> Notice:
    return host._desk.notice(host) if host.notice is None else host.notice


@final
class _Passenger:
    """The desk of a ticket that has no seat of its own: there is nothing to decide, to give back, or to correct."""

    __slots__ = ("_has_left", "_host")

    def __init__(self, host: Ticket) -> None:
        self._host = host
        self._has_left = False

    def release(self, ticket: Ticket, outcome: ReleaseOutcome) -> bool:
        self._has_left = True
        return False

    def is_held(self, ticket: Ticket) -> bool:
        return not self._has_left and self._host.state != "released"

    def notice(self, ticket: Ticket) -> Notice:
        return _notice_of(self._host)

    def withdraw(self, ticket: Ticket, outcome: Outcome) -> bool:
        return False

    def give_up(self, ticket: Ticket) -> None:
        pass

    def adjust(self, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool:
        return False

    def ahead(self, ticket: Ticket) -> int | None:
        return None

    def estimated_wait(self, ticket: Ticket) -> float | None:
        return None
