"""P8: exceptions that other threads throw into hot admit and release. One audit, and nothing is leaked."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import final

import pytest

from flowctl import ConcurrencyLimit, Config, FlowControlError, FlowController, sync
from flowctl.sections import Sections
from flowctl.turn import Turn
from tests.proof import Proof
from tests.support import PATIENCE, Spawn

CLAIM = "500 exceptions thrown into hot admit and release leak nothing, and what was repaired is counted"

THREADS = 2
DELIVERED = 500

Loop = Callable[[FlowController, int], None]


class Interrupted(BaseException):
    """A class of its own: no other exception is counted as delivered."""


def free(controller: FlowController, nth: int) -> None:
    with controller.admit(f"flow-{nth}"):
        pass


def contended(controller: FlowController, nth: int) -> None:
    try:
        with controller.admit(f"flow-{nth % 2}", priority=nth % 3, ttl=0.02):
            pass
    except FlowControlError:
        pass


@final
class Victim:
    """A thread that loops, and counts the exceptions that have reached it: one at a time."""

    def __init__(self, loop: Callable[[], None], over: threading.Event) -> None:
        self._loop = loop
        self._over = over
        self._ready: SimpleQueue[None] = SimpleQueue()
        self.delivered = 0
        self.ident = 0

    def run(self) -> None:
        self.ident = threading.get_ident()
        while not self._over.is_set():
            try:
                self._go_on()
            except Interrupted:
                self.delivered += 1

    def _go_on(self) -> None:
        self._ready.put(None)  # from here on an exception is caught
        while not self._over.is_set():
            self._loop()

    def strike(self) -> None:
        throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert throw(ctypes.c_ulong(self.ident), ctypes.py_object(Interrupted)) == 1

    def wait_until_ready(self) -> None:
        """Until it has begun, or the last exception has arrived."""
        self._ready.get(timeout=PATIENCE)


@final
class Aftermath:
    """What the storm has left, before an audit and after it."""

    def __init__(self, controller: FlowController) -> None:
        turn = controller._state.turn
        before = controller.stats()
        self.held = len(turn.ledger.holds)
        self.unsound = not turn.ledger.is_sound()
        self.returned = len(turn._returns)
        controller.collect()
        self.stats = controller.stats()
        self.abandoned = self.stats.abandoned - before.abandoned
        self.repaired = self.stats.repairs - before.repairs

    def assert_that_all_was_found_and_counted(self) -> None:
        assert (self.stats.in_flight, self.stats.queued) == (0, 0), "leaked"
        assert self.abandoned >= self.held - self.returned, "found, and not counted"
        assert self.repaired > 0 or not self.unsound, "repaired, and not counted"


@pytest.fixture(autouse=True)
def _broken_reader_writer_locks_are_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 0.2)


@pytest.fixture
def controllers() -> Iterator[list[FlowController]]:
    made: list[FlowController] = []
    yield made
    for controller in made:
        controller.close()


def storm(controller: FlowController, loop: Loop, spawn: Spawn, strikes: int) -> int:
    over = threading.Event()
    victims = [Victim(lambda nth=nth: loop(controller, nth), over) for nth in range(THREADS)]  # type: ignore[misc]
    threads = [spawn(victim.run) for victim in victims]
    try:
        for victim in victims:
            victim.wait_until_ready()
        for _ in range(strikes // THREADS):
            for victim in victims:
                victim.strike()
            for victim in victims:
                victim.wait_until_ready()
    finally:
        over.set()
    for thread in threads:
        thread.result()
    gc.collect()
    return sum(victim.delivered for victim in victims)


@pytest.mark.parametrize(("loop", "seats"), [(free, THREADS), (contended, 1)])
def test_after_a_storm_one_audit_finds_everything(
    loop: Loop, seats: int, controllers: list[FlowController], spawn: Spawn, proof: Proof
) -> None:
    controller = FlowController(Config(flow_gc_timeout=0), gate=ConcurrencyLimit(seats), background=False)
    controllers.append(controller)
    for nth in range(THREADS):
        loop(controller, nth)

    delivered = storm(controller, loop, spawn, DELIVERED)
    Aftermath(controller).assert_that_all_was_found_and_counted()

    assert delivered == DELIVERED
    spawn(controller.collect).result()
    spawn(lambda: controller.try_admit("after").release()).result()
    controller.collect()
    assert (controller.flows(), controller.stats().in_flight) == ([], 0), "a pin is leaked"
    controller._check()
    proof.shown("P8", CLAIM, "faults", delivered, "points")


def test_without_the_audit_and_the_holds_own_return_a_seat_is_lost(
    controllers: list[FlowController], spawn: Spawn, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    controller = FlowController(gate=ConcurrencyLimit(2 * DELIVERED), background=False)
    controllers.append(controller)
    for nth in range(THREADS):
        free(controller, nth)
    monkeypatch.setattr(Turn, "audit", lambda self, suspects, repairs: None)
    monkeypatch.setattr(Sections, "help", lambda self: None)
    monkeypatch.setattr(Sections, "_drop_locked", lambda self, hold, now_ms: None)

    found = 0
    while not controller.stats().in_flight:
        found += storm(controller, free, spawn, 5 * THREADS)
        assert found < 20 * DELIVERED, "nothing has shown that it was gone"

    with pytest.raises(AssertionError, match="leaked"):
        Aftermath(controller).assert_that_all_was_found_and_counted()
    proof.missed(CLAIM, "the audit, and the holds that come back by themselves", found, "points")
