"""A queue before the thread, for waitress: a request takes a thread of the server's once it has its seat.

D1  Waiting costs no thread. Who has a seat is served by the server's threads; whoever is refused is answered by one
    thread of its own, which never waits for a client.
D2  A visit is answered once and ends once, on every path, and its seat was given back by then. Whoever takes its claim
    decides how it is answered.
D3  The controller and `classify` are called with no lock of waitress' held. What the controller calls back takes no
    lock at all: it may come from any thread, and from a finaliser.
D4  The requests of one connection are classified, and answered, one after another, in the order in which they came.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Iterable
from functools import partial
from socket import socket
from typing import Final, final
from wsgiref.types import WSGIApplication, WSGIEnvironment

from waitress import server as servers
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer, MultiSocketServer
from waitress.task import Task, ThreadedTaskDispatcher, WSGITask

from flowctl import sync
from flowctl.controller import FlowController
from flowctl.current import Nested
from flowctl.errors import Cancelled, ClosedWhileQueued, ControllerClosed, FlowControlError
from flowctl.integrations.asked import check_parts
from flowctl.integrations.crew import Crew
from flowctl.integrations.reception import OnClassifyError, Reception, ReceptionStats, leave
from flowctl.integrations.seated import Manners, Release, refuse, serve_seated
from flowctl.integrations.waitress_channel import PASSED, FlowChannel, Recorded, Visit, fail, give_answer, let_pass
from flowctl.integrations.wsgi import Classifier
from flowctl.request import Request, check_ttl
from flowctl.ticket import Ticket

logger = logging.getLogger("flowctl")

OLDEST: Final = (3, 0, 2)
BELOW: Final = (4,)
"""From the first of these on, and before the second: the versions of waitress whose parts this knows. The extra
`[waitress]` says the same.
"""

GRACE: Final = 5.0
"""Seconds at shutdown for what is in flight: waitress' own default."""

ACCEPTED_AT_ONCE: Final = 64
"""So many take a few milliseconds, in which nothing is read."""

SETTINGS: Final[dict[str, object]] = {
    "channel_request_lookahead": 1,  # with 0 nobody looks at a connection whose request waits: who left stays queued
    "connection_limit": 1000,  # with 100 a crowd fills the backlog of the socket, which is first come first served
    "asyncore_use_poll": True,  # select() ends at 1024 descriptors
}
"""Where waitress' own defaults would undo what the queue is for; whoever says otherwise has it otherwise."""


def serve(app: WSGIApplication, controller: FlowController, *, classify: Classifier, **settings: object) -> None:
    """As `waitress.serve`, with each request queued before it takes a thread. Takes what `create_server` takes. Blocks
    until `SystemExit` or `KeyboardInterrupt` is raised in this thread.
    """
    logging.basicConfig()  # as waitress.serve has it: what goes wrong is seen, also by who set up no logging
    server = create_server(app, controller, classify=classify, **settings)  # type: ignore[arg-type]  # checked there
    server.print_listen("Serving on http://{}:{}")
    server.run()


def create_server(
    app: WSGIApplication,
    controller: FlowController,
    *,
    classify: Classifier,
    grace: float = GRACE,
    nested: Nested = "pass",
    release: Release = "close",
    exempt: Iterable[str] = (),
    shadow: bool = False,
    on_classify_error: OnClassifyError = "default",
    **settings: object,
) -> BaseWSGIServer | MultiSocketServer:
    """As `waitress.create_server`, with each request queued before it takes a thread; `run()` serves.

    `classify` is given the environment that the application will get, after waitress has dealt with the headers of
    proxies, and returns what `FlowControlMiddleware` takes. It runs in the server's one thread for input and output,
    so it must not block. `nested`, `release`, `exempt`, `shadow` and `on_classify_error` are those of
    `FlowControlMiddleware`; requests that are exempt have one thread of their own. The application finds its ticket in
    `environ["flowctl.ticket"]` and by `flowctl.current_ticket()`.

    When `run()` is ended, by `SystemExit` or `KeyboardInterrupt`, whatever is queued is refused, and what is in flight
    has `grace` seconds. `settings` are waitress'; some defaults differ (`SETTINGS`). Raises `RuntimeError` for a
    waitress that this does not know, `TypeError` or `ValueError` for a bad argument.
    """
    check_version(importlib.metadata.version("waitress"))
    check_parts(app, controller, classify, kind="a WSGI application")
    reception = Reception[WSGIEnvironment](
        controller, classify, exempt=exempt, shadow=shadow, on_classify_error=on_classify_error
    )
    dispatcher = FlowTaskDispatcher(app, reception, Manners(controller, nested, release), grace=grace)
    sockets: dict[int, socket] = {}
    wanted = {**SETTINGS, **settings}
    server = servers.create_server(let_pass, map=sockets, _dispatcher=dispatcher, **wanted)  # type: ignore[arg-type]
    for each in list[object](sockets.values()):  # the stubs take them for sockets
        if isinstance(each, BaseWSGIServer):
            dispatcher.prepare = each.application  # what waitress has put around `let_pass`; the same for all
            each.application = give_answer
            each.channel_class = partial(FlowChannel, dispatcher)  # type: ignore[assignment]  # it is only called
            each.handle_accept = partial(accept_some, each)  # type: ignore[method-assign]  # likewise
    try:
        dispatcher.set_thread_count(server.adj.threads)
    except BaseException:
        dispatcher.shutdown(timeout=0)
        server.close()
        raise
    return server


def accept_some(server: BaseWSGIServer) -> None:
    """Accept those connections that wait to be, as far as `connection_limit` goes; of very many a part."""
    # waitress accepts one in each turn of its loop, and each turn looks at all connections. With thousands of them
    # fewer would be accepted than are served; the others wait at the socket, first come first served.
    for _ in range(ACCEPTED_AT_ONCE):
        before = _connections(server)
        BaseWSGIServer.handle_accept(server)
        if _connections(server) == before or not server.readable():
            return


def _connections(server: BaseWSGIServer) -> int:
    return len(server.active_channels)  # type: ignore[arg-type]  # the stubs take the dict of them for one of them


def check_version(found: str) -> None:
    """Raise `RuntimeError` for a waitress of another version than this knows."""
    if not OLDEST <= tuple(map(int, re.findall(r"\d+", found)[:3])) < BELOW:
        raise RuntimeError(
            f"flowctl.integrations.waitress needs waitress>=3.0.2,<4, not {found}: pip install 'flowctl[waitress]'"
        )


@final
class FlowTaskDispatcher(ThreadedTaskDispatcher):
    """What waitress hands requests to, and whose threads answer them: those that have a seat, in the order in which
    they got it. Made by `create_server`.
    """

    def __init__(
        self, app: WSGIApplication, reception: Reception[WSGIEnvironment], manners: Manners, *, grace: float
    ) -> None:
        super().__init__()
        manners.check()
        seconds = check_ttl(grace, "grace")
        # fixed after construction
        self._app = app
        self._controller = manners.controller
        self._reception = reception
        self._manners = manners
        self._grace = GRACE if seconds is None else seconds
        self._workers = Crew("waitress")
        self._desk = Crew("waitress-desk")
        self._exempt = Crew("waitress-exempt")
        self.prepare: WSGIApplication = let_pass  # fixed before the server runs
        # changed in single steps by anyone
        self._visits: dict[Visit, FlowChannel] = {}
        self._is_closing = False
        self._left = sync.Condition()  # rank: innermost; taken at shutdown only
        if manners.nested != "separate":
            manners.controller.let_ride()

    def stats(self) -> ReceptionStats:
        """What was exempt, could not be classified, or was only watched: a snapshot."""
        return self._reception.stats()

    # --- what waitress calls ---------------------------------------------------------------------------------------

    def add_task(self, task: Task | HTTPChannel) -> None:
        """The first request of a channel is complete. Called with that channel's lock held: it is only noted."""
        assert isinstance(task, FlowChannel)
        self._visits[task.note_arrival()] = task

    def set_thread_count(self, count: int) -> None:
        """Have so many threads for requests that have a seat, and one more that answers the others; one for requests
        that are exempt, if there can be any.
        """
        self._workers.resize(count)
        self._desk.resize(min(count, 1))
        self._exempt.resize(min(count, 1) if self._reception.exempts else 0)

    def shutdown(self, cancel_pending: bool = True, timeout: float | None = None) -> bool:
        """Refuse what is queued and what comes, wait `timeout` seconds (None: `grace`) for what is in flight, and end
        the threads. True if everything was answered. With `cancel_pending`, connections that were not get no answer.
        """
        self._is_closing = True
        for visit, channel in self._visits.copy().items():
            visit.withdraw()
            self._refuse(channel, visit, ControllerClosed())  # what ended the loop may have interrupted its arrival
        with self._left:
            all_left = self._left.wait_for(lambda: not self._visits, self._grace if timeout is None else timeout)
        if not all_left:
            late = self._visits.copy()
            logger.warning("%d request(s) were not answered before the server was shut down", len(late))
            for visit, channel in late.items():
                if cancel_pending and not visit.is_begun:
                    channel.cancel()  # its thread, if there will be one, only tidies up
        self.set_thread_count(0)
        if all_left:
            self._workers.join()
            self._desk.join()
            self._exempt.join()
        return all_left

    # --- the way of a visit ----------------------------------------------------------------------------------------

    def arrive(self, channel: FlowChannel, visit: Visit, request: HTTPRequestParser) -> None:
        """Classify the first request of a channel, and ask for its seat. Called with no lock held."""
        try:
            if request.error:
                self._answer_at_desk(channel, visit, visit.answer)
            else:
                self._receive(channel, visit, request)
        except FlowControlError as refusal:
            self._refuse(channel, visit, refusal)
        except Exception as error:  # noqa: BLE001 - a defect; answered with 500, and logged by the server
            self._answer_at_desk(channel, visit, partial(fail, error))
        except BaseException:
            self._refuse(channel, visit, ControllerClosed())
            raise

    def _receive(self, channel: FlowChannel, visit: Visit, request: HTTPRequestParser) -> None:
        """Have a request answered that needs no seat, and ask for one for any other."""
        task = WSGITask(channel, request)  # type: ignore[arg-type]  # the stubs name the wrong class
        environ = visit.environ = task.get_environment()  # when we are closing, the visit may end while we are here
        instead = Recorded(self.prepare, environ)
        if not environ.pop(PASSED, False):
            self._answer_at_desk(channel, visit, instead)
        elif self._reception.is_exempt(environ["PATH_INFO"]):
            self._answer_by_one(channel, visit, self._app, self._exempt)
        elif self._reception.watches:
            self._watch(channel, visit, environ)
        else:
            asked = self._reception.asked(environ)
            if self._is_closing:
                self._refuse(channel, visit, ControllerClosed(key=asked.flow))
            else:
                self._submit(channel, visit, asked)

    def _watch(self, channel: FlowChannel, visit: Visit, environ: WSGIEnvironment) -> None:
        ticket = self._reception.watch(environ)
        if ticket is None:
            self._answer(channel, visit, self._app, self._workers)
        else:
            self._serve(channel, visit, ticket)

    def _submit(self, channel: FlowChannel, visit: Visit, asked: Request) -> None:
        ticket = self._controller.submit(asked, partial(self._settled, channel, visit))
        if ticket.outcome is not None:
            return
        visit.ticket = ticket
        if visit not in self._visits:
            visit.ticket = None  # settled, answered and left while we were on our way here
        elif self._is_closing or not channel.connected:
            ticket.cancel()  # who closed, or saw the client leave, may have come too early to find the ticket

    def _settled(self, channel: FlowChannel, visit: Visit, ticket: Ticket) -> None:
        """The controller's callback: in any thread, with no lock held; it takes none, and does not come back here,
        unless its seat is for nobody.
        """
        error = ticket.error
        if error is None:
            self._serve(channel, visit, ticket)
            return
        if self._is_closing and isinstance(error, Cancelled):
            error = ClosedWhileQueued(key=error.key, waited=error.waited)  # by us
        self._refuse(channel, visit, error)

    def _serve(self, channel: FlowChannel, visit: Visit, ticket: Ticket) -> None:
        visit.ticket = ticket
        if not self._answer(channel, visit, partial(serve_seated, self._app, ticket, self._manners), self._workers):
            visit.ticket = None
            leave(ticket, "ignored")  # an exception ended its arrival, or we are closing: it was refused

    def _refuse(self, channel: FlowChannel, visit: Visit, error: FlowControlError) -> None:
        self._answer_at_desk(channel, visit, partial(refuse, error))

    def _answer_at_desk(self, channel: FlowChannel, visit: Visit, answer: WSGIApplication) -> None:
        self._answer_by_one(channel, visit, answer, self._desk)

    def _answer_by_one(self, channel: FlowChannel, visit: Visit, answer: WSGIApplication, crew: Crew) -> None:
        """Answer without a seat. A client that has left very much unread may make a thread wait: not that of all."""
        is_slow = channel.total_outbufs_len > channel.adj.outbuf_high_watermark // 2
        self._answer(channel, visit, answer, self._workers if is_slow else crew)

    def _answer(self, channel: FlowChannel, visit: Visit, answer: WSGIApplication, crew: Crew) -> bool:
        """Have the visit answered so, unless that was decided before."""
        if not visit.claim():
            return False
        visit.answer = answer
        crew.put(channel.service)
        return True

    def client_left(self, visit: Visit) -> None:
        """The visit's connection is gone. Called with locks of waitress' held, so the controller is told later."""
        ticket = visit.ticket
        if ticket is not None and ticket.outcome is None:
            self._desk.put(visit.withdraw)

    def leave(self, visit: Visit) -> None:
        """The visit was answered, or never will be."""
        self._visits.pop(visit, None)
        visit.end()
        if self._is_closing:
            with self._left:
                self._left.notify_all()
