"""The middleware in real servers, on loopback: waitress, and gunicorn with threads."""

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


@pytest.mark.parametrize("server", ["waitress"], indirect=True)
def test_waitress_still_derives_the_content_length_of_a_single_block(server: Server) -> None:
    assert server.ask("/").headers["Content-Length"] == "5"


def test_a_streamed_response_holds_its_seat_until_its_end(server: Server) -> None:
    connection = server.connect("/stream")
    server.ask("/next-block")
    response = connection.getresponse()
    assert response.readline() == b"block 0\n"
    assert server.stats("in_flight") == 1  # the first block came through before the second was made

    server.ask("/next-block")
    server.ask("/next-block")
    assert response.read() == b"block 1\nblock 2\n"
    connection.close()


def test_an_application_that_raises_is_answered_by_the_server_and_gives_its_seat_back(server: Server) -> None:
    assert server.ask("/error").status == 500
    server.wait_until("in_flight", 0)
    assert server.ask("/").status == 200


def test_a_response_that_breaks_off_gives_its_seat_back(server: Server) -> None:
    connection = server.connect("/late-error")
    try:
        connection.getresponse().read()
    except http.client.IncompleteRead:
        pass
    finally:
        connection.close()

    server.wait_until("in_flight", 0)
    assert server.ask("/").status == 200


def test_a_file_is_sent_by_the_server_itself(server: Server) -> None:
    answer = server.ask("/file")

    assert (answer.status, answer.body) == (200, b"a file")


def test_beyond_the_waiting_limit_of_a_flow_the_answer_is_429(server: Server, spawn: Spawn) -> None:
    held = spawn(server.ask, "/hold", "noisy")
    server.wait_until("in_flight", 1)
    waits = spawn(server.ask, "/", "noisy")
    server.wait_until("queued", 1)

    refused, headers_only = server.ask("/", "noisy"), server.ask("/", "noisy", "HEAD")

    assert (refused.status, refused.headers["Retry-After"]) in [(429, "1"), (429, "2")]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Content-Length"] == str(len(refused.body))
    assert (refused.problem["status"], refused.problem["scope"]) == (429, "threads per flow")
    assert (headers_only.status, headers_only.body) == (429, b"")
    server.ask("/open")
    assert (held.result().status, waits.result().status) == (200, 200)


def test_a_polite_flow_is_served_while_a_noisy_one_fills_its_waiting_quota(server: Server, spawn: Spawn) -> None:
    held = spawn(server.ask, "/hold", "noisy")
    server.wait_until("in_flight", 1)
    crowd = [spawn(server.ask, "/", "noisy") for _ in range(20)]
    server.wait_until("rejected", 19)
    polite = spawn(server.ask, "/", "polite")
    server.wait_until("queued", 2)

    server.ask("/open")
    assert polite.result().status == 200
    assert held.result().status == 200
    assert sorted(each.result().status for each in crowd) == [200] + [429] * 19


def test_half_of_the_threads_wait_and_the_others_still_answer(server: Server, spawn: Spawn) -> None:
    held = spawn(server.ask, "/hold")
    server.wait_until("in_flight", 1)
    waiting = [spawn(server.ask, "/", f"tenant-{number}") for number in range(4)]
    server.wait_until("queued", 4)

    refused = server.ask("/", "one-too-many")
    assert (refused.status, refused.problem["scope"]) == (429, "threads")
    server.ask("/open")
    assert [each.result().status for each in (held, *waiting)] == [200] * 5


# How it is found out.


@pytest.fixture(params=["waitress", "gunicorn"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, of its own for each test."""
    with serving(lambda fd: command(request.param, fd)) as server:
        yield server


def command(kind: str, fd: int) -> list[str]:
    if kind == "waitress":
        return [sys.executable, "-m", "tests.servers.serving", str(fd)]
    settings = ["--worker-class=gthread", "--threads=8", f"--bind=fd://{fd}", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", *settings, "tests.servers.serving:app"]
