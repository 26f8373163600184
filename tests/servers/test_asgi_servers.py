"""The ASGI middleware under Starlette in a real server, uvicorn, on loopback; most endpoints are plain functions."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator

import pytest

from tests.servers.client import Server, serving
from tests.support import Spawn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a listening socket is handed down to the server")


def test_a_request_is_served(server: Server) -> None:
    answer = server.ask("/")

    assert (answer.status, answer.body) == (200, b"hello")
    assert server.stats("dispatched") == 1


def test_a_hundred_that_wait_take_no_thread_from_those_that_are_served(server: Server, spawn: Spawn) -> None:
    held = spawn(server.ask, "/hold")
    server.wait_until("in_flight", 1)
    crowd = [spawn(server.ask, "/", f"tenant-{number % 7}") for number in range(100)]
    server.wait_until("queued", 100)  # which is answered by the one thread that is left

    server.ask("/open")
    assert held.result().status == 200
    assert [each.result().status for each in crowd] == [200] * 100


def test_a_polite_flow_does_not_wait_behind_a_noisy_one(server: Server, spawn: Spawn) -> None:
    held = spawn(server.ask, "/hold", "noisy")
    server.wait_until("in_flight", 1)
    crowd = [spawn(server.ask, "/stream", "noisy") for _ in range(20)]
    server.wait_until("queued", 20)
    polite = spawn(server.ask, "/", "polite")
    server.wait_until("queued", 21)

    server.ask("/open")
    server.wait_until("in_flight", 1)
    for _ in range(3):  # one of the noisy ones at most goes before
        server.ask("/next-block")
    assert polite.result().status == 200
    for _ in range(19 * 3):
        server.ask("/next-block")
    assert [each.result().status for each in (held, *crowd)] == [200] * 21


def test_a_streamed_response_holds_its_seat_until_its_end(server: Server) -> None:
    connection = server.connect("/stream")
    server.ask("/next-block")
    response = connection.getresponse()
    assert response.readline() == b"block 0\n"
    assert server.stats("in_flight") == 1

    server.ask("/next-block")
    server.ask("/next-block")
    assert response.read() == b"block 1\nblock 2\n"
    connection.close()


def test_an_application_that_raises_is_answered_by_the_server_and_gives_its_seat_back(server: Server) -> None:
    assert server.ask("/error").status == 500
    server.wait_until("in_flight", 0)
    assert server.ask("/").status == 200


def test_a_client_that_leaves_while_it_waits_is_withdrawn(server: Server, spawn: Spawn) -> None:
    held = spawn(server.ask, "/hold")
    server.wait_until("in_flight", 1)
    leaver = server.connect("/", "leaver")
    server.wait_until("queued", 1)

    leaver.close()
    server.wait_until("queued", 0)

    assert (server.stats("in_flight"), server.stats("evicted")) == (1, 1)
    server.ask("/open")
    assert held.result().status == 200
    assert server.stats("dispatched") == 1


def test_a_client_that_leaves_amid_its_stream_gives_the_seat_back(server: Server) -> None:
    connection = server.connect("/endless")
    assert connection.getresponse().readline() == b"block\n"
    assert server.stats("in_flight") == 1

    connection.close()
    server.wait_until("in_flight", 0)


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_a_body_that_came_while_its_request_waited_arrives_whole(server: Server, spawn: Spawn, size: int) -> None:
    held = spawn(server.ask, "/hold")
    server.wait_until("in_flight", 1)
    body = bytes(number % 251 for number in range(size))
    asked = spawn(server.post, "/echo", body)
    server.wait_until("queued", 1)

    server.ask("/open")
    assert asked.result().body == body
    assert held.result().status == 200


def test_after_close_a_request_is_refused_as_a_problem(server: Server) -> None:
    server.ask("/close")
    refused, headers_only = server.ask("/"), server.ask("/", method="HEAD")

    assert (refused.status, refused.headers["retry-after"]) in [(503, "1"), (503, "2")]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["content-length"] == str(len(refused.body))
    assert refused.problem["outcome"] == "rejected_closed"
    assert (headers_only.status, headers_only.body) == (503, b"")


def test_a_stream_that_is_revoked_is_broken_off_and_the_client_learns_that_it_is_not_whole(
    server: Server, spawn: Spawn
) -> None:
    connection = server.connect("/endless", "batch")
    response = connection.getresponse()
    assert response.readline() == b"block\n"

    urgent = spawn(server.ask, "/", "urgent")
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()

    assert urgent.result().status == 200


# How it is found out.


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda fd: [sys.executable, "-m", "tests.servers.serving_asgi", str(fd)]) as server:
        yield server
