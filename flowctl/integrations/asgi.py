"""Flow control around an ASGI application: each HTTP request waits for its turn before the application sees it.

S1  A request waits on the event loop: it holds no thread, and no token of a thread pool.
S2  It holds its seat from before the application is called until its response is complete; less long only if the
    application ends before that: it returns, raises, or is cancelled.
S3  A client that leaves while its request is queued takes it out. What was read to learn that is kept, within bounds,
    and the application receives it: each message once, in order.
S4  To the server and to the application this is ASGI 3: every message passes as it is, the scope is not changed.
S5  A refusal is made of constants and integers. Nothing that a client sent comes back to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final, final

from flowctl.awaiting import Waker
from flowctl.controller import FlowController
from flowctl.errors import FlowControlError, Revoked
from flowctl.integrations.asked import as_request, check_parts
from flowctl.integrations.inbox import Inbox
from flowctl.integrations.refusal import answer_to
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


@final
class FlowControlASGIMiddleware:
    """An ASGI application that has each HTTP request wait for its turn, and then calls `app`; or refuses it.

    `classify` is yours: it is given the scope, and returns a flow id (at priority 0), a `FlowKey`, or a `Request` with
    cost, size, ttl and metadata as well (its `received_at` stays None: it is received now). It runs on the loop, and
    must not block. What it raises goes to the server like an exception of the application, before anything is asked
    for; so does the `TypeError` or `ValueError` of what cannot be a flow. Trust no header that every client can set:
    ids made up at will are flows made up at will.

    How many wait is bounded by the queue limits of the controller's configuration alone. Needs a server that runs on
    asyncio.

    The seat is given back once the last part of the response has been sent: what the application does after it, such
    as background tasks, it does without one. A stream (several parts that are not empty) is no sample for an adaptive
    limit, and is broken off between two parts if its ticket is revoked.

    Only HTTP requests are controlled. A websocket passes: it stays open as long as its client likes, and would keep a
    seat while nothing is asked of it; ask for one for each message, with `admit_async`. Lifespan is no request.
    """

    def __init__(self, app: Application, controller: FlowController, *, classify: Classifier) -> None:
        check_parts(app, controller, classify, kind="an ASGI application")
        # fixed after construction
        self._app = app
        self._controller = controller
        self._classify = classify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = as_request(self._classify(scope))
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
        try:
            # a copy: what stands around us shares the scope with others
            await self._app({**scope, TICKET: ticket}, receive, response.send)
        except Revoked as revoked:
            ticket.release("ignored")
            if response.has_started or not ticket.is_revoked:  # too late for another answer, or somebody else's
                raise
            await _refuse(revoked, scope, send)
        except (asyncio.CancelledError, GeneratorExit):  # the client or the server goes: that tells nothing
            ticket.release("ignored")
            raise
        except BaseException:
            ticket.release("ignored" if response.is_cut_off or ticket.is_revoked else "dropped")
            raise
        else:
            ticket.release(response.outcome)  # if it was not complete


@final
class _Response:
    """What the application sends, on its way to the server."""

    __slots__ = ("_has_sent_some", "_send", "_ticket", "has_started", "is_cut_off", "outcome")

    def __init__(self, send: Send, ticket: Ticket) -> None:
        self._send = send
        self._ticket = ticket
        self._has_sent_some = False
        self.has_started = False
        self.is_cut_off = False  # by the server: the client has left
        self.outcome: ReleaseOutcome = "ok"

    async def send(self, message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        if is_body and message.get("body"):
            if self._has_sent_some:
                self.outcome = "ignored"  # how long a stream takes says nothing of the back end
                self._ticket.check()  # instead of one more part: a response that was whole is not broken off
            self._has_sent_some = True
        self.has_started = True
        try:
            await self._send(message)
        except BaseException:
            self.is_cut_off = True
            raise
        if is_body and not message.get("more_body", False):
            self._ticket.release(self.outcome)


async def _refuse(refusal: FlowControlError, scope: Scope, send: Send) -> None:
    """Answer for the application, with problem details (RFC 9457)."""
    answer = answer_to(refusal)
    headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
