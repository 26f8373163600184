"""The server's side of one request, message by message, as ASGI tells it; and small applications to ask."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine
from typing import final

from flowctl import FlowController, FlowKey
from flowctl.integrations.asgi import Application, Classifier, FlowControlASGIMiddleware, Message, Receive, Scope, Send
from tests.support import PATIENCE

END: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a story on a loop of its own, as long as patience lasts; it leaves no task and no error behind."""
    unheard: list[object] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        async with asyncio.timeout(PATIENCE):
            await story()
            await idle()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())
    gc.collect()  # a task complains when it goes that nobody heard of its exception
    assert not unheard


async def idle() -> None:
    """Let all others run until they wait. Each step of theirs takes a turn of the loop, or a few."""
    for _ in range(20):
        await asyncio.sleep(0)


def chunk(body: bytes, *, more_body: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more_body}


def part(body: bytes, *, more_body: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


@final
class Exchange:
    """One request to an application, in a task of its own: what it answered so far."""

    def __init__(self, app: Application, *coming: Message, method: str = "GET", tenant: str = "tenant-a") -> None:
        self.scope: Scope = {"type": "http", "method": method, "path": "/", "headers": [], "tenant": tenant}
        self.sent: list[Message] = []
        self.received = 0
        self.send_error: Exception | None = None
        self._coming: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.comes(*coming)
        self.task = asyncio.ensure_future(app(self.scope, self._receive, self._send))

    def comes(self, *messages: Message | Exception) -> None:
        """The client sends this; an exception is raised by the server's `receive`."""
        for message in messages:
            self._coming.put_nowait(message)

    async def _receive(self) -> Message:
        self.received += 1
        message = await self._coming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _send(self, message: Message) -> None:
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(message)

    @property
    def status(self) -> object:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        headers = self.sent[0]["headers"]
        assert isinstance(headers, list)
        return {name.decode(): value.decode() for name, value in headers}

    @property
    def body(self) -> bytes:
        blocks = [message["body"] for message in self.sent[1:]]
        return b"".join(block for block in blocks if isinstance(block, bytes))

    @property
    def problem(self) -> dict[str, object]:
        problem: dict[str, object] = json.loads(self.body)
        return problem


def whose(scope: Scope) -> str:
    return str(scope["tenant"])


def protected(app: Application, controller: FlowController, classify: Classifier = whose) -> FlowControlASGIMiddleware:
    return FlowControlASGIMiddleware(app, controller, classify=classify)


def batch(scope: Scope) -> FlowKey:
    return FlowKey("batch", -1)


def sending(*messages: Message) -> Application:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


hello = sending(START, part(b"hello", more_body=False))


@final
class Reader:
    """An application that reads the request, and has what it received."""

    def __init__(self, *, until: str = "http.disconnect") -> None:
        self.received: list[Message] = []
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self.received or self.received[-1]["type"] != self._until:
            self.received.append(await receive())
