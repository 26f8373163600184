"""The clients of the demo: each asks, waits for the answer, and asks again, over a connection that it keeps."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Final, NamedTuple, final

PAUSE: Final = (0.100, 0.200)
"""Seconds after which a refused client asks again: far sooner than the Retry-After of 1 s that it was told, because a
tenant that overruns a service does not heed it. Sooner still, and the demo shows how fast this machine can refuse."""


class Figures(NamedTuple):
    """What a tenant saw: answers and refusals a second, and seconds from a first try to its answer."""

    answered: float
    refused: float
    p50: float
    p99: float


@final
class Tenant:
    """A tenant's clients, and what they have seen since `reset`."""

    __slots__ = ("_refused", "_seconds", "_since", "clients", "name")

    def __init__(self, name: str, clients: int) -> None:
        self.name = name
        self.clients = clients
        self.reset(0.0)

    def reset(self, now: float) -> None:
        """Forget what was seen so far: the clients were only warming up."""
        self._since = now
        self._seconds: list[float] = []
        self._refused = 0

    def figures(self, now: float) -> Figures:
        """What was seen since then."""
        elapsed = max(now - self._since, 1e-9)
        seconds = sorted(self._seconds)
        return Figures(
            answered=len(seconds) / elapsed,
            refused=self._refused / elapsed,
            p50=percentile(seconds, 0.50),
            p99=percentile(seconds, 0.99),
        )

    async def ask_on_and_on(self, port: int) -> None:
        """One client: until it is cancelled, or the server is gone (`OSError`, `EOFError`)."""
        now = asyncio.get_running_loop().time
        connection = await Connection.open(port, self.name)
        try:
            while True:
                started = now()
                while (status := await connection.ask()) == 429:
                    self._refused += 1
                    await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 - no secret
                if status != 200:
                    raise OSError(f"the server answered {status}")
                self._seconds.append(now() - started)
        finally:
            connection.close()


@final
class Connection:
    """As much of an HTTP client as the demo's server needs: GET, Content-Length, keep-alive."""

    __slots__ = ("_reader", "_request", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tenant: str) -> None:
        self._reader = reader
        self._writer = writer
        self._request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant: {tenant}\r\n\r\n".encode()

    @classmethod
    async def open(cls, port: int, tenant: str) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port), tenant)

    async def ask(self) -> int:
        """Send a request, and read its answer to the end; the status."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()


def percentile(values: list[float], share: float) -> float:
    """The smallest of these sorted values that so great a share does not exceed; NaN of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return values[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan
