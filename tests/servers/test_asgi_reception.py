"""The ASGI middleware's manners: exempt paths, failing classifiers, requests only watched, further admissions."""

from __future__ import annotations

import asyncio

import pytest

from flowctl import FlowController, FlowKey, Saturated, Ticket, current_ticket
from flowctl.integrations.asgi import TICKET, FlowControlASGIMiddleware, Receive, Scope, Send
from tests.servers.asgi_exchange import END, START, Exchange, hello, idle, part, protected, run, whose
from tests.support import MakeController, Released


def test_a_path_that_is_exempt_needs_no_seat_and_no_classifier(controller: FlowController) -> None:
    def fail(scope: Scope) -> str:
        raise AssertionError

    middleware = FlowControlASGIMiddleware(hello, controller, classify=fail, exempt=["/"])

    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(middleware)
            await exchange.task
        assert exchange.body == b"hello"

    run(story)
    assert middleware.stats().exempt == 1


@pytest.mark.parametrize("named", [None, 1, b"a", "", KeyError("tenant")], ids=repr)
def test_a_request_that_cannot_be_classified_is_one_of_the_default_flow_or_refused(
    make_controller: MakeController, named: object
) -> None:
    controller, strict = make_controller(), make_controller()

    def classify(scope: Scope) -> str:
        if isinstance(named, Exception):
            raise named
        return named  # type: ignore[return-value]  # that is what is wrong

    async def story() -> None:
        served = Exchange(FlowControlASGIMiddleware(hello, controller, classify=classify), END)
        await served.task
        assert served.body == b"hello"
        refused = Exchange(FlowControlASGIMiddleware(hello, strict, classify=classify, on_classify_error="refuse"), END)
        await refused.task
        assert (refused.status, refused.problem["outcome"]) == (503, "rejected_other")

    run(story)
    assert (controller.flows(), strict.flows()) == ([FlowKey("default")], [])


def test_a_request_that_is_only_watched_is_served_at_once_and_leaves_nothing_behind(
    controller: FlowController,
) -> None:
    middleware = FlowControlASGIMiddleware(hello, controller, classify=whose, shadow=True)

    async def story() -> None:
        with controller.admit("other"):
            waiting = Exchange(middleware, END)
            await waiting.task
            assert waiting.body == b"hello"
            assert controller.stats().queued == 0
        await Exchange(middleware, END).task

    run(story)
    counts = {word: count for word, count in middleware.stats().shadow.items() if count}
    assert counts == {"queued": 1, "evicted_cancelled": 1, "dispatched": 1}
    assert controller.stats().in_flight == 0


def test_a_watched_task_that_is_cancelled_leaves_nothing_behind(controller: FlowController) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.get_running_loop().create_future()

    middleware = FlowControlASGIMiddleware(never, controller, classify=whose, shadow=True)

    async def story() -> None:
        for holder in (controller.admit("other"), None):
            exchange = Exchange(middleware, END)
            await idle()
            exchange.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange.task
            if holder is not None:
                holder.release()

    run(story)
    assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)


def test_the_current_ticket_is_known_in_the_task_and_in_threads_that_it_calls(controller: FlowController) -> None:
    seen: list[Ticket | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_ticket())
        seen.append(await asyncio.to_thread(current_ticket))
        ticket = scope[TICKET]
        assert seen == [ticket, ticket]
        await hello(scope, receive, send)

    async def story() -> None:
        exchange = Exchange(protected(app, controller), END)
        await exchange.task
        assert exchange.body == b"hello"
        assert current_ticket() is None

    run(story)


def test_a_further_admission_rides_on_the_seat_of_its_request_or_as_the_operator_says(
    controller: FlowController,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with await controller.admit_async("again"), await asyncio.to_thread(controller.admit, "again"):
            assert controller.stats().in_flight == 1
        await send(START)
        await send(part(b"rode", more_body=False))

    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        await controller.admit_async("again", ttl=0)

    async def story() -> None:
        exchange = Exchange(protected(app, controller), END)
        await exchange.task
        assert exchange.body == b"rode"
        mistaken = FlowControlASGIMiddleware(impatient, controller, classify=whose, nested="error")
        with pytest.raises(RuntimeError, match="within a request"):
            await Exchange(mistaken, END).task
        separate = FlowControlASGIMiddleware(impatient, controller, classify=whose, nested="separate")
        with pytest.raises(Saturated):
            await Exchange(separate, END).task

    run(story)
    assert controller.stats().in_flight == 0


def test_middlewares_around_each_other_take_one_seat(controller: FlowController) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert controller.stats().in_flight == 1
        await hello(scope, receive, send)

    async def story() -> None:
        mistaken = FlowControlASGIMiddleware(protected(app, controller), controller, classify=whose, nested="error")
        with pytest.raises(RuntimeError, match="within a request"):
            await Exchange(mistaken, END).task
        exchange = Exchange(protected(protected(app, controller), controller), END)
        await exchange.task
        assert exchange.body == b"hello"

    run(story)
    assert (controller.stats().in_flight, controller.stats().dispatched) == (0, 2)


def test_a_request_does_not_ride_on_another_one_in_whose_context_its_task_was_made(controller: FlowController) -> None:
    # as uvicorn makes that of a pipelined request
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        following = Exchange(protected(hello, controller), END)
        await idle()
        assert controller.stats().queued == 1
        await hello(scope, receive, send)
        await following.task
        assert following.body == b"hello"

    async def story() -> None:
        await Exchange(protected(app, controller), END).task

    run(story)
    assert controller.stats().dispatched == 2


def test_a_further_admission_rides_on_the_outer_seat_where_another_controller_s_middleware_stands_between(
    make_controller: MakeController,
) -> None:
    controller, other = make_controller(), make_controller()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with await controller.admit_async("again", ttl=0), await other.admit_async("again", ttl=0):
            await hello(scope, receive, send)

    async def story() -> None:
        exchange = Exchange(protected(protected(app, other), controller), END)
        await exchange.task
        assert exchange.body == b"hello"

    run(story)
    assert (controller.stats().in_flight, other.stats().in_flight) == (0, 0)


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (429, "ok"), (503, "dropped"), (504, "dropped")])
def test_an_answer_that_says_that_the_back_end_is_overloaded_is_told(
    make_controller: MakeController, status: int, outcome: str
) -> None:
    released = Released()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "status": status})
        await send(part(b"said", more_body=False))

    async def story() -> None:
        await Exchange(protected(app, make_controller(observer=released)), END).task

    run(story)
    assert released.outcomes == [outcome]
