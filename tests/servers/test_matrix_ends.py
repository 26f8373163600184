"""What ends the controller or the server, in each server; so each test has a server of its own."""

from __future__ import annotations

import http.client
import json
import select
import socket
import sys

import pytest

from tests.servers.client import Server, until
from tests.servers.kinds import Kind
from tests.servers.matrix import Saw
from tests.support import Spawn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a listening socket is handed down to the server")

MEANWHILE = 300
"""So many others are answered before somebody who was not counts as forgotten; or dropped before all count as such."""

LATE = 2.0
"""Seconds that an answer may come after those of the others: on a busy machine its thread may not have run yet."""

UNANSWERED = 10
"""So many others wait a second in vain before a server that has not ended counts as one that hangs."""

NO_ANSWER = "no answer"
EMPTY_REPLY = "empty reply"


def test_closing_refuses_those_who_wait(own_server: Server, spawn: Spawn, saw: Saw) -> None:
    held = spawn(own_server.ask, "/hold")
    own_server.wait_until("in_flight", 1)
    waiting = [spawn(own_server.ask, "/hello", f"tenant-{number}") for number in range(4)]
    own_server.wait_until("queued", 4)

    own_server.ask("/close")

    answers = [each.result() for each in waiting]
    assert [(answer.status, answer.problem["outcome"]) for answer in answers] == [(503, "evicted_closed")] * 4
    late = own_server.ask("/hello")
    assert (late.status, late.problem["outcome"]) == (503, "rejected_closed")
    own_server.ask("/let-one-through")
    assert held.result().status == 200
    saw("503")


def test_the_application_raises_system_exit(own_server: Server, kind: Kind, saw: Saw) -> None:
    meanwhile = Meanwhile(own_server, own_server.see("/process"))
    with own_server.send("/leave") as connection:
        until(meanwhile.is_over, "the server ends, or goes on, or hangs")
        reply = received(connection)

    word = f"{reply}; {meanwhile.then}"
    if kind.name == "uWSGI":  # the thread that exits takes Python down, and the others may or may not notice
        own_server.kill()
        assert reply in {NO_ANSWER, EMPTY_REPLY}
        word = "no answer; goes on, hangs, or ends"
    saw(word)
    assert own_server.has_ended or own_server.ask("/hello").status == 200


# How it is found out.


class Meanwhile:
    """Others ask, until the server has ended, was replaced, has answered many, or none for long."""

    def __init__(self, server: Server, process: object) -> None:
        self._server = server
        self._process = process
        self._answered = self._unanswered = self._dropped = 0
        self.then = "nobody knows"

    def is_over(self) -> bool:
        if self._server.has_ended:
            self.then = "the server ends"
            return True
        try:
            with self._server.send("/process") as connection:
                connection.settimeout(1)  # one that ends may take the question with it
                response = http.client.HTTPResponse(connection)
                response.begin()
                process = json.loads(response.read())
        except TimeoutError:
            self._unanswered += 1
            self.then = "hangs"
            return self._unanswered == UNANSWERED
        except (OSError, http.client.HTTPException):
            self._dropped += 1
            self.then = "drops everybody"
            return self._dropped == MEANWHILE
        if process != self._process:
            self.then = "a new worker"
            return True
        self._answered += 1
        self.then = "goes on"
        return self._answered == MEANWHILE


def received(connection: socket.socket) -> str:
    if not select.select([connection], [], [], LATE)[0]:
        return NO_ANSWER
    try:
        head = connection.recv(4096)
    except ConnectionResetError:
        head = b""
    return head.split(b" ")[1].decode() if head else EMPTY_REPLY
