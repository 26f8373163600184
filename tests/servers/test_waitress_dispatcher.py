"""The queue before the thread, in a real waitress: on loopback, in a thread of this process."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import tomllib
from contextlib import ExitStack
from pathlib import Path
from wsgiref.types import WSGIEnvironment

import pytest
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

from flowctl import BandConfig, Config, FlowController, FlowKey, Request
from flowctl.integrations import waitress_channel
from flowctl.integrations.waitress import BELOW, OLDEST, check_version, create_server
from flowctl.news import Observer
from flowctl.testing import FakeClock
from flowctl.ticket import ReleaseOutcome, Ticket
from tests.servers.waitress_serving import App, Connection, Serve, by_header, by_path, message, unreachable
from tests.support import PATIENCE, MakeController, Spawn, wait_for

CROWD = 300


def test_a_request_is_served_with_its_ticket_in_a_thread_of_the_servers(serve: Serve) -> None:
    answer = serve().ask("/", "tenant-a")

    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["content-length"] == "5", "waitress still derives it from a single block"
    [call] = serve.app.calls
    assert (call.tenant, call.flow) == ("tenant-a", FlowKey("tenant-a"))
    assert re.fullmatch(r"waitress-\d+", call.thread)


def test_a_polite_flow_is_served_in_turns_with_a_crowd_of_hundreds(serve: Serve) -> None:
    server = serve(threads=4)
    held = server.hold("noisy")
    crowd = [server.send("/", "noisy") for _ in range(CROWD)]
    server.wait_queued(CROWD)
    polite = [server.send("/", "polite") for _ in range(2)]
    server.wait_queued(CROWD + 2)

    serve.app.door.set()
    assert [each.answer().status for each in (held, *crowd, *polite)] == [200] * (CROWD + 3)
    tenants = [call.tenant for call in serve.app.calls]
    assert "polite" in tenants[1:3], "one of the crowd may go first, no more"
    assert tenants[:6].count("polite") == 2


def test_where_all_are_one_flow_it_is_first_come_first_served(serve: Serve) -> None:
    """What the test above would see if nothing were fair."""
    server = serve(classify=lambda environ: "all", threads=4)
    everyone = [server.hold("noisy"), *[server.send("/", "noisy") for _ in range(CROWD)]]
    server.wait_queued(CROWD)
    everyone.append(server.send("/", "polite"))
    server.wait_queued(CROWD + 1)

    serve.app.door.set()
    assert [each.answer().status for each in everyone] == [200] * (CROWD + 2)
    assert [call.tenant for call in serve.app.calls].index("polite") == CROWD + 1


def test_waiting_costs_no_thread_and_a_refusal_needs_none_that_has_a_seat(serve: Serve) -> None:
    server = serve(classify=by_path, threads=1)
    held = server.hold()
    waiting = [server.send("/") for _ in range(20)]
    server.wait_queued(20)

    refused = server.ask("/no-wait")  # the only thread for seats is taken all the time
    assert (refused.status, refused.problem["outcome"]) == (429, "rejected_saturated")
    serve.app.door.set()
    assert [each.answer().status for each in (held, *waiting)] == [200] * 21


def test_where_the_queue_is_full_the_answer_is_429_as_the_middleware_gives_it(
    serve: Serve, make_controller: MakeController
) -> None:
    server = serve(make_controller(Config(bands=[BandConfig(priority=0, max_requests=1)])))
    held = server.hold()
    waiting = server.send("/")
    server.wait_queued(1)

    refused, headers_only = server.ask("/"), server.ask("/", method="HEAD")
    assert (refused.status, refused.headers["retry-after"]) in [(429, "1"), (429, "2")]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["content-length"] == str(len(refused.body))
    assert (refused.problem["outcome"], refused.problem["scope"]) == ("rejected_capacity", "band")
    assert (headers_only.status, headers_only.body) == (429, b"")
    serve.app.door.set()
    assert (held.answer().status, waiting.answer().status) == (200, 200)


def test_a_request_that_expires_in_the_queue_is_answered_by_whoever_finds_it(serve: Serve, clock: FakeClock) -> None:
    server = serve(classify=lambda environ: Request(FlowKey("anybody"), ttl=5))
    held = server.hold()
    waiting = [server.send("/") for _ in range(20)]
    server.wait_queued(20)

    clock.advance(5)
    server.controller.collect()
    answers = [each.answer() for each in waiting]
    assert {(each.status, each.problem["outcome"]) for each in answers} == {(503, "evicted_ttl")}
    serve.app.door.set()
    assert held.answer().status == 200
    assert [call.path for call in serve.app.calls] == ["/hold"]


def test_a_client_that_leaves_is_taken_out_of_the_queue(serve: Serve) -> None:
    server = serve()
    held = server.hold()
    leaving = [server.send("/") for _ in range(20)]
    server.wait_queued(20)

    for each in leaving:
        each.close()
    server.wait_queued(0)
    assert server.controller.stats().evicted == 20
    serve.app.door.set()
    assert held.answer().status == 200
    assert [call.path for call in serve.app.calls] == ["/hold"]


def test_a_client_that_leaves_while_it_is_served_gives_its_seat_back(serve: Serve) -> None:
    server = serve()
    server.hold().close()

    serve.app.door.set()
    assert server.ask("/").status == 200


def test_a_client_that_leaves_between_its_seat_and_its_thread_gives_the_seat_back(
    serve: Serve, make_controller: MakeController
) -> None:
    server = serve(make_controller(limit=2), threads=1)
    held = server.hold()
    leaving = server.send("/")
    wait_for(lambda: server.controller.stats().in_flight == 2)  # and the only thread is taken
    leaving.close()
    wait_for(lambda: len(vars(server.server)["active_channels"]) == 1)

    serve.app.door.set()
    assert held.answer().status == 200
    wait_for(lambda: server.controller.stats().in_flight == 0)
    assert [call.path for call in serve.app.calls] == ["/hold"]


def test_a_client_that_leaves_while_it_is_classified_does_not_stay_in_the_queue(serve: Serve) -> None:
    classifying, gone = threading.Event(), threading.Event()

    def classify(environ: WSGIEnvironment) -> str:
        if environ["PATH_INFO"] == "/leaves":
            classifying.set()
            gone.wait(PATIENCE)
        return "anybody"

    server = serve(classify=classify)
    leaving = server.connect()
    leaving.send_raw(message("/") + message("/leaves"))  # the second is classified by the thread that served the first
    assert leaving.answer().status == 200
    assert classifying.wait(PATIENCE)
    held = server.hold()
    leaving.close()
    wait_for(lambda: len(vars(server.server)["active_channels"]) == 1)

    gone.set()
    wait_for(lambda: server.controller.stats().evicted == 1)
    serve.app.door.set()
    assert held.answer().status == 200


def test_a_closed_controller_answers_what_was_queued_and_what_comes(serve: Serve) -> None:
    server = serve()
    held = server.hold()
    waiting = server.send("/")
    server.wait_queued(1)

    server.controller.close()
    assert (waiting.answer().problem["outcome"], server.ask("/").problem["outcome"]) == (
        "evicted_closed",
        "rejected_closed",
    )
    serve.app.door.set()
    assert held.answer().status == 200


def test_requests_on_one_connection_are_answered_in_their_order(serve: Serve) -> None:
    server = serve(classify=by_path)
    connection = server.hold()
    connection.send("/no-wait", "a")  # would be refused now: it is asked for once the first is answered
    connection.send("/", "b")
    connection.send("/error", "c")
    connection.send("/", "d")

    serve.app.door.set()
    assert [connection.answer().body for _ in range(3)] == [b"held", b"hello", b"hello"]
    assert connection.answer().status == 500  # after which waitress closes the connection
    assert [call.path for call in serve.app.calls] == ["/hold", "/no-wait", "/", "/error"]


def test_refusals_keep_the_connection_and_the_order(serve: Serve, spawn: Spawn) -> None:
    server = serve(classify=by_path)
    held, other = server.hold(), server.connect()
    other.send_raw(b"".join(message("/no-wait") for _ in range(30)) + message("/"))

    assert [other.answer().status for _ in range(30)] == [429] * 30
    server.wait_queued(1)
    serve.app.door.set()
    assert (held.answer().status, other.answer().status) == (200, 200)


def test_however_much_one_connection_asks_it_waits_once(serve: Serve) -> None:
    server = serve()
    held, other = server.hold(), server.connect()
    other.send_raw(message("/") * 50)
    server.wait_queued(1)
    last = server.send("/")
    server.wait_queued(2)  # so the first 50 were read before, and one of them is queued

    serve.app.door.set()
    assert held.answer().status == 200
    assert [other.answer().status for _ in range(50)] == [200] * 50
    assert last.answer().status == 200


def test_at_the_connection_limit_nobody_is_refused(serve: Serve) -> None:
    server = serve(connection_limit=6)  # the listening socket, the trigger, the test's bell, and three connections
    first = [server.hold(), server.send("/"), server.send("/")]
    server.wait_queued(2)
    wait_for(lambda: server.server.in_connection_overflow)
    late = server.send("/")
    serve.app.door.set()
    assert [each.answer().status for each in first] == [200] * 3

    first[0].close()
    assert late.answer().status == 200


@pytest.mark.parametrize(("limit", "accepted"), [(7, 5), (100, 10)])
def test_connections_that_wait_are_accepted_together_up_to_the_limit(
    serve: Serve, closing: ExitStack, controller: FlowController, limit: int, accepted: int
) -> None:
    # the listening socket and the trigger count as well
    server = create_server(serve.app, controller, classify=by_header, listen="127.0.0.1:0", connection_limit=limit)
    assert isinstance(server, BaseWSGIServer)
    closing.callback(wasyncore.close_all, vars(server)["_map"], ignore_all=True)
    closing.callback(server.task_dispatcher.shutdown)
    for _ in range(10):
        closing.enter_context(socket.create_connection(("127.0.0.1", int(vars(server)["effective_port"]))))

    server.handle_accept()

    assert len(vars(server)["active_channels"]) == accepted


@pytest.mark.parametrize("threads", [1, 8])
def test_a_hundred_queued_at_shutdown_get_a_hundred_answers(serve: Serve, spawn: Spawn, threads: int) -> None:
    server = serve(threads=threads)
    held = server.hold()
    waiting = [server.send("/") for _ in range(100)]
    server.wait_queued(100)

    server.ring()
    answers = [each.answer() for each in waiting]
    assert {(each.status, each.problem["outcome"]) for each in answers} == {(503, "evicted_closed")}
    serve.app.door.set()
    assert held.answer().status == 200
    server.run.result()
    assert not server.dispatcher._visits


def test_a_request_in_whose_classification_the_server_is_ended_gets_its_answer(serve: Serve) -> None:
    def classify(environ: WSGIEnvironment) -> str:
        raise SystemExit  # as a signal handler does, in the thread that serves

    server = serve(classify=classify)
    assert server.ask("/").problem["outcome"] == "rejected_closed"
    server.run.result()


def test_a_request_that_was_asked_for_when_the_server_is_ended_gets_its_answer_and_leaves_no_seat_taken(
    serve: Serve, make_controller: MakeController
) -> None:
    class Ended(Observer):
        """Raises as a signal handler does, once: where the seat is granted, and nobody was told yet."""

        raised = False

        def settled(self, ticket: Ticket) -> None:
            if ticket.key.id == "b" and not self.raised:
                self.raised = True
                raise SystemExit

        def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
            pass

    server = serve(make_controller(observer=Ended()))
    assert server.ask("/", "b").status == 200, "its answer was decided"
    server.run.result()


def test_what_follows_on_a_connection_at_shutdown_is_refused(serve: Serve) -> None:
    server = serve()
    held = server.hold()
    held.send_raw(message("/") * 3)
    server.send("/")
    server.wait_queued(1)  # behind what the connection asks: it was read before

    server.ring()
    wait_for(lambda: server.controller.stats().queued == 0)
    serve.app.door.set()
    assert held.answer().status == 200
    assert [held.answer().problem["outcome"] for _ in range(3)] == ["rejected_closed"] * 3
    server.run.result()


def test_shutdown_does_not_wait_longer_than_its_grace(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(grace=0, threads=1)
    held = server.hold()

    server.ring()
    server.run.result()
    assert "1 request(s) were not answered" in caplog.text
    serve.app.door.set()
    assert held.answer().status == 200  # its thread goes on for as long as the process does


def test_what_had_a_seat_and_no_thread_when_the_grace_was_over_is_not_begun(
    serve: Serve, make_controller: MakeController, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(make_controller(limit=2), grace=0, threads=1)
    held = server.hold()
    server.send("/")
    wait_for(lambda: server.controller.stats().in_flight == 2)

    server.ring()
    server.run.result()
    serve.app.door.set()
    assert held.answer().status == 200
    server.dispatcher._workers.join()
    assert server.controller.stats().in_flight == 0
    assert [call.path for call in serve.app.calls] == ["/hold"]
    assert "an exception" not in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="it sends SIGTERM, and hands down a listening socket")
def test_as_a_process_it_answers_all_that_is_queued_when_it_is_told_to_end(closing: ExitStack) -> None:
    listening = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
    fd, port = listening.fileno(), listening.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", PROCESS, str(fd)], cwd=ROOT, pass_fds=[fd])
    try:
        held = Connection(port, closing)
        held.send("/hold")
        waiting = [Connection(port, closing) for _ in range(100)]
        for each in waiting:
            each.send("/")
        wait_for(lambda: Connection(port, closing).ask("/queued", "looker").body == b"100")
        process.terminate()
        assert {each.answer().status for each in waiting} == {503}
        process.terminate()  # again, which here opens the door
        assert held.answer().status == 200
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("named", [ValueError("the operator's own"), 7, FlowKey("")])
def test_a_classifier_that_fails_is_logged_and_its_request_one_of_the_default_flow(
    serve: Serve, caplog: pytest.LogCaptureFixture, named: object
) -> None:
    def classify(environ: WSGIEnvironment) -> str:
        if isinstance(named, Exception):
            raise named
        return named  # type: ignore[return-value]  # that is what is wrong

    server = serve(classify=classify)
    assert server.ask("/").status == 200
    assert "classify failed" in caplog.text
    assert server.controller.flows() == [FlowKey("default")]

    strict = serve(classify=classify, on_classify_error="refuse")
    refused = strict.ask("/")
    assert (refused.status, refused.problem["outcome"]) == (503, "rejected_other")
    assert strict.controller.flows() == []


def test_an_application_that_raises_is_answered_500_and_gives_its_seat_back(serve: Serve) -> None:
    server = serve()

    assert [server.ask(path).status for path in ("/error", "/error", "/")] == [500, 500, 200]


def test_an_application_that_exits_closes_its_connection_and_no_thread(serve: Serve) -> None:
    server = serve(threads=1)

    assert server.send("/exit").rest() == b""
    assert server.ask("/").status == 200


def test_a_stream_holds_its_seat_until_its_end(serve: Serve) -> None:
    server = serve()
    stream = server.send("/stream")
    serve.app.turnstile.release()
    assert stream.line_that_begins(b"block 0")
    assert server.controller.stats().in_flight == 1
    waiting = server.send("/")
    server.wait_queued(1)

    serve.app.turnstile.release(2)
    assert b"block 2" in stream.rest()
    assert waiting.answer().status == 200


def test_a_stream_whose_client_leaves_gives_its_seat_back(serve: Serve) -> None:
    server = serve()
    stream = server.send("/stream")
    serve.app.turnstile.release()
    assert stream.line_that_begins(b"block 0")

    stream.close()
    serve.app.turnstile.release(2)
    assert server.ask("/").status == 200


def test_the_loop_waits_for_a_thread_that_is_sending(
    serve: Serve, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waitress_channel, "MOMENT", PATIENCE)
    server = serve()
    held = server.hold()
    [channel] = dict[int, HTTPChannel](vars(server.server)["active_channels"]).values()
    is_sending, go_on, done = threading.Event(), threading.Event(), list[str]()

    def send() -> None:
        with channel.outbuf_lock:
            is_sending.set()
            go_on.wait(PATIENCE)
            done.append("sent")

    sending = spawn(send)
    assert is_sending.wait(PATIENCE)
    go_on.set()
    channel.handle_write()

    assert done == ["sent"], "waitress itself would come back at once, until the thread has got the GIL"
    sending.result()
    serve.app.door.set()
    assert held.answer().status == 200


def test_a_file_is_sent_by_the_server_itself(serve: Serve) -> None:
    answer = serve().ask("/file")

    assert (answer.status, answer.body) == (200, b"a file")


def test_a_body_is_asked_for_before_its_request_is_queued(serve: Serve) -> None:
    server = serve()
    connection = server.connect()
    connection.send_raw(message("/echo", "a", "POST", "Content-Length: 4", "Expect: 100-continue"))
    assert connection.head()[0] == "HTTP/1.1 100 Continue"
    assert not server.dispatcher._visits

    connection.send_raw(b"body")
    assert connection.answer().body == b"body"


def test_what_is_no_http_is_answered_without_a_seat(serve: Serve) -> None:
    server = serve(classify=unreachable, max_request_body_size=10)
    for bad in (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", message("/", "a", "POST", "Content-Length: 11")):
        connection = server.connect()
        connection.send_raw(bad)
        assert connection.answer().status in {400, 413}
    assert server.controller.flows() == []


def test_the_headers_of_proxies_are_dealt_with_before_the_request_is_classified(serve: Serve) -> None:
    def classify(environ: WSGIEnvironment) -> str:
        environ["classified"] = "seen"
        return f"{environ['REMOTE_ADDR']} {environ.get('HTTP_X_FORWARDED_FOR')}"

    forwarded = "X-Forwarded-For: 192.0.2.7"
    trusting: dict[str, str] = {
        "trusted_proxy": "127.0.0.1",
        "trusted_proxy_headers": "x-forwarded-for x-forwarded-proto",
    }

    serve(classify=classify).ask("/", "a", "GET", forwarded)
    server = serve(None, classify=classify, **trusting)
    server.ask("/", "a", "GET", forwarded)
    assert [call.flow.id for call in serve.app.calls] == ["127.0.0.1 None", "192.0.2.7 192.0.2.7"]
    assert [call.address for call in serve.app.calls] == ["127.0.0.1", "192.0.2.7"]
    assert [call.classified for call in serve.app.calls] == ["seen", "seen"]

    malformed = server.ask("/", "a", "GET", "X-Forwarded-Proto: gopher")
    assert malformed.status == 400
    assert server.controller.stats().dispatched == 1


def test_the_classifier_is_called_with_no_lock_of_the_connection_held(serve: Serve) -> None:
    held: list[bool] = []

    def classify(environ: WSGIEnvironment) -> str:
        channel = environ["waitress.client_disconnected"].__self__
        assert isinstance(channel, HTTPChannel)
        lock: threading.Lock = channel.requests_lock  # type: ignore[attr-defined]  # not in the stubs
        held.append(not lock.acquire(blocking=False))
        if not held[-1]:
            lock.release()
        return "anybody"

    connection = serve(classify=classify).connect()
    connection.send_raw(message("/") * 3)  # the first in the server's thread, the others in a worker's
    assert [connection.answer().status for _ in range(3)] == [200] * 3
    assert held == [False] * 3


def test_several_sockets_are_served(serve: Serve) -> None:
    with ExitStack() as stack:
        listening = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        server = serve(listen=None, sockets=listening)
        for each in listening:
            assert Connection(each.getsockname()[1], server.closing).ask("/").status == 200


@pytest.mark.parametrize("bad", ["app", "controller", "classify", "grace"])
def test_a_bad_argument_is_refused_before_anything_starts(controller: FlowController, bad: str) -> None:
    good: dict[str, object] = {"app": App(), "controller": controller, "classify": by_header, "grace": 1.0}
    good[bad] = "nonsense"

    with pytest.raises(TypeError, match=bad):
        create_server(**good)  # type: ignore[arg-type]  # that is what is wrong


@pytest.mark.parametrize("version", ["3.0.2", "3.0.10", "3.1", "3.9.9b1"])
def test_a_waitress_that_is_known_is_taken(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["2.1.2", "3.0.1", "4.0", "4.0.0b0"])
def test_another_waitress_is_one_clear_error(version: str) -> None:
    with pytest.raises(RuntimeError, match=rf"needs waitress>=3\.0\.2,<4, not {version}: pip install"):
        check_version(version)


def test_the_extra_pins_the_same_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    dotted = [".".join(map(str, version)) for version in (OLDEST, BELOW)]

    assert project["optional-dependencies"]["waitress"] == [f"waitress>={dotted[0]},<{dotted[1]}"]


# How it is found out.

ROOT = Path(__file__).parents[2]

PROCESS = """
import signal, socket, sys, threading
from flowctl import ConcurrencyLimit, FlowController, FlowKey, Request
from flowctl.integrations.waitress import serve

controller = FlowController(gate=ConcurrencyLimit(2))
door = threading.Event()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        door.wait(30)
    start_response("200 OK", [])
    return [b"%d" % controller.stats().queued]


def classify(environ):
    # of two seats those who wait, who need both, get none as long as one is held
    looks_or_holds = environ["PATH_INFO"] != "/"
    return Request(FlowKey("any", 1 if looks_or_holds else 0), cost=1 if looks_or_holds else 2)


def end(*_):
    signal.signal(signal.SIGTERM, lambda *_: door.set())
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
serve(app, controller, classify=classify, grace=30, threads=4, sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""
