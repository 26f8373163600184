"""How long does a polite tenant wait behind a real server, while a noisy one has more requests than the back end takes?

The noisy tenant has 150 clients, the polite one 2, each over a connection that it keeps: it asks, waits for the answer,
and asks again. The back end takes 8 requests at a time, for 50 ms each. waitress has 8 threads: once as it is, and once
with the queue before the threads; that also without the noisy tenant, which is as fast as it can be. Beside it the
middleware, with 24 threads: with no more than there are seats, all are in the back end, and none is left to refuse
anybody. It refuses the noisy tenant most of the time; the queue refuses nobody.

The server is a process of its own, the clients run in this one: ``python -m benchmarks.servers FD KIND``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from waitress.server import create_server

from benchmarks.harness import Depth, Question, Row, Step, in_turns
from flowctl import ConcurrencyLimit, FlowController
from flowctl.demo.clients import Tenant
from flowctl.demo.server import SEATS, answer, tenant_of
from flowctl.integrations.waitress import serve
from flowctl.integrations.wsgi import FlowControlMiddleware

THREADS: Final = 8
THREADS_OF_MIDDLEWARE: Final = 24
NOISY: Final = 150
POLITE: Final = 2

QUEUE: Final = "queue before the threads"
STOCK: Final = "stock waitress"
MIDDLEWARE: Final = "middleware, 24 threads"
ALONE: Final = "no noisy tenant"
RIVALS: Final = (ALONE, MIDDLEWARE, STOCK)

WARMING_UP: Final = 1.5
"""Seconds that do not count: longer than a request waits behind all others at stock waitress."""


def _serve(kind: str, listening: socket.socket) -> None:
    """Serve until whoever started us is gone."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue is what is measured
    controller = FlowController(gate=ConcurrencyLimit(SEATS))
    if kind in {QUEUE, ALONE}:
        serve(answer, controller, classify=tenant_of, threads=THREADS, sockets=[listening])
    elif kind == MIDDLEWARE:
        app = FlowControlMiddleware(answer, controller, classify=tenant_of, threads=THREADS_OF_MIDDLEWARE)
        create_server(app, sockets=[listening], threads=THREADS_OF_MIDDLEWARE, connection_limit=1000).run()
    else:
        create_server(answer, sockets=[listening], threads=THREADS, connection_limit=1000).run()


def _end_with_starter() -> None:
    sys.stdin.buffer.read()  # returns when the other end of the pipe is gone, however its process ended
    os._exit(0)


def p50(kind: str, seconds: float) -> float:
    """Milliseconds that the polite tenant waited for the middle one of its answers, at a new server."""
    with ExitStack() as closing:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            port: int = listening.getsockname()[1]
            process = closing.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.servers", str(listening.fileno()), kind],
                    stdin=subprocess.PIPE,  # it ends when this is closed
                    pass_fds=[listening.fileno()],
                )
            )
        assert process.stdin is not None
        closing.callback(process.stdin.close)
        return asyncio.run(_ask(port, 0 if kind == ALONE else NOISY, seconds))


async def _ask(port: int, noisy: int, seconds: float) -> float:
    now = asyncio.get_running_loop().time
    polite = Tenant("polite", POLITE)
    async with asyncio.TaskGroup() as clients:
        running = [
            clients.create_task(tenant.ask_on_and_on(port))
            for tenant in (Tenant("noisy", noisy), polite)
            for _ in range(tenant.clients)
        ]
        await asyncio.sleep(WARMING_UP)
        polite.reset(now())
        await asyncio.sleep(seconds)
        figures = polite.figures(now())
        for client in running:
            client.cancel()
    return figures.p50 * 1e3


def _measure(rounds: int, seconds: float) -> Sequence[Row]:
    kinds = (QUEUE, *RIVALS)
    found = dict(zip(kinds, in_turns(rounds, [partial(p50, kind, seconds) for kind in kinds]), strict=True))
    return [
        Row(
            name=f"{QUEUE}, to {rival}",
            unit="ms",
            samples=tuple(found[QUEUE]),
            rival=rival,
            rival_samples=tuple(found[rival]),
        )
        for rival in RIVALS
    ]


def steps(depth: Depth) -> list[Step]:
    rounds, seconds = (3, 6.0) if depth.full else (1, 2.5)
    expected = rounds * (1 + len(RIVALS)) * (seconds + WARMING_UP + 0.5)
    return [Step("a polite tenant behind a server", expected, partial(_measure, rounds, seconds))]


QUESTION: Final = Question("servers", "how long a polite tenant waits behind waitress beside a noisy one", steps)


if __name__ == "__main__":
    _serve(sys.argv[2], socket.socket(fileno=int(sys.argv[1])))
