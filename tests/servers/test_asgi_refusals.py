"""What a client of the ASGI middleware is told that is not served."""

from __future__ import annotations

import pytest

from flowctl import (
    FlowController,
    FlowKey,
    Outcome,
    Request,
)
from flowctl.errors import error_for
from flowctl.integrations.asgi import (
    Receive,
    Scope,
    Send,
    _refuse,
)
from flowctl.testing import FakeClock
from tests.servers.asgi_exchange import (
    END,
    Exchange,
    hello,
    idle,
    protected,
    run,
)

REFUSALS = [outcome for outcome in Outcome if outcome is not Outcome.DISPATCHED]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("outcome", REFUSALS, ids=lambda outcome: outcome.value)
def test_every_refusal_is_a_problem_of_constants_and_integers(outcome: Outcome, method: str) -> None:
    refusal = error_for(outcome)("secret-tenant\r\nSet-Cookie: x", key=FlowKey("secret-tenant\r\nSet-Cookie: x"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _refuse(refusal, scope, send)

    async def story() -> None:
        exchange = Exchange(app, method=method)
        await exchange.task

        assert exchange.status == (503 if refusal.http_status == 499 else refusal.http_status)
        assert exchange.headers["content-type"] == "application/problem+json"
        assert exchange.headers["flowctl-dropped-reason"] == outcome.value
        assert exchange.headers.get("retry-after") in ([None] if outcome is Outcome.EVICTED_CANCELLED else ["1", "2"])
        assert "secret" not in repr(exchange.sent)
        if method == "HEAD":
            assert exchange.body == b""
        else:
            assert exchange.headers["content-length"] == str(len(exchange.body))
            assert (exchange.problem["status"], exchange.problem["outcome"]) == (exchange.status, outcome.value)

    run(story)


def test_a_request_that_may_not_wait_is_refused_at_once(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller, lambda scope: Request(FlowKey("a"), ttl=0)))
            await exchange.task
        assert (exchange.status, exchange.problem["outcome"]) == (429, "rejected_saturated")
        assert exchange.received == 0, "nothing was read of it"

    run(story)


def test_a_request_that_waited_until_its_deadline_is_told_so(controller: FlowController, clock: FakeClock) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller, lambda scope: Request(FlowKey("a"), ttl=5)), END)
            await idle()
            clock.advance(5)
            controller.collect()
            await exchange.task
        assert (exchange.status, exchange.problem["outcome"]) == (503, "evicted_ttl")

    run(story)


def test_a_request_that_waits_is_told_of_the_close(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("other"):
            exchange = Exchange(protected(hello, controller))
            await idle()
            controller.close()
            await exchange.task
        assert (exchange.status, exchange.problem["outcome"]) == (503, "evicted_closed")

    run(story)
