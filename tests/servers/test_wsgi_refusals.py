"""What a client is told that is not served: a status, when to come again, and problem details (RFC 9457)."""

from __future__ import annotations

import math
from wsgiref.validate import validator

import pytest

from flowctl import (
    BandConfig,
    Cancelled,
    Config,
    ControllerClosed,
    Displaced,
    FlowController,
    FlowKey,
    LowerPriority,
    Outcome,
    QueueFull,
    Request,
)
from flowctl.errors import error_for
from flowctl.integrations.refusal import Answer, answer_to
from flowctl.integrations.seated import refuse
from flowctl.testing import FakeClock
from tests.servers.exchange import Exchange, a_list, environment, impatient, protected, raising
from tests.support import MakeController, Spawn

REFUSALS = [outcome for outcome in Outcome if outcome is not Outcome.DISPATCHED]


@pytest.mark.parametrize("outcome", REFUSALS, ids=lambda outcome: outcome.value)
def test_every_refusal_is_a_problem_of_constants_and_integers(outcome: Outcome) -> None:
    refusal = error_for(outcome)("secret-tenant\r\nSet-Cookie: x", key=FlowKey("secret-tenant\r\nSet-Cookie: x"))
    exchange = Exchange(validator(lambda environ, start_response: refuse(refusal, environ, start_response)))
    problem = exchange.problem()
    status, _, title = exchange.status.partition(" ")

    assert status == ("503" if refusal.http_status == 499 else str(refusal.http_status))
    assert exchange.headers["Content-Type"] == "application/problem+json"
    assert exchange.headers["Content-Length"] == str(len(b"".join(exchange.sent)))
    assert exchange.headers["Flowctl-Dropped-Reason"] == outcome.value
    assert exchange.headers.get("Retry-After") in ([None] if outcome is Outcome.EVICTED_CANCELLED else ["1", "2"])
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", title, int(status))
    assert problem["outcome"] == outcome.value
    assert set(problem) == {"type", "title", "status", "detail", "outcome"}
    assert "secret" not in repr((exchange.status, exchange.headers, problem))


@pytest.mark.parametrize(
    ("estimate", "least", "most"),
    [
        (0.0, 1, 2),
        (0.2, 1, 2),
        (1.0, 1, 2),
        (1.01, 2, 3),
        (10.0, 10, 15),
        (29.5, 30, 45),
        (1e9, 30, 45),
        (math.inf, 30, 45),
        (math.nan, 1, 2),
        (-5.0, 1, 2),
    ],
)
def test_retry_after_is_the_estimate_in_whole_seconds_and_up_to_half_as_much_on_top(
    estimate: float, least: int, most: int
) -> None:
    refusal = QueueFull(retry_after=estimate)

    assert retry_after(answer_to(refusal, spread=lambda most: 0)) == least
    assert retry_after(answer_to(refusal, spread=lambda most: most)) == most


def test_those_who_are_refused_together_come_again_at_different_times() -> None:
    refusal = QueueFull(retry_after=20.0)

    assert {retry_after(answer_to(refusal)) for _ in range(1000)} == set(range(20, 31))


def retry_after(answer: Answer) -> int:
    return int(dict(answer.headers)["Retry-After"])


def test_a_refusal_of_head_has_the_headers_and_no_body() -> None:
    get, head = (
        Exchange(lambda environ, start_response: refuse(Cancelled(), environ, start_response), environment(method))
        for method in ("GET", "HEAD")
    )

    assert (head.read(), head.status, head.headers) == ([], get.status, get.headers)


def test_a_refusal_names_the_limit_that_was_met(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_bytes_per_flow=10)))
    middleware = protected(a_list, controller, classify=lambda environ: Request(FlowKey("a"), size=11))
    with controller.admit("other"):
        exchange = Exchange(middleware)

    assert exchange.status == "429 Too Many Requests"
    assert exchange.problem()["scope"] == "flow"


def test_a_request_that_may_not_wait_isrefused_at_once(controller: FlowController) -> None:
    with controller.admit("other"):
        exchange = Exchange(protected(raising(AssertionError), controller, classify=impatient))

    assert exchange.status == "429 Too Many Requests"
    assert exchange.problem()["outcome"] == "rejected_saturated"


def test_a_displaced_request_is_told_so(make_controller: MakeController, clock: FakeClock, spawn: Spawn) -> None:
    controller = make_controller(Config(max_requests=1, displacement=LowerPriority()))
    with controller.admit("other"):
        low = spawn(Exchange, protected(a_list, controller))
        clock.wait_for_sleepers(1)
        high = spawn(controller.admit, "vip", priority=1)

        assert low.result().status == "429 Too Many Requests"
        assert low.result().problem()["outcome"] == Displaced.outcome.value
    high.result().release()


def test_after_close_a_request_isrefused_as_unavailable(controller: FlowController) -> None:
    controller.close()
    exchange = Exchange(protected(raising(AssertionError), controller))

    assert exchange.status == "503 Service Unavailable"
    assert exchange.problem()["outcome"] == ControllerClosed.outcome.value


def test_a_request_that_waits_is_told_of_the_close(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller = make_controller()
    with controller.admit("other"):
        waiter = spawn(Exchange, protected(a_list, controller))
        clock.wait_for_sleepers(1)
        controller.close()

        assert waiter.result().status == "503 Service Unavailable"
        assert waiter.result().problem()["outcome"] == "evicted_closed"
