"""The server's side of one request, step by step, as PEP 3333 tells it; and small applications to ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

from flowctl import FlowController, FlowKey, Request
from flowctl.current import Nested
from flowctl.integrations.seated import Release
from flowctl.integrations.wsgi import Classifier, FlowControlMiddleware

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


def environment(method: str = "GET", **extra: object) -> WSGIEnvironment:
    """What a server hands in; a dot in a name is written as two underscores."""
    environ: WSGIEnvironment = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": ""}
    environ.update({name.replace("__", "."): value for name, value in extra.items()})
    setup_testing_defaults(environ)
    return environ


@final
class Exchange:
    """One request to an application: what it answered, as far as the server has read it."""

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment | None = None) -> None:
        self.environ = environment() if environ is None else environ
        self.status = ""
        self.headers: dict[str, str] = {}
        self.exc_info: ExcInfo | None = None
        self.sent: list[bytes] = []
        self.result: Iterable[bytes] = app(self.environ, self.start_response)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        self.status, self.headers, self.exc_info = status, dict(headers), exc_info
        return self.sent.append

    def read(self) -> list[bytes]:
        """Read the whole response and close it; what was sent. Again: what was sent before."""
        try:
            for block in self.result:
                self.sent.append(block)
        finally:
            self.close()
            self.result = []
        return self.sent

    def close(self) -> None:
        close: Callable[[], object] | None = getattr(self.result, "close", None)
        if close is not None:
            close()

    def problem(self) -> dict[str, object]:
        """The problem details of a refusal."""
        problem: dict[str, object] = json.loads(b"".join(self.read()))
        return problem


TEXT = [("Content-Type", "text/plain")]


def a_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"one", b"two"]


def by_header(environ: WSGIEnvironment) -> str:
    tenant: str = environ.get("HTTP_X_TENANT", "tenant-a")
    return tenant


def impatient(environ: WSGIEnvironment) -> Request:
    return Request(FlowKey("tenant-a"), ttl=0)


def protected(
    app: WSGIApplication,
    controller: FlowController,
    *,
    classify: Classifier = by_header,
    threads: int | None = 8,
    nested: Nested = "pass",
    release: Release = "close",
) -> FlowControlMiddleware:
    return FlowControlMiddleware(app, controller, classify=classify, threads=threads, nested=nested, release=release)


def raising(error: type[BaseException]) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise error

    return app
