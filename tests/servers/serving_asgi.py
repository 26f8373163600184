"""What uvicorn serves for real: a Starlette application behind the middleware, and beside it the doors to look in.

It has one seat. Most endpoints are plain functions, for which there are two threads: one for the seat, one is left.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from flowctl import ConcurrencyLimit, Config, FlowController, FlowKey, Revocation
from flowctl.integrations.asgi import FlowControlASGIMiddleware, Scope

controller = FlowController(Config(revocation=Revocation()), gate=ConcurrencyLimit(1))
door = threading.Event()
turnstile = threading.Semaphore(0)


# --- the application that is protected --------------------------------------------------------------------------------


def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


def hold(request: Request) -> Response:
    door.wait(30)
    return PlainTextResponse("held")


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def stream(request: Request) -> Response:
    def blocks() -> Iterator[bytes]:
        for number in range(3):
            turnstile.acquire(timeout=30)
            yield b"block %d\n" % number

    return StreamingResponse(blocks())


async def endless(request: Request) -> Response:
    async def blocks() -> AsyncIterator[bytes]:
        while True:
            yield b"block\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(blocks())


def error(request: Request) -> Response:
    raise ValueError("the application's own")


# --- the doors --------------------------------------------------------------------------------------------------------


def stats(request: Request) -> Response:
    return Response(json.dumps(asdict(controller.stats())), media_type="application/json")


def open_door(request: Request) -> Response:
    door.set()
    return PlainTextResponse("")


def close(request: Request) -> Response:
    controller.close()
    return PlainTextResponse("")


def next_block(request: Request) -> Response:
    turnstile.release()
    return PlainTextResponse("")


def whose(scope: Scope) -> FlowKey:
    tenant = HTTPConnection(scope).headers.get("X-Tenant", "anybody")
    return FlowKey(tenant, {"batch": -1, "urgent": 1}.get(tenant, 0))


@asynccontextmanager
async def two_threads(app: Starlette) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = 2
    yield


protected = Starlette(
    routes=[
        Route("/", hello),
        Route("/hold", hold),
        Route("/echo", echo, methods=["POST"]),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/error", error),
    ],
    middleware=[Middleware(FlowControlASGIMiddleware, controller=controller, classify=whose)],
)
app = Starlette(
    routes=[
        Route("/stats", stats),
        Route("/open", open_door),
        Route("/next-block", next_block),
        Route("/close", close),
        Mount("/", app=protected),
    ],
    lifespan=two_threads,
)


if __name__ == "__main__":
    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
