"""The two phases of the demo: the same clients at the same server, without flowctl and with it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from flowctl.demo.clients import Connection, Figures, Tenant
from flowctl.demo.server import SEATS, WORK

WARMING_UP: Final = 0.15
"""The share of a phase that does not count: until the clients' first requests have dispersed."""

TICK: Final = 0.25
"""Seconds between two looks at the figures."""


class ServerGoneError(Exception):
    """The demo's server ended, or answered what it should not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What both tenants saw, so far or in the end."""

    name: Literal["without", "with"]
    elapsed: float
    noisy: Figures
    polite: Figures

    @property
    def answered(self) -> float:
        """Requests a second, of both."""
        return self.noisy.answered + self.polite.answered

    @property
    def busy(self) -> float:
        """The share of its time in which the back end worked on what was answered."""
        return min(self.answered * WORK / SEATS, 1.0)


Show = Callable[[Phase], None]


async def run(name: Literal["without", "with"], noisy: Tenant, polite: Tenant, *, seconds: float, show: Show) -> Phase:
    """Run a phase, showing its figures at each tick; those at its end. Raises `ServerGoneError`."""
    now = asyncio.get_running_loop().time
    with server(name) as port:
        await _first_answer(port)
        begun = now()
        clients = [
            asyncio.create_task(tenant.ask_on_and_on(port)) for tenant in (noisy, polite) for _ in range(tenant.clients)
        ]

        async def watch(until: float) -> Phase:
            """Count from now on."""
            noisy.reset(now())
            polite.reset(now())
            while True:
                moment = now()
                seen = noisy.figures(moment), polite.figures(moment)
                phase = Phase(name=name, elapsed=moment - begun, noisy=seen[0], polite=seen[1])
                show(phase)
                if moment >= until:
                    return phase
                await _while_running(clients, min(TICK, until - moment))

        try:
            await watch(begun + WARMING_UP * seconds)
            return await watch(begun + seconds)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _while_running(clients: list[asyncio.Task[None]], seconds: float) -> None:
    """Let them go on for so long. They never end by themselves, unless the server does."""
    ended, _ = await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for client in ended:
        raise ServerGoneError(f"its server is gone ({client.exception()!r})") from client.exception()


async def _first_answer(port: int) -> None:
    """Wait until the server is there."""
    try:
        connection = await Connection.open(port, "first")
        await connection.ask()
    except (OSError, EOFError) as error:
        raise ServerGoneError(f"its server did not start ({error!r})") from error
    connection.close()


@contextmanager
def server(name: Literal["without", "with"]) -> Iterator[int]:
    """A server in a process of its own, and its port. However this process ends, that one does too."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        port: int = listening.getsockname()[1]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, and our own module
            [sys.executable, "-m", "flowctl.demo.server", str(listening.fileno()), name],
            stdin=subprocess.PIPE,  # it ends when this is closed
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is for us; we tell it
        )
    try:
        yield port
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
