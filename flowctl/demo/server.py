"""The server of the demo: waitress, an application, and a back end that serves eight requests at a time.

As a process of its own (``python -m flowctl.demo.server FD with|without``) it serves on a socket that was handed down,
so that its clients do not share its interpreter, and ends when whoever started it does.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from waitress.server import create_server

from flowctl.controller import FlowController
from flowctl.gate import ConcurrencyLimit
from flowctl.integrations.wsgi import FlowControlMiddleware

SEATS: Final = 8
"""How many requests the back end takes at a time; another one waits for it in a thread of the server."""

WORK: Final = 0.050
"""Seconds that the back end has a request for."""

THREADS: Final = 24
"""Of the server. With flowctl half of them may wait, at most 3 for one tenant, and the others answer at once."""

back_end = threading.Semaphore(SEATS)


def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application: it asks the back end, and knows nothing of flowctl."""
    with back_end:
        time.sleep(WORK)  # noqa: TID251 - this is the work
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered\n"]


def tenant_of(environ: WSGIEnvironment) -> str:
    """Whose request it is. A real classifier would ask who is logged in, not a header that anyone can set."""
    tenant: str = environ.get("HTTP_X_TENANT") or "anonymous"
    return tenant


def protected() -> WSGIApplication:
    """The application behind flowctl; `/stats` shows what goes on, and asks for no seat."""
    controller = FlowController(gate=ConcurrencyLimit(SEATS))
    middleware = FlowControlMiddleware(answer, controller, classify=tenant_of, threads=THREADS)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/stats":
            return middleware(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(asdict(controller.stats()), indent=2).encode(), b"\n"]

    return app


def serve(app: WSGIApplication, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue is what the demo shows
    server = create_server(app, sockets=[listening], threads=THREADS, connection_limit=1000)
    try:
        server.run()
    finally:
        server.close()


def _end_with_starter() -> None:
    sys.stdin.buffer.read()  # returns when the other end of the pipe is gone, however its process ended
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_starter, daemon=True).start()
    serve(protected() if sys.argv[2] == "with" else answer, socket.socket(fileno=int(sys.argv[1])))
