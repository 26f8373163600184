"""The current ticket, and what a further `admit` by the code of a request means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from flowctl import (
    Config,
    FlowController,
    FlowKey,
    Request,
    Revocation,
    Saturated,
    Ticket,
    current_ticket,
)
from flowctl.integrations.seated import TICKET
from tests.servers.exchange import TEXT, Exchange, environment, protected
from tests.support import MakeController, Spawn

# --- the current ticket -------------------------------------------------------------------------------------------


def test_the_current_ticket_is_that_of_the_request_wherever_its_code_runs(controller: FlowController) -> None:
    seen: list[Ticket | None] = []

    class Response:
        def __iter__(self) -> Iterator[bytes]:
            seen.append(current_ticket())
            yield b"one"
            seen.append(current_ticket())

        def close(self) -> None:
            seen.append(current_ticket())

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(current_ticket())
        start_response("200 OK", TEXT)
        return Response()

    exchange = Exchange(protected(app, controller))
    assert current_ticket() is None, "between two calls of the server's"
    exchange.read()

    assert seen == [exchange.environ[TICKET]] * 4
    assert current_ticket() is None


@pytest.mark.parametrize("where", ["call", "block", "close"])
def test_no_ticket_is_current_after_an_application_that_raised(controller: FlowController, where: str) -> None:
    class Response:
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            raise ValueError(where)

        def close(self) -> None:
            if where == "close":
                raise ValueError(where)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        if where == "call":
            raise ValueError(where)
        return Response()

    with pytest.raises(ValueError, match=where), closing(Exchange(protected(app, controller))) as exchange:
        next(iter(exchange.result if where == "block" else [b""]))

    assert current_ticket() is None
    assert controller.stats().in_flight == 0


def test_another_thread_has_no_current_ticket(controller: FlowController, spawn: Spawn) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert current_ticket() is not None
        assert spawn(current_ticket).result() is None
        start_response("200 OK", TEXT)
        return [b""]

    Exchange(protected(app, controller)).read()


def let_go(ticket: Ticket) -> None:
    ticket.release()


# --- a further admission ------------------------------------------------------------------------------------------


def nesting(
    again: Callable[[FlowController], Ticket], controller: FlowController, seen: list[Ticket]
) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with again(controller) as ticket:
            seen.append(ticket)
            assert ticket.state == "dispatched"
            assert controller.stats().in_flight == 1
        start_response("200 OK", TEXT)
        return [b"served"]

    return app


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda controller: controller.admit("tenant-b"), id="admit"),
        pytest.param(lambda controller: controller.admit("tenant-b", cost=3, priority=9), id="admit more"),
        pytest.param(lambda controller: controller.try_admit("tenant-b"), id="try_admit"),
    ],
)
def test_a_further_admission_rides_on_the_seat_of_its_request(
    controller: FlowController, again: Callable[[FlowController], Ticket]
) -> None:
    seen: list[Ticket] = []
    exchange = Exchange(protected(nesting(again, controller, seen), controller))

    assert controller.stats().in_flight == 1, "what the passenger gave back is nothing"
    assert exchange.read() == [b"served"]
    assert controller.stats().in_flight == 0
    assert (seen[0].state, seen[0].key) == ("released", FlowKey("tenant-a"))
    assert controller.stats().dispatched == 1


def test_a_passenger_has_nothing_to_decide_and_nothing_to_give_back(controller: FlowController) -> None:
    seen: list[Ticket] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        ticket = controller.admit("tenant-b")
        seen.append(ticket)
        assert (ticket.position, ticket.estimated_wait, ticket.waited, ticket.error) == (None, None, 0.0, None)
        assert not ticket.cancel()
        assert not ticket.adjust(cost=5, tokens=7)
        assert not ticket.release("dropped")
        assert ticket.state == "released"
        start_response("200 OK", TEXT)
        seen.append(controller.admit("tenant-c"))
        return [b""]

    exchange = Exchange(protected(app, controller))
    states = [seen[1].state]
    exchange.read()
    states.append(seen[1].state)
    assert states == ["dispatched", "released"], "with its host"


def test_a_passenger_is_asked_to_stop_with_its_host(make_controller: MakeController) -> None:
    controller = make_controller(Config(revocation=Revocation()))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with controller.admit("tenant-b") as passenger:
            passenger.check()
            controller.submit(Request(FlowKey("urgent", 5)), let_go)
            controller.collect()
            assert passenger.revoked.is_set()
            passenger.check()
        raise AssertionError

    exchange = Exchange(protected(app, controller, classify=lambda environ: FlowKey("batch", -1)))

    assert exchange.problem()["outcome"] == "revoked"


def test_in_a_stream_a_further_admission_rides_as_long_as_the_seat_is_held(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        with controller.admit("tenant-b"):
            yield b"one"
        environ[TICKET].release()
        with controller.admit("tenant-b"):  # a seat of its own
            yield str(controller.stats().dispatched).encode()

    exchange = Exchange(protected(app, controller))
    assert exchange.read() == [b"one", b"2"]


def test_middlewares_around_each_other_take_one_seat(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert controller.stats().in_flight == 1
        start_response("200 OK", TEXT)
        return [b"served"]

    assert Exchange(protected(protected(app, controller), controller)).read() == [b"served"]
    assert controller.stats().in_flight == 0


def test_a_further_admission_rides_on_the_outer_seat_where_another_controller_s_middleware_stands_between(
    make_controller: MakeController,
) -> None:
    controller, other = make_controller(), make_controller()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for each in (controller, other):
            with each.try_admit("again"):
                yield str(each.stats().in_flight).encode()

    assert Exchange(protected(protected(app, other), controller)).read() == [b"1", b"1"]
    assert (controller.stats().in_flight, other.stats().in_flight) == (0, 0)


def test_a_further_admission_can_be_a_mistake(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        controller.admit("tenant-b")
        raise AssertionError

    with pytest.raises(RuntimeError, match="within a request that has its seat"):
        Exchange(protected(app, controller, nested="error"))
    assert controller.stats().in_flight == 0


def test_a_further_admission_can_ask_for_a_seat_of_its_own(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        controller.try_admit("tenant-b")
        raise AssertionError

    with pytest.raises(Saturated):
        Exchange(protected(app, controller, nested="separate"))


def test_a_bad_argument_is_an_error_for_a_passenger_too(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        controller.admit("tenant-b", cost=0)
        raise AssertionError

    with pytest.raises(ValueError, match="cost must be at least 1"):
        Exchange(protected(app, controller))


def test_nobody_rides_outside_of_a_request_in_another_thread_or_with_another_controller(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller, other = make_controller(limit=2), make_controller()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with other.admit("tenant-b"):
            assert other.stats().in_flight == 1
        separate = spawn(controller.admit, "tenant-b").result()
        assert controller.stats().in_flight == 2
        separate.release()
        start_response("200 OK", TEXT)
        return [b""]

    exchange = Exchange(protected(app, controller))
    with controller.admit("outside"):
        assert controller.stats().in_flight == 2
    exchange.read()


def test_each_of_many_threads_rides_on_its_own_request(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(limit=8)
    all_in = threading.Barrier(8, timeout=30)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with controller.admit("anybody") as passenger:
            all_in.wait()
            assert passenger.key.id == environ["HTTP_X_TENANT"]
            assert controller.stats().in_flight == 8
            all_in.wait()
        start_response("200 OK", TEXT)
        return [b"served"]

    middleware = protected(app, controller)
    served = [
        spawn(lambda number=number: Exchange(middleware, environment(HTTP_X_TENANT=f"t{number}")).read())  # type: ignore[misc]  # a lambda's default
        for number in range(8)
    ]
    assert [each.result() for each in served] == [[b"served"]] * 8
