"""Flow control around a WSGI application: each request waits for its turn before the application sees it.

W1  A request holds its seat from before the application is called until the server closes the response; less long
    only if the application raises, the response is dropped unclosed, or the server is to send a file by itself.
W2  Of the server's threads only some wait, and fewer for one flow: the others still serve, and still refuse.
W3  To the server and to the application this is PEP 3333 to the letter: the same `start_response`, one block for one
    block, `close()` once, `__len__` where there was one, a wrapped file untouched.
W4  A refusal is made of constants and integers. Nothing that a client sent comes back to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from operator import attrgetter
from typing import Final, final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flowctl.controller import FlowController
from flowctl.errors import FlowControlError, Revoked
from flowctl.integrations.asked import as_request, check_parts
from flowctl.integrations.refusal import answer_to
from flowctl.request import FlowKey, Request, WaitingRoom, check_count
from flowctl.ticket import ReleaseOutcome, Ticket

logger = logging.getLogger("flowctl")

Classifier = Callable[[WSGIEnvironment], str | FlowKey | Request]
"""Says whose request this is: the flow's id, its id and priority, or all that can be asked for."""

TICKET: Final = "flowctl.ticket"
"""Where the application finds its ticket in the environment."""

UNKNOWN_THREADS: Final = 4
"""How many threads a server is taken to have that does not tell: waitress' own default, and safe for larger ones."""


@final
class FlowControlMiddleware:
    """A WSGI application that has each request wait for its turn, and then calls `app`; or refuses it.

    `classify` is yours: it is given the environment, and returns a flow id (at priority 0), a `FlowKey`, or a
    `Request` with cost, size, ttl and metadata as well (its `received_at` stays None: it is received now). What it
    raises goes to the server like an exception of the application, before anything is asked for; so does the
    `TypeError` or `ValueError` of what cannot be a flow. Trust no header that every client can set: ids made up at
    will are flows made up at will.

    At most `max_waiting_threads` requests wait at a time (None: half of `threads`), at most `max_waiting_per_flow`
    of one flow (None: a quarter of those), each at least 1; who comes on top is refused at once. Without `threads`
    the server is asked at its first request: waitress tells. Of another one `UNKNOWN_THREADS` are assumed, and that
    is logged.

    The seat is given back when the server closes the response, or the application raises. A stream (several blocks, and
    nobody knows how many) is no sample for an adaptive limit. A response made by
    `wsgi.file_wrapper` is passed on as it is, and its seat is given back at once: the server sends the file by
    itself, later. Such a wrapper is known if it is a class, as PEP 3333 shows it.
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
    ) -> None:
        check_parts(app, controller, classify, kind="a WSGI application")
        for name, count in (
            ("threads", threads),
            ("max_waiting_threads", max_waiting_threads),
            ("max_waiting_per_flow", max_waiting_per_flow),
        ):
            if count is not None:
                check_count(name, count, at_least=1)
        # fixed after construction
        self._app = app
        self._controller = controller
        self._classify = classify
        self._threads = threads
        self._max_waiting_threads = max_waiting_threads
        self._max_waiting_per_flow = max_waiting_per_flow
        # empty until the first request, in the process that serves it; then one room for good
        self._opened: dict[str, WaitingRoom] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = as_request(self._classify(environ))
        try:
            ticket = self._controller.admit(
                asked.flow,
                priority=asked.flow.priority,
                cost=asked.cost,
                size=asked.size,
                ttl=asked.ttl,
                metadata=asked.metadata,
                room=self._room(environ),
                revocable=asked.revocable,
            )
        except FlowControlError as refusal:
            return refuse(refusal, environ, start_response)
        return serve_seated(self._app, ticket, environ, start_response)

    def _room(self, environ: WSGIEnvironment) -> WaitingRoom:
        try:
            return self._opened["room"]
        except KeyError:
            # of several first requests at once, one sets the room for all
            return self._opened.setdefault("room", self._open_room(environ))

    def _open_room(self, environ: WSGIEnvironment) -> WaitingRoom:
        limit = self._max_waiting_threads
        if limit is None:
            threads = self._threads or _threads_told(environ)
            if threads is None:
                threads = UNKNOWN_THREADS
                logger.warning("the server does not tell how many threads it has, taken for %d: say threads=", threads)
            limit = max(1, threads // 2)
        return WaitingRoom(limit, self._max_waiting_per_flow or max(1, limit // 4))


def serve_seated(
    app: WSGIApplication, ticket: Ticket, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Call the application with a ticket that was granted; its response gives the seat back (W1)."""
    environ[TICKET] = ticket
    try:
        result = app(environ, start_response)
    except Revoked as revoked:
        ticket.release("ignored")
        if not ticket.is_revoked:
            raise  # somebody else's
        return refuse(revoked, environ, start_response, revoked)
    except BaseException:
        ticket.release("dropped")
        raise
    if _is_wrapped_file(result, environ):
        ticket.release()
        return result
    return _SizedBody(result, ticket) if isinstance(result, Sized) else _Body(result, ticket)


def _threads_told(environ: WSGIEnvironment) -> int | None:
    """How many threads the server has, if it tells. waitress hands in a method of its channel, which knows."""
    try:
        threads = attrgetter("__self__.server.adj.threads")(environ["waitress.client_disconnected"])
    except (KeyError, AttributeError):
        return None
    return threads if isinstance(threads, int) and threads > 0 else None


def _is_wrapped_file(result: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(result, wrapper)


# --- what was served ----------------------------------------------------------------------------------------------


class _Body:
    """The application's response, which gives the seat back when it is closed, raises, or is dropped."""

    __slots__ = ("_begun", "_blocks", "_closed", "_result", "_ticket", "_told")

    _is_stream = True

    def __init__(self, result: Iterable[bytes], ticket: Ticket) -> None:
        self._result = result
        self._ticket = ticket
        self._blocks: Iterator[bytes] | None = None
        self._begun = False
        self._told: ReleaseOutcome = "ok"
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._blocks is None:
                self._blocks = iter(self._result)
            block = next(self._blocks)
            if self._begun and self._is_stream:
                self._told = "ignored"  # how long a stream takes says nothing of the back end
                self._ticket.check()  # instead of one more block: a response that was whole is not broken off
            self._begun = True
            return block
        except Revoked:
            self._ticket.release("ignored")
            raise
        except StopIteration:
            raise  # no more blocks; what the application cleans up in close() still has the seat
        except BaseException:
            self._ticket.release("dropped")
            raise

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        outcome: ReleaseOutcome = "dropped"
        try:
            close: Callable[[], object] | None = getattr(self._result, "close", None)
            if close is not None:
                close()
            outcome = self._told
        finally:
            self._ticket.release(outcome)

    def __del__(self) -> None:
        # a server that drops it unclosed; the environment may outlive it, and the ticket with that
        if not self._closed:
            self._ticket.release("ignored")


@final
class _SizedBody(_Body):
    """One that tells how many blocks it has, from which a server may derive the Content-Length."""

    __slots__ = ()

    _is_stream = False

    def __len__(self) -> int:
        assert isinstance(self._result, Sized)
        return len(self._result)


# --- what was refused ---------------------------------------------------------------------------------------------


def refuse(
    refusal: FlowControlError,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    instead_of: BaseException | None = None,
) -> list[bytes]:
    """Answer for the application, with problem details (RFC 9457). `instead_of`: what it raised, if it was called."""
    answer = answer_to(refusal)
    if instead_of is None:
        start_response(f"{answer.status} {answer.title}", answer.headers)
    else:  # it may have answered already: then the server says whether that can be taken back
        trace = instead_of.__traceback__
        assert trace is not None
        start_response(f"{answer.status} {answer.title}", answer.headers, (type(instead_of), instead_of, trace))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
