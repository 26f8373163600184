"""What we tell a client: how long it has waited; or if it is not served, why, and when to come again (RFC 9457).

R1  It is made of constants and integers. Nothing that a client sent comes back to it.
R2  Who is refused together does not come again together.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from flowctl.errors import FlowControlError, Outcome
from flowctl.ticket import Ticket

OVERLOADED: Final = frozenset((503, 504))
"""Statuses by which an application says that what is behind it could not take the request."""


_NOT_QUEUED: Final = ("Server-Timing", "flowctl;dur=0.0")


def server_timing(ticket: Ticket) -> tuple[str, str]:
    """The header that says how long a request was queued, in milliseconds (W3C Server Timing)."""
    return _NOT_QUEUED if ticket.wait is None else ("Server-Timing", f"flowctl;dur={ticket.waited * 1e3:.1f}")


class Answer(NamedTuple):
    """A whole response. One to HEAD has the same headers, and no body."""

    status: int
    title: str
    headers: list[tuple[str, str]]
    body: bytes


_TITLE: Final = {429: "Too Many Requests", 503: "Service Unavailable"}

_DETAIL: Final = {
    Outcome.REJECTED_CAPACITY: "The queue is full. The request was not queued.",
    Outcome.REJECTED_SATURATED: "There is no free capacity now. The request was not queued.",
    Outcome.REJECTED_EXPIRED: "The request came after its deadline. It was not queued.",
    Outcome.REJECTED_CLOSED: "The service is shutting down. The request was not queued.",
    Outcome.REJECTED_OTHER: "The request could not be queued.",
    Outcome.EVICTED_TTL: "The request waited until its deadline and was not served.",
    Outcome.EVICTED_CANCELLED: "The request was cancelled while it was queued.",
    Outcome.EVICTED_DISPLACED: "The request was queued and made room for another one.",
    Outcome.EVICTED_CLOSED: "The service is shutting down. The request was queued and was not served.",
    Outcome.REVOKED: "The request was asked to stop.",
}


DROPPED_REASON: Final = "Flowctl-Dropped-Reason"
"""The header that names the outcome, for proxies and clients that would rather not read the body."""

RETRY_AFTER_MOST: Final = 30
"""Seconds. An estimate beyond that is worth little: the client may as well ask again."""


def _up_to(most: int) -> int:
    return random.randint(0, most)  # noqa: S311 - it spreads clients, and guards no secret


def answer_to(refusal: FlowControlError, *, spread: Callable[[int], int] = _up_to) -> Answer:
    """The response to a request that was refused.

    Its `Retry-After` is the estimate, in whole seconds from 1 to `RETRY_AFTER_MOST`, and up to half as much on top:
    `spread(most)` says how much, from 0 to `most`.
    """
    # 499 is for logs: nobody is there to read it, and it is no status that a server has to know
    status = refusal.http_status if refusal.http_status in _TITLE else 503
    problem: dict[str, str | int] = {
        "type": "about:blank",
        "title": _TITLE[status],
        "status": status,
        "detail": _DETAIL[refusal.outcome],
        "outcome": refusal.outcome.value,
    }
    if refusal.scope is not None:
        problem["scope"] = refusal.scope
    body = json.dumps(problem).encode("ascii")
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        (DROPPED_REASON, refusal.outcome.value),
    ]
    if refusal.retry_after is not None:
        seconds = math.ceil(min(max(1.0, refusal.retry_after), RETRY_AFTER_MOST))  # 1.0 first: NaN is 1
        headers.append(("Retry-After", str(seconds + spread(math.ceil(seconds / 2)))))
    return Answer(status, _TITLE[status], headers, body)
