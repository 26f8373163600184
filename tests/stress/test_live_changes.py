"""Real threads: shards, bands, halts and identities change under load; afterwards the books are exact."""

import random
import threading

import pytest

from flowctl import BandConfig, Config, FlowControlError, FlowController
from tests.support import MakeController, Spawn

REQUESTS = 150


class Operator:
    """One thread's seeded changes, until it is told to stop; at the end nobody is held back."""

    def __init__(self, controller: FlowController, stop: threading.Event, seed: int) -> None:
        self._controller = controller
        self._stop = stop
        self._random = random.Random(seed)

    def rebuild(self) -> None:
        while not self._stop.is_set():
            self._controller.resize(self._random.randrange(1, 6))
            self._controller.retire_band(1)
            self._controller.collect()
            self._controller.add_band(BandConfig(priority=1))

    def collect(self) -> None:
        while not self._stop.is_set():
            self._controller.collect()

    def halt(self) -> None:
        while not self._stop.is_set():
            flow, priority = self._random.choice(["0", "1", "2", None]), self._random.randrange(3)
            self._controller.pause(flow, priority=priority)
            self._controller.collect()
            self._controller.resume(flow, priority=priority)


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_changes_under_load_nobody_is_lost(make_controller: MakeController, spawn: Spawn, seed: int) -> None:
    bands = [BandConfig(priority=priority) for priority in range(3)]
    config = Config(bands=bands, max_flows=4, overflow_flows=2, flow_gc_timeout=0, band_gc_timeout=0, profile=seed == 2)
    controller = make_controller(config, limit=3)
    stop = threading.Event()

    def use(number: int) -> int:
        choice, served = random.Random(seed * 100 + number), 0
        for _ in range(REQUESTS):
            try:
                with controller.admit(str(choice.randrange(8)), priority=choice.randrange(3)):
                    served += 1
            except FlowControlError:
                pytest.fail("refused")
        return served

    operator = Operator(controller, stop, seed)
    operators = [spawn(act) for act in (operator.rebuild, operator.collect, operator.halt)]
    try:
        served = sum(user.result() for user in [spawn(use, number) for number in range(6)])
    finally:
        stop.set()
    for each in operators:
        each.result()

    assert served == 6 * REQUESTS
    controller.collect()
    controller.collect()
    stats = controller.stats()
    assert (stats.dispatched, stats.queued, stats.in_flight, stats.repairs) == (served, 0, 0, 0)
    assert controller.bands() == [2, 1, 0]
    assert len(controller._state.registry.topology.shards) == stats.shards
