"""Waiting threads are the scarce resource: who may wait in the middleware, and how the server tells of its threads."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from flowctl import (
    Config,
    FlowController,
    FlowKey,
)
from flowctl.integrations.wsgi import FlowControlMiddleware
from flowctl.testing import FakeClock
from tests.servers.exchange import Exchange, a_list, environment, protected
from tests.support import MakeController, Spawn, Spawned


def test_at_most_half_of_the_servers_threads_wait(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=8)

    crowd.wait("a", "b", "c", "d")
    assert crowd.refused("e") == "threads"
    crowd.serve_all()


def test_at_most_a_quarter_of_those_wait_for_one_flow(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=16)

    crowd.wait("noisy", "noisy")
    assert crowd.refused("noisy") == "threads per flow"
    crowd.wait("polite")
    crowd.serve_all()


def test_the_same_id_at_another_priority_is_another_flow_that_may_wait(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=8)

    crowd.wait("a", FlowKey("a", 1))
    assert crowd.refused("a") == "threads per flow"
    crowd.serve_all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_with_the_fewest_threads_one_may_still_wait(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn, threads: int
) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=threads)

    crowd.wait("a")
    assert crowd.refused("b") == "threads"
    crowd.serve_all()


def test_both_bounds_can_be_set(make_controller: MakeController, clock: FakeClock, spawn: Spawn) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=2, max_waiting_threads=3, max_waiting_per_flow=2)

    crowd.wait("a", "a")
    assert crowd.refused("a") == "threads per flow"
    crowd.wait("b")
    assert crowd.refused("b") == "threads"
    crowd.serve_all()


def test_a_seat_that_is_free_needs_no_place_to_wait(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller = make_controller(limit=5)
    middleware = protected(a_list, controller, threads=2)
    open_at_once = [Exchange(middleware) for _ in range(5)]

    assert controller.stats().in_flight == 5
    for exchange in open_at_once:
        exchange.close()


def test_a_place_is_free_again_once_its_request_was_served_or_gave_up(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    crowd = Crowd(make_controller(Config(default_ttl=5.0)), clock, spawn, threads=2)

    for _ in range(3):
        crowd.wait("a")
        clock.advance(5.0)
        assert crowd.waiting.pop().result().status == "503 Service Unavailable"
    crowd.wait("a")
    crowd.serve_all()


def test_waitress_tells_how_many_threads_it_has(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=None)
    crowd.extra["waitress.client_disconnected"] = Channel(threads=6).check_client_disconnected

    crowd.wait("a", "b", "c")
    assert crowd.refused("d") == "threads"
    crowd.serve_all()


def test_a_server_that_tells_nothing_is_taken_to_have_four_threads_and_that_is_logged(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    crowd = Crowd(make_controller(), clock, spawn, threads=None)
    crowd.extra["waitress.client_disconnected"] = lambda: False  # not what waitress hands in

    with caplog.at_level(logging.WARNING, "flowctl"):
        crowd.wait("a", "b")
        assert crowd.refused("c") == "threads"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    crowd.serve_all()


# How it is found out.


class Channel:
    """As much of waitress' channel as leads to its threads."""

    def __init__(self, threads: int) -> None:
        self.server = SimpleNamespace(adj=SimpleNamespace(threads=threads))

    def check_client_disconnected(self) -> bool:
        return False


class Crowd:
    """Requests of a server whose back end is busy, so that each one waits or is refused."""

    def __init__(
        self,
        controller: FlowController,
        clock: FakeClock,
        spawn: Spawn,
        *,
        threads: int | None,
        max_waiting_threads: int | None = None,
        max_waiting_per_flow: int | None = None,
    ) -> None:
        self.extra: dict[str, object] = {}
        self.waiting: list[Spawned[Exchange]] = []
        self._clock, self._spawn = clock, spawn
        self._controller = controller
        self._busy = controller.admit("busy")
        self._middleware = FlowControlMiddleware(
            a_list,
            controller,
            classify=lambda environ: environ["flow"],
            threads=threads,
            max_waiting_threads=max_waiting_threads,
            max_waiting_per_flow=max_waiting_per_flow,
        )

    def wait(self, *flows: str | FlowKey) -> None:
        """A request of each of these flows comes, and waits."""
        for flow in flows:
            self.waiting.append(self._spawn(self._serve, flow))
            self._clock.wait_for_sleepers(len([waiter for waiter in self.waiting if not waiter.done]))

    def refused(self, flow: str | FlowKey) -> object:
        """A request comes, and is refused on the spot; the limit that it met."""
        exchange = self._serve(flow)
        assert exchange.status == "429 Too Many Requests"
        return exchange.problem()["scope"]

    def serve_all(self) -> None:
        """Those who wait are all served."""
        self._busy.release()
        for waiter in self.waiting:
            assert waiter.result().sent == [b"one", b"two"]
        assert self._controller.stats().in_flight == 0

    def _serve(self, flow: str | FlowKey) -> Exchange:
        environ = environment()
        environ.update(self.extra, flow=flow)
        exchange = Exchange(self._middleware, environ)
        exchange.read()
        return exchange
