"""How fast do queued requests leave when all of them give up at once, and is all of their capacity back then?

10,000 tickets that no thread waits for fill the band to its limits, in requests and in bytes; several threads cancel
them, each its share. When the last of these threads is done, nothing may be left of any: the next fill needs it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, final

from benchmarks.crew import on_threads
from benchmarks.harness import Depth, Pairs, Question, Row, Step, Target
from benchmarks.machine import with_gil
from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController, FlowKey, Outcome, Request, Ticket

PARKED: Final = 10_000
FLOWS: Final = 100
SIZE: Final = 1_000
THREADS: Final = 4
RATE: Final = Target("value", "at least", 50_000)


@final
class Parked:
    """A controller whose one seat is taken, and whose one band is full to the last request and byte."""

    def __init__(self, count: int = PARKED) -> None:
        band = BandConfig(max_requests=count, max_bytes=count * SIZE)
        self.controller = FlowController(Config(default_band=band), gate=ConcurrencyLimit(1))
        self._holder = self.controller.admit("the holder")
        self._requests = [Request(FlowKey(f"tenant-{number % FLOWS}"), size=SIZE) for number in range(count)]
        self._told: list[Ticket] = []
        self.tickets: list[Ticket] = []

    def fill(self) -> None:
        """Queue all."""
        self._told.clear()
        self.tickets = [self.controller.submit(request, self._told.append) for request in self._requests]
        assert all(ticket.outcome is None for ticket in self.tickets), "capacity was not back"
        stats = self.controller.stats()
        assert (stats.queued, stats.queued_bytes) == (len(self.tickets), SIZE * len(self.tickets))

    def cancel(self, threads: int, number: int) -> None:
        """The share of one of so many threads."""
        for ticket in self.tickets[number::threads]:
            ticket.cancel()

    def check(self) -> None:
        """All is back: places, bytes, seats but for the holder's; and each was told once."""
        stats = self.controller.stats()
        assert (stats.queued, stats.queued_bytes, stats.in_flight) == (0, 0, 1), f"capacity is not back: {stats}"
        assert all(ticket.outcome is Outcome.EVICTED_CANCELLED for ticket in self.tickets)
        assert len(self._told) == len(self.tickets)
        assert self._holder.state == "dispatched"


def rate(parked: Parked, threads: int) -> float:
    """Cancels a second: of wall clock, from the first to the last of several threads; of CPU, on one."""
    parked.fill()
    done = on_threads(threads, partial(parked.cancel, threads))
    parked.check()
    return len(parked.tickets) / (done.cpu[0] if threads == 1 else done.wall)


def _measure(depth: Depth) -> Sequence[Row]:
    parked, pairs = Parked(), Pairs()
    with parked.controller:
        pairs.take(depth.pairs, lambda: rate(parked, THREADS), lambda: rate(parked, 1))
    return [
        Row(
            name=f"{PARKED:,} queued tickets, cancelled by {THREADS} threads",
            unit="cancels/s",
            samples=tuple(pairs.ours),
            rival="1 thread",
            rival_samples=tuple(pairs.rival),
            target=with_gil(RATE),
        )
    ]


def steps(depth: Depth) -> list[Step]:
    return [Step(f"{PARKED:,} queued tickets, cancelled at once", depth.pairs * 0.4, partial(_measure, depth))]


QUESTION: Final = Question("cancel", "how fast queued requests leave when all give up at once", steps)
