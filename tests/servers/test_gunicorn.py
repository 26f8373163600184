"""The hooks, in a real gunicorn of two workers with sixteen threads: how workers begin, and how they end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import final

import pytest

from flowctl.integrations.gunicorn import post_worker_init
from tests.servers.client import Answer, until, wait_or_kill
from tests.support import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn runs on POSIX systems")

ROOT = Path(__file__).parents[2]
CONF = Path(__file__).with_name("gunicorn_conf.py")


@pytest.mark.parametrize("preload", [False, True], ids=["pre-fork", "preload"])
def test_each_worker_knows_its_threads_and_begins_with_nothing_in_flight(start: Start, *, preload: bool) -> None:
    server = start(preload=preload)
    workers = server.workers()

    assert {told["threads"] for told in workers.values()} == {16}
    assert {told["in_flight"] for told in workers.values()} == {0}
    assert all((told["loaded_in"] == server.pid) == preload for told in workers.values())
    assert server.ask("/").status == 200


def test_who_is_queued_when_a_worker_ends_is_answered_within_the_grace(start: Start) -> None:
    server = start()
    held, waiting = server.hold_all()

    server.terminate()

    answers = [read(connection) for connection in waiting]
    assert {answer.status for answer in answers} == {503}
    assert {answer.problem["outcome"] for answer in answers} == {"evicted_closed"}
    for connection in held:
        with pytest.raises(http.client.RemoteDisconnected):  # they never end: the grace is over
            read(connection)
    assert server.ended() == 0


def test_what_is_queued_in_a_worker_that_is_recycled_is_served(start: Start) -> None:
    server = start("--max-requests=100", "--workers=1")
    held, waiting = server.hold_all(1)
    pid = str(next(iter(server.workers(1)))).encode()
    others = [server.send("/self") for _ in range(100)]  # one of them is the last that this process takes
    for connection in (*held, *waiting):
        connection.send(b".")  # what it waits for

    assert {read(connection).body for connection in (*held, *waiting)} == {pid}
    assert {read(connection).status for connection in others} == {200}
    assert server.ask("/").body != pid


def test_workers_that_are_recycled_lose_nothing(start: Start) -> None:
    server = start("--max-requests=5")
    answers = [server.ask("/", f"tenant-{number}") for number in range(40)]

    assert [answer.status for answer in answers] == [200] * 40
    assert len({answer.body for answer in answers}) > 2, "more processes than there are workers"


def test_a_worker_that_is_killed_takes_no_seat_with_it(start: Start) -> None:
    server = start()
    server.hold_all()
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)

    until(lambda: all(told["in_flight"] == 0 for told in server.workers().values()), "new workers")
    assert server.ask("/").status == 200


@pytest.mark.parametrize("patched", ["gevent.monkey", "eventlet.patcher"])
def test_a_worker_whose_threads_are_patched_does_not_begin(monkeypatch: pytest.MonkeyPatch, patched: str) -> None:
    asked = SimpleNamespace(is_module_patched=bool, is_monkey_patched=bool)  # of any name: True
    monkeypatch.setitem(sys.modules, patched, asked)
    with pytest.raises(RuntimeError, match="--worker-class=gthread"):
        post_worker_init(Ending())


# How it is found out.


class Ending:
    """A worker that is to end."""

    threads, graceful_timeout, alive = 1, 0.0, False

    @property
    def cfg(self) -> Ending:
        return self


Connection = http.client.HTTPConnection


def read(connection: Connection) -> Answer:
    try:
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


@final
class Gunicorn:
    """A running gunicorn, and its client."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, closing: ExitStack) -> None:
        self._process = process
        self._port = port
        self._closing = closing
        self.pid = process.pid

    def send(self, path: str, tenant: str = "anybody") -> Connection:
        """Ask over a new connection, without waiting for the answer."""
        connection = Connection("127.0.0.1", self._port, timeout=PATIENCE)
        self._closing.callback(connection.close)
        headers = {"X-Tenant": tenant, "Connection": "close"}
        if path == "/hold":  # until its body comes
            connection.request("POST", path, headers=headers | {"Content-Length": "1"})
        else:
            connection.request("GET", path, headers=headers)
        return connection

    def ask(self, path: str, tenant: str = "anybody") -> Answer:
        return read(self.send(path, tenant))

    def workers(self, count: int = 2) -> dict[int, dict[str, int]]:
        """What each of so many workers tells of itself."""
        told: dict[int, dict[str, int]] = {}

        def all_have_told() -> bool:
            try:
                answer: dict[str, int] = json.loads(self.ask("/self").body)
            except (http.client.HTTPException, OSError):  # one that ended before it answered
                return False
            told[answer["pid"]] = answer
            return len(told) >= count

        until(all_have_told, f"{count} workers tell")
        return told

    def hold_all(self, workers: int = 2, waiting: int = 2) -> tuple[list[Connection], list[Connection]]:
        """Take the seat of each worker, and have some wait: who holds, and who waits."""
        held: list[Connection] = []
        queued: list[Connection] = []
        refused: list[Connection] = []  # where a worker gets very many of them
        kinds = (held, queued, refused)
        while len(held) < workers or len(queued) < waiting:
            connection = self.send("/hold", f"tenant-{len(held)}-{len(queued)}")
            until(lambda: sum(self._now(workers)) > sum(map(len, kinds)), "it has come")
            came = zip(self._now(workers), kinds, strict=True)
            next(kind for count, kind in came if count > len(kind)).append(connection)
        return held, queued

    def _now(self, workers: int) -> tuple[int, int, int]:
        """How many hold a seat, how many wait, and how many were refused."""
        told = list(self.workers(workers).values())
        in_flight, queued, rejected = ([each[name] for each in told] for name in ("in_flight", "queued", "rejected"))
        return sum(in_flight), sum(queued), sum(rejected)

    def terminate(self) -> None:
        self._process.terminate()

    def ended(self) -> int:
        return self._process.wait(PATIENCE)


@final
class Start:
    """Starts gunicorn, with the configuration that stands beside this file, and more options."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing = closing

    def __call__(self, *options: str, preload: bool = False) -> Gunicorn:
        listening = self._closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        fd, port = listening.fileno(), listening.getsockname()[1]
        more = [*options, "--preload"] if preload else options
        command = [sys.executable, "-m", "gunicorn", f"--config={CONF}", f"--bind=fd://{fd}", "--no-control-socket"]
        process = subprocess.Popen([*command, *more, "tests.servers.gunicorn_app:app"], cwd=ROOT, pass_fds=[fd])
        self._closing.callback(_end, process)
        return Gunicorn(process, port, self._closing)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGQUIT)  # at once
    wait_or_kill(process)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers; they are ended after the test."""
    with ExitStack() as closing:
        yield Start(closing)
