"""Real threads, real time, seeded choices: everything at once, and afterwards the books are exact."""

import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from flowctl import BandConfig, ConcurrencyLimit, Config, FlowControlError, FlowController, FlowKey, Request, Ticket
from tests.support import Spawn

THREADS = 64
ACTIONS_A_THREAD = 150
LIMIT = 8


class Overseen:
    """Counts what is in flight by what the holders themselves see, apart from the controller's books."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._now: dict[int, int] = {}
        self.most = 0
        self.outcomes: Counter[str] = Counter()

    def granted(self, ticket: Ticket) -> None:
        with self._mutex:
            self._now[ticket.serial] = ticket.cost
            self.most = max(self.most, sum(self._now.values()))

    def done(self, ticket: Ticket) -> None:
        """Called before the release: a seat that was given back may be taken at once."""
        with self._mutex:
            del self._now[ticket.serial]

    def count(self, outcome: str) -> None:
        with self._mutex:
            self.outcomes[outcome] += 1


class Settled:
    """One threadless request: releases what it is granted, and says when it is over."""

    def __init__(self, overseen: Overseen) -> None:
        self._overseen = overseen
        self.over = threading.Event()
        self.calls = 0

    def __call__(self, ticket: Ticket) -> None:
        self.calls += 1
        if ticket.state == "dispatched":
            self._overseen.granted(ticket)
            self._overseen.done(ticket)
            assert ticket.release()
        self._overseen.count("granted" if ticket.error is None else type(ticket.error).__name__)
        self.over.set()


class Traffic:
    """What one thread does: a seeded mix of all that a controller can be asked for."""

    def __init__(self, controller: FlowController, gate: ConcurrencyLimit, overseen: Overseen, seed: int) -> None:
        self._controller = controller
        self._gate = gate
        self._overseen = overseen
        self._random = random.Random(seed)
        self.asked = 0

    def run(self) -> None:
        actions: list[Callable[[], None]] = [self.admit] * 6 + [self.try_admit, self.submit, self.cancel, self.limit]
        for _ in range(ACTIONS_A_THREAD):
            self._random.choice(actions)()

    def flow(self) -> FlowKey:
        return FlowKey(f"flow-{self._random.randrange(12)}", self._random.randrange(-1, 3))

    def admit(self) -> None:
        ttl = self._random.choice([None, None, 0.0, 0.001, 0.01, 5.0])
        self._use(lambda: self._controller.admit(self.flow(), cost=self._random.randrange(1, 4), size=10, ttl=ttl))

    def try_admit(self) -> None:
        self._use(lambda: self._controller.try_admit(self.flow()))

    def _use(self, ask: Callable[[], Ticket]) -> None:
        self.asked += 1
        try:
            ticket = ask()
        except FlowControlError as error:
            self._overseen.count(type(error).__name__)
            return
        self._overseen.granted(ticket)
        self._overseen.count("granted")
        self._overseen.done(ticket)
        assert ticket.release()
        assert not ticket.release()

    def submit(self) -> None:
        self.asked += 1
        settled = Settled(self._overseen)
        ttl = self._random.choice([0.001, 0.02, 20.0])
        self._controller.submit(Request(self.flow(), ttl=ttl), on_settled=settled)
        assert settled.over.wait(30)
        assert settled.calls == 1

    def cancel(self) -> None:
        self.asked += 1
        settled = Settled(self._overseen)
        ticket = self._controller.submit(Request(self.flow(), size=5), on_settled=settled)
        ticket.cancel()
        assert settled.over.wait(30)
        assert settled.calls == 1

    def limit(self) -> None:
        self._gate.set(self._random.randrange(1, LIMIT + 1))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_64_threads_do_beside_hostile_collectors_the_books_are_exact(spawn: Spawn, seed: int) -> None:
    config = Config(
        default_band=BandConfig(max_requests=40, max_bytes=300, max_requests_per_flow=10),
        max_requests=60,
        flow_gc_timeout=0,
        gc_interval=0.05,
    )
    gate = ConcurrencyLimit(LIMIT)
    controller = FlowController(config, gate=gate)
    overseen = Overseen()
    over = threading.Event()

    def collect_again_and_again() -> None:
        while not over.wait(0.0005):  # a thread that spins would take the GIL for 5 ms at each hand-over of the lock
            controller.collect()
            controller._state.registry.sweep_bands()

    hostile = [spawn(collect_again_and_again) for _ in range(2)]
    traffic = [Traffic(controller, gate, overseen, seed=1000 * seed + n) for n in range(THREADS)]
    threads = [spawn(each.run) for each in traffic]
    for thread in threads:
        thread.result(timeout=55)
    over.set()
    for collector in hostile:
        collector.result()

    controller.close(drain=5)
    controller.collect()
    controller._check()
    stats = controller.stats()
    assert overseen.most <= LIMIT
    assert (stats.queued, stats.queued_bytes, stats.in_flight) == (0, 0, 0)
    assert sum(each.asked for each in traffic) == stats.dispatched + stats.rejected + stats.evicted
    assert stats.dispatched == overseen.outcomes["granted"]
    assert sum(overseen.outcomes.values()) == sum(each.asked for each in traffic)
    assert (stats.abandoned, stats.repairs, stats.incidents) == (0, 0, 0)
    assert stats.flows == 0
