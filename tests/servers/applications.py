"""Applications that answer in each way that PEP 3333 knows, and in some that it forbids: one for each path."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import Final, final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import shift_path_info

BLOCK: Final = b"x" * 65_535 + b"\n"
LARGE: Final = 256
"""So many blocks are in the file: more than the sockets between a server and a client that does not read can take."""


@final
class Stage:
    """What a test moves, and what the applications note for it. Each test has a new one."""

    def __init__(self) -> None:
        self.turnstile = threading.Semaphore(0)
        self.noted: list[str] = []

    def pass_turnstile(self) -> None:
        """Go on once the test has let one through."""
        assert self.turnstile.acquire(timeout=30), "nobody was let through"


stage = Stage()


def new_stage() -> None:
    global stage  # noqa: PLW0603 - the applications have one stage at a time, and the server one test
    stage = Stage()


def text() -> list[tuple[str, str]]:
    """Headers, in a new list each time: wsgiref adds to the one that it is given."""
    return [("Content-Type", "text/plain")]


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", text())
    return [b"hello"]


def hold(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    stage.pass_turnstile()
    return hello(environ, start_response)


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", text())
    return paced(stage)


def paced(on: Stage) -> Iterator[bytes]:
    thread = threading.get_ident()
    try:
        for number in range(3):
            on.pass_turnstile()
            yield b"block %d\n" % number
    finally:
        on.noted.append("closed" if threading.get_ident() == thread else "closed by another thread")


def endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", text())
    return endless_blocks(stage)


def endless_blocks(on: Stage) -> Iterator[bytes]:
    try:
        while True:
            yield BLOCK
    finally:
        on.noted.append("closed")


def paced_endlessly(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", text())
    return paced_blocks(stage)


def paced_blocks(on: Stage) -> Iterator[bytes]:
    try:
        while True:
            on.pass_turnstile()
            yield b"a block\n"
    finally:
        on.noted.append("closed")


def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", text())  # not before the first block is asked for
    yield b"hello"


def write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    writing = start_response("200 OK", text())
    writing(b"written\n")
    stage.pass_turnstile()
    return [b"returned\n"]


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A file by the server's own wrapper, where it has one."""
    if "wsgi.file_wrapper" not in environ:
        start_response("200 OK", text())
        return [b""]
    large = tempfile.TemporaryFile()  # noqa: SIM115 - whoever sends it closes it
    for _ in range(LARGE):
        large.write(BLOCK)
    large.seek(0)
    start_response("200 OK", text())
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](large)
    return wrapped


@final
class WithoutClose:
    def __init__(self, *blocks: bytes) -> None:
        self._blocks = iter(blocks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._blocks)


def no_close(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", text())
    return WithoutClose(b"hel", b"lo")


def apology(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", text())
    return apologise(environ, start_response)


def late_apology(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", text())
    yield b"one block\n"
    yield from apologise(environ, start_response)


def apologise(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    try:
        raise LookupError("no such page")
    except LookupError:
        start_response("404 Not Found", text(), sys.exc_info())
    return [b"sorry\n"]


def error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise ValueError("the application's own")


def first_error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", text())
    yield from error(environ, start_response)


def late_error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", text())
    yield b"one block\n"
    yield from error(environ, start_response)


def leave(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise SystemExit


APPLICATIONS: Final[dict[str, WSGIApplication]] = {
    application.__name__.replace("_", "-"): application
    for application in (
        hello,
        hold,
        stream,
        endless,
        paced_endlessly,
        late,
        write,
        file,
        no_close,
        apology,
        late_apology,
        error,
        first_error,
        late_error,
        leave,
    )
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers as the path says."""
    return APPLICATIONS[shift_path_info(environ) or "hello"](environ, start_response)
