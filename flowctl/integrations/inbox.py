"""What a client sends, read ahead while its request is queued, and then received by the application.

I1  Each message is received once, and in order, whoever is cancelled meanwhile.
I2  What is kept is bounded: `READ_AHEAD` bytes, and one message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sized
from typing import Final, final

Message = MutableMapping[str, object]

READ_AHEAD: Final = 64 * 1024
"""Bytes that are kept of one request; servers keep as much. A client that has more to send is not seen to leave."""

MESSAGE: Final = 1024
"""Bytes that a message is taken for besides its body: many small ones are bounded too."""


@final
class Inbox:
    """The `receive` of one request. Used on its loop only.

    The one who reads ahead is never interrupted in the middle of a message, which might get lost: the application waits
    for it, and then reads by itself.
    """

    __slots__ = ("_is_stopped", "_messages", "_reader", "_receive", "client_has_left")

    def __init__(self, receive: Callable[[], Awaitable[Message]]) -> None:
        self._receive = receive
        self._messages: deque[Message] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.client_has_left = False

    def read_ahead(self, on_disconnect: Callable[[], object]) -> None:
        """Begin to read, in a task of its own, until the client leaves or as much as is kept has come."""
        self._reader = asyncio.create_task(self._read(on_disconnect))

    def stop(self) -> None:
        """Read no further than the message that is awaited now."""
        self._is_stopped = True

    async def receive(self) -> Message:
        """The next message, as the server would have given it."""
        reader = self._reader
        if reader is not None and not self._messages:
            if not reader.done():
                await asyncio.wait([reader])  # if we are cancelled, it reads on
            if not self._messages:
                self._reader = None
                reader.result()  # what the server raised
        return self._messages.popleft() if self._messages else await self._receive()

    def close(self) -> None:
        """Nobody receives any more."""
        if self._reader is None:
            return
        if not self._reader.done():
            self._reader.cancel()
        elif not self._reader.cancelled():
            self._reader.exception()  # the application did not ask for what the server raised: nobody is to be told

    async def _read(self, on_disconnect: Callable[[], object]) -> None:
        kept, is_whole = 0, False
        while not self._is_stopped and (is_whole or kept < READ_AHEAD):
            message = await self._receive()
            self._messages.append(message)
            if message["type"] == "http.disconnect":
                self.client_has_left = True
                on_disconnect()
                return
            if is_whole:
                return  # only a disconnect can come after a whole request: this is no server to wait for one
            is_whole = not message.get("more_body", False)
            body = message.get("body")
            kept += MESSAGE + (len(body) if isinstance(body, Sized) else 0)
