"""The demo, run as a user runs it.

Its server inherits its output, which so ends when the last of its processes has ended: `communicate` returns then.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
FIGURE = r"(?:[\d,]+|-)"  # none where nobody was served in so short a time
CHANGE = (
    rf"p50 ({FIGURE}) -> ({FIGURE})(?: ms)?, p99 {FIGURE} -> {FIGURE}(?: ms)?, served \d+ -> \d+/s, refused [\d,]+/s"
)
SUMMARY = (f"polite: {CHANGE}", f"noisy: {CHANGE}", r"back end: \d+% -> \d+% busy, served \d+ -> \d+/s in all")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its server is handed a listening socket")


def test_it_ends_by_itself_with_three_lines_that_say_what_changed(start: Start) -> None:
    demo = start("--seconds=5")
    output, errors = demo.communicate(timeout=PATIENCE)
    lines = output.splitlines()

    assert (demo.returncode, errors) == (0, "")
    matches = [re.fullmatch(pattern, line) for pattern, line in zip(SUMMARY, lines[-3:], strict=True)]
    assert all(matches), lines[-3:]
    assert any(line.startswith("without flowctl") for line in lines), "plain lines where there is no terminal"
    assert "\x1b" not in output
    assert matches[0] is not None
    without, protected = (float(p50.replace(",", "").replace("-", "inf")) for p50 in matches[0].groups())
    assert protected * 2 < without, "of the polite tenant; 15 times on an idle machine"


def test_ctrl_c_leaves_no_process_and_no_traceback(start: Start) -> None:
    demo = start("--seconds=60")
    assert demo.stdout is not None
    demo.stdout.readline()  # it has begun
    os.killpg(demo.pid, signal.SIGINT)  # to all in the terminal's foreground
    _, errors = demo.communicate(timeout=PATIENCE)

    assert (demo.returncode, errors) == (130, "")


def test_its_server_ends_even_if_the_demo_is_killed(start: Start) -> None:
    demo = start("--seconds=60")
    assert demo.stdout is not None
    while not demo.stdout.readline().startswith("without flowctl"):  # its server answers
        assert demo.poll() is None
    demo.kill()
    demo.communicate(timeout=PATIENCE)


def test_serve_answers_until_ctrl_c(start: Start) -> None:
    port = free_port()
    demo = start("--serve", f"--port={port}")
    assert demo.stdout is not None
    assert f"http://127.0.0.1:{port}/" in demo.stdout.readline()

    assert get(port, "/") == (200, b"answered\n")
    wait_for(lambda: b'"in_flight": 0' in get(port, "/stats")[1])  # the seat comes back once the response is closed
    os.killpg(demo.pid, signal.SIGINT)
    _, errors = demo.communicate(timeout=PATIENCE)
    assert (demo.returncode, errors) == (0, "")


def test_a_busy_port_is_one_clear_line_and_status_2(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        demo = start("--serve", f"--port={port}")
        output, errors = demo.communicate(timeout=PATIENCE)

    assert (demo.returncode, output) == (2, "")
    assert re.fullmatch(rf"flowctl demo: cannot serve on 127\.0\.0\.1:{port} \(.*\); --port .*\n", errors)


def test_a_reader_that_has_enough_ends_it_quietly(start: Start) -> None:
    demo = start("--seconds=60")
    assert demo.stdout is not None
    demo.stdout.readline()
    demo.stdout.close()
    assert demo.stderr is not None

    assert demo.stderr.read() == ""
    assert demo.wait(PATIENCE) == 1


@pytest.mark.parametrize("arguments", [["--seconds=0"], ["--seconds=nan"], ["--port=0"], ["--port=x"], ["--what"]])
def test_a_bad_argument_is_status_2(start: Start, arguments: list[str]) -> None:
    demo = start(*arguments)
    _, errors = demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 2
    assert arguments[0].partition("=")[0] in errors
    assert "Traceback" not in errors


def test_help_tells_of_every_option(start: Start) -> None:
    output, _ = start("--help").communicate(timeout=PATIENCE)

    for option in ("--serve", "--port", "--seconds"):
        assert option in output


# How it is found out.

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the demo with these arguments, in a session of its own, as in a terminal of its own."""
    demos: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        demo = subprocess.Popen(
            [sys.executable, "-m", "flowctl.demo", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        demos.append(demo)
        return demo

    yield start
    for demo in demos:
        with demo:  # closes its pipes, and waits
            demo.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
