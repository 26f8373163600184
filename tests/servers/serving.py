"""What the real servers serve: applications behind the middleware, and beside them the doors to look in.

There is one seat, and there are eight threads: so four requests may wait, one of each flow. On both sides of the
middleware stands the validator of the standard library, but under ``/bare/``: it hides the length of a response and
what a server knows its own wrapped files by.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import shift_path_info
from wsgiref.validate import validator

import cheroot.wsgi
import waitress

from flowctl import ConcurrencyLimit, FlowController
from flowctl.integrations.wsgi import FlowControlMiddleware
from tests.servers import applications
from tests.servers.applications import APPLICATIONS, application, hello, new_stage
from tests.servers.kinds import THREADS

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

controller = FlowController(gate=ConcurrencyLimit(1))
complaints: list[str] = []


def complain(unraisable: UnraisableHookArgs) -> None:
    """The validator can say that a response was dropped unclosed only as an error that nobody can catch. cheroot has
    such errors of its own, of connections whose client has left.
    """
    if not isinstance(unraisable.exc_value, OSError):
        complaints.append(repr(unraisable.exc_value))


sys.unraisablehook = complain


def whose(environ: WSGIEnvironment) -> str:
    tenant: str = environ.get("HTTP_X_TENANT", "anybody")
    return tenant


def close() -> None:
    controller.close()


def let_one_through() -> None:
    applications.stage.turnstile.release()


def nested(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Asks for a second seat, and there is but one."""
    with controller.admit("inner", ttl=5.0):
        return hello(environ, start_response)


APPLICATIONS["nested"] = nested

DOORS: Final[Mapping[str, Callable[[], object]]] = {
    "/stats": lambda: asdict(controller.stats()),
    "/noted": lambda: applications.stage.noted,
    "/complaints": lambda: complaints,
    "/process": os.getpid,
    "/new-stage": new_stage,
    "/let-one-through": let_one_through,
    "/close": close,
}


def serve(threads: int | None) -> WSGIApplication:
    """The applications, and beside them what shows and moves them without asking for a seat."""

    def protected(app: WSGIApplication) -> FlowControlMiddleware:
        return FlowControlMiddleware(app, controller, classify=whose, threads=threads)

    prefixes: dict[str, WSGIApplication] = {"bare": protected(application), "unprotected": application}
    validated = validator(protected(validator(application)))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if path in DOORS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(DOORS[path]()).encode()]
        if path.split("/")[1] in prefixes:
            return prefixes[shift_path_info(environ) or ""](environ, start_response)
        return validated(environ, start_response)

    return app


app = serve(THREADS)
telling_app = serve(None)
"""For a server that tells by itself how many threads it has."""


def by_waitress(listening: socket.socket) -> None:
    waitress.serve(telling_app, threads=THREADS, sockets=[listening], channel_request_lookahead=1)


def by_cheroot(listening: socket.socket) -> None:
    class Server(cheroot.wsgi.Server):
        def bind(self, family: int, type: int, proto: int = 0) -> None:  # noqa: A002 - the server's own names
            self.socket = listening

    Server(listening.getsockname(), app, numthreads=THREADS, request_queue_size=128).start()


def by_wsgiref(listening: socket.socket) -> None:
    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

        def server_bind(self) -> None:
            self.socket.close()  # the one that it made
            self.socket = listening
            self.server_name, self.server_port = listening.getsockname()
            self.setup_environ()

    server = Server(listening.getsockname(), WSGIRequestHandler)
    server.set_app(app)
    server.serve_forever()


if __name__ == "__main__":
    serving_by = {"waitress": by_waitress, "cheroot": by_cheroot, "wsgiref": by_wsgiref}
    serving_by[sys.argv[1]](socket.socket(fileno=int(sys.argv[2])))
