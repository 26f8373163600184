"""The ASGI middleware, message by message: what is served, with which seat, and how its work is told to have gone."""

from __future__ import annotations

import asyncio

import pytest

from flowctl import (
    FlowController,
    FlowKey,
    Ticket,
)
from flowctl.integrations.asgi import (
    TICKET,
    Application,
    FlowControlASGIMiddleware,
    Message,
    Receive,
    Scope,
    Send,
)
from tests.servers.asgi_exchange import (
    END,
    START,
    Exchange,
    Reader,
    batch,
    hello,
    idle,
    part,
    protected,
    run,
    sending,
)
from tests.support import MakeController, Released, Spawn

TRAILERS: Message = {"type": "http.response.trailers", "headers": [], "more_trailers": False}

# --- what is served ---------------------------------------------------------------------------------------------------


def test_every_message_passes_as_it_is_and_the_scope_is_not_changed(controller: FlowController) -> None:
    seen: list[Scope] = []
    start, body = {**START, "headers": [(b"x", b"y")]}, part(b"hello", more_body=False)
    reader = Reader(until="http.request")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await reader(scope, receive, send)
        await send(start)
        await send(body)

    async def story() -> None:
        exchange = Exchange(protected(app, controller), END)
        before = dict(exchange.scope)
        await exchange.task

        timing = (b"server-timing", b"flowctl;dur=0.0")
        assert exchange.sent[0] == {**start, "headers": [(b"x", b"y"), timing]}
        assert exchange.sent[1] is body
        assert start["headers"] == [(b"x", b"y")], "the list is the application's own"
        assert reader.received[0] is END
        assert exchange.scope == before
        assert {**seen[0], TICKET: None} == {**before, TICKET: None}

    run(story)


def test_the_application_finds_its_ticket_in_the_scope(controller: FlowController) -> None:
    seen: list[tuple[str, FlowKey]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ticket = scope["flowctl.ticket"]
        assert isinstance(ticket, Ticket)
        seen.append((ticket.state, ticket.key))

    async def story() -> None:
        await Exchange(protected(app, controller)).task

    run(story)
    assert seen == [("dispatched", FlowKey("tenant-a"))]


def test_a_seat_is_held_until_the_response_is_complete_and_no_longer(controller: FlowController) -> None:
    in_flight: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, part(b"one"), part(b"two"), part(b"", more_body=False)):
            await send(message)
            in_flight.append(controller.stats().in_flight)

    async def story() -> None:
        await Exchange(protected(app, controller)).task

    run(story)
    assert in_flight == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("messages", "held"),
    [
        ([START, {"type": "http.response.pathsend", "path": "/a-file"}], [1, 0]),
        (
            [START, {"type": "http.response.zerocopysend", "file": 3, "more_body": True}, part(b"", more_body=False)],
            [1, 1, 0],
        ),
        ([START, {"type": "http.response.zerocopysend", "file": 3}], [1, 0]),
        ([{**START, "trailers": True}, part(b"a", more_body=False), TRAILERS], [1, 1, 0]),
        ([{"type": "http.response.early_hint", "links": []}, START, part(b"a", more_body=False)], [1, 1, 0]),
    ],
    ids=["a path", "a file in two parts", "a file", "trailers", "early hints"],
)
def test_a_response_is_complete_when_its_extension_says_so(
    controller: FlowController, messages: list[Message], held: list[int]
) -> None:
    in_flight: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
            in_flight.append(controller.stats().in_flight)

    async def story() -> None:
        await Exchange(protected(app, controller)).task

    run(story)
    assert in_flight == held


def test_a_request_whose_seat_is_free_is_served_in_its_own_task_alone(controller: FlowController) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert asyncio.all_tasks() == tasks

    async def story() -> None:
        exchange = Exchange(protected(app, controller))
        tasks.update(asyncio.all_tasks())
        await exchange.task
        assert exchange.received == 0

    tasks: set[asyncio.Task[None]] = set()
    run(story)


def test_a_request_waits_for_its_turn_and_the_application_does_not_see_it_before(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller))
            await idle()
            assert (controller.stats().queued, exchange.sent) == (1, [])
        await exchange.task
        assert exchange.body == b"hello"

    run(story)


def test_a_request_that_waits_is_woken_from_another_thread(controller: FlowController, spawn: Spawn) -> None:
    async def story() -> None:
        holder = controller.admit("other")
        exchange = Exchange(protected(hello, controller))
        await idle()
        released = spawn(holder.release)
        await exchange.task
        assert (exchange.status, released.result()) == (200, True)

    run(story)


def test_an_application_that_returns_without_an_answer_gives_the_seat_back(controller: FlowController) -> None:
    async def story() -> None:
        await Exchange(protected(sending(), controller)).task
        await Exchange(protected(sending(START, part(b"some")), controller)).task

    run(story)
    assert (controller.stats().dispatched, controller.stats().in_flight) == (2, 0)


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_http_request_passes_without_a_seat(controller: FlowController, kind: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        assert await receive() is END
        await send(START)

    async def story() -> None:
        middleware = protected(app, controller)
        sent: list[object] = []
        scope: Scope = {"type": kind}

        async def receive() -> Message:
            return END

        async def send(message: object) -> None:
            sent.append(message)

        await middleware(scope, receive, send)
        assert (sent, seen[0]) == ([START], scope)
        assert seen[0] is scope

    run(story)
    assert controller.flows() == []


# --- how the work went ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "outcome"),
    [
        pytest.param(hello, "ok", id="one part"),
        pytest.param(sending(START, part(b"one"), part(b"", more_body=False)), "ok", id="one part and the end"),
        pytest.param(sending(START, part(b"one"), part(b"two", more_body=False)), "ignored", id="a stream"),
        pytest.param(sending(START, part(b"one"), part(b"two")), "ignored", id="a stream without its end"),
    ],
)
def test_how_long_a_stream_takes_is_no_sample_of_the_back_end(
    make_controller: MakeController, app: Application, outcome: str
) -> None:
    released = Released()
    controller = make_controller(observer=released)

    async def story() -> None:
        await Exchange(protected(app, controller)).task

    run(story)
    assert released.outcomes == [outcome]


def test_an_application_that_raises_is_a_drop_and_its_exception_goes_to_the_server(
    make_controller: MakeController,
) -> None:
    released = Released()
    controller = make_controller(observer=released)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        raise ValueError("its own")

    async def story() -> None:
        with pytest.raises(ValueError, match="its own"):
            await Exchange(protected(app, controller)).task

    run(story)
    assert released.outcomes == ["dropped"]


def test_a_request_that_is_cancelled_while_it_is_served_gives_its_seat_back_and_tells_nothing(
    make_controller: MakeController,
) -> None:
    released = Released()
    controller = make_controller(observer=released)

    async def story() -> None:
        exchange = Exchange(protected(Reader(), controller))
        await idle()
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task

    run(story)
    assert released.outcomes == ["ignored"]


def test_a_client_that_has_left_when_it_is_answered_tells_nothing_of_the_back_end(
    make_controller: MakeController,
) -> None:
    released = Released()
    controller = make_controller(observer=released)

    async def story() -> None:
        exchange = Exchange(protected(hello, controller))
        exchange.send_error = OSError("gone")
        with pytest.raises(OSError, match="gone"):
            await exchange.task

    run(story)
    assert released.outcomes == ["ignored"]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_are_checked_when_the_middleware_is_made(controller: FlowController) -> None:
    with pytest.raises(TypeError, match="app must be"):
        FlowControlASGIMiddleware(None, controller, classify=batch)  # type: ignore[arg-type]  # likewise
    with pytest.raises(TypeError, match="controller must be"):
        FlowControlASGIMiddleware(hello, None, classify=batch)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="classify must be"):
        FlowControlASGIMiddleware(hello, controller, classify=None)  # type: ignore[arg-type]
