"""The manners of the queue before the threads: exempt paths, requests only watched, further admissions, `release`."""

from __future__ import annotations

from wsgiref.types import WSGIEnvironment

import pytest

from flowctl import BandConfig, Config, FlowController
from flowctl.integrations.waitress import create_server
from tests.servers.waitress_serving import Serve, message, unreachable
from tests.support import MakeController, wait_for


def test_a_path_that_is_exempt_is_answered_while_all_threads_are_busy(serve: Serve) -> None:
    server = serve(threads=1, exempt=["/health"])
    held = server.hold()
    waiting = server.send("/")
    server.wait_queued(1)

    assert server.ask("/health").body == b"hello"
    assert [call.flow.id for call in serve.app.calls] == ["anybody", "exempt"]
    assert server.dispatcher.stats().exempt == 1
    serve.app.door.set()
    assert (held.answer().status, waiting.answer().status) == (200, 200)


def test_an_exempt_path_is_not_classified(serve: Serve) -> None:
    server = serve(classify=unreachable, exempt=["/*"])

    assert server.ask("/").status == 200


def test_an_exempt_request_on_a_connection_that_is_kept_has_its_turn(serve: Serve) -> None:
    server = serve(exempt=["/health"])
    connection = server.connect()

    assert [connection.ask(path).status for path in ("/", "/health", "/", "/health")] == [200] * 4
    assert server.dispatcher.stats().exempt == 2


def test_a_client_that_reads_nothing_does_not_keep_exempt_paths_from_others(serve: Serve) -> None:
    server = serve(threads=2, exempt=["/much", "/health"], outbuf_high_watermark=15_000_000)
    stalls = server.connect()
    stalls.send_raw(message("/much") * 4)
    wait_for(lambda: len(serve.app.calls) == 3)  # a thread waits until the client reads, before it goes on

    assert server.ask("/health").body == b"hello"
    stalls.close()
    wait_for(lambda: not server.dispatcher._visits)


def test_a_request_that_is_only_watched_is_served_at_once(serve: Serve, make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=1)))
    server = serve(controller, threads=3, shadow=True)
    with controller.admit("other"):
        held = [server.send("/hold") for _ in range(2)]
        wait_for(lambda: len(serve.app.calls) == 2)
        serve.app.door.set()

        assert [each.answer().status for each in held] == [200, 200]
        server.wait_queued(0)  # an answer goes out before its response is closed
    assert server.ask("/").status == 200
    counts = {word: count for word, count in server.dispatcher.stats().shadow.items() if count}
    assert counts == {"queued": 1, "rejected_capacity": 1, "evicted_cancelled": 1, "dispatched": 1}


def test_a_watched_request_that_could_not_be_classified_is_served(serve: Serve) -> None:
    def fail(environ: WSGIEnvironment) -> str:
        raise LookupError

    server = serve(classify=fail, shadow=True, on_classify_error="refuse")

    assert server.ask("/").status == 200
    assert server.dispatcher.stats().shadow["rejected_other"] == 1


def test_who_is_only_watched_is_answered_at_shutdown_too(serve: Serve) -> None:
    server = serve(shadow=True, grace=30.0)
    with server.controller.admit("other"):
        held = server.hold()
        server.wait_queued(1)
        server.ring()
        wait_for(lambda: server.dispatcher._is_closing)
        serve.app.door.set()

        assert held.answer().status == 200


@pytest.mark.parametrize(("nested", "answer"), [("pass", 200), ("error", 500), ("separate", 500)])
def test_a_further_admission_is_what_the_operator_says(serve: Serve, nested: str, answer: int) -> None:
    assert serve(nested=nested).ask("/again").status == answer


def test_a_stream_may_give_its_seat_back_with_its_first_byte(serve: Serve) -> None:
    server = serve(threads=2, release="first_byte")
    stream = server.send("/stream")
    serve.app.turnstile.release()
    wait_for(lambda: server.controller.stats().in_flight == 0 and server.controller.stats().dispatched == 1)

    assert server.ask("/").status == 200
    serve.app.turnstile.release(2)
    assert [stream.line_that_begins(b"block") for _ in range(3)] == [b"block %d\n" % n for n in range(3)]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("nested", "deep", ValueError),
        ("release", "later", ValueError),
        ("exempt", "/health", TypeError),
        ("shadow", "yes", TypeError),
        ("on_classify_error", "raise", ValueError),
        ("grace", -1, ValueError),
    ],
)
def test_a_bad_argument_is_named_and_nothing_is_left_open(
    controller: FlowController, name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{name} must be"):
        create_server(
            lambda environ, start_response: [],
            controller,
            classify=unreachable,
            **{name: value},  # type: ignore[arg-type]  # that is what is tested
        )
