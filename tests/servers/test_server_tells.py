"""What a server tells of itself: its threads, and whether a client has left; and threads that are none."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from flowctl import Cancelled, ConcurrencyLimit, FlowController
from flowctl.integrations import server
from flowctl.integrations.server import leaving_probe, tell_threads, threads_of
from flowctl.testing import FakeClock
from tests.servers.exchange import Exchange, a_list, environment, protected
from tests.support import MakeController, Spawn


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection: the client's, and the server's."""
    client, served = socket.socketpair()
    with client, served:
        yield client, served


def test_a_client_that_waits_has_not_left(pair: tuple[socket.socket, socket.socket]) -> None:
    client, served = pair
    probe = leaving_probe(environment(gunicorn__socket=served))

    assert probe is not None
    assert not probe()
    client.send(b"GET")
    assert not probe(), "it has sent more"
    assert served.recv(3) == b"GET", "and nothing of it was taken"


def test_a_client_that_closes_has_left(pair: tuple[socket.socket, socket.socket]) -> None:
    client, served = pair
    probe = leaving_probe(environment(gunicorn__socket=served))
    client.close()

    assert probe is not None
    assert probe()
    served.close()
    assert probe(), "and the server has closed it"


def test_waitress_is_asked_itself() -> None:
    left: list[int] = []
    probe = leaving_probe(environment(waitress__client_disconnected=lambda: left))
    assert probe is not None
    assert not probe()
    left.append(1)
    assert probe()


def test_over_tls_nobody_can_tell(pair: tuple[socket.socket, socket.socket]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with context.wrap_socket(pair[1], server_hostname="x", do_handshake_on_connect=False) as wrapped:
        assert leaving_probe(environment(gunicorn__socket=wrapped)) is None


@pytest.mark.parametrize("environ", [{}, {"gunicorn.socket": None}, {"waitress.client_disconnected": True}])
def test_other_servers_cannot_tell(environ: dict[str, object]) -> None:
    assert leaving_probe(environ) is None


def test_who_leaves_while_his_request_waits_is_taken_out(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, served = pair
    controller = make_controller()
    with controller.admit("other"):
        waiter = spawn(Exchange, protected(a_list, controller), environment(gunicorn__socket=served))
        clock.wait_for_sleepers(1)
        controller.collect()
        assert controller.stats().queued == 1

        client.close()
        controller.collect()
        assert waiter.result().problem()["outcome"] == Cancelled.outcome.value
    assert controller.stats().queued == 0


def test_uwsgi_tells_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("uwsgi")
    vars(module)["opt"] = {"threads": b"12"}
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    assert threads_of({}) == 12

    for options in ({}, {"threads": b"many"}, {"threads": True}, None):
        vars(module)["opt"] = options
        assert threads_of({}) is None


def test_a_hook_of_the_server_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_told", {})
    assert threads_of({}) is None
    tell_threads(16)

    assert threads_of({}) == 16


# --- threads that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patcher", "question"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_where_threads_are_patched_no_controller_is_made(
    monkeypatch: pytest.MonkeyPatch, patcher: str, question: str
) -> None:
    monkeypatch.setitem(sys.modules, patcher, SimpleNamespace(**{question: lambda name: "thread" in name}))
    with pytest.raises(RuntimeError, match=rf"{patcher.partition('.')[0]} has patched them: serve with threads"):
        FlowController(gate=ConcurrencyLimit(1))

    monkeypatch.setitem(sys.modules, patcher, SimpleNamespace(**{question: lambda name: name == "socket"}))
    FlowController(gate=ConcurrencyLimit(1)).close()


def test_a_middleware_made_before_the_patch_refuses_its_first_request(
    controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    middleware = protected(a_list, controller)
    patched = SimpleNamespace(is_module_patched=lambda name: True)
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)

    with pytest.raises(RuntimeError, match="gevent has patched them"):
        Exchange(middleware)
    assert controller.stats().in_flight == 0


def test_eventlet_is_found_out_for_real() -> None:
    code = """
import warnings; warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import flowctl
try:
    flowctl.FlowController(gate=flowctl.ConcurrencyLimit(1))
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert "eventlet has patched them" in done.stdout
