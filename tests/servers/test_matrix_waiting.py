"""The middleware in each server while requests wait: who may, who is refused, and who is served meanwhile."""

from __future__ import annotations

import sys

import pytest

from tests.servers.client import Server
from tests.servers.kinds import Kind
from tests.servers.matrix import Saw
from tests.support import Spawn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a listening socket is handed down to the server")


def test_beyond_the_waiting_limit_of_a_flow_the_answer_is_429(server: Server, spawn: Spawn, saw: Saw) -> None:
    held = spawn(server.ask, "/hold", "noisy")
    server.wait_until("in_flight", 1)
    waits = spawn(server.ask, "/hello", "noisy")
    server.wait_until("queued", 1)

    refused, headers_only = server.ask("/hello", "noisy"), server.ask("/hello", "noisy", "HEAD")

    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Content-Length"] == str(len(refused.body))
    assert (refused.problem["status"], refused.problem["scope"]) == (429, "threads per flow")
    assert (headers_only.status, headers_only.body) == (429, b"")
    server.ask("/let-one-through")
    assert (held.result().status, waits.result().status) == (200, 200)
    saw("429")


def test_half_of_the_threads_wait_and_the_others_still_answer(server: Server, spawn: Spawn, saw: Saw) -> None:
    held = spawn(server.ask, "/hold")
    server.wait_until("in_flight", 1)
    waiting = [spawn(server.ask, "/hello", f"tenant-{number}") for number in range(4)]
    server.wait_until("queued", 4)

    refused = server.ask("/hello", "one-too-many")
    assert (refused.status, refused.problem["scope"]) == (429, "threads")
    server.ask("/let-one-through")
    assert [each.result().status for each in (held, *waiting)] == [200] * 5
    saw("429")


def test_a_polite_flow_is_served_while_a_noisy_one_fills_its_waiting_quota(
    server: Server, spawn: Spawn, saw: Saw
) -> None:
    before = server.stats("rejected")
    held = spawn(server.ask, "/hold", "noisy")
    server.wait_until("in_flight", 1)
    crowd = [spawn(server.ask, "/hello", "noisy") for _ in range(20)]
    server.wait_until("rejected", before + 19)
    polite = spawn(server.ask, "/hello", "polite")
    server.wait_until("queued", 2)

    server.ask("/let-one-through")
    assert polite.result().status == 200
    assert held.result().status == 200
    assert sorted(each.result().status for each in crowd) == [200] + [429] * 19
    saw("served")


def test_an_application_that_asks_for_a_seat_of_its_own_has_that_of_its_request(server: Server, saw: Saw) -> None:
    before = server.stats("dispatched")
    answer = server.ask("/nested")

    assert (answer.status, answer.body) == (200, b"hello")
    assert server.stats("dispatched") == before + 1
    saw("served")


def test_a_client_that_leaves_while_it_waits(server: Server, kind: Kind, spawn: Spawn, saw: Saw) -> None:
    held = spawn(server.ask, "/hold")
    server.wait_until("in_flight", 1)
    before = server.stats("dispatched")
    with server.send("/hello", "leaver"):
        server.wait_until("queued", 1)

    if kind.tells_who_left:
        server.wait_until("queued", 0)  # without a turn
    server.ask("/let-one-through")
    assert held.result().status == 200
    server.wait_until("queued", 0)
    server.wait_until("in_flight", 0)
    saw("stays until its turn" if server.stats("dispatched") > before else "is withdrawn")
