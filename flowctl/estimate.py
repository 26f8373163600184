"""Estimates: how long a request will wait, and when to try again. Under the turn.

Flows of a band are taken to get equal turns, and the band to drain on as it did while somebody waited.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flowctl.drain import DrainRate
from flowctl.errors import Scope
from flowctl.flow import Flow
from flowctl.ledger import Ledger

RETRY_AT_LEAST: Final = 1.0
RETRY_AT_MOST: Final = 30.0


def wait_behind(ahead: int, flow: Flow, now: float) -> float | None:
    """Seconds until it is the turn of a request that has so many of its own flow ahead; None if nothing is known."""
    band = flow.band
    turns = min((ahead + 1) * max(band.active, 1), band.queued + 1)  # with its own
    return _seconds(turns, band.drained, now)


def retry_after(scopes: Iterable[Scope], ledger: Ledger, flow: Flow, now: float) -> float:
    """Seconds after which it makes sense to try again: until the slowest of these queues has drained; 1 to 30."""
    estimates: list[float | None] = []
    for scope in scopes:
        if scope == "flow":
            estimates.append(wait_behind(flow.queue.requests, flow, now))
        elif scope == "band":
            estimates.append(_seconds(flow.band.queued, flow.band.drained, now))
        else:
            estimates.append(_seconds(ledger.queued, ledger.drained, now))
    longest = max((estimate for estimate in estimates if estimate is not None), default=RETRY_AT_LEAST)
    return min(max(longest, RETRY_AT_LEAST), RETRY_AT_MOST)


def _seconds(queued: int, drained: DrainRate, now: float) -> float | None:
    rate = drained.per_second(now) if queued else None
    return None if rate is None else queued / rate
