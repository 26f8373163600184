"""How much CPU does flow control add to a request, where everybody finds a seat?

An application that does nothing, behind waitress and behind gunicorn with threads: as they are, with the middleware,
and waitress with the queue before its threads. There are seats for all.

One client asks, over a connection that it keeps. With several, threads of the server meet, and one that waits for the
GIL costs hundreds of microseconds, at each of these servers and for long stretches: nothing else could be seen then.

What is counted is the CPU of the server's process, in its threads and in the kernel, as the process itself tells; the
client runs in this one. The servers are asked in turns, many short runs each, and a sample is the difference between a
run of ours and one of the rival's in the same round. They are started anew several times: where the parts of a process
happen to lie makes a difference too.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from typing import Final, final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from gunicorn.app.base import BaseApplication
from waitress.server import create_server

from benchmarks.harness import Depth, Question, Row, Step, Target, in_turns
from benchmarks.machine import with_gil
from benchmarks.serving import handed_down, started
from flowctl import ConcurrencyLimit, FlowController
from flowctl.demo.server import tenant_of
from flowctl.integrations import waitress as flowctl_waitress
from flowctl.integrations.wsgi import FlowControlMiddleware

THREADS: Final = 8
SEATS: Final = 64

WAITRESS: Final = "waitress"
WAITRESS_MIDDLEWARE: Final = "waitress, middleware"
WAITRESS_QUEUE: Final = "waitress, queue before the threads"
GUNICORN: Final = "gunicorn gthread"
GUNICORN_MIDDLEWARE: Final = "gunicorn gthread, middleware"
RIVALS: Final = {WAITRESS_MIDDLEWARE: WAITRESS, WAITRESS_QUEUE: WAITRESS, GUNICORN_MIDDLEWARE: GUNICORN}
KINDS: Final = (WAITRESS, WAITRESS_MIDDLEWARE, WAITRESS_QUEUE, GUNICORN, GUNICORN_MIDDLEWARE)

ADDED: Final = Target("value", "at most", 15)


# --- the servers ---------------------------------------------------------------------------------------------------


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Nothing; but `/cpu` tells the nanoseconds that this process has had so far."""
    body = b"%d" % time.process_time_ns() if environ["PATH_INFO"] == "/cpu" else b"hello"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@final
class Gunicorn(BaseApplication):
    """One worker with threads, for one application, without a configuration file."""

    def __init__(self, app: WSGIApplication, listening: socket.socket) -> None:
        self._app = app
        self._settings = {
            "bind": f"fd://{listening.fileno()}",
            "worker_class": "gthread",
            "threads": THREADS,
            "keepalive": 60,
            "control_socket_disable": True,
            "loglevel": "warning",
        }
        super().__init__()

    def load_config(self) -> None:
        assert self.cfg is not None
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:  # type: ignore[override]  # the stubs have another type for it
        return self._app


def _serve(kind: str, listening: socket.socket) -> None:
    """Serve until whoever started us is gone."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a thread that was not quick enough is no news
    controller = FlowController(gate=ConcurrencyLimit(SEATS))
    app: WSGIApplication = hello
    if kind in {WAITRESS_MIDDLEWARE, GUNICORN_MIDDLEWARE}:
        app = FlowControlMiddleware(hello, controller, classify=tenant_of, threads=THREADS)
    if kind in {GUNICORN, GUNICORN_MIDDLEWARE}:
        Gunicorn(app, listening).run()
    elif kind == WAITRESS_QUEUE:
        flowctl_waitress.serve(hello, controller, classify=tenant_of, threads=THREADS, sockets=[listening])
    else:
        create_server(app, threads=THREADS, sockets=[listening]).run()


# --- the client ----------------------------------------------------------------------------------------------------


@final
class Client:
    """A connection that is kept; `close` it."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._connection.close()

    def cost(self, requests: int) -> float:
        """Microseconds of the server's CPU a request."""
        wanted = request_for("/")
        before = self.cpu()
        for _ in repeat(None, requests):
            self._ask(wanted)
        return (self.cpu() - before) / 1e3 / requests

    def cpu(self) -> int:
        """Nanoseconds that the server's process has had."""
        return int(self._ask(request_for("/cpu")))

    def _ask(self, request: bytes) -> bytes:
        self._connection.sendall(request)
        return body_of_answer(self._connection)


def request_for(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant: polite\r\n\r\n".encode()


def body_of_answer(connection: socket.socket) -> bytes:
    """The next answer, read to its end. Raises `OSError` if it is not a 200."""
    received = b""
    while True:
        more = connection.recv(65536)
        received += more
        head, found, body = received.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            break
        if not more:
            raise OSError(f"the server sent no more than {received!r}")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"the server answered {head!r}")
    return body


# --- the rows ------------------------------------------------------------------------------------------------------


def costs(rounds: int, requests: int) -> dict[str, list[float]]:
    """Microseconds of CPU a request at each server, all of them new, in turns."""
    with ExitStack() as closing:
        sides: list[Callable[[], float]] = []
        for kind in KINDS:
            client = Client(closing.enter_context(started("benchmarks.hello", kind)).port)
            closing.callback(client.close)
            client.cost(requests)  # warm
            sides.append(partial(client.cost, requests))
        return dict(zip(KINDS, in_turns(rounds, sides), strict=True))


def _measure(starts: int, rounds: int, requests: int) -> Sequence[Row]:
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(starts):
        for kind, samples in costs(rounds, requests).items():
            found[kind] += samples
    return rows(found)


def rows(found: dict[str, list[float]]) -> list[Row]:
    """What requests cost at each kind of server, round by round, as rows."""
    added = [
        Row(
            name=f"{ours}: added to {rival}",
            unit="us",
            samples=differences(found[ours], found[rival]),
            target=with_gil(ADDED),
        )
        for ours, rival in RIVALS.items()
    ]
    whole = [
        Row(name=ours, unit="us", samples=tuple(found[ours]), rival=rival, rival_samples=tuple(found[rival]))
        for ours, rival in RIVALS.items()
    ]
    noise = [
        Row(
            name=f"{rival}: by how much a run differs from the one before",
            unit="us",
            samples=tuple(map(abs, differences(found[rival][1:], found[rival]))),
        )
        for rival in (WAITRESS, GUNICORN)
    ]
    return [*added, *whole, *noise]


def differences(ours: Sequence[float], rival: Sequence[float]) -> tuple[float, ...]:
    """Round by round: what slows a whole round is in none of them."""
    return tuple(mine - theirs for mine, theirs in zip(ours, rival, strict=False))


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    starts, rounds, requests = depth.pick((2, 7, 400), (2, 7, 400), (3, 14, 1_000))
    expected = starts * len(KINDS) * (0.4 + rounds * requests * 1.5e-4)
    return [Step("hello world", expected, partial(_measure, starts, rounds, requests))]


QUESTION: Final = Question("hello", "what flow control adds to a request that does not wait", steps)


if __name__ == "__main__":
    listening, (kind,) = handed_down()
    _serve(kind, listening)
