"""Outcomes, and one tree of errors. Each class says whether the request was queued, and what its caller may do."""

from __future__ import annotations

import enum
from typing import Literal

from flowctl.request import FlowKey

Scope = Literal["flow", "band", "global", "threads", "threads per flow", "ttl"]
"""Which limit was met; "ttl": the wait would have been longer than the request's (`Config.refuse_doomed`)."""


@enum.unique
class Outcome(enum.Enum):
    """How a request was decided. Rejected: it was never queued. Evicted: it was queued, and left without a seat."""

    DISPATCHED = "dispatched"
    REJECTED_CAPACITY = "rejected_capacity"
    REJECTED_SATURATED = "rejected_saturated"
    REJECTED_EXPIRED = "rejected_expired"
    REJECTED_CLOSED = "rejected_closed"
    REJECTED_OTHER = "rejected_other"
    EVICTED_TTL = "evicted_ttl"
    EVICTED_CANCELLED = "evicted_cancelled"
    EVICTED_DISPLACED = "evicted_displaced"
    EVICTED_CLOSED = "evicted_closed"
    REVOKED = "revoked"


class FlowControlError(Exception):
    """A request got no seat. Root of all refusals.

    `key` is its flow, `waited` the seconds that it was queued, `retry_after` the seconds after which trying again
    makes sense (None: it does not), `scope` the limit that was met, if one was.
    """

    outcome = Outcome.REJECTED_OTHER
    http_status = 503
    default_retry_after: float | None = 1.0

    def __init__(
        self,
        message: str = "",
        *,
        key: FlowKey | None = None,
        waited: float = 0.0,
        retry_after: float | None = None,
        scope: Scope | None = None,
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])
        self.key = key
        self.waited = waited
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.scope = scope

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"key": self.key, "waited": self.waited, "retry_after": self.retry_after, "scope": self.scope}
        return type(self), self.args, fields


class Rejected(FlowControlError):
    """The request was refused at the door; it was never queued."""


class QueueFull(Rejected):
    """A queue limit was met, and nobody had to make room; the request was never queued. Try again later."""

    outcome, http_status = Outcome.REJECTED_CAPACITY, 429


class Saturated(Rejected):
    """There was no seat at once, and the request was not to wait for one. Try again later, or wait."""

    outcome, http_status = Outcome.REJECTED_SATURATED, 429


class ExpiredOnArrival(Rejected):
    """The request's deadline had passed when it came; it was never queued. Trying again is up to the client."""

    outcome, http_status = Outcome.REJECTED_EXPIRED, 503


class ControllerClosed(Rejected):
    """The controller is shutting down; the request was never queued. Try another process."""

    outcome, http_status = Outcome.REJECTED_CLOSED, 503


class Evicted(FlowControlError):
    """The request was queued, and left the queue without a seat."""


class Expired(Evicted):
    """The request's deadline passed while it was queued. Try again later."""

    outcome, http_status = Outcome.EVICTED_TTL, 503


class Cancelled(Evicted):
    """The request was cancelled while it was queued, or its client left. Nobody is there to try again."""

    outcome, http_status = Outcome.EVICTED_CANCELLED, 499
    default_retry_after = None


class Displaced(Evicted):
    """The request was queued, and made room for another. Try again later."""

    outcome, http_status = Outcome.EVICTED_DISPLACED, 429


class ClosedWhileQueued(Evicted):
    """The controller was closed while the request was queued. Try another process."""

    outcome, http_status = Outcome.EVICTED_CLOSED, 503


class Revoked(FlowControlError):
    """The request was in flight, and was asked to stop. Try again later."""

    outcome, http_status = Outcome.REVOKED, 429


def error_for(outcome: Outcome) -> type[FlowControlError]:
    """The class that tells of an outcome.

    >>> error_for(Outcome.EVICTED_TTL).__name__
    'Expired'
    """
    return _CLASSES[outcome]


_CLASSES: dict[Outcome, type[FlowControlError]] = {
    cls.outcome: cls
    for cls in (
        Rejected,
        QueueFull,
        Saturated,
        ExpiredOnArrival,
        ControllerClosed,
        Expired,
        Cancelled,
        Displaced,
        ClosedWhileQueued,
        Revoked,
    )
}
