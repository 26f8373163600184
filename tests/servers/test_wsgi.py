"""The middleware between a server and applications that go through PEP 3333 one step at a time."""

from __future__ import annotations

import gc
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from flowctl import (
    FlowController,
    FlowKey,
    Request,
    Ticket,
)
from flowctl.integrations.wsgi import FlowControlMiddleware
from flowctl.testing import FakeClock
from tests.servers.exchange import TEXT, Exchange, a_list, by_header, environment, impatient, protected, raising
from tests.support import MakeController, Spawn

# --- PEP 3333 -----------------------------------------------------------------------------------------------------


def an_empty_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return []


def a_generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"one"
    yield b""
    yield b"two"


def a_writer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"one")
    return [b"two"]


def an_apology(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    try:
        raise LookupError("no such page")
    except LookupError:
        start_response("404 Not Found", TEXT, sys.exc_info())
    return [b"sorry"]


@pytest.mark.parametrize("app", [a_list, an_empty_list, a_generator, a_writer, an_apology])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_both_sides_of_the_middleware_keep_to_pep_3333(
    controller: FlowController, app: WSGIApplication, method: str
) -> None:
    wrapped = Exchange(validator(protected(validator(app), controller)), environment(method))
    bare = Exchange(app, environment(method))

    assert (wrapped.read(), wrapped.status) == (bare.read(), bare.status)
    assert wrapped.headers == bare.headers | {"Server-Timing": "flowctl;dur=0.0"}
    assert controller.stats().in_flight == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_refusal_keeps_to_pep_3333(controller: FlowController, method: str) -> None:
    with controller.admit("other"):
        exchange = Exchange(validator(protected(a_list, controller, classify=impatient)), environment(method))

        assert len(b"".join(exchange.read())) == (0 if method == "HEAD" else int(exchange.headers["Content-Length"]))
        assert exchange.status == "429 Too Many Requests"


def test_what_the_application_says_of_its_response_is_not_changed(controller: FlowController) -> None:
    said = [("Content-Type", "text/plain"), ("Server-Timing", "db;dur=3")]
    heard: list[object] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        heard.append(start_response("200 OK", said))
        return [b""]

    def server(status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Callable[[bytes], object]:
        heard.append((status, headers))
        return heard.append

    b"".join(protected(app, controller)(environment(), server))

    assert heard == [("200 OK", [*said, ("Server-Timing", "flowctl;dur=0.0")]), heard.append]
    assert len(said) == 2, "the list is the application's own"


def test_a_served_request_tells_how_long_it_was_queued(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller = make_controller()
    with controller.admit("other"):
        waiter = spawn(Exchange, protected(a_list, controller))
        clock.wait_for_sleepers(1)
        clock.advance(0.25)
    exchange = waiter.result()
    exchange.read()

    assert exchange.headers["Server-Timing"] == "flowctl;dur=250.0"


def test_start_response_may_come_as_late_as_the_first_block(controller: FlowController) -> None:
    exchange = Exchange(protected(a_generator, controller))
    assert exchange.status == ""

    next(iter(exchange.result))
    assert exchange.status == "200 OK"
    exchange.close()


def test_after_a_whole_response_start_response_is_a_mistake(controller: FlowController) -> None:
    given: list[StartResponse] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given.append(start_response)
        return a_list(environ, start_response)

    exchange = Exchange(protected(app, controller))
    with pytest.raises(RuntimeError, match="after the application had returned"):
        given[0]("200 OK", TEXT)
    exchange.close()


def test_what_is_written_goes_to_the_server_at_once(controller: FlowController) -> None:
    exchange = Exchange(protected(a_writer, controller))

    assert exchange.sent == [b"one"]
    assert exchange.read() == [b"one", b"two"]


def test_exc_info_reaches_the_server(controller: FlowController) -> None:
    exchange = Exchange(protected(an_apology, controller))

    assert exchange.exc_info is not None
    assert exchange.exc_info[0] is LookupError
    exchange.read()


def test_one_block_in_is_one_block_out_and_none_is_made_before_it_is_asked_for(controller: FlowController) -> None:
    made: list[bytes] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for block in (b"", b"one", b"", b"two"):
            made.append(block)
            yield block

    exchange = Exchange(protected(app, controller))
    read: list[bytes] = []
    for block in exchange.result:
        read.append(block)
        assert made == read
    exchange.close()

    assert read == [b"", b"one", b"", b"two"]


def test_the_response_is_an_object_with_close_and_no_generator(controller: FlowController) -> None:
    for app in (a_list, a_generator):
        exchange = Exchange(protected(app, controller))

        assert not isinstance(exchange.result, GeneratorType)
        assert callable(getattr(exchange.result, "close", None))
        exchange.close()


def test_the_response_has_a_length_only_if_the_applications_has(controller: FlowController) -> None:
    with_length = Exchange(protected(a_list, controller))
    assert getattr(with_length.result, "__len__", int)() == 2
    with_length.close()

    without = Exchange(protected(a_generator, controller))
    assert not hasattr(without.result, "__len__")
    without.close()


def test_the_applications_response_is_closed_exactly_once(controller: FlowController) -> None:
    for read in (0, 1, 3):
        response = Response([b"one", b"two"])
        exchange = Exchange(protected(returning(response), controller))
        for _ in zip(range(read), exchange.result, strict=False):
            pass
        exchange.close()
        exchange.close()

        assert response.closed == 1


def test_a_wrapped_file_is_passed_on_as_it_is_and_its_seat_given_back(controller: FlowController) -> None:
    wrapped = FileWrapper(io.BytesIO(b"a file"))
    environ = environment(wsgi__file_wrapper=FileWrapper)
    exchange = Exchange(protected(returning(wrapped), controller), environ)

    assert exchange.result is wrapped
    assert controller.stats().in_flight == 0


def test_a_file_that_a_function_has_wrapped_is_passed_on_too(controller: FlowController) -> None:
    file = io.BytesIO(b"a file")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 1024)
        return wrapped

    exchange = Exchange(protected(app, controller), environment(wsgi__file_wrapper=lambda file, size: file))

    assert exchange.result is file
    assert controller.stats().in_flight == 0


def test_a_file_wrapper_that_is_not_used_does_no_harm(controller: FlowController) -> None:
    exchange = Exchange(protected(a_list, controller), environment(wsgi__file_wrapper=lambda file, size: file))

    assert exchange.read() == [b"one", b"two"]


# --- the seat -----------------------------------------------------------------------------------------------------


def test_the_seat_is_held_until_the_response_is_closed(controller: FlowController) -> None:
    exchange = Exchange(protected(a_generator, controller))
    assert controller.stats().in_flight == 1
    for _ in exchange.result:
        assert controller.stats().in_flight == 1
    assert controller.stats().in_flight == 1

    exchange.close()
    assert controller.stats().in_flight == 0


def test_the_application_cleans_up_while_it_has_its_seat(controller: FlowController) -> None:
    seen: list[int] = []
    response = Response([], on_close=lambda: seen.append(controller.stats().in_flight))

    Exchange(protected(returning(response), controller)).read()

    assert seen == [1]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_application_that_raises_gives_its_seat_back(controller: FlowController, error: type[BaseException]) -> None:
    with pytest.raises(error):
        Exchange(protected(raising(error), controller))

    assert controller.stats().in_flight == 0


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_response_that_raises_gives_its_seat_back_at_once(
    controller: FlowController, error: type[BaseException], blocks: int
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield from [b"block"] * blocks
        raise error

    exchange = Exchange(protected(app, controller))
    with pytest.raises(error):
        for _ in exchange.result:
            pass

    assert controller.stats().in_flight == 0
    exchange.close()


def test_a_response_that_cannot_be_iterated_gives_its_seat_back(controller: FlowController) -> None:
    class Broken(Response):
        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("broken")

    response = Broken([])
    with pytest.raises(ValueError, match="broken"):
        Exchange(protected(returning(response), controller)).read()

    assert controller.stats().in_flight == 0
    assert response.closed == 1


def test_a_close_that_raises_gives_the_seat_back_and_is_heard(controller: FlowController) -> None:
    def fail() -> None:
        raise OSError("cannot clean up")

    exchange = Exchange(protected(returning(Response([], on_close=fail)), controller))
    with pytest.raises(OSError, match="cannot clean up"):
        exchange.close()

    assert controller.stats().in_flight == 0


def test_a_response_that_is_dropped_unclosed_gives_its_seat_back(controller: FlowController) -> None:
    environ = environment()
    exchange = Exchange(protected(a_generator, controller), environ)
    next(iter(exchange.result))
    assert controller.stats().in_flight == 1

    del exchange
    gc.collect()  # the application's generator and the exchange hold each other
    assert controller.stats().in_flight == 0
    assert ticket_of(environ).state == "released"  # even while the environment lives


def test_the_application_finds_its_ticket_in_the_environment(controller: FlowController) -> None:
    states: list[tuple[str, FlowKey]] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        states.append((ticket_of(environ).state, ticket_of(environ).key))
        return a_list(environ, start_response)

    exchange = Exchange(protected(app, controller))
    exchange.read()

    assert states == [("dispatched", FlowKey("tenant-a", 0))]
    assert ticket_of(exchange.environ).state == "released"


def test_an_application_that_releases_its_ticket_early_is_not_released_twice(controller: FlowController) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        ticket_of(environ).release()
        return a_list(environ, start_response)

    exchange = Exchange(protected(app, controller))
    with controller.admit("other"):
        exchange.read()
        assert controller.stats().in_flight == 1


def test_no_lock_is_held_over_the_application(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(limit=4)
    both = threading.Barrier(2, timeout=30)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        both.wait()  # two requests are in here at once,
        with controller.try_admit("inner"):  # and both may ask again
            return a_list(environ, start_response)

    middleware = protected(app, controller, nested="separate")
    served = [spawn(lambda: Exchange(middleware).read()) for _ in range(2)]

    assert [each.result() for each in served] == [[b"one", b"two"]] * 2
    assert controller.stats().dispatched == 4


# --- the classifier -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "key", "cost", "size"),
    [
        pytest.param("tenant-b", FlowKey("tenant-b", 0), 1, 0, id="str"),
        pytest.param(FlowKey("tenant-b", -3), FlowKey("tenant-b", -3), 1, 0, id="FlowKey"),
        pytest.param(Request(FlowKey("tenant-b", 7), cost=3, size=10), FlowKey("tenant-b", 7), 3, 10, id="Request"),
    ],
)
def test_the_classifier_says_what_is_asked_for(
    make_controller: MakeController, named: str | FlowKey | Request, key: FlowKey, cost: int, size: int
) -> None:
    exchange = Exchange(protected(a_list, make_controller(limit=4), classify=lambda environ: named))
    ticket = ticket_of(exchange.environ)

    assert (ticket.key, ticket.cost, ticket.size) == (key, cost, size)
    exchange.close()


def test_the_classifiers_ttl_bounds_the_wait(make_controller: MakeController, clock: FakeClock, spawn: Spawn) -> None:
    controller = make_controller()
    middleware = protected(a_list, controller, classify=lambda environ: Request(FlowKey("a"), ttl=5.0))
    with controller.admit("other"):
        waiter = spawn(Exchange, middleware)
        clock.wait_for_sleepers(1)
        clock.advance(5.0)

        assert waiter.result().status == "503 Service Unavailable"


def test_what_ends_the_process_goes_through_the_classifier_to_the_server(controller: FlowController) -> None:
    def classify(environ: WSGIEnvironment) -> str:
        raise SystemExit("no such tenant")

    with pytest.raises(SystemExit, match="no such tenant"):
        Exchange(protected(raising(AssertionError), controller, classify=classify))

    stats = controller.stats()
    assert (stats.dispatched, stats.rejected, stats.flows) == (0, 0, 0)


# --- its own arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("threads", 0, ValueError),
        ("threads", True, TypeError),
        ("threads", 2.0, TypeError),
        ("max_waiting_threads", 0, ValueError),
        ("max_waiting_threads", "4", TypeError),
        ("max_waiting_per_flow", -1, ValueError),
        ("max_waiting_per_flow", 2**60, ValueError),
        ("classify", None, TypeError),
        ("classify", "tenant", TypeError),
        ("app", None, TypeError),
        ("controller", None, TypeError),
        ("nested", "deep", ValueError),
        ("nested", None, ValueError),
        ("release", "later", ValueError),
        ("on_classify_error", "raise", ValueError),
        ("on_classify_error", [], ValueError),
        ("shadow", 1, TypeError),
        ("exempt", "/health", TypeError),
        ("exempt", 7, TypeError),
        ("exempt", [b"/health"], TypeError),
        ("exempt", ["health"], ValueError),
        ("exempt", ["/a*"], ValueError),
        ("exempt", ["/*/a"], ValueError),
    ],
)
def test_a_bad_argument_is_named(controller: FlowController, name: str, value: object, error: type[Exception]) -> None:
    arguments = {"app": a_list, "controller": controller, "classify": by_header} | {name: value}

    with pytest.raises(error, match=f"^{name} must be"):
        FlowControlMiddleware(**arguments)  # type: ignore[arg-type]


# How it is found out.


def ticket_of(environ: WSGIEnvironment) -> Ticket:
    ticket = environ["flowctl.ticket"]
    assert isinstance(ticket, Ticket)
    return ticket


def returning(response: Iterable[bytes]) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return response

    return app


class Response:
    """An application's response, which counts how often it is closed."""

    def __init__(self, blocks: list[bytes], on_close: Callable[[], object] = int) -> None:
        self._blocks = blocks
        self._on_close = on_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def close(self) -> None:
        self.closed += 1
        self._on_close()
