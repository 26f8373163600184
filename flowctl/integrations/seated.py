"""A WSGI application's answer to a request that has its seat.

A1  The seat is given back once, on every path: when the server closes the response, or the application raises; earlier
    if that is asked for, or if the server sends a file by itself; and if the response is dropped unclosed.
A2  To the server and to the application this is PEP 3333 to the letter: `start_response` when the application calls
    it, one block for one block, `close()` once, `__len__` where there was one, a wrapped file untouched.
A3  The ticket is the current one while the application's code runs, in whichever thread, and not a moment longer.
A4  What is added to a response is made of constants and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from types import TracebackType
from typing import Final, Literal, final, get_args
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flowctl.current import NESTED, Serving, serving
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


def check_manners(nested: object, release: object) -> None:
    """Raise `ValueError` for words that are none of them."""
    check_choice("nested", nested, NESTED)
    check_choice("release", release, get_args(Release))


def serve_seated(
    app: WSGIApplication,
    seated: Serving,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    *,
    release: Release = "close",
) -> Iterable[bytes]:
    """Call the application with a ticket that was granted, or that only watches; its response gives the seat back."""
    ticket = seated.ticket
    environ[TICKET] = ticket
    start = _Start(ticket, start_response, release)
    before = serving.get()
    try:
        serving.set(seated)
        result = app(environ, start)
    except Revoked as revoked:
        leave(ticket, "ignored")
        if not ticket.is_revoked:
            raise  # somebody else's
        return refuse(revoked, environ, start_response, revoked)
    except BaseException:
        leave(ticket, "dropped")
        raise
    finally:
        serving.set(before)
    is_file = _is_wrapped_file(result, environ)
    if is_file or release == "return":
        leave(ticket, start.outcome)
    if is_file:
        return result
    return (_SizedBody if isinstance(result, Sized) else _Body)(result, seated, start, environ)


def _is_wrapped_file(result: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(result, wrapper)


@final
class _Start:
    """`start_response` on its way to the server: it says how long the request waited, and hears how the work went."""

    __slots__ = ("_ticket", "outcome", "release", "to_server")

    def __init__(self, ticket: Ticket, start_response: StartResponse, release: Release) -> None:
        self._ticket = ticket
        self.to_server = start_response
        self.release = release
        self.outcome: ReleaseOutcome = "ok"

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        self.outcome = "dropped" if status.startswith(_OVERLOADED) else "ok"
        timed = [*headers, server_timing(self._ticket)]
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
            leave(self._ticket, self.outcome)
        return write(block)


# --- what was served ----------------------------------------------------------------------------------------------


class _Body:
    """The application's response, which gives the seat back when it is closed, raises, or is dropped."""

    __slots__ = ("_begun", "_blocks", "_closed", "_environ", "_is_ignored", "_result", "_seated", "_start")

    _is_stream = True

    def __init__(self, result: Iterable[bytes], seated: Serving, start: _Start, environ: WSGIEnvironment) -> None:
        self._result = result
        self._seated = seated
        self._start = start
        self._environ = environ
        self._blocks: Iterator[bytes] | None = None
        self._begun = False
        self._is_ignored = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        seated = self._seated
        ticket, before = seated.ticket, serving.get()
        try:
            serving.set(seated)
            if self._blocks is None:
                self._blocks = iter(self._result)
            block = next(self._blocks)
            if self._begun and self._is_stream and self._start.release == "close":
                self._is_ignored = True  # how long a stream takes says nothing of the back end
                ticket.check()  # instead of one more block: a response that was whole is not broken off
        except Revoked as revoked:
            leave(ticket, "ignored")
            if self._begun or not ticket.is_revoked:
                raise
            self._blocks = iter(refuse(revoked, self._environ, self._start.to_server, revoked))
            block = next(self._blocks)
        except StopIteration:
            raise  # no more blocks; what the application cleans up in close() still has the seat
        except BaseException:
            leave(ticket, "dropped")
            raise
        finally:
            serving.set(before)
        self._begun = True
        if block and self._start.release == "first_byte":
            leave(ticket, self._start.outcome)
        return block

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        outcome: ReleaseOutcome = "dropped"
        before = serving.get()
        try:
            serving.set(self._seated)
            close: Callable[[], object] | None = getattr(self._result, "close", None)
            if close is not None:
                close()
            outcome = "ignored" if self._is_ignored and self._start.outcome == "ok" else self._start.outcome
        finally:
            serving.set(before)
            leave(self._seated.ticket, outcome)

    def __del__(self) -> None:
        # a server that drops it unclosed; the environment may outlive it, and the ticket with that
        if not self._closed:
            leave(self._seated.ticket, "ignored")


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
