"""How long does a polite tenant wait behind a real server, while a noisy one has more requests than the back end takes?

The noisy tenant has 150 clients, the polite one 2, each over a connection that it keeps: it asks, waits for the answer,
and asks again. The back end takes 8 requests at a time, for 50 ms each. waitress has 8 threads: once as it is, and once
with the queue before the threads; that also without the noisy tenant, which is as fast as it can be. Beside it the
middleware, with 24 threads: with no more than there are seats, all are in the back end, and none is left to refuse
anybody. It refuses the noisy tenant most of the time; the queue refuses nobody.

The server is a process of its own, the clients run in this one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from waitress.server import create_server

from benchmarks.harness import Depth, Question, Row, Step, Target, in_turns
from benchmarks.serving import handed_down, started
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
KINDS: Final = (QUEUE, ALONE, MIDDLEWARE, STOCK)

BETTER: Final = Target("ratio", "at most", 1 / 8)
P50: Final = (
    (QUEUE, ALONE, Target("ratio", "at most", 1.5)),
    (MIDDLEWARE, ALONE, Target("ratio", "at most", 2.5)),
    (QUEUE, STOCK, BETTER),
    (MIDDLEWARE, STOCK, BETTER),
)
P99: Final = ((QUEUE, ALONE), (MIDDLEWARE, ALONE), (QUEUE, STOCK))
NOBODY: Final = Target("value", "at most", 0)

WARMING_UP: Final = 1.5
"""Seconds that do not count: longer than a request waits behind all others at stock waitress."""


def _serve(kind: str, listening: socket.socket) -> None:
    """Serve until whoever started us is gone."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue is what is measured
    controller = FlowController(gate=ConcurrencyLimit(SEATS))
    if kind in {QUEUE, ALONE}:
        serve(answer, controller, classify=tenant_of, threads=THREADS, sockets=[listening])
    elif kind == MIDDLEWARE:
        app = FlowControlMiddleware(answer, controller, classify=tenant_of, threads=THREADS_OF_MIDDLEWARE)
        create_server(app, sockets=[listening], threads=THREADS_OF_MIDDLEWARE, connection_limit=1000).run()
    else:
        create_server(answer, sockets=[listening], threads=THREADS, connection_limit=1000).run()


class Seen(NamedTuple):
    """Milliseconds that the polite tenant waited for its answers, and refusals a second of both tenants."""

    p50: float
    p99: float
    refused: float


def seen(kind: str, seconds: float) -> Seen:
    """At a new server."""
    with started("benchmarks.servers", kind) as server:
        return asyncio.run(_ask(server.port, 0 if kind == ALONE else NOISY, seconds))


async def _ask(port: int, noisy: int, seconds: float) -> Seen:
    now = asyncio.get_running_loop().time
    tenants = (Tenant("polite", POLITE), Tenant("noisy", noisy))
    async with asyncio.TaskGroup() as clients:
        running = [clients.create_task(tenant.ask_on_and_on(port)) for tenant in tenants for _ in range(tenant.clients)]
        await asyncio.sleep(WARMING_UP)
        for tenant in tenants:
            tenant.reset(now())
        await asyncio.sleep(seconds)
        polite, other = (tenant.figures(now()) for tenant in tenants)
        for client in running:
            client.cancel()
    return Seen(polite.p50 * 1e3, polite.p99 * 1e3, polite.refused + other.refused)


def _measure(rounds: int, seconds: float) -> Sequence[Row]:
    sides = [partial(seen, kind, seconds) for kind in KINDS]
    return rows(dict(zip(KINDS, in_turns(rounds, sides), strict=True)))


def rows(found: dict[str, list[Seen]]) -> list[Row]:
    """What was seen at each kind of server, round by round, as rows."""
    p50 = {kind: tuple(each.p50 for each in rounds) for kind, rounds in found.items()}
    p99 = {kind: tuple(each.p99 for each in rounds) for kind, rounds in found.items()}
    refused = sum(each.refused for each in found[QUEUE])
    return [
        *(_row("p50", p50, kind, rival, target) for kind, rival, target in P50),
        *(_row("p99", p99, kind, rival) for kind, rival in P99),
        # all rounds together: a median of them could hide some
        Row(name=f"{QUEUE}: refusals, of both tenants", unit="/s", samples=(refused,), target=NOBODY),
    ]


def _row(what: str, found: dict[str, tuple[float, ...]], kind: str, rival: str, target: Target | None = None) -> Row:
    return Row(
        name=f"{what}, {kind}, to {rival}",
        unit="ms",
        samples=found[kind],
        rival=rival,
        rival_samples=found[rival],
        target=target,
    )


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    rounds, seconds = depth.pick((1, 2.0), (1, 2.0), (3, 6.0))
    expected = rounds * len(KINDS) * (seconds + WARMING_UP + 0.2)
    return [Step("a polite tenant behind a server", expected, partial(_measure, rounds, seconds))]


QUESTION: Final = Question("servers", "how long a polite tenant waits behind waitress beside a noisy one", steps)


if __name__ == "__main__":
    listening, (kind,) = handed_down()
    _serve(kind, listening)
