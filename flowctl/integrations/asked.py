"""What a classifier says of a request, as all that can be asked for."""

from __future__ import annotations

from flowctl.request import FlowKey, Request


def as_request(named: object) -> Request:
    """A flow's id, its id and priority, or a whole request, as a request. `TypeError` or `ValueError` for another."""
    if isinstance(named, str):
        return Request(FlowKey(named))
    if isinstance(named, FlowKey):
        return Request(named)
    if not isinstance(named, Request):
        raise TypeError(f"classify must return a str, a FlowKey or a Request, not a {type(named).__name__}")
    if named.received_at is not None:
        raise ValueError("classify must return a Request whose received_at is None: it is received now")
    return named
