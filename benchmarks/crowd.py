"""What becomes of a crowd that waits before eight threads of waitress? And of who is queued when the server is ended?

10,000 connections of 100 tenants ask at once. The back end takes 8 requests at a time; it opens when all others are
queued, and has each for 10 ms: too long for all of them to be served before they expire. Each gets an answer none the
less, and the server is to need little memory for them.

The server is ended by SIGTERM while 100 are queued and 8 are in the back end: all of them are to get their answers
within the grace.

The server is a process of its own, the clients run in this one.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, final
from wsgiref.types import StartResponse, WSGIEnvironment

from waitress.server import BaseWSGIServer

from benchmarks.harness import Depth, Question, Row, Step, Target
from benchmarks.serving import BACKLOG, Started, handed_down, started
from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController
from flowctl.demo.clients import Connection
from flowctl.demo.server import tenant_of
from flowctl.integrations.waitress import GRACE, create_server

SEATS: Final = 8
THREADS: Final = 8
TENANTS: Final = 100
OPENING: Final = 200
"""Connections that are being opened at a time: the server accepts them one by one."""

LOST: Final = 0
"""Instead of a status: the connection ended without an answer."""

MEMORY: Final = Target("value", "at most", 200)
QUEUED_AT_SHUTDOWN: Final = 100


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """So many connections; seconds that their requests may wait, and that the back end has each of them."""

    connections: int
    ttl: float
    work: float


SHUTDOWN: Final = Crowd(connections=QUEUED_AT_SHUTDOWN + SEATS, ttl=60.0, work=0.5)


def of_size(connections: int) -> Crowd:
    """One of which a part expires: fewer than 8 in 10 ms are served for a ms of each connection."""
    return Crowd(connections=connections, ttl=connections * 0.001, work=0.010)


# --- the server ----------------------------------------------------------------------------------------------------


def _serve(crowd: Crowd, listening: socket.socket) -> None:
    """Serve until SIGTERM, and tell when all connections are accepted, and when all requests are queued."""
    allow_files(crowd.connections)
    back_end = threading.Event()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        back_end.wait()
        time.sleep(crowd.work)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"answered\n"]

    config = Config(default_ttl=crowd.ttl, default_band=BandConfig(max_requests=None))
    controller = FlowController(config, gate=ConcurrencyLimit(SEATS))
    server = create_server(
        answer,
        controller,
        classify=tenant_of,
        threads=THREADS,
        sockets=[listening],
        backlog=BACKLOG,
        connection_limit=crowd.connections + 100,
    )
    assert isinstance(server, BaseWSGIServer)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_watch, args=(crowd, server, controller, back_end), daemon=True).start()
    server.run()


def _end(*_: object) -> NoReturn:
    sys.exit(0)


def _watch(crowd: Crowd, server: BaseWSGIServer, controller: FlowController, back_end: threading.Event) -> None:
    _wait_until(lambda: _accepted(server) >= crowd.connections)
    print("accepted", flush=True)
    most = 0

    def all_came() -> bool:
        nonlocal most
        stats = controller.stats()
        most = max(most, stats.queued)
        return stats.queued + stats.evicted >= crowd.connections - SEATS

    _wait_until(all_came)
    back_end.set()
    print(most, flush=True)


def _accepted(server: BaseWSGIServer) -> int:
    return len(server.active_channels)  # type: ignore[arg-type]  # the stubs take the dict of them for one of them


def _wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


# --- the clients ---------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a crowd found: how often each status came, how many were queued at once, the server's peak memory in MB
    (None: nobody tells), and seconds from when all were queued to the last answer.
    """

    statuses: Counter[int]
    queued: int
    memory: float | None
    seconds: float


def ask(crowd: Crowd, once_queued: Callable[[Started], object] = lambda _: None) -> Found:
    """Have such a crowd ask a new server. `once_queued` is called when all of them are queued."""
    with ExitStack() as closing:
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, allow_files(crowd.connections))
        arguments = (str(crowd.connections), str(crowd.ttl), str(crowd.work))
        server = closing.enter_context(started("benchmarks.crowd", *arguments))
        return asyncio.run(_ask(crowd, server, once_queued))


def allow_files(count: int) -> tuple[int, int]:
    """Allow this process as many open files and some more, and return the limits as they were. Raises `ValueError`
    where the system does not let it.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = before[1]
    wanted = max(count + 256, before[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return before


async def _ask(crowd: Crowd, server: Started, once_queued: Callable[[Started], object]) -> Found:
    room = asyncio.Semaphore(OPENING)

    async def opened(number: int) -> Connection:
        async with room:
            return await Connection.open(server.port, f"tenant-{number % TENANTS}")

    connections = await asyncio.gather(*map(opened, range(crowd.connections)))
    try:
        assert await asyncio.to_thread(server.line) == "accepted"
        asking = asyncio.gather(*map(_status, connections))
        queued = int(await asyncio.to_thread(server.line))
        began = time.perf_counter()
        once_queued(server)
        statuses = Counter(await asking)
        return Found(statuses, queued, _peak(server.process.pid), time.perf_counter() - began)
    finally:
        for connection in connections:
            connection.close()


async def _status(connection: Connection) -> int:
    try:
        return await connection.ask()
    except (OSError, EOFError):
        return LOST


def _peak(pid: int) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return None
    # a process that has just ended has no memory any more
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


# --- the rows ------------------------------------------------------------------------------------------------------


def _crowd(crowd: Crowd) -> Sequence[Row]:
    found = ask(crowd)
    statuses, count = found.statuses, crowd.connections
    assert set(statuses) <= {200, 503, LOST}, f"what else came? {statuses}"
    rows = [
        Row(
            name=f"{count:,} connections: queued at once before {THREADS} threads",
            unit="requests",
            samples=(found.queued,),
            target=Target("value", "at least", count - SEATS),
        ),
        Row(
            name=f"{count:,} connections: answered, or told that they expired",
            unit="requests",
            samples=(statuses[200] + statuses[503],),
            target=Target("value", "at least", count),
        ),
        Row(name=f"{count:,} connections: expired", unit="requests", samples=(statuses[503],)),
    ]
    if found.memory is not None:
        name = f"{count:,} connections: peak memory of the server"
        rows.append(Row(name=name, unit="MB", samples=(found.memory,), target=MEMORY))
    return rows


def _shutdown() -> Sequence[Row]:
    found = ask(SHUTDOWN, lambda server: server.process.terminate())
    count = SHUTDOWN.connections
    name = f"{QUEUED_AT_SHUTDOWN} queued at shutdown, {SEATS} in the back end"
    return [
        Row(
            name=f"{name}: answered",
            unit="requests",
            samples=(count - found.statuses[LOST],),
            target=Target("value", "at least", count),
        ),
        Row(
            name=f"{name}: the last answer",
            unit="s",
            samples=(found.seconds,),
            target=Target("value", "at most", GRACE),
        ),
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    count = depth.pick(2_000, 2_000, 10_000)
    return [
        Step("queued at shutdown", 2.0, _shutdown),
        Step("a crowd before 8 threads", 1.0 + count * 1.7e-3, partial(_crowd, of_size(count))),
    ]


QUESTION: Final = Question("crowd", "what becomes of many who wait before the threads of waitress", steps)


if __name__ == "__main__":
    listening, (connections, ttl, work) = handed_down()
    _serve(Crowd(connections=int(connections), ttl=float(ttl), work=float(work)), listening)
