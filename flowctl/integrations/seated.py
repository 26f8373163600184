"""A WSGI application's answer to a request that has its seat.

A1  The seat is given back once, on every path: when the server closes the response, or the application raises; earlier
    if that is asked for, or if the server sends a file by itself; and if the response is dropped unclosed.
A2  To the server and to the application this is PEP 3333 to the letter: `start_response` when the application calls
    it, one block for one block, `close()` once, `__len__` where there was one, a wrapped file untouched.
A3  The ticket is the current one while the application's code runs, in whichever thread, and not a moment longer.
A4  What is added to a response is made of constants and numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from types import TracebackType
from typing import Final, Literal, NamedTuple, final, get_args
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flowctl.controller import FlowController
from flowctl.current import NESTED, Nested, Serving, serving
from flowctl.errors import FlowControlError, Revoked
from flowctl.integrations.asked import check_choice
from flowctl.integrations.reception import leave
from flowctl.integrations.refusal import OVERLOADED, answer_to, server_timing
from flowctl.ticket import ReleaseOutcome, Ticket

Release = Literal["close", "first_byte", "return"]
"""When the seat is given back: when the response is closed, with its first byte, or when the application returns."""

TICKET: Final = "flowctl.ticket"
"""Where the application finds its ticket in the environment."""

_OVERLOADED: Final = tuple(map(str, OVERLOADED))
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Manners(NamedTuple):
    """How the requests of one server are served."""

    controller: FlowController
    nested: Nested
    release: Release

    def check(self) -> None:
        """Raise `ValueError` for a word that is none of them."""
        check_choice("nested", self.nested, NESTED)
        check_choice("release", self.release, get_args(Release))


def serve_seated(
    app: WSGIApplication, ticket: Ticket, manners: Manners, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Call the application with a ticket that was granted, or that only watches; its response gives the seat back."""
    environ[TICKET] = ticket
    before = serving.get()
    seat = _Seat(ticket, manners, start_response, before)
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is not None and not isinstance(wrapper, type):
        environ["wsgi.file_wrapper"] = partial(seat.wrap, wrapper)
    try:
        serving.set(seat.here)
        result = app(environ, seat)
    except Revoked as revoked:
        seat.leave("ignored")
        if not ticket.is_revoked:
            raise  # somebody else's
        return refuse(revoked, environ, start_response, revoked)
    except BaseException:
        seat.leave("dropped")
        raise
    finally:
        serving.set(before)
    if manners.release == "return":
        seat.leave(seat.outcome)
    if type(result) is list or type(result) is tuple:
        return _Whole(result, seat)
    if result is seat.file or (isinstance(wrapper, type) and isinstance(result, wrapper)):
        seat.leave(seat.outcome)
        return result
    return (_SizedBody if isinstance(result, Sized) else _Body)(result, seat, environ)


@final
class _Seat(Serving):
    """What a request has while it is served. To its application it is `start_response`: it says how long the request
    waited, and hears how the work went.
    """

    __slots__ = ("file", "here", "is_left", "outcome", "release", "to_server")

    def __init__(
        self,
        ticket: Ticket,
        manners: Manners,
        start_response: StartResponse,
        around: weakref.ref[Serving] | None,
    ) -> None:
        # fixed after construction
        self.ticket = ticket
        self.around = around
        self.controller, self.nested, self.release = manners
        self.to_server = start_response
        self.here: weakref.ref[Serving] = weakref.ref(self)
        # written in single steps by whoever serves
        self.outcome: ReleaseOutcome = "ok"
        self.is_left = False
        self.file: object = None  # that a function of the server's has wrapped, as uWSGI has it

    def wrap(self, wrapper: Callable[..., object], *args: object) -> object:
        """Wrap a file, and know it again."""
        self.file = wrapper(*args)
        return self.file

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        self.outcome = "dropped" if status.startswith(_OVERLOADED) else "ok"
        timed = [*headers, server_timing(self.ticket)]
        if exc_info is None:
            write = self.to_server(status, timed)
        else:
            try:
                write = self.to_server(status, timed, exc_info)
            finally:
                del exc_info  # its traceback holds this frame
        return write if self.release != "first_byte" else partial(self._write, write)

    def _write(self, write: Callable[[bytes], object], block: bytes) -> object:
        if block:
            self.leave(self.outcome)
        return write(block)

    def leave(self, outcome: ReleaseOutcome) -> None:
        """Give the seat back. Again: nothing."""
        leave(self.ticket, outcome)
        self.is_left = True


# --- what was served ----------------------------------------------------------------------------------------------


@final
class _Whole:
    """A response that is all there: to give it out runs no code of the application's."""

    __slots__ = ("_result", "_seat")

    def __init__(self, result: list[bytes] | tuple[bytes, ...], seat: _Seat) -> None:
        self._result = result
        self._seat = seat
        seat.to_server = _nobody  # it would lead back to the server, which may hold us
        if seat.release == "first_byte" and any(result):
            seat.leave(seat.outcome)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._result)

    def __len__(self) -> int:
        return len(self._result)

    def close(self) -> None:
        self._seat.leave(self._seat.outcome)

    def __del__(self) -> None:
        if not self._seat.is_left:
            self._seat.leave("ignored")


class _Body:
    """The application's response, which gives the seat back when it is closed, raises, or is dropped."""

    __slots__ = ("_blocks", "_environ", "_has_begun", "_is_closed", "_is_ignored", "_result", "_seat")

    _is_stream = True

    def __init__(self, result: Iterable[bytes], seat: _Seat, environ: WSGIEnvironment) -> None:
        self._result = result
        self._seat = seat
        self._environ = environ
        self._blocks: Iterator[bytes] | None = None
        self._has_begun = False
        self._is_ignored = False
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        seat, before = self._seat, serving.get()
        try:
            serving.set(seat.here)
            if self._blocks is None:
                self._blocks = iter(self._result)
            block = next(self._blocks)
            if self._has_begun and self._is_stream and seat.release == "close":
                self._is_ignored = True  # how long a stream takes says nothing of the back end
                seat.ticket.check()  # instead of one more block: a response that was whole is not broken off
        except Revoked as revoked:
            seat.leave("ignored")
            if self._has_begun or not seat.ticket.is_revoked:
                raise
            self._blocks = iter(refuse(revoked, self._environ, seat.to_server, revoked))
            block = next(self._blocks)
        except StopIteration:
            raise  # no more blocks; what the application cleans up in close() still has the seat
        except BaseException:
            seat.leave("dropped")
            raise
        finally:
            serving.set(before)
        self._has_begun = True
        if block and seat.release == "first_byte":
            seat.leave(seat.outcome)
        return block

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        seat, before = self._seat, serving.get()
        outcome: ReleaseOutcome = "dropped"
        try:
            serving.set(seat.here)
            close: Callable[[], object] | None = getattr(self._result, "close", None)
            if close is not None:
                close()
            outcome = "ignored" if self._is_ignored and seat.outcome == "ok" else seat.outcome
        finally:
            serving.set(before)
            seat.leave(outcome)

    def __del__(self) -> None:
        # a server that drops it unclosed, or that an exception stops on its way through close(); the environment may
        # outlive it, and the ticket with that
        if not self._seat.is_left:
            self._seat.leave("ignored")


@final
class _SizedBody(_Body):
    """One that tells how many blocks it has, from which a server may derive the Content-Length."""

    __slots__ = ()

    _is_stream = False

    def __len__(self) -> int:
        assert isinstance(self._result, Sized)
        return len(self._result)


def _nobody(status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Callable[[bytes], object]:
    raise RuntimeError("start_response was called after the application had returned a whole response")


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
