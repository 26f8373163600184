"""A waitress with the queue before its threads, in a thread of this process, and clients that talk to it by hand."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple, final
from wsgiref.types import StartResponse, WSGIEnvironment

from waitress import wasyncore
from waitress.server import BaseWSGIServer

from flowctl import FlowController, FlowKey, Request, current_ticket
from flowctl.integrations.seated import TICKET
from flowctl.integrations.waitress import FlowTaskDispatcher, create_server
from flowctl.integrations.wsgi import Classifier
from flowctl.ticket import Ticket
from tests.servers.client import Answer
from tests.support import PATIENCE, MakeController, Spawn, wait_for


class Call(NamedTuple):
    """What the application was called with."""

    path: str
    tenant: str
    flow: FlowKey
    address: str
    classified: str | None
    thread: str


@final
class App:
    """The application that is protected."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.door = threading.Event()
        self.turnstile = threading.Semaphore(0)
        self.controller: FlowController | None = None  # of the server that was started last

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, thread = environ["PATH_INFO"], threading.current_thread().name
        ticket: Ticket | None = environ.get(TICKET)  # who is exempt has none
        assert ticket is current_ticket()
        flow = FlowKey("exempt") if ticket is None else ticket.key
        self.calls.append(
            Call(path, by_header(environ), flow, environ["REMOTE_ADDR"], environ.get("classified"), thread)
        )
        if path == "/hold":
            self.door.wait(PATIENCE)
        if path == "/error":
            raise ValueError("the application's own")
        if path == "/exit":
            raise SystemExit
        if path == "/again":
            assert self.controller is not None
            self.controller.try_admit("again").release()
        start_response("200 OK", [("Content-Type", "text/plain")])
        if path == "/stream":
            return self.blocks()
        if path == "/file":
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"a file"))
            return wrapped
        if path == "/echo":
            return [environ["wsgi.input"].read()]
        if path == "/much":
            return [b"x" * 8_000_000]  # more than sockets keep
        return [b"held" if path == "/hold" else b"hello"]

    def blocks(self) -> Iterator[bytes]:
        for number in range(3):
            self.turnstile.acquire(timeout=PATIENCE)
            yield b"block %d\n" % number


def by_header(environ: WSGIEnvironment) -> str:
    tenant: str = environ.get("HTTP_X_TENANT", "anybody")
    return tenant


def by_path(environ: WSGIEnvironment) -> Request:
    return Request(FlowKey(by_header(environ)), ttl=0 if environ["PATH_INFO"] == "/no-wait" else None)


def unreachable(environ: WSGIEnvironment) -> str:
    raise AssertionError("nobody is to be classified")


def message(path: str, tenant: str = "anybody", method: str = "GET", *headers: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"X-Tenant: {tenant}", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@final
class Connection:
    """A client's connection, on which several requests may be under way."""

    def __init__(self, port: int, closing: ExitStack) -> None:
        self._socket = closing.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
        self._file = closing.enter_context(self._socket.makefile("rb"))
        self._methods: list[str] = []

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, path: str, tenant: str = "anybody", method: str = "GET", *headers: str) -> None:
        self._methods.append(method)
        self.send_raw(message(path, tenant, method, *headers))

    def ask(self, path: str, tenant: str = "anybody", method: str = "GET", *headers: str) -> Answer:
        self.send(path, tenant, method, *headers)
        return self.answer()

    def head(self) -> list[str]:
        """Its lines, as far as the empty one."""
        lines = []
        while line := self._file.readline().decode().rstrip():
            lines.append(line)
        return lines

    def answer(self) -> Answer:
        """The next answer, whose length is told."""
        first, *lines = self.head()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        method = self._methods.pop(0) if self._methods else "GET"
        body = b"" if method == "HEAD" else self._file.read(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)

    def line_that_begins(self, start: bytes) -> bytes:
        """Read on until there is one; empty if there is none."""
        return next((line for line in iter(self._file.readline, b"") if line.startswith(start)), b"")

    def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Bell(wasyncore.dispatcher):
    """Ends the server's loop as Ctrl-C or a signal handler that exits would, from another thread."""

    def __init__(self, sock: socket.socket, sockets: dict[int, object]) -> None:
        super().__init__(sock, sockets)  # type: ignore[arg-type]  # the stubs take channels for sockets

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        raise SystemExit


@final
class Server:
    """A running server, and clients of it."""

    def __init__(
        self, app: App, controller: FlowController, closing: ExitStack, spawn: Spawn, settings: dict[str, object]
    ) -> None:
        settings = {"listen": "127.0.0.1:0", "classify": by_header, **settings}
        if settings["listen"] is None:
            del settings["listen"]
        self.app = app
        self.controller = app.controller = controller
        self.closing = closing
        server = create_server(app, controller, **settings)  # type: ignore[arg-type]  # any of them
        assert isinstance(server.task_dispatcher, FlowTaskDispatcher)
        self.dispatcher = server.task_dispatcher
        sockets: dict[int, object] = vars(server)["_map" if isinstance(server, BaseWSGIServer) else "map"]
        closing.callback(wasyncore.close_all, sockets, ignore_all=True)  # type: ignore[arg-type]  # no sockets, again
        rope, bell = socket.socketpair()
        self._rope = closing.enter_context(rope)
        Bell(bell, sockets)
        self.server: BaseWSGIServer = next(each for each in sockets.values() if isinstance(each, BaseWSGIServer))
        self.run = spawn(server.run)
        closing.callback(self.stop)

    def ring(self) -> None:
        """Have the server shut down."""
        self._rope.sendall(b"!")

    def stop(self) -> None:
        """The same, wait for it, and see that nothing is left."""
        self.app.door.set()
        if not self.run.done:
            self.ring()
        self.run.result()
        wait_for(lambda: not self.dispatcher._visits)
        stats = self.controller.stats()
        assert (stats.in_flight, stats.queued, stats.abandoned, stats.repairs) == (0, 0, 0, 0)
        assert stats.incidents == self.dispatcher.stats().classify_errors
        for crew in (self.dispatcher._workers, self.dispatcher._desk, self.dispatcher._exempt):
            crew.join()

    def connect(self) -> Connection:
        return Connection(int(vars(self.server)["effective_port"]), self.closing)

    def send(self, path: str, tenant: str = "anybody") -> Connection:
        """Ask over a new connection, without waiting for the answer."""
        connection = self.connect()
        connection.send(path, tenant)
        return connection

    def ask(self, path: str, tenant: str = "anybody", method: str = "GET", *headers: str) -> Answer:
        connection = self.connect()
        answer = connection.ask(path, tenant, method, *headers)
        connection.close()
        return answer

    def hold(self, tenant: str = "anybody") -> Connection:
        """Take the only seat until the door is opened."""
        connection = self.send("/hold", tenant)
        wait_for(lambda: any(call.path == "/hold" for call in self.app.calls))
        return connection

    def wait_queued(self, count: int) -> None:
        wait_for(lambda: self.controller.stats().queued == count)


@final
class Serve:
    """Starts servers: ``serve(controller, classify=..., threads=..., ...)``; all serve the same application."""

    def __init__(self, make_controller: MakeController, closing: ExitStack, spawn: Spawn) -> None:
        self._make_controller = make_controller
        self._closing = closing
        self._spawn = spawn
        self.app = App()

    def __call__(
        self, controller: FlowController | None = None, *, classify: Classifier = by_header, **settings: object
    ) -> Server:
        if controller is None:
            controller = self._make_controller()
        settings["classify"] = classify
        return Server(self.app, controller, self._closing, self._spawn, settings)
