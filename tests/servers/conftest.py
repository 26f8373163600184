"""The servers of the matrix, and waitress with the queue before its threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.client import Server, serving
from tests.servers.kinds import KINDS, Kind
from tests.servers.matrix import Saw, row_of
from tests.servers.waitress_serving import Serve
from tests.support import MakeController, Spawn


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def kind(request: pytest.FixtureRequest) -> Kind:
    """A kind of server; all tests of a module for one of them, then all for the next."""
    kind = request.param
    assert isinstance(kind, Kind)
    if kind.version is None:
        pytest.skip(f"{kind.name} is not installed{' (make uwsgi)' if kind.package == 'uwsgi' else ''}")
    return kind


@pytest.fixture(scope="module")
def running(kind: Kind) -> Iterator[Server]:
    with serving(kind.command) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """A server that serves all tests of a module. Each leaves nothing behind, and the next request is answered."""
    running.ask("/new-stage")
    yield running
    running.wait_until("in_flight", 0)
    running.wait_until("queued", 0)
    assert running.stats("repairs") == running.stats("abandoned") == 0
    assert running.see("/complaints") == []
    answer = running.ask("/hello", "next")
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.fixture
def own_server(kind: Kind) -> Iterator[Server]:
    """A server of its own, for a test that ends it."""
    with serving(kind.command) as server:
        yield server


@pytest.fixture
def saw(request: pytest.FixtureRequest, kind: Kind) -> Saw:
    """Notes what the server was seen to do: a cell of the table in docs/servers.md."""
    notes: Path | None = request.config.getoption("--matrix")
    assert isinstance(request.node, pytest.Function)
    return Saw(row_of(request.node.originalname), kind.name, notes)


@pytest.fixture
def closing(make_controller: MakeController) -> Iterator[ExitStack]:
    """What is put in here is closed before the controllers are."""
    with ExitStack() as closing:
        yield closing


@pytest.fixture
def serve(make_controller: MakeController, closing: ExitStack, spawn: Spawn) -> Serve:
    """Starts servers with one seat; afterwards they are stopped, and have left nothing behind."""
    return Serve(make_controller, closing, spawn)
