"""Servers as processes of their own, which end when whoever started them is gone: ``python -m MODULE FD ...``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Final, final

from benchmarks.machine import ROOT

BACKLOG: Final = 4096
"""Connections that wait for the server to accept them. One that finds no room there tries again a second later."""

PATIENCE: Final = 10.0
"""Seconds that a server may take to end."""


@final
@dataclass(frozen=True, slots=True)
class Started:
    """A server's process, the port it listens on, and what it prints."""

    process: subprocess.Popen[bytes]
    port: int
    says: IO[bytes]

    def line(self) -> str:
        """The next line that the server prints; waits for it. Raises `EOFError` if it ends instead."""
        line = self.says.readline()
        if not line:
            raise EOFError("the server ended")
        return line.decode().strip()


@contextmanager
def started(module: str, *arguments: str) -> Iterator[Started]:
    """``python -m module FD ...``, listening from the beginning: nobody has to poll for it. It ends with the block."""
    with ExitStack() as closing:
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
            port: int = listening.getsockname()[1]
            # as the servers have it that make their socket themselves; connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            process = closing.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", module, str(listening.fileno()), *arguments],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,  # it ends when this is closed
                    stdout=subprocess.PIPE,
                    pass_fds=[listening.fileno()],
                )
            )
        assert process.stdin is not None
        assert process.stdout is not None
        closing.callback(process.stdin.close)
        yield Started(process, port, process.stdout)


def handed_down() -> tuple[socket.socket, list[str]]:
    """In the server's process: the socket to listen on, and the arguments. The process ends with its starter."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    return socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]


def _end_with_starter() -> None:
    # Returns when the other end of the pipe is gone, however its process ended. Not by way of `sys.stdin`: its lock
    # would be held for good, and an interpreter that ends in time would be aborted over it.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)  # gunicorn waits for its worker then: its CPU is known to be ours
    time.sleep(PATIENCE)
    os._exit(1)
