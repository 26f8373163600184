"""A connection of waitress' whose requests are queued before they take a thread: what `waitress.py` puts in.

A request *visits* while it is the first of its connection. Its environment is made when it arrives, and its answer is
an application, decided on later; the thread that serves it finds both here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NoReturn, Protocol, final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import WSGITask

from flowctl.integrations.reception import leave
from flowctl.ticket import Ticket

MOMENT: Final = 0.005
"""Seconds that the thread which reads and writes waits for one that sends: the interpreter's usual switch interval."""

# --- what an environment says to the application at the top -------------------------------------------------------

PASSED: Final = "flowctl.passed"
ANSWER: Final = "flowctl.answer"


def let_pass(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Stands for the application while waitress deals with the headers of proxies: it lets the request pass."""
    environ[PASSED] = True
    return []


def give_answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What the server calls in a thread: the answer that was decided on before."""
    answer: WSGIApplication = environ.pop(ANSWER)
    return answer(environ, start_response)


def fail(error: Exception, environ: WSGIEnvironment, start_response: StartResponse) -> NoReturn:
    """Answer as an application that raises: the server logs it, and tells the client 500."""
    raise error


@final
class Recorded:
    """The answer of waitress itself to a request that did not pass: made when the request came, given in a thread."""

    __slots__ = ("_blocks", "_headers", "_status")

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment) -> None:
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._blocks = list(app(environ, self._start_response))

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        self._status, self._headers = status, headers
        return _nowhere

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self._status, self._headers)
        return self._blocks


def _nowhere(block: bytes) -> None:
    """Written before the response is: nothing of waitress' does that."""


# --- a request on its way -----------------------------------------------------------------------------------------


@final
class Visit:
    """One request from when it is the first of its connection until it is answered."""

    __slots__ = ("_claims", "answer", "environ", "is_begun", "ticket")

    def __init__(self) -> None:
        # emptied in a single step by anyone
        self._claims: list[None] = [None]
        # handed from the thread that classifies to whoever settles, and from there to the thread that answers
        self.environ: WSGIEnvironment = {}
        self.answer: WSGIApplication = let_pass
        self.ticket: Ticket | None = None
        self.is_begun = False

    def claim(self) -> bool:
        """True for the first caller, who decides on its answer."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def withdraw(self) -> None:
        """Take it out of the queue, if it is there. Its answer is decided by that, like any other."""
        ticket = self.ticket
        if ticket is not None:
            ticket.cancel()

    def end(self) -> None:
        """Give back what it may still have, and hold on to nothing."""
        ticket = self.ticket
        if ticket is not None:
            leave(ticket, "ignored")  # a no-op wherever the response was closed
        self.environ, self.answer, self.ticket = {}, let_pass, None


class FlowTask(WSGITask):
    """A response to a visit, whose environment was made when it was classified."""

    channel: FlowChannel

    def get_environment(self) -> WSGIEnvironment:
        visit = self.channel.visit
        assert visit is not None
        if not visit.environ:  # it was refused before it was classified
            visit.environ = super().get_environment()
        visit.environ[ANSWER] = visit.answer
        return visit.environ


class Front(Protocol):
    """Who decides on visits."""

    def arrive(self, channel: FlowChannel, visit: Visit, request: HTTPRequestParser) -> None: ...

    def client_left(self, visit: Visit) -> None: ...

    def leave(self, visit: Visit) -> None: ...


@final
class FlowChannel(HTTPChannel):
    """A connection. Its first request visits; the others wait behind it, as waitress has it."""

    task_class = FlowTask

    visit: Visit | None = None  # the latest, written when it is the first

    def __init__(self, front: Front, *args: object, **kwargs: object) -> None:
        # fixed after construction
        self._front = front
        # fed under waitress' requests_lock, emptied in single steps by anyone after it
        self._arrived: deque[tuple[Visit, HTTPRequestParser]] = deque()
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # whatever they are

    def note_arrival(self) -> Visit:
        """The first of the requests is to visit, once waitress has let go of its lock."""
        self.visit = visit = Visit()
        self._arrived.append((visit, self.requests[0]))
        return visit

    def _tell_arrivals(self) -> None:
        while self._arrived:
            try:
                visit, request = self._arrived.popleft()
            except IndexError:  # another thread was faster
                return
            self._front.arrive(self, visit, request)

    def received(self, data: bytes) -> bool:
        went_on = super().received(data)
        self._tell_arrivals()
        return went_on

    def service(self) -> None:
        """Answer the visit, which ends with that; the next request of the connection arrives then."""
        visit = self.visit
        assert visit is not None
        visit.is_begun = True
        try:
            if self.requests:  # else it was cancelled
                super().service()
            self._tell_arrivals()
        except BaseException:  # SystemExit and its like, of which waitress would tell the client nothing, for ever
            self.will_close = True
            self.server.pull_trigger()
            raise
        finally:
            self._front.leave(visit)  # last: until then a shutdown waits for what we have put before its threads

    def handle_write(self) -> None:
        # A thread that has this lock is sending, and needs the GIL to be done. waitress would come back at once, and
        # again, until the GIL is taken from it: 40 times a request, if clients ask on as soon as they are answered.
        if self.outbuf_lock.acquire(timeout=MOMENT):
            self.outbuf_lock.release()
        super().handle_write()

    def handle_close(self) -> None:
        super().handle_close()
        visit = self.visit
        if visit is not None:
            self._front.client_left(visit)
