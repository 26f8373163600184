"""What comes through the middleware in each server: all ways in which an application may answer, and go wrong."""

from __future__ import annotations

import http.client
import sys
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.servers.applications import BLOCK, LARGE
from tests.servers.client import Server, until
from tests.servers.matrix import Saw

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a listening socket is handed down to the server")


def test_a_response_of_one_block(server: Server, saw: Saw) -> None:
    before = server.stats("dispatched")
    answer = server.ask("/hello")

    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["Server-Timing"].startswith("flowctl;dur=")
    assert server.stats("dispatched") == before + 1
    saw("served")


def test_a_single_block_in_a_list_tells_its_length(server: Server, saw: Saw) -> None:
    served, alone = server.ask("/bare/hello"), server.ask("/unprotected/hello")

    assert served.body == alone.body == b"hello"
    assert served.headers.get("Content-Length") == alone.headers.get("Content-Length"), "as without the middleware"
    saw("Content-Length" if "Content-Length" in served.headers else "no Content-Length")


def test_a_streamed_response_holds_its_seat_until_its_end(server: Server, saw: Saw) -> None:
    with closing(server.connect("/stream")) as connection:
        server.ask("/let-one-through")
        response = connection.getresponse()
        assert response.readline() == b"block 0\n"
        assert server.stats("in_flight") == 1  # the first block came through before the second was made

        server.ask("/let-one-through")
        server.ask("/let-one-through")
        assert response.read() == b"block 1\nblock 2\n"
    until(lambda: server.see("/noted") == ["closed"], "the response is closed, in its own thread")
    saw("block by block")


def test_start_response_is_called_for_the_first_block(server: Server, saw: Saw) -> None:
    answer = server.ask("/late")

    assert (answer.status, answer.body) == (200, b"hello")
    saw("served")


def test_what_is_written_goes_out_before_the_application_returns(server: Server, saw: Saw) -> None:
    with closing(server.connect("/write")) as connection:
        response = connection.getresponse()
        assert response.readline() == b"written\n"

        server.ask("/let-one-through")
        assert response.read() == b"returned\n"
    saw("served")


def test_a_file_is_sent_by_the_server_without_a_seat(server: Server, saw: Saw) -> None:
    with server.send("/bare/file") as connection, http.client.HTTPResponse(connection) as response:
        response.begin()
        seats = server.stats("in_flight")  # while the client reads nothing
        body = response.read()

    if not body:
        saw("has no wrapper")
        return
    assert (len(body), body[-len(BLOCK) :]) == (LARGE * len(BLOCK), BLOCK)
    saw("in blocks, with its seat" if seats else "without a seat")


def test_a_head_request(server: Server, saw: Saw) -> None:
    with server.send("/hello", method="HEAD") as connection, connection.makefile("rb") as reading:
        head, _, body = reading.read().partition(b"\r\n\r\n")

    assert head.split(b" ")[1] == b"200"
    assert body == b"" or b"hello" in body
    saw("the application's body is sent" if body else "no body")


def test_a_response_without_close(server: Server, saw: Saw) -> None:
    answer = server.ask("/no-close")

    assert (answer.status, answer.body) == (200, b"hello")
    saw("served")


def test_start_response_again_with_exc_info_before_the_first_block(server: Server, saw: Saw) -> None:
    reply = replied(server, "/apology")

    assert (reply.status, reply.is_whole) == (404, True)
    saw("the second answer" if reply.body == b"sorry\n" else "its status, no body")


def test_start_response_again_with_exc_info_after_the_first_block(server: Server, saw: Saw) -> None:
    reply = replied(server, "/late-apology")

    assert (reply.status, reply.body) == (200, b"one block\n")
    saw("looks whole" if reply.is_whole else "broken off")


def test_the_application_raises(server: Server, saw: Saw) -> None:
    saw(failed(replied(server, "/error")))


def test_the_application_raises_for_the_first_block(server: Server, saw: Saw) -> None:
    saw(failed(replied(server, "/first-error")))


def test_the_application_raises_between_blocks(server: Server, saw: Saw) -> None:
    reply = replied(server, "/late-error")

    assert (reply.status, reply.body) == (200, b"one block\n")
    saw("looks whole" if reply.is_whole else "broken off")


def test_a_client_that_leaves_a_stream_has_it_closed_at_one_of_the_next_blocks(server: Server, saw: Saw) -> None:
    with server.send("/paced-endlessly") as connection:
        server.ask("/let-one-through")
        assert b"200" in connection.recv(4096)

    until(lambda: server.see("/let-one-through") is None and server.stats("in_flight") == 0, "the seat is given back")
    until(lambda: server.see("/noted") == ["closed"], "the response is closed")
    saw("closed")


def test_a_response_that_nobody_reads_is_closed_when_its_client_leaves(server: Server, saw: Saw) -> None:
    with server.send("/endless") as connection:
        assert b"200" in connection.recv(4096)
        assert server.stats("in_flight") == 1

    until(lambda: server.see("/noted") == ["closed"], "the response is closed")
    saw("closed")


# How it is found out.


class Reply(NamedTuple):
    """What a client can tell of an answer."""

    status: int | None
    body: bytes
    is_whole: bool


def replied(server: Server, path: str) -> Reply:
    """The answer through the middleware. The same came without it."""
    reply = reply_to(server, path)
    assert reply == reply_to(server, f"/bare{path}") == reply_to(server, f"/unprotected{path}")
    return reply


def reply_to(server: Server, path: str) -> Reply:
    with closing(server.connect(path)) as connection:
        try:
            response = connection.getresponse()
        except http.client.RemoteDisconnected:
            return Reply(None, b"", is_whole=False)
        try:
            return Reply(response.status, response.read(), is_whole=True)
        except http.client.IncompleteRead as error:
            return Reply(response.status, error.partial, is_whole=False)


def failed(reply: Reply) -> str:
    """In a word."""
    if reply.status is None:
        return "empty reply"
    if reply.status == 200:
        assert reply.body == b""
        return "200, empty" if reply.is_whole else "200, broken off"
    return str(reply.status)
