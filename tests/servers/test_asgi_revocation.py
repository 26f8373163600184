"""A request of the ASGI middleware's that is asked to stop: before it answers, and between two parts."""

from __future__ import annotations

import pytest

from flowctl import (
    Config,
    FlowController,
    FlowKey,
    Request,
    Revocation,
    RevocationStats,
    Revoked,
    Ticket,
)
from flowctl.integrations.asgi import (
    TICKET,
    Receive,
    Scope,
    Send,
)
from tests.servers.asgi_exchange import (
    START,
    Exchange,
    batch,
    part,
    protected,
    run,
)
from tests.support import MakeController


@pytest.fixture
def revoking(make_controller: MakeController) -> FlowController:
    return make_controller(Config(revocation=Revocation()))


def urgent(controller: FlowController) -> Ticket:
    """Somebody more important comes, and the collector looks round."""
    ticket = controller.submit(Request(FlowKey("live", 5)), lambda ticket: None)
    controller.collect()
    return ticket


def test_a_stream_is_stopped_between_two_parts(revoking: FlowController) -> None:
    waiting: list[Ticket] = []
    closed: list[bool] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            await send(part(b"one"))
            waiting.append(urgent(revoking))
            await send(part(b"two"))
        finally:
            closed.append(True)

    async def story() -> None:
        exchange = Exchange(protected(stream, revoking, batch))
        with pytest.raises(Revoked):
            await exchange.task
        assert exchange.body == b"one"

    run(story)
    assert closed == [True]
    assert waiting[0].state == "dispatched"
    revoking.collect()
    assert revoking.stats().revocations == RevocationStats(1, 1, 0)


@pytest.mark.parametrize("whole", [[part(b"all", more_body=False)], [part(b"all"), part(b"", more_body=False)]])
def test_a_response_that_is_whole_is_not_cut_off(revoking: FlowController, whole: list[dict[str, object]]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        urgent(revoking)
        for message in whole:
            await send(message)

    async def story() -> None:
        exchange = Exchange(protected(app, revoking, batch))
        await exchange.task
        assert exchange.body == b"all"

    run(story)


@pytest.mark.parametrize("answers_first", [False, True])
def test_an_application_that_stops_before_it_has_answered_is_answered_for(
    revoking: FlowController, *, answers_first: bool
) -> None:
    waiting: list[Ticket] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if answers_first:
            await send(START)
        waiting.append(urgent(revoking))
        ticket = scope[TICKET]
        assert isinstance(ticket, Ticket)
        ticket.check()

    async def story() -> None:
        exchange = Exchange(protected(app, revoking, batch))
        if answers_first:
            with pytest.raises(Revoked):
                await exchange.task
            assert [message["type"] for message in exchange.sent] == ["http.response.start"]
        else:
            await exchange.task
            assert (exchange.status, exchange.problem["outcome"]) == (429, "revoked")

    run(story)
    assert waiting[0].state == "dispatched"


def test_early_hints_are_no_answer_yet(revoking: FlowController) -> None:
    waiting: list[Ticket] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        waiting.append(urgent(revoking))
        ticket = scope[TICKET]
        assert isinstance(ticket, Ticket)
        ticket.check()

    async def story() -> None:
        exchange = Exchange(protected(app, revoking, batch))
        await exchange.task
        assert exchange.sent[1]["status"] == 429

    run(story)
    assert waiting[0].state == "dispatched"


def test_a_revocation_of_another_ticket_is_the_applications_own_error(controller: FlowController) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise Revoked("of something else")

    async def story() -> None:
        with pytest.raises(Revoked, match="something else"):
            await Exchange(protected(app, controller)).task

    run(story)
    assert controller.stats().in_flight == 0
