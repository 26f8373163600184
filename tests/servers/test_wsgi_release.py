"""When a response gives its seat back, and what is told to an adaptive limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from flowctl import Config, FlowController, FlowKey, Request, Revocation, Ticket, current_ticket
from flowctl.integrations.seated import Release
from tests.servers.exchange import TEXT, Exchange, environment, protected
from tests.support import MakeController, Released


def blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b""
    yield b"one"
    yield b"two"


@pytest.mark.parametrize(
    ("release", "in_flight"), [("close", [1, 1, 1, 1, 0]), ("first_byte", [1, 1, 0, 0, 0]), ("return", [0, 0, 0, 0, 0])]
)
def test_the_seat_is_given_back_when_the_operator_says(
    controller: FlowController, release: Release, in_flight: list[int]
) -> None:
    exchange = Exchange(protected(blocks, controller, release=release))
    seen = [controller.stats().in_flight]
    seen.extend(controller.stats().in_flight for _ in exchange.result)
    exchange.close()
    seen.append(controller.stats().in_flight)

    assert seen == in_flight


@pytest.mark.parametrize(("release", "in_flight"), [("close", 1), ("first_byte", 0), ("return", 1)])
def test_a_block_that_is_written_is_a_first_byte(controller: FlowController, release: Release, in_flight: int) -> None:
    seen: list[int] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"")
        assert controller.stats().in_flight == 1
        write(b"one")
        seen.append(controller.stats().in_flight)
        return [b"two"]

    exchange = Exchange(protected(app, controller, release=release))
    assert exchange.read() == [b"", b"one", b"two"]
    assert seen == [in_flight]


@pytest.mark.parametrize("release", ["first_byte", "return"])
def test_a_stream_that_has_given_its_seat_back_is_not_broken_off(
    make_controller: MakeController, release: Release
) -> None:
    controller = make_controller(Config(revocation=Revocation()))
    waiting: list[Ticket] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        waiting.append(controller.submit(Request(FlowKey("urgent", 5)), lambda ticket: None))
        controller.collect()
        ticket = current_ticket()
        assert ticket is not None
        assert ticket.is_revoked
        return (block for block in (b"one", b"two"))

    exchange = Exchange(protected(app, controller, classify=lambda environ: FlowKey("batch", -1), release=release))
    assert exchange.read() == [b"one", b"two"]
    assert waiting[0].state == "dispatched"


def let_go(ticket: Ticket) -> None:
    ticket.release()


def answering(status: str, *said: bytes) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, TEXT)
        return iter(said)

    return app


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("200 OK", "ok"),
        ("404 Not Found", "ok"),
        ("429 Too Many Requests", "ok"),  # of the application's own making: a tenant's quota is no overload
        ("500 Internal Server Error", "ok"),
        ("503 Service Unavailable", "dropped"),
        ("504 Gateway Timeout", "dropped"),
    ],
)
@pytest.mark.parametrize("release", ["close", "first_byte", "return"])
def test_an_answer_that_says_that_the_back_end_is_overloaded_is_told(
    make_controller: MakeController, status: str, outcome: str, release: Release
) -> None:
    released = Released()
    controller = make_controller(observer=released)

    Exchange(protected(answering(status, b"one"), controller, release=release)).read()

    assert released.outcomes == [outcome]


def test_a_stream_that_says_so_is_told_too(make_controller: MakeController) -> None:
    released = Released()
    controller = make_controller(observer=released)

    Exchange(protected(answering("503 Service Unavailable", b"one", b"two"), controller)).read()

    assert released.outcomes == ["dropped"]


def test_a_generator_that_is_asked_to_stop_before_its_first_block_is_answered_for(
    make_controller: MakeController,
) -> None:
    controller = make_controller(Config(revocation=Revocation()))
    closed: list[bool] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        try:
            start_response("200 OK", TEXT)
            controller.submit(Request(FlowKey("urgent", 5)), let_go)
            controller.collect()
            ticket = current_ticket()
            assert ticket is not None
            ticket.check()
            yield b"never"
        finally:
            closed.append(True)

    for method, length in (("GET", 1), ("HEAD", 0)):
        exchange = Exchange(
            protected(app, controller, classify=lambda environ: FlowKey("batch", -1)), environment(method)
        )
        assert len(exchange.read()) == length
        assert exchange.status == "429 Too Many Requests"
        assert exchange.exc_info is not None
    assert closed == [True, True]
    assert controller.stats().in_flight == 0
