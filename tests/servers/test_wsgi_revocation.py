"""A request of the middleware's that is asked to stop: before it answers, and between two blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from flowctl import Config, FlowController, FlowKey, Request, Revocation, RevocationStats, Revoked, Ticket
from flowctl.integrations.seated import TICKET
from tests.servers.exchange import TEXT, Exchange, protected
from tests.support import MakeController, Released


def batch(environ: WSGIEnvironment) -> Request:
    return Request(FlowKey("batch", -1))


@pytest.fixture
def controller(make_controller: MakeController) -> FlowController:
    return make_controller(Config(revocation=Revocation()))


@pytest.fixture
def urgent(controller: FlowController) -> Callable[[], Ticket]:
    """Somebody more important comes, and the collector looks round."""

    def come() -> Ticket:
        ticket = controller.submit(Request(FlowKey("live", 5)), lambda ticket: None)
        controller.collect()
        return ticket

    return come


def test_a_stream_is_stopped_between_two_blocks_and_closed(
    controller: FlowController, urgent: Callable[[], Ticket]
) -> None:
    closed: list[bool] = []

    def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    exchange = Exchange(protected(stream, controller, classify=batch))
    blocks = iter(exchange.result)
    assert next(blocks) == b"one"
    waiting = urgent()

    with pytest.raises(Revoked):
        next(blocks)
    exchange.close()

    assert closed == [True]
    assert waiting.state == "dispatched"
    controller.collect()
    assert controller.stats().revocations == RevocationStats(1, 1, 0)


def test_a_response_that_is_whole_is_not_cut_off(controller: FlowController, urgent: Callable[[], Ticket]) -> None:
    def one_block(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [b"all of it"]

    exchange = Exchange(protected(one_block, controller, classify=batch))
    waiting = urgent()

    assert exchange.read() == [b"all of it"]
    assert waiting.state == "dispatched"


def checking(*, answers_first: bool, urgent: Callable[[], Ticket], waiting: list[Ticket]) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if answers_first:
            start_response("200 OK", TEXT)
        waiting.append(urgent())
        environ[TICKET].check()
        return [b"never"]

    return app


@pytest.mark.parametrize("answers_first", [False, True])
def test_an_application_that_stops_before_it_has_sent_anything_is_answered_for(
    controller: FlowController, urgent: Callable[[], Ticket], *, answers_first: bool
) -> None:
    waiting: list[Ticket] = []
    app = checking(answers_first=answers_first, urgent=urgent, waiting=waiting)

    exchange = Exchange(protected(app, controller, classify=batch))
    exchange.read()

    assert exchange.status == "429 Too Many Requests"
    assert exchange.problem()["outcome"] == "revoked"
    assert exchange.exc_info is not None, "what was answered before may have to be taken back"
    assert waiting[0].state == "dispatched"


def test_a_revocation_of_another_ticket_is_the_applications_own_error(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise Revoked("of something else")

    with pytest.raises(Revoked, match="something else"):
        Exchange(protected(app, controller, classify=batch))

    assert controller.stats().in_flight == 0


@pytest.mark.parametrize(("blocks", "outcome"), [([b"one"], "ok"), ([b"one", b"two"], "ignored")])
def test_how_long_a_stream_takes_is_no_sample_of_the_back_end(
    make_controller: MakeController, blocks: list[bytes], outcome: str
) -> None:
    released = Released()
    controller = make_controller(observer=released)

    def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield from blocks

    def a_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return blocks

    for app in (stream, a_list):
        assert Exchange(protected(app, controller)).read() == blocks

    assert released.outcomes == [outcome, "ok"]
