"""A crowd: a thousand threads at a gate of four seats, each with little patience."""

from __future__ import annotations

import random
import threading
from collections import Counter
from functools import partial
from typing import Final, final

from flowctl import ConcurrencyLimit, Config, FlowControlError, FlowController
from tests.soak.run import Crew, Run

THREADS: Final = 1000
SEATS: Final = 4


@final
class Guest:
    """One thread of the crowd, and what it counts by itself."""

    def __init__(self, controller: FlowController, seed: int) -> None:
        self._controller = controller
        self._random = random.Random(seed)
        self._pause = threading.Event()
        self.asked = 0
        self.granted = 0

    def visit(self, times: int, begin: threading.Event, over: threading.Event) -> None:
        begin.wait()
        for _ in range(times):
            if over.is_set():
                return
            self.asked += 1
            flow, ttl = f"guest-{self._random.randrange(50)}", self._random.choice([0.0, 0.01, 0.1, 1.0, 10.0])
            try:
                ticket = self._controller.admit(flow, priority=self._random.randrange(3), ttl=ttl)
            except FlowControlError:
                continue
            self.granted += 1
            with ticket:
                self._pause.wait(0.001)


def soak(run: Run, visits: int) -> int:
    """So many requests of each; how many there were in all. Afterwards the books agree with what the crowd counted."""
    controller = FlowController(Config(flow_gc_timeout=0.2), gate=ConcurrencyLimit(SEATS))
    guests = [Guest(controller, run.seed + number) for number in range(THREADS)]
    with controller:
        begin = threading.Event()
        with Crew(run) as crew:
            try:
                for guest in guests:
                    crew.start(partial(guest.visit, visits, begin, crew.over))
            finally:
                begin.set()
            crew.wait()
        stats = controller.stats()
    controller._check()
    counted: Counter[str] = Counter()
    for guest in guests:
        counted.update(asked=guest.asked, granted=guest.granted)
    settled = stats.dispatched + stats.rejected + stats.evicted
    run.rule(counted["asked"] == settled, f"{THREADS} threads: {counted['asked']} asked, {settled} were settled")
    run.rule(counted["granted"] == stats.dispatched, f"{THREADS} threads: the books say {stats.dispatched} grants")
    run.rule(not stats.queued and not stats.in_flight, f"{THREADS} threads: nothing is left queued or in flight")
    run.say(
        f"{counted['asked']:,} requests of {THREADS:,} threads: "
        f"{stats.dispatched:,} dispatched, {stats.rejected:,} rejected, {stats.evicted:,} evicted"
    )
    return counted["asked"]
