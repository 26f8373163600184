"""What a client is told that is not served: a status, when to come again, and problem details (RFC 9457).

R1  It is made of constants and integers. Nothing that a client sent comes back to it.
"""

from __future__ import annotations

import json
import math
from typing import Final, NamedTuple

from flowctl.errors import FlowControlError, Outcome


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


def answer_to(refusal: FlowControlError) -> Answer:
    """The response to a request that was refused."""
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
    headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
    if refusal.retry_after is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(refusal.retry_after)))))
    return Answer(status, _TITLE[status], headers, body)
