"""What every test may rely on."""

import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowctl import FlowController
from flowctl.testing import FakeClock
from tests.proof import Proof
from tests.support import MakeController, Spawn


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proof", type=Path, metavar="FILE", help="append what is shown to this file (tests/proof.py)")
    parser.addoption(
        "--matrix", type=Path, metavar="FILE", help="append what servers do to this file, and compare none"
    )


def pytest_configure() -> None:
    """A shell that runs us in the background has Ctrl-C ignored, and children inherit that: some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run on an interpreter built without a GIL if an extension has switched the GIL on: it proved nothing."""
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    if sysconfig.get_config_var("Py_GIL_DISABLED") and gil_enabled():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("\nThe GIL came on during this run (PYTHON_GIL=0 keeps it off): failed", red=True)


@pytest.fixture
def clock() -> FakeClock:
    """Time that moves only when the test says so."""
    return FakeClock(start=1000.0)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a thread that runs a call; `.result()` of what it returns waits for it. All are joined at the end."""
    spawn = Spawn()
    yield spawn
    spawn.join()


@pytest.fixture
def make_controller(clock: FakeClock, spawn: Spawn) -> Iterator[MakeController]:
    """Makes controllers on the fake clock, without a collector thread, with one seat. All are closed and checked."""
    make_controller = MakeController(clock, spawn)
    yield make_controller
    make_controller.close()


@pytest.fixture
def controller(make_controller: MakeController) -> FlowController:
    """One seat, the default configuration."""
    return make_controller()


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    """Where a test notes what it has shown, for `docs/proof.md`."""
    path: Path | None = request.config.getoption("--proof")
    return Proof(path)
