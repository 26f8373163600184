"""A request that waits in the ASGI middleware: its client may leave, and what it sends meanwhile is kept."""

from __future__ import annotations

import asyncio

import pytest

from flowctl import (
    FlowController,
)
from flowctl.integrations.asgi import (
    Message,
    Receive,
    Scope,
    Send,
)
from flowctl.integrations.inbox import MESSAGE, READ_AHEAD
from tests.servers.asgi_exchange import (
    END,
    GONE,
    START,
    Exchange,
    Reader,
    chunk,
    hello,
    idle,
    protected,
    run,
)


def test_a_client_that_leaves_takes_its_request_out(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller), END)
            await idle()
            exchange.comes(GONE)
            await exchange.task
            assert (controller.stats().queued, controller.stats().evicted) == (0, 1)
            assert exchange.sent == []

    run(story)


def test_a_client_that_left_as_its_turn_came_is_not_served(controller: FlowController) -> None:
    async def story() -> None:
        holder = controller.admit("other")
        exchange = Exchange(protected(hello, controller), END)
        await idle()
        exchange.comes(GONE)
        holder.release()
        assert controller.stats().in_flight == 1, "dispatch was faster"
        await exchange.task
        assert exchange.sent == []

    run(story)
    assert (controller.stats().dispatched, controller.stats().in_flight) == (2, 0)


def test_a_request_that_is_cancelled_while_it_waits_is_withdrawn(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller), END)
            await idle()
            exchange.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange.task
            assert controller.stats().queued == 0

    run(story)


def test_what_came_while_it_waited_is_received_once_and_in_order(controller: FlowController) -> None:
    messages = [chunk(b"one"), chunk(b"two"), chunk(b"three", more_body=False), GONE]
    reader = Reader()

    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(reader, controller), *messages[:2])
            await idle()
            assert exchange.received == 3, "two have come, and the third is awaited"
        await idle()
        assert reader.received == messages[:2]
        exchange.comes(*messages[2:])
        await exchange.task

    run(story)
    assert [id(message) for message in reader.received] == [id(message) for message in messages]


@pytest.mark.parametrize("times", [1, 2])
def test_a_receive_that_the_application_cancels_loses_no_message(controller: FlowController, times: int) -> None:
    received: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(times):
            impatient = asyncio.ensure_future(receive())
            await idle()
            impatient.cancel()
        await send(START)
        received.extend([await receive(), await receive()])

    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(app, controller))
            await idle()
        while not exchange.sent:
            await idle()
        exchange.comes(END, GONE)
        await exchange.task

    run(story)
    assert received == [END, GONE]


def test_once_it_is_served_nothing_is_read_that_the_application_does_not_ask_for(controller: FlowController) -> None:
    async def story() -> None:
        ended = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await ended.wait()

        with controller.admit("other"):
            exchange = Exchange(protected(app, controller))
            await idle()
        await idle()
        exchange.comes(*(chunk(b"some") for _ in range(5)))
        await idle()
        assert exchange.received == 1, "it was under way"
        ended.set()
        await exchange.task

    run(story)


def test_two_who_receive_at_once_get_a_message_each(controller: FlowController) -> None:
    received: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.extend(await asyncio.gather(receive(), receive()))

    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(app, controller))
            await idle()
        await idle()
        exchange.comes(END, GONE)
        await exchange.task

    run(story)
    assert received == [END, GONE]


@pytest.mark.parametrize("size", [0, 1000, READ_AHEAD])
def test_what_is_read_ahead_is_bounded_in_bytes_and_in_messages(controller: FlowController, size: int) -> None:
    count = 2 * READ_AHEAD // MESSAGE
    messages = [chunk(b"x" * size) for _ in range(count)]
    reader = Reader()

    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(reader, controller), *messages)
            while exchange.received < READ_AHEAD // (MESSAGE + size):
                await idle()
            await idle()
            assert exchange.received == -(-READ_AHEAD // (MESSAGE + size))
        exchange.comes(END, GONE)
        await exchange.task

    run(story)
    assert reader.received == [*messages, END, GONE]


def test_a_large_request_that_is_whole_is_still_seen_to_be_left(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller), chunk(b"x" * 2 * READ_AHEAD, more_body=False))
            await idle()
            exchange.comes(GONE)
            await exchange.task
            assert controller.stats().queued == 0

    run(story)


def test_a_server_that_repeats_the_end_is_not_read_for_ever(controller: FlowController) -> None:
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return END

    async def send(message: object) -> None:
        pass

    async def story() -> None:
        with controller.admit("other"):
            scope: Scope = {"type": "http", "method": "GET", "tenant": "a"}
            task = asyncio.ensure_future(protected(hello, controller)(scope, receive, send))
            await idle()
        await task

    run(story)
    assert received == 2


def test_what_the_servers_receive_raises_is_raised_to_the_application_that_asks(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            asks = Exchange(protected(Reader(), controller), chunk(b"one"))
            asks_not = Exchange(protected(hello, controller))
            await idle()
            for exchange in (asks, asks_not):
                exchange.comes(ConnectionError("the server's own"))
            await idle()
            assert controller.stats().queued == 2, "that is no leaving"
        with pytest.raises(ConnectionError, match="the server's own"):
            await asks.task
        await asks_not.task
        assert asks_not.body == b"hello"

    run(story)
