"""When do seats come back after a storm of cancels? Beside tenants at work, thousands are queued at a lower priority,
and give up at once. A part of the question `fairness`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple, final

from benchmarks.crew import on_threads
from benchmarks.harness import Row
from benchmarks.load import BackEnd, Tenant, by_flowctl, closed_loop
from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController, FlowKey, Request, Ticket

SEATS: Final = 8
HOLD: Final = 0.001
TENANTS: Final = 4
PARKED: Final = 5_000
THREADS: Final = 4
SLICE: Final = 0.02
BACK: Final = 0.9
"""Of the rate before the storm: all seats are in use again."""


class Storm(NamedTuple):
    """Grants a second just before and from the first cancel on; milliseconds from it until all seats were used."""

    before: float
    after: float
    back: float


@final
class Upheaval:
    """Fills a band below the tenants', and has all of it give up at once."""

    def __init__(self, controller: FlowController, parked: int) -> None:
        self._controller = controller
        self._requests = [Request(FlowKey(f"parked-{number % 100}", -1)) for number in range(parked)]
        # seconds after the begin, once it has happened
        self.filled_from = self.cancelled_from = 0.0

    def happen(self, after: float, begin: float) -> None:
        """Wait for so long first."""
        time.sleep(after)
        self.filled_from = time.perf_counter() - begin
        tickets = [self._controller.submit(request, _give_back) for request in self._requests]
        time.sleep(SLICE)
        self.cancelled_from = time.perf_counter() - begin
        on_threads(THREADS, lambda number: _cancel(tickets[number::THREADS]))
        assert all(ticket.outcome is not None for ticket in tickets), "somebody is still queued"


def _give_back(ticket: Ticket) -> None:
    # granted after all: for a moment no tenant waited
    if ticket.state == "dispatched":
        ticket.release()


def _cancel(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.cancel()


def one(parked: int, seconds: float) -> Storm:
    """One storm in the middle of so many seconds. Asserts that nothing is left of it."""
    tenants = [Tenant(name=f"tenant-{number}") for number in range(TENANTS)]
    config = Config(default_band=BandConfig(max_requests=None))
    with FlowController(config, gate=ConcurrencyLimit(SEATS)) as controller:
        upheaval = Upheaval(controller, parked)
        asked = closed_loop(
            by_flowctl(controller),
            BackEnd(SEATS),
            tenants,
            [SEATS] * TENANTS,
            seconds=seconds,
            work=lambda number: repeat(HOLD),
            beside=partial(upheaval.happen, seconds * 0.4),
        )
        stats = controller.stats()
        assert (stats.in_flight, stats.queued, stats.queued_bytes) == (0, 0, 0), f"something is left: {stats}"
        controller._check()
    return recovery([each.settled for each in asked], upheaval.filled_from, upheaval.cancelled_from, seconds * 0.3)


def recovery(grants: Sequence[float], filled_from: float, cancelled_from: float, seconds: float) -> Storm:
    """What the moments of the grants tell, if so many seconds before and after count."""

    def between(begin: float, end: float) -> float:
        return sum(begin <= moment < end for moment in grants) / (end - begin)

    before = between(filled_from - seconds, filled_from)
    ends = (cancelled_from + SLICE * number for number in range(1, int(seconds / SLICE) + 1))
    back = next((end for end in ends if between(end - SLICE, end) >= BACK * before), cancelled_from + seconds)
    return Storm(before, between(cancelled_from, cancelled_from + seconds), (back - cancelled_from) * 1e3)


def measure(rounds: int, seconds: float) -> list[Row]:
    """Several storms."""
    found = [one(PARKED, seconds) for _ in range(rounds)]
    what = f"{PARKED:,} queued give up at once"
    return [
        Row(
            name=f"{what}: grants to others from then on",
            unit="/s",
            samples=tuple(each.after for each in found),
            rival="just before",
            rival_samples=tuple(each.before for each in found),
            divisible=all(each.before for each in found),
        ),
        Row(name=f"{what}: until all seats are used again", unit="ms", samples=tuple(each.back for each in found)),
    ]
