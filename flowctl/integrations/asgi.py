"""Flow control around an ASGI application: each HTTP request waits for its turn before the application sees it.

S1  A request waits on the event loop: it holds no thread, and no token of a thread pool.
S2  It holds its seat from before the application is called until its response is complete; less long only if the
    application ends before that: it returns, raises, or is cancelled.
S3  A client that leaves while its request is queued takes it out. What was read to learn that is kept, within bounds,
    and the application receives it: each message once, in order.
S4  To the server and to the application this is ASGI 3: every message passes as it is, but that the first one of the
    response has one header more; the scope is not changed.
S5  A refusal is made of constants and integers. Nothing that a client sent comes back to it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Final, final

from flowctl.awaiting import Waker
from flowctl.controller import FlowController
from flowctl.current import NESTED, Nested, Serving, passenger_of, serving
from flowctl.errors import FlowControlError, Revoked
from flowctl.integrations.asked import check_choice, check_parts
from flowctl.integrations.inbox import Inbox
from flowctl.integrations.reception import OnClassifyError, Reception, ReceptionStats, leave
from flowctl.integrations.refusal import OVERLOADED, answer_to, server_timing
from flowctl.request import FlowKey, Request
from flowctl.ticket import ReleaseOutcome, Ticket

Scope = MutableMapping[str, object]
Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Classifier = Callable[[Scope], str | FlowKey | Request]
"""Says whose request this is: the flow's id, its id and priority, or all that can be asked for."""

TICKET: Final = "flowctl.ticket"
"""Where the application finds its ticket in the scope."""

_PARTS: Final = {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}
"""The messages of which one ends the body."""


@final
class FlowControlASGIMiddleware:
    """An ASGI application that has each HTTP request wait for its turn, and then calls `app`; or refuses it.

    `classify` is yours: it is given the scope, and returns a flow id (at priority 0), a `FlowKey`, or a `Request` with
    cost, size, ttl and metadata as well (its `received_at` stays None: it is received now). It runs on the loop, and
    must not block. If it raises, or returns what cannot be a flow, that is counted and logged, and the request goes on
    as one of the flow "default"; with `on_classify_error="refuse"` it is answered with 503. Trust no header that every
    client can set: ids made up at will are flows made up at will.

    How many wait is bounded by the queue limits of the controller's configuration alone. Needs a server that runs on
    asyncio.

    The seat is given back once the last part of the response has been sent: what the application does after it, such
    as background tasks, it does without one. A stream (several parts that are not empty) is no sample for an adaptive
    limit, and is broken off between two parts if its ticket is revoked.

    The application finds its ticket in the scope, under `TICKET`, and by `flowctl.current_ticket()`, also in threads
    that its context is copied to. `nested`, `exempt` and `shadow` are those of `FlowControlMiddleware`, for WSGI: an
    `admit` or `admit_async` within a request rides on its ticket, or else; so does a middleware around the application.

    Only HTTP requests are controlled. A websocket passes: it stays open as long as its client likes, and would keep a
    seat while nothing is asked of it; ask for one for each message, with `admit_async`. Lifespan is no request.
    """

    def __init__(
        self,
        app: Application,
        controller: FlowController,
        *,
        classify: Classifier,
        nested: Nested = "pass",
        exempt: Iterable[str] = (),
        shadow: bool = False,
        on_classify_error: OnClassifyError = "default",
    ) -> None:
        check_parts(app, controller, classify, kind="an ASGI application")
        check_choice("nested", nested, NESTED)
        # fixed after construction
        self._app = app
        self._controller = controller
        self._reception = Reception[Scope](
            controller, classify, exempt=exempt, shadow=shadow, on_classify_error=on_classify_error
        )
        self._nested: Nested = nested
        if nested != "separate":
            controller.let_ride()

    def stats(self) -> ReceptionStats:
        """What was exempt, could not be classified, or was only watched: a snapshot."""
        return self._reception.stats()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reception = self._reception
        if scope["type"] != "http" or reception.is_exempt(str(scope.get("path", ""))):
            await self._app(scope, receive, send)
        elif reception.watches:
            await self._watch(scope, receive, send)
        else:
            await self._queue(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticket = self._reception.watch(scope)
        if ticket is None:
            await self._app(scope, receive, send)
        else:
            await self._serve(ticket, scope, receive, send)

    async def _queue(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = self._reception.asked(scope)
        except FlowControlError as refusal:
            await _refuse(refusal, scope, send)
            return
        # of the scope a server makes a new one for each request; not always so of the context
        passenger = passenger_of(self._controller) if TICKET in scope else None
        if passenger is not None:
            await self._serve(passenger, scope, receive, send)
            return
        waker = Waker()
        ticket = self._controller.submit(asked, waker)
        inbox = Inbox(receive)
        try:
            if ticket.outcome is None:
                inbox.read_ahead(on_disconnect=ticket.cancel)
            try:
                await waker.granted(ticket)
            except FlowControlError as refusal:
                if not inbox.client_has_left:
                    await _refuse(refusal, scope, send)
                return
            inbox.stop()
            if inbox.client_has_left:  # dispatch was faster than its withdrawal
                ticket.release("ignored")
                return
            await self._serve(ticket, scope, inbox.receive, send)
        finally:
            inbox.close()

    async def _serve(self, ticket: Ticket, scope: Scope, receive: Receive, send: Send) -> None:
        response = _Response(send, ticket)
        before = serving.get()
        here = Serving(ticket, self._controller, self._nested, before)
        try:
            serving.set(weakref.ref(here))
            # a copy: what stands around us shares the scope with others
            await self._app({**scope, TICKET: ticket}, receive, response.send)
        except Revoked as revoked:
            leave(ticket, "ignored")
            if response.has_started or not ticket.is_revoked:  # too late for another answer, or somebody else's
                raise
            await _refuse(revoked, scope, send)
        except (asyncio.CancelledError, GeneratorExit):  # the client or the server goes: that tells nothing
            leave(ticket, "ignored")
            raise
        except BaseException:
            leave(ticket, "ignored" if response.is_cut_off or ticket.is_revoked else "dropped")
            raise
        else:
            leave(ticket, response.outcome)  # if it was not complete
        finally:
            serving.set(before)


@final
class _Response:
    """What the application sends, on its way to the server."""

    __slots__ = ("_has_sent_some", "_has_trailers", "_send", "_ticket", "has_started", "is_cut_off", "outcome")

    def __init__(self, send: Send, ticket: Ticket) -> None:
        self._send = send
        self._ticket = ticket
        self._has_sent_some = False
        self._has_trailers = False  # to come after the body
        self.has_started = False
        self.is_cut_off = False  # by the server: the client has left
        self.outcome: ReleaseOutcome = "ok"

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.has_started = True
            self._has_trailers = bool(message.get("trailers", False))
            message = self._begun_by(message)
        elif kind == "http.response.zerocopysend" or (kind == "http.response.body" and message.get("body")):
            if self._has_sent_some:
                if self.outcome == "ok":
                    self.outcome = "ignored"  # how long a stream takes says nothing of the back end
                self._ticket.check()  # instead of one more part: a response that was whole is not broken off
            self._has_sent_some = True
        try:
            await self._send(message)
        except BaseException:
            self.is_cut_off = True
            raise
        if self._is_last(message):
            leave(self._ticket, self.outcome)

    def _begun_by(self, start: Message) -> Message:
        """The first message, which says how the work went, and is told how long the request waited."""
        if start["status"] in OVERLOADED:
            self.outcome = "dropped"
        headers = start.get("headers", ())
        assert isinstance(headers, Iterable)
        name, value = server_timing(self._ticket)
        return {**start, "headers": [*headers, (name.lower().encode("ascii"), value.encode("ascii"))]}

    def _is_last(self, message: Message) -> bool:
        """Is the response complete with this message? Those of extensions count."""
        kind = message["type"]
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind in _PARTS and not message.get("more_body", False) and not self._has_trailers


async def _refuse(refusal: FlowControlError, scope: Scope, send: Send) -> None:
    """Answer for the application, with problem details (RFC 9457)."""
    answer = answer_to(refusal)
    headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
