"""What a middleware is given: its parts, and what a classifier says of a request, as all that can be asked for."""

from __future__ import annotations

from flowctl.controller import FlowController
from flowctl.request import FlowKey, Request, shown


def check_parts(app: object, controller: object, classify: object, *, kind: str) -> None:
    """Raise `TypeError` for what cannot be served. `kind`: what `app` is to be."""
    if not callable(app):
        raise TypeError(f"app must be {kind}, not {app!r}")
    if not isinstance(controller, FlowController):
        raise TypeError(f"controller must be a FlowController, not {controller!r}")
    if not callable(classify):
        raise TypeError(f"classify must be callable, not {classify!r}")


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


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of some words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {shown(value)}")
