"""Flow control around a WSGI application: each request waits for its turn before the application sees it.

W1  A request holds its seat from before the application is called until the server closes the response, or as long as
    `release` says.
W2  Of the server's threads only some wait, and fewer for one flow: the others still serve, and still refuse.
W3  To the server and to the application this is PEP 3333 to the letter (`seated.py`).
W4  A refusal is made of constants and integers. Nothing that a client sent comes back to it (`refusal.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flowctl import sync
from flowctl.controller import FlowController
from flowctl.current import Nested
from flowctl.errors import FlowControlError
from flowctl.integrations.asked import check_parts
from flowctl.integrations.reception import OnClassifyError, Reception, ReceptionStats
from flowctl.integrations.seated import Manners, Release, refuse, serve_seated
from flowctl.integrations.server import leaving_probe, serves, threads_of
from flowctl.request import FlowKey, Request, WaitingRoom, check_count

logger = logging.getLogger("flowctl")

Classifier = Callable[[WSGIEnvironment], str | FlowKey | Request]
"""Says whose request this is: the flow's id, its id and priority, or all that can be asked for."""

UNKNOWN_THREADS: Final = 4
"""How many threads a server is taken to have that does not tell: waitress' own default, and safe for larger ones."""


@final
class FlowControlMiddleware:
    """A WSGI application that has each request wait for its turn, and then calls `app`; or refuses it.

    `classify` is yours: it is given the environment, and returns a flow id (at priority 0), a `FlowKey`, or a
    `Request` with cost, size, ttl and metadata as well (its `received_at` stays None: it is received now). If it
    raises, or returns what cannot be a flow, that is counted and logged, and the request goes on as one of the flow
    "default"; with `on_classify_error="refuse"` it is answered with 503. Trust no header that every client can set: ids
    made up at will are flows made up at will.

    At most `max_waiting_threads` requests wait at a time (None: half of `threads`), at most `max_waiting_per_flow`
    of one flow (None: a quarter of those), each at least 1; who comes on top is refused at once. Without `threads`
    the server is asked at its first request: waitress and uWSGI tell, gunicorn with the hooks of
    `flowctl.integrations.gunicorn`. Of another one `UNKNOWN_THREADS` are assumed, and that is logged. A client that
    leaves while its request waits takes it out, where the server can tell (waitress, gunicorn).

    The seat is given back when the server closes the response, or the application raises; with `release="first_byte"`
    when the first byte is there, with `"return"` when the application has returned. A stream (several blocks, and
    nobody knows how many) is no sample for an adaptive limit; an answer of 503 or 504 says that the back end was
    overloaded. A response made by `wsgi.file_wrapper` is passed on as it is, and its seat is given back at once: the
    server sends the file by itself, later.

    The application finds its ticket in `environ["flowctl.ticket"]` and by `flowctl.current_ticket()`. If it calls
    `controller.admit` itself, that rides on this ticket: it has no seat of its own, so that it cannot wait for itself.
    With `nested="separate"` it asks for another seat, with `"error"` it gets a `RuntimeError`.

    Requests of the paths in `exempt` (exact, or `"/static/*"` for all below) need no seat; they are counted. With
    `shadow` nobody waits and nobody is refused: every request is served at once, and `stats().shadow` counts what would
    have become of it. Raises `TypeError` or `ValueError` for a bad argument, `RuntimeError` where gevent or eventlet
    have patched the threads.
    """

    def __init__(
        self,
        app: WSGIApplication,
        controller: FlowController,
        *,
        classify: Classifier,
        threads: int | None = None,
        max_waiting_threads: int | None = None,
        max_waiting_per_flow: int | None = None,
        nested: Nested = "pass",
        release: Release = "close",
        exempt: Iterable[str] = (),
        shadow: bool = False,
        on_classify_error: OnClassifyError = "default",
    ) -> None:
        check_parts(app, controller, classify, kind="a WSGI application")
        for name, count in (
            ("threads", threads),
            ("max_waiting_threads", max_waiting_threads),
            ("max_waiting_per_flow", max_waiting_per_flow),
        ):
            if count is not None:
                check_count(name, count, at_least=1)
        manners = Manners(controller, nested, release)
        manners.check()
        # fixed after construction
        self._app = app
        self._controller = controller
        self._reception = Reception[WSGIEnvironment](
            controller, classify, exempt=exempt, shadow=shadow, on_classify_error=on_classify_error
        )
        self._threads = threads
        self._max_waiting_threads = max_waiting_threads
        self._max_waiting_per_flow = max_waiting_per_flow
        self._manners = manners
        # empty until the first request, in the process that serves it; then one room for good
        self._opened: dict[str, WaitingRoom] = {}
        serves(controller)
        if nested != "separate":
            controller.let_ride()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reception = self._reception
        if reception.exempts and reception.is_exempt(environ.get("PATH_INFO", "")):
            return self._app(environ, start_response)
        if reception.watches:
            watched = reception.watch(environ, self._room(environ))
            if watched is None:
                return self._app(environ, start_response)
            ticket = watched
        else:
            try:
                asked = reception.asked(environ)
                ticket = self._controller.admit_request(asked, cancel=leaving_probe(environ), room=self._room(environ))
            except FlowControlError as refusal:
                return refuse(refusal, environ, start_response)
        return serve_seated(self._app, ticket, self._manners, environ, start_response)

    def stats(self) -> ReceptionStats:
        """What was exempt, could not be classified, or was only watched: a snapshot."""
        return self._reception.stats()

    def _room(self, environ: WSGIEnvironment) -> WaitingRoom:
        try:
            return self._opened["room"]
        except KeyError:
            # of several first requests at once, one sets the room for all
            return self._opened.setdefault("room", self._open_room(environ))

    def _open_room(self, environ: WSGIEnvironment) -> WaitingRoom:
        sync.check_threads_are_real()
        limit = self._max_waiting_threads
        if limit is None:
            threads = self._threads or threads_of(environ)
            if threads is None:
                threads = UNKNOWN_THREADS
                logger.warning("the server does not tell how many threads it has, taken for %d: say threads=", threads)
            limit = max(1, threads // 2)
        return WaitingRoom(limit, self._max_waiting_per_flow or max(1, limit // 4))
