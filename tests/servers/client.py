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

    def __init__(self, port: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self._port = port
        self._process = process  # if it is ours to watch

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

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

    def send(self, path: str, tenant: str = "anybody", method: str = "GET") -> socket.socket:
        """Ask over a socket, whose other end soon notices that nobody reads."""
        sock = socket.socket()
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self._port))
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Tenant: {tenant}\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        return sock

    def see(self, path: str) -> object:
        """What is behind a door of the server's."""
        seen: object = json.loads(self.ask(path).body)
        return seen

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


def wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to end. Raises `TimeoutExpired` if it has to be killed."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@contextmanager
def serving(command: Callable[[int], list[str]]) -> Iterator[Server]:
    """A process that serves at the socket that it is handed. At the end nothing is in flight, unless it has ended by
    itself, and it is gone.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        fd = listening.fileno()
        process = subprocess.Popen(command(fd), cwd=ROOT, pass_fds=[fd])
        port: int = listening.getsockname()[1]
        try:
            server = Server(port, process)
            yield server
            if not server.has_ended:
                server.wait_until("in_flight", 0)
                server.wait_until("queued", 0)
                assert server.stats("repairs") == server.stats("abandoned") == 0
        finally:
            process.terminate()
            wait_or_kill(process)
