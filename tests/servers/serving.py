"""What the real servers serve: an application behind the middleware, and beside it the doors to look in.

It has one seat, and eight threads: so four requests may wait, one of each flow.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import waitress

from flowctl import ConcurrencyLimit, FlowController
from flowctl.integrations.wsgi import FlowControlMiddleware

THREADS = 8
TEXT = [("Content-Type", "text/plain")]

controller = FlowController(gate=ConcurrencyLimit(1))
door = threading.Event()
turnstile = threading.Semaphore(0)


def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application that is protected."""
    path: str = environ["PATH_INFO"]
    if path == "/hold":
        door.wait(30)
    if path == "/stream":
        return streamed(start_response)
    if path == "/error":
        raise ValueError("the application's own")
    if path == "/late-error":
        return broken_off(start_response)
    start_response("200 OK", TEXT)
    if path == "/file":
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"a file"))
        return wrapped
    return [b"hello"]


def streamed(start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    for number in range(3):
        turnstile.acquire(timeout=30)
        yield b"block %d\n" % number


def broken_off(start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"one block\n"
    raise ValueError("the application's own")


def whose(environ: WSGIEnvironment) -> str:
    tenant: str = environ.get("HTTP_X_TENANT", "anybody")
    return tenant


def serve(threads: int | None) -> WSGIApplication:
    """The application, and beside it what shows and moves it without asking for a seat."""
    protected = FlowControlMiddleware(guarded, controller, classify=whose, threads=threads)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if path == "/stats":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(asdict(controller.stats())).encode()]
        if path == "/open":
            door.set()
        elif path == "/next-block":
            turnstile.release()
        else:
            return protected(environ, start_response)
        start_response("200 OK", TEXT)
        return [b""]

    return app


app = serve(THREADS)


if __name__ == "__main__":
    # waitress tells by itself how many threads it has
    waitress.serve(serve(None), threads=THREADS, sockets=[socket.socket(fileno=int(sys.argv[1]))])
