"""What a middleware does before a request has a seat: exempt paths, failing classifiers, requests only watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from flowctl import BandConfig, Config, FlowController, FlowKey, Request
from flowctl.errors import FlowControlError
from flowctl.integrations.seated import TICKET
from flowctl.integrations.wsgi import FlowControlMiddleware
from flowctl.testing import FakeClock
from tests.servers.exchange import TEXT, Exchange, a_list, by_header, environment, raising
from tests.support import MakeController

# --- exempt paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/static/", "/static/a.css", "/static/a/b.css"])
def test_a_path_that_is_exempt_needs_no_seat_and_no_classifier(controller: FlowController, path: str) -> None:
    exempt = ["/health", "/static/*"]
    middleware = FlowControlMiddleware(a_list, controller, classify=fail, threads=8, exempt=exempt)
    with controller.admit("other"):
        exchange = Exchange(middleware, environment(PATH_INFO=path))

        assert exchange.read() == [b"one", b"two"]
        assert "Server-Timing" not in exchange.headers
        assert TICKET not in exchange.environ
    assert middleware.stats().exempt == 1


@pytest.mark.parametrize("path", ["/", "", "/healthy", "/health/", "/static", "/HEALTH", "//health", "/a/health"])
def test_no_other_path_is_exempt(controller: FlowController, path: str) -> None:
    exempt = ["/health", "/static/*"]
    middleware = FlowControlMiddleware(a_list, controller, classify=by_header, threads=8, exempt=exempt)
    exchange = Exchange(middleware, environment(PATH_INFO=path))

    assert TICKET in exchange.environ
    exchange.close()
    assert middleware.stats().exempt == 0


def test_all_paths_can_be_exempt(controller: FlowController) -> None:
    middleware = FlowControlMiddleware(a_list, controller, classify=fail, threads=8, exempt=iter(["/*"]))

    for path in ("/", "/a"):
        Exchange(middleware, environment(PATH_INFO=path)).read()
    assert middleware.stats().exempt == 2


# --- classifiers that fail ----------------------------------------------------------------------------------------


BAD = [
    None,
    b"tenant",
    ("tenant", 1),
    "",
    "x" * 300,
    "\ud800",
    Request(FlowKey("tenant"), received_at=1.0),
    KeyError("HTTP_X_TENANT"),
    FlowControlError("by the operator"),
]


@pytest.mark.parametrize("named", BAD, ids=[repr(named)[:40] for named in BAD])
def test_a_request_that_cannot_be_classified_is_one_of_the_default_flow(
    controller: FlowController, named: object, caplog: pytest.LogCaptureFixture
) -> None:
    middleware = FlowControlMiddleware(a_list, controller, classify=naming(named), threads=8)
    exchange = Exchange(middleware)

    assert exchange.read() == [b"one", b"two"]
    assert controller.flows() == [FlowKey("default", 0)]
    assert (middleware.stats().classify_errors, controller.stats().incidents) == (1, 1)
    assert "classify failed" in caplog.text


@pytest.mark.parametrize("named", BAD, ids=[repr(named)[:40] for named in BAD])
def test_or_it_is_refused_if_the_operator_says_so(controller: FlowController, named: object) -> None:
    middleware = FlowControlMiddleware(
        raising(AssertionError), controller, classify=naming(named), threads=8, on_classify_error="refuse"
    )
    exchange = Exchange(middleware)

    assert exchange.status == "503 Service Unavailable"
    assert exchange.problem()["outcome"] == "rejected_other"
    assert controller.flows() == []
    assert middleware.stats().classify_errors == 1


def test_a_classifier_that_always_fails_does_not_fill_the_log(
    controller: FlowController, caplog: pytest.LogCaptureFixture
) -> None:
    middleware = FlowControlMiddleware(a_list, controller, classify=fail, threads=8)
    for _ in range(100):
        Exchange(middleware).read()

    assert middleware.stats().classify_errors == 100
    assert len(caplog.records) == 7  # the 1st, 2nd, 4th, ... 64th


# --- requests that are only watched -------------------------------------------------------------------------------


def test_a_request_that_is_only_watched_is_served_at_once_whatever_would_have_become_of_it(
    make_controller: MakeController,
) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=1)))
    middleware = watching(controller)
    with controller.admit("other"):
        waiting, refused = Exchange(middleware), Exchange(middleware)

        assert (waiting.status, refused.status) == ("200 OK", "200 OK")
        assert (waiting.read(), refused.read()) == ([b"one", b"two"], [b"one", b"two"])
    served = Exchange(middleware)
    served.read()

    assert seen(middleware) == {"dispatched": 1, "queued": 1, "rejected_capacity": 1, "evicted_cancelled": 1}
    stats = controller.stats()
    assert (stats.queued, stats.in_flight) == (0, 0)


def test_a_watched_request_whose_turn_comes_holds_a_seat_until_its_response_is_closed(
    make_controller: MakeController,
) -> None:
    controller = make_controller()
    middleware = watching(controller)
    holder = controller.admit("other")
    exchange = Exchange(middleware)
    assert controller.stats().queued == 1

    holder.release()
    assert (controller.stats().queued, controller.stats().in_flight) == (0, 1)
    exchange.read()
    assert controller.stats().in_flight == 0
    assert seen(middleware) == {"queued": 1}


def test_a_watched_request_would_have_expired(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(default_ttl=5.0))
    middleware = watching(controller)
    with controller.admit("other"):
        exchange = Exchange(middleware)
        clock.advance(5)
        controller.collect()

        assert exchange.read() == [b"one", b"two"]
    assert seen(middleware) == {"queued": 1, "evicted_ttl": 1}


def test_the_waiting_threads_are_watched_too(make_controller: MakeController) -> None:
    controller = make_controller()
    middleware = watching(controller)  # of eight threads four may wait, one of each flow
    with controller.admit("other"):
        exchanges = [Exchange(middleware) for _ in range(3)]
        for exchange in exchanges:
            assert exchange.read() == [b"one", b"two"]

    assert seen(middleware) == {"queued": 1, "rejected_capacity": 2, "evicted_cancelled": 1}


def test_what_a_watched_request_asks_for_by_itself_does_not_wait_behind_it(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=1)))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with controller.admit("tenant-a", ttl=0) as passenger:
            start_response("200 OK", TEXT)
            return [passenger.state.encode()]

    middleware = FlowControlMiddleware(app, controller, classify=by_header, threads=8, shadow=True)
    with controller.admit("other"):
        queued, refused = Exchange(middleware), Exchange(middleware)
        assert (queued.read(), refused.read()) == ([b"dispatched"], [b"dispatched"])

    assert seen(middleware) == {"queued": 1, "rejected_capacity": 1, "evicted_cancelled": 1}
    stats = controller.stats()
    assert (stats.queued, stats.in_flight, stats.dispatched) == (0, 0, 1)


def test_a_watched_request_that_could_not_be_classified_is_served(controller: FlowController) -> None:
    middleware = FlowControlMiddleware(
        a_list, controller, classify=fail, threads=8, shadow=True, on_classify_error="refuse"
    )

    assert Exchange(middleware).read() == [b"one", b"two"]
    assert seen(middleware) == {"rejected_other": 1}


def test_a_watched_request_is_never_asked_to_stop(make_controller: MakeController) -> None:
    controller = make_controller()
    exchange = Exchange(watching(controller))

    assert not exchange.environ[TICKET].is_revoked
    assert exchange.environ[TICKET].wait.revocable is False
    exchange.close()


def test_a_watched_application_that_raises_leaves_nothing_behind(controller: FlowController) -> None:
    middleware = FlowControlMiddleware(raising(ValueError), controller, classify=by_header, threads=8, shadow=True)
    for hold in (False, True):
        holder = controller.admit("other") if hold else None
        with pytest.raises(ValueError):  # noqa: PT011 - it has no message
            Exchange(middleware)
        if holder is not None:
            holder.release()

    assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)


def test_a_closed_controller_is_only_watched(controller: FlowController) -> None:
    middleware = watching(controller)
    controller.close()

    assert Exchange(middleware).read() == [b"one", b"two"]
    assert seen(middleware) == {"rejected_closed": 1}


# How it is found out.


def watching(controller: FlowController) -> FlowControlMiddleware:
    return FlowControlMiddleware(a_list, controller, classify=by_header, threads=8, shadow=True)


def seen(middleware: FlowControlMiddleware) -> dict[str, int]:
    return {word: count for word, count in middleware.stats().shadow.items() if count}


def fail(environ: WSGIEnvironment) -> str:
    raise LookupError("no such tenant")


def naming(named: object) -> Callable[[WSGIEnvironment], str]:
    def classify(environ: WSGIEnvironment) -> str:
        if isinstance(named, Exception):
            raise named
        return named  # type: ignore[return-value]  # that is what is wrong

    return classify
