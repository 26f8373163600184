"""Importing flowctl starts nothing, opens nothing, and loads nothing that a user did not ask for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Heavy, or of an extra, or of a server that is not this one.
UNWANTED = (
    "asyncio",
    "cattrs",
    "concurrent.futures",
    "http",
    "multiprocessing",
    "prometheus_client",
    "rich",
    "ssl",
    "tomllib",
    "waitress",
    "wsgiref",
)

# What a fresh interpreter runs: it watches an import, and prints a line for each thing that the import does.
PROBE = """
import signal, sys, threading

name, *unwanted = sys.argv[1:]
loaded = set(sys.modules)
handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
watched = ("_thread.start", "socket.", "os.fork", "subprocess.")
sys.addaudithook(lambda event, args: event.startswith(watched) and print("did", event))

__import__(name)

for other in threading.enumerate()[1:]:
    print("runs thread", other.name)
for number, handler in handlers.items():
    if signal.getsignal(number) != handler:
        print("handles", signal.Signals(number).name)
for module in [module for key, module in sys.modules.items() if key.split(".")[0] == name]:
    for held in vars(module):
        if isinstance(vars(module)[held], (type(threading.Lock()), type(threading.RLock()))):
            print("holds lock", held)
for module in unwanted:
    if module in sys.modules.keys() - loaded:
        print("loads", module)
"""


def test_importing_flowctl_has_no_side_effects() -> None:
    assert effects_of_importing("flowctl", ROOT) == set()


@pytest.mark.parametrize(
    ("source", "effects"),
    [
        pytest.param("import socket; socket.socket().close()", {"did socket.__new__"}, id="a socket"),
        pytest.param(
            "import signal; signal.signal(signal.SIGTERM, lambda *_: None)", {"handles SIGTERM"}, id="a signal handler"
        ),
        pytest.param("import http", {"loads http"}, id="a module"),
        pytest.param(
            "import threading; t = threading.Thread(target=threading.Event().wait, daemon=True, name='t'); t.start()",
            {"runs thread t"},
            id="a thread",
        ),
        pytest.param("import threading; mutex = threading.Lock()", {"holds lock mutex"}, id="a lock"),
        pytest.param("import heapq", set(), id="nothing"),
    ],
)
def test_a_side_effect_is_found(tmp_path: Path, source: str, effects: set[str]) -> None:
    (tmp_path / "suspect.py").write_text(source, "utf-8")

    found = effects_of_importing("suspect", tmp_path)

    # Interpreters differ in how they announce the start of a thread.
    assert {effect for effect in found if not effect.startswith("did _thread.start")} == effects


def effects_of_importing(module: str, folder: Path) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", PROBE, module, *UNWANTED],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines())
