"""Small races between threads that share a controller's books without its lock. They bite without a GIL."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from flowctl import Config, FlowController, sync
from flowctl.testing import FakeClock
from flowctl.ticket import Ticket
from tests.support import MakeController, Spawn


def test_the_state_of_a_ticket_can_be_read_while_other_tickets_are_dropped(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(limit=10_000)
    ticket, stop = controller.admit("a"), threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert ticket.state == "dispatched"

    def drop() -> None:
        for _ in range(500):
            controller.admit("b")

    readers = [spawn(read) for _ in range(2)]
    for dropper in [spawn(drop) for _ in range(6)]:
        dropper.result()
    stop.set()
    for reader in readers:
        reader.result()
    ticket.release()
    controller.collect()
    assert controller.stats().abandoned == 3_000


def test_a_release_survives_that_another_one_wakes_the_last_drainer_first(
    clock: FakeClock, controller: FlowController
) -> None:
    class TakenByAnother(deque[sync.Parking]):
        """Something is in it when it is asked, twice, and nothing when it is taken."""

        asked = 0

        def __bool__(self) -> bool:
            self.asked += 1
            return self.asked <= 2

    ticket = controller.admit("a")
    controller._state.turn.news._drainers = drainers = TakenByAnother()

    assert ticket.release()
    controller.close()
    assert drainers.asked > 2
    controller._state.turn.news._drainers = deque()


def test_close_with_drain_and_many_releases_at_once(make_controller: MakeController, spawn: Spawn) -> None:
    for _ in range(20):
        controller = make_controller(limit=16)
        tickets = [controller.admit(f"f{nth}") for nth in range(16)]
        start = threading.Barrier(17)

        def release(ticket: Ticket, start: threading.Barrier = start) -> bool:
            start.wait()
            return ticket.release()

        releases = [spawn(release, ticket) for ticket in tickets]
        start.wait()
        assert controller.close(drain=30)
        assert all(thread.result() for thread in releases)


def test_probes_are_asked_while_requests_with_probes_come_and_go(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(Config(max_requests=None))
    holder, stop = controller.admit("holder"), threading.Event()

    def come_and_go() -> None:
        for _ in range(100):
            with pytest.raises(Exception, match="cancelled"):
                controller.admit("a", cancel=lambda: True)

    def ask() -> None:
        while not stop.is_set():
            controller._state.turn.tick()

    askers = [spawn(ask) for _ in range(3)]
    for waiter in [spawn(come_and_go) for _ in range(4)]:
        waiter.result()
    stop.set()
    for asker in askers:
        asker.result()
    holder.release()
    assert controller.stats().queued == 0


def test_bands_come_and_go_while_a_cycle_looks_at_them(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(Config(flow_gc_timeout=0, band_gc_timeout=0, max_bands=10_000), limit=64)
    registry, stop = controller._state.registry, threading.Event()

    def make_bands(nth: int) -> None:
        for turn in range(300):
            controller.admit("a", priority=nth * 1_000 + turn).release()

    def sweep() -> None:
        while not stop.is_set():
            controller.collect()
            registry.sweep_bands()

    sweeper = spawn(sweep)
    for maker in [spawn(make_bands, nth) for nth in range(6)]:
        maker.result()
    stop.set()
    sweeper.result()
