"""What a WSGI server tells of itself: how many threads it has, and whether a client has left."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Final
from weakref import WeakSet
from wsgiref.types import WSGIEnvironment

from flowctl.controller import FlowController

_told: Final[dict[str, int]] = {}
"""What a hook of the server's said, in the process that serves."""

_serving: Final[WeakSet[FlowController]] = WeakSet()


def serves(controller: FlowController) -> None:
    """Remember, for as long as it lives, that a middleware of this process asks this controller."""
    _serving.add(controller)


def serving_controllers() -> list[FlowController]:
    """The controllers that middlewares of this process ask."""
    return list(_serving)


def tell_threads(count: int) -> None:
    """Say with how many threads this process serves, for a server whose requests do not tell."""
    _told["threads"] = count


def threads_of(environ: WSGIEnvironment) -> int | None:
    """How many threads the server has, if it tells: waitress by a method of its channel, uWSGI by a module of its own,
    gunicorn by its hook.
    """
    for ask in (_threads_of_waitress, _threads_of_uwsgi):
        threads = ask(environ)
        if isinstance(threads, int) and threads > 0:
            return threads
    return _told.get("threads")


def _threads_of_waitress(environ: WSGIEnvironment) -> object:
    try:
        return attrgetter("__self__.server.adj.threads")(environ["waitress.client_disconnected"])
    except (KeyError, AttributeError):
        return None


def _threads_of_uwsgi(environ: WSGIEnvironment) -> object:
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    threads = options.get("threads") if isinstance(options, Mapping) else None
    return int(threads) if isinstance(threads, bytes) and threads.isdigit() else None


def leaving_probe(environ: WSGIEnvironment) -> Callable[[], object] | None:
    """Something to ask whether this client has left; None where the server cannot tell.

    A client that closes only its sending half is taken for one that has left. Over TLS gunicorn's clients are not seen.
    """
    probe = environ.get("waitress.client_disconnected")
    if probe is not None:
        return probe if callable(probe) else None
    connection = environ.get("gunicorn.socket")
    return partial(_has_left, connection) if type(connection) is socket.socket else None


def _has_left(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False  # nothing to read: it waits
    except OSError:
        return True
