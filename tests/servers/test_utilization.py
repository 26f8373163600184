"""How full a model server is, read off its page: a real server on loopback, well, ill, and hostile."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import final

import pytest

from flowctl.saturation import Saturation
from tests.support import PATIENCE, Spawn

pytest.importorskip("prometheus_client", reason="of the extra [prometheus]")

from flowctl.integrations.utilization import LARGEST, Utilization

SOON = 0.2
"""A timeout that a test waits for."""

QUEUE, CACHE, OLD_CACHE = "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"


class Handler(BaseHTTPRequestHandler):
    """Answers as its server was told to."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append((self.path, dict(self.headers)))
        try:
            self.server.answer(self)
        except OSError:  # the client had enough
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


Answer = Callable[[Handler], None]


@final
class Server(ThreadingHTTPServer):
    """A server in a thread of its own, for one test."""

    answer: Answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/metrics"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def shows(self, page: str | bytes, status: int = 200, **headers: str) -> None:
        body = page.encode() if isinstance(page, str) else page

        def answer(handler: Handler) -> None:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.answer = answer

    def sends(self, *blocks: bytes) -> None:
        """Just these bytes, and then the connection ends."""

        def answer(handler: Handler) -> None:
            handler.close_connection = True
            for block in blocks:
                handler.wfile.write(block)

        self.answer = answer

    def end(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()  # waits for the threads that answer
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def make_server() -> Iterator[Callable[[], Server]]:
    made: list[Server] = []

    def make() -> Server:
        made.append(Server())
        return made[-1]

    yield make
    for server in made:
        server.end()


@pytest.fixture
def server(make_server: Callable[[], Server]) -> Server:
    return make_server()


def page(**engines: tuple[float, float]) -> str:
    """As vLLM has it, some of what else is there included."""
    lines = [
        "# HELP python_info Python platform information",
        "# TYPE python_info gauge",
        'python_info{implementation="CPython",version="3.12.3"} 1.0',
        f"# HELP {QUEUE} Number of requests waiting to be processed.",
        f"# TYPE {QUEUE} gauge",
        *(f'{QUEUE}{{engine="{name}",model_name="m"}} {queue}' for name, (queue, _) in engines.items()),
        f'{QUEUE}_by_reason{{engine="0",model_name="m",reason="capacity"}} NaN',
        f"# HELP {CACHE} KV-cache usage. 1 means 100 percent usage.",
        f"# TYPE {CACHE} gauge",
        *(f'{CACHE}{{engine="{name}",model_name="m"}} {cache}' for name, (_, cache) in engines.items()),
        "# TYPE vllm:e2e_request_latency_seconds histogram",
        'vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} NaN',
    ]
    return "\n".join(lines) + "\n"


def patient(*urls: str, **arguments: object) -> Utilization:
    return Utilization(urls, timeout=PATIENCE, **arguments)  # type: ignore[arg-type]


# --- the value -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "cache", "value"),
    [(0, 0.0, 0.0), (5, 0.0, 1.0), (0, 0.8, 1.0), (2, 0.2, 0.4), (1, 0.4, 0.5), (20, 0.1, 4.0), (0, 1.0, 1.25)],
)
def test_an_engine_is_as_full_as_the_fuller_of_its_queue_and_its_cache(
    server: Server, queue: float, cache: float, value: float
) -> None:
    server.shows(page(a=(queue, cache)))

    assert patient(server.url)() == pytest.approx(value)
    assert patient(server.url, queue=None)() == pytest.approx(cache / 0.8)
    assert patient(server.url, cache=None)() == pytest.approx(queue / 5)


def test_what_is_full_is_said(server: Server) -> None:
    server.shows(page(a=(10, 0.5)))

    assert patient(server.url, queue_full=40, cache_full=1)() == 0.5
    assert patient(server.url, queue_full=10, cache_full=1)() == 1.0


def test_several_engines_on_a_page_count_by_the_mean_of_what_each_is(server: Server) -> None:
    server.shows(page(a=(5, 0.0), b=(0, 0.8), c=(0, 0.2)))

    assert patient(server.url)() == pytest.approx((1 + 1 + 0.25) / 3), "and not the fuller of two means"


def test_several_pages_count_by_their_mean(make_server: Callable[[], Server]) -> None:
    one, other = make_server(), make_server()
    one.shows(page(a=(5, 0), b=(15, 0)))
    other.shows(page(a=(0, 0)))

    assert patient(one.url, other.url)() == 1.0


def test_the_first_name_that_is_on_the_page_counts(server: Server) -> None:
    server.shows(f"{OLD_CACHE} 0.4\n{QUEUE} 0\n")
    assert patient(server.url)() == 0.5

    server.shows(f"{OLD_CACHE} 0.4\n{CACHE} 0.2\n{QUEUE} 0\n")
    assert patient(server.url)() == 0.25


def test_names_are_whole_names(server: Server) -> None:
    server.shows(f'{QUEUE}_by_reason 7\nmy_{QUEUE} 7\nother{{of="{QUEUE}"}} 7\n# {QUEUE} 7\n')

    with pytest.raises(ValueError, match=f"/metrics does not show {QUEUE}$"):
        patient(server.url, cache=None)()


def test_it_is_a_source_for_a_signal(server: Server) -> None:
    server.shows(page(a=(2, 0.0)))
    gate = Saturation(patient(server.url))
    gate.sample()

    assert (gate.state().name, gate.state().value) == ("Utilization", 0.4)

    server.shows("", 503)
    with pytest.raises(ValueError, match="503"):
        gate.sample()
    assert gate.state().status == "failing"


def test_many_threads_may_ask_at_once(server: Server, spawn: Spawn) -> None:
    server.shows(page(a=(2, 0.0)))
    utilization, start = patient(server.url), threading.Barrier(8)

    def ask() -> float:
        start.wait(PATIENCE)
        return utilization()

    assert [each.result() for each in [spawn(ask) for _ in range(8)]] == [0.4] * 8


def test_what_is_asked_for_is_the_path_and_the_query(server: Server) -> None:
    server.shows(page(a=(0, 0)))
    patient(server.url + "?name=a&b=%20")()

    (path, headers) = server.asked[0]
    assert path == "/metrics?name=a&b=%20"
    assert headers["Host"] == f"127.0.0.1:{server.server_address[1]}"


def test_a_url_without_a_path_asks_for_the_root(server: Server) -> None:
    server.shows(page(a=(0, 0)))
    patient(server.url.removesuffix("/metrics"))()

    assert server.asked[0][0] == "/"


def test_a_page_in_chunks_is_read(server: Server) -> None:
    text = f"{QUEUE} 2\n".encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.sends(head, b"%x\r\n" % len(text[:9]), text[:9], b"\r\n%x\r\n" % len(text[9:]), text[9:], b"\r\n0\r\n\r\n")

    assert patient(server.url, cache=None)() == 0.4


def test_proxies_of_the_environment_are_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.shows(page(a=(2, 0)))

    assert patient(server.url)() == 0.4


# --- a page that does not say it -----------------------------------------------------------------------------------


def test_a_metric_that_is_missing_is_named_with_the_page(server: Server) -> None:
    server.shows("up 1\n")

    with pytest.raises(ValueError, match=f"^{server.url} does not show {QUEUE}$"):
        patient(server.url)()
    with pytest.raises(ValueError, match=f"^{server.url} does not show {CACHE} or {OLD_CACHE}$"):
        patient(server.url, queue=None)()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e999", "9" * 400])
def test_what_is_no_finite_number_is_named_with_the_page(server: Server, value: str) -> None:
    server.shows(f"{QUEUE} {value}\n")

    with pytest.raises(ValueError, match=f"^{QUEUE} at {server.url} must be finite, not "):
        patient(server.url, cache=None)()


@pytest.mark.parametrize("line", ["{", '{engine="0"', '{engine="0"} ', " five", " ", '{a="1"}} 3', ",,, 1"])
def test_a_line_that_cannot_be_read_is_an_error(server: Server, line: str) -> None:
    server.shows(f"{QUEUE}{line}\n")

    with pytest.raises(ValueError, match=f"^{server.url} "):
        patient(server.url, cache=None)()


@pytest.mark.parametrize(
    "text", ["\n", "<html>It works!</html>\n", '{"queue": 5}\n', "\0" * 100 + "\n", "x" * 9_999 + "\n"]
)
def test_a_page_of_something_else_lacks_the_metric(server: Server, text: str) -> None:
    server.shows(text)

    with pytest.raises(ValueError, match=f"^{server.url} does not show {QUEUE}$"):
        patient(server.url)()


@pytest.mark.parametrize("body", [b"\xff\xfe\n", b"\x1f\x8b\x08\x00garbage\n", f"{QUEUE} 1\n".encode("utf-16") + b"\n"])
def test_what_is_no_text_is_an_error(server: Server, body: bytes) -> None:
    server.shows(body)

    with pytest.raises(ValueError, match=f"^{server.url} must be text in UTF-8"):
        patient(server.url)()


def test_parts_that_cannot_be_matched_to_one_engine_are_an_error(server: Server) -> None:
    server.shows(f'{QUEUE}{{engine="0"}} 0\n{QUEUE}{{engine="1"}} 0\n{CACHE}{{engine="0"}} 0.9\n')

    with pytest.raises(ValueError, match=f"^{server.url} shows {QUEUE} and {CACHE} with different labels"):
        patient(server.url)()


@pytest.mark.parametrize("status", [201, 204, 400, 401, 404, 500, 503])
def test_another_status_than_200_is_an_error_whatever_the_page_says(server: Server, status: int) -> None:
    server.shows(page(a=(0, 0)), status)

    with pytest.raises(ValueError, match=f"^{server.url} must answer with status 200, not {status}$"):
        patient(server.url)()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(make_server: Callable[[], Server], status: int) -> None:
    server, elsewhere = make_server(), make_server()
    elsewhere.shows(page(a=(0, 0)))
    server.shows("", status, Location=elsewhere.url)

    with pytest.raises(ValueError, match=f"not {status}, and no redirect is followed$"):
        patient(server.url)()
    assert elsewhere.asked == []


# --- a page that does not come -------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]

    with pytest.raises(ConnectionError, match=f"^http://127.0.0.1:{port}/ gave no whole answer: ConnectionRefused"):
        patient(f"http://127.0.0.1:{port}/")()


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(ConnectionError, match=r"^http://a\.\.b/ gave no whole answer"):
        patient("http://a..b/")()


def test_a_server_that_takes_the_connection_and_never_answers_costs_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/metrics"

        with pytest.raises(TimeoutError, match=f"^{url} did not answer within 0.2 s$"):
            Utilization(url, timeout=SOON)()


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="the status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="the body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", id="a body of a known length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", id="a chunk"),
    ],
)
def test_a_byte_now_and_then_does_not_put_the_timeout_off(server: Server, head: bytes) -> None:
    def drip(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not server.over.wait(0.01):
            handler.wfile.write(b"0")  # also the beginning of a number, and of a length

    server.answer = drip

    with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 s$"):
        Utilization(server.url, timeout=SOON)()


def test_half_a_page_is_an_error(server: Server) -> None:
    server.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", f"{QUEUE} 0\n".encode())

    with pytest.raises(ConnectionError, match=f"^{server.url} gave no whole answer: IncompleteRead"):
        patient(server.url, cache=None)()


def test_half_a_chunk_is_an_error(server: Server) -> None:
    server.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n", f"{QUEUE} 0\n".encode())

    with pytest.raises(ConnectionError, match=f"^{server.url} gave no whole answer: IncompleteRead"):
        patient(server.url, cache=None)()


def test_a_page_of_no_length_that_ends_within_a_number_is_an_error(server: Server) -> None:
    server.sends(b"HTTP/1.0 200 OK\r\n\r\n", f"{QUEUE} 1".encode())  # of 15, perhaps

    with pytest.raises(ConnectionError, match="its last line has no end"):
        patient(server.url, cache=None)()


@pytest.mark.parametrize(
    "answer", [b"", b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"x" * 70_000]
)
def test_what_is_no_answer_of_http_is_an_error(server: Server, answer: bytes) -> None:
    server.sends(answer)

    with pytest.raises(ConnectionError, match=f"^{server.url} gave no whole answer"):
        patient(server.url)()


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="of no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", id="that says so"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", id="in one chunk"),
    ],
)
def test_a_huge_page_is_an_error_and_is_not_read(server: Server, head: bytes) -> None:
    def pour(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not server.over.is_set():
            handler.wfile.write(b"# huge\n" * 10_000)

    server.answer = pour

    with pytest.raises(ValueError, match=f"^{server.url} must have at most {LARGEST} bytes; it has more$"):
        patient(server.url)()


def test_a_page_of_exactly_the_largest_size_is_read(server: Server) -> None:
    line = f"{QUEUE} 2\n"
    server.shows("#" * (LARGEST - len(line) - 1) + "\n" + line)
    assert patient(server.url, cache=None)() == 0.4

    server.shows("#" * (LARGEST - len(line)) + "\n" + line)
    with pytest.raises(ValueError, match="at most"):
        patient(server.url, cache=None)()


def test_https_is_not_taken_for_granted(server: Server) -> None:
    with pytest.raises(ConnectionError, match="gave no whole answer: SSL"):
        patient(server.url.replace("http:", "https:"))()


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    page = next(iter(patient("https://localhost/")._pages))

    assert page.tls is not None
    assert (page.tls.verify_mode, page.tls.check_hostname) == (ssl.CERT_REQUIRED, True)


# --- of several pages one --------------------------------------------------------------------------------------------


def test_of_several_pages_one_that_cannot_be_read_counts_as_full(make_server: Callable[[], Server]) -> None:
    well, ill = make_server(), make_server()
    well.shows(page(a=(1, 0)))
    ill.shows("", 500)
    utilization = patient(well.url, ill.url)

    assert utilization() == pytest.approx((0.2 + 1) / 2)
    readings = utilization.read()
    assert readings[well.url] == 0.2
    assert isinstance(readings[ill.url], ValueError)


def test_if_no_page_can_be_read_the_first_error_is_raised(make_server: Callable[[], Server]) -> None:
    one, other = make_server(), make_server()
    one.shows("", 500)
    other.shows("", 503)

    with pytest.raises(ValueError, match=r"not 500$"):
        patient(one.url, other.url)()


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "error", "words"),
    [
        ("url", "", ValueError, "url must be at least one"),
        ("url", [], ValueError, "url must be at least one"),
        ("url", ["http://a/", "http://a/"], ValueError, "url must be at least one, none empty and none twice"),
        ("url", None, TypeError, "url must be a str or a sequence"),
        ("url", b"http://a/", TypeError, "url must be a str or a sequence"),
        ("url", ["http://a/", 5], TypeError, "url must be a str or a sequence"),
        ("url", "127.0.0.1:8000", ValueError, "url must be http://host/path or https://host/path"),
        ("url", "file:///etc/passwd", ValueError, "url must be http://host/path or https://host/path"),
        ("url", "ftp://host/", ValueError, "url must be http://host/path or https://host/path"),
        ("url", "http:///metrics", ValueError, "url must be http://host/path or https://host/path"),
        ("url", "http://host:port/", ValueError, "url must be a URL"),
        ("url", "http://host:99999/", ValueError, "url must be a URL"),
        ("url", "http://[::1/", ValueError, "url must be a URL"),
        ("url", "http://host/\r\nX: y", ValueError, "url must be printable ASCII without spaces"),
        ("url", "http://höst/", ValueError, "url must be printable ASCII without spaces"),
        ("queue", "", ValueError, "queue must be at least one"),
        ("queue", 5, TypeError, "queue must be a str or a sequence"),
        ("cache", ["a", "a"], ValueError, "cache must be at least one"),
        ("cache", [None], TypeError, "cache must be a str or a sequence"),
        ("queue_full", 0, ValueError, "queue_full must be above 0, not 0"),
        ("queue_full", "5", TypeError, "queue_full must be a number, not '5'"),
        ("queue_full", True, TypeError, "queue_full must be a number, not True"),
        ("queue_full", 10**400, ValueError, "queue_full must be finite"),
        ("cache_full", -0.8, ValueError, "cache_full must be above 0, not -0.8"),
        ("cache_full", float("nan"), ValueError, "cache_full must be finite, not nan"),
        ("timeout", 0, ValueError, "timeout must be above 0, and at most 60, not 0"),
        ("timeout", 61, ValueError, "timeout must be above 0, and at most 60, not 61"),
        ("timeout", float("inf"), ValueError, "timeout must be finite, not inf"),
        ("timeout", None, TypeError, "timeout must be a number of seconds, not None"),
    ],
    ids=range(29),
)
def test_a_bad_argument_is_named_with_its_value_and_the_rule(
    field: str, value: object, error: type[Exception], words: str
) -> None:
    arguments: dict[str, object] = {"url": "http://127.0.0.1:8000/metrics", field: value}

    with pytest.raises(error, match=f"^{words}"):
        Utilization(**arguments)  # type: ignore[arg-type]


def test_to_read_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^queue or cache must be the name of a metric, not both None$"):
        Utilization("http://127.0.0.1:8000/metrics", queue=None, cache=None)


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match=r"^url must have no user and no password") as raised:
        Utilization("http://admin:secret@host/metrics")

    assert "secret" not in str(raised.value)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)

    with pytest.raises(ImportError, match=r"pip install 'flowctl\[prometheus\]'$"):
        Utilization("http://127.0.0.1:8000/metrics")
