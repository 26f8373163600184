"""A server that is started for real, on loopback, and a client of it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, final

from tests.support import PATIENCE

ROOT = Path(__file__).parents[2]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, object]:
        problem: dict[str, object] = json.loads(self.body)
        return problem


@final
class Server:
    """A client of a running server. The socket was listening before the server was there: nobody has to poll for it."""

    def __init__(self, port: int) -> None:
        self._port = port

    def connect(
        self, path: str, tenant: str = "anybody", method: str = "GET", body: bytes | None = None
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        connection.request(method, path, body, headers={"X-Tenant": tenant})
        return connection

    def post(self, path: str, body: bytes) -> Answer:
        return self.ask(path, method="POST", body=body)

    def ask(self, path: str, tenant: str = "anybody", method: str = "GET", body: bytes | None = None) -> Answer:
        """The whole answer to one request, over a connection of its own."""
        connection = self.connect(path, tenant, method, body)
        try:
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def stats(self, name: str) -> int:
        stats: dict[str, int] = json.loads(self.ask("/stats").body)
        return stats[name]

    def wait_until(self, name: str, value: int) -> None:
        """Ask until a number of the controller's is as it should be: each time is a round trip through the server."""
        until(lambda: self.stats(name) == value, f"{name} == {value}")


def until(true: Callable[[], bool], what: str) -> None:
    patience_ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < patience_ends, f"not within {PATIENCE} s: {what}"


@contextmanager
def serving(command: Callable[[int], list[str]]) -> Iterator[Server]:
    """A process that serves at the socket that it is handed. At the end nothing is in flight, and it is gone."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        fd = listening.fileno()
        process = subprocess.Popen(command(fd), cwd=ROOT, pass_fds=[fd])
        port: int = listening.getsockname()[1]
        try:
            server = Server(port)
            yield server
            server.wait_until("in_flight", 0)
            server.wait_until("queued", 0)
            assert server.stats("repairs") == server.stats("abandoned") == 0
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
