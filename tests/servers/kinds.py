"""The servers that the matrix asks, each started for real on a socket that listens already."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.servers.client import ROOT

THREADS: Final = 8
APP: Final = "tests.servers.serving:app"
TELLING_APP: Final = "tests.servers.serving:telling_app"


class Kind(NamedTuple):
    """A kind of server."""

    name: str
    command: Callable[[int], list[str]]
    package: str | None = None  # None: it comes with Python
    tells_who_left: bool = False  # while a request waits

    @property
    def version(self) -> str | None:
        """None if it is not installed."""
        if self.package is None:
            return platform.python_version()
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


def by_itself(name: str) -> Callable[[int], list[str]]:
    return lambda fd: [sys.executable, "-m", "tests.servers.serving", name, str(fd)]


def by_gunicorn(fd: int) -> list[str]:
    settings = ["--worker-class=gthread", f"--threads={THREADS}", f"--bind=fd://{fd}", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", *settings, APP]


def by_uwsgi(fd: int) -> list[str]:
    program = shutil.which("uwsgi", path=str(Path(sys.executable).parent))
    assert program is not None, "it is installed, but not beside this Python"
    return [
        program,
        f"--http-socket=fd://{fd}",
        f"--threads={THREADS}",
        f"--home={sys.prefix}",
        f"--pythonpath={ROOT}",
        f"--module={TELLING_APP}",
        "--single-interpreter",
        "--need-app",
        "--die-on-term",
        "--disable-logging",
        "--socket-timeout=60",  # of 4 seconds a client that does not read would see the end
    ]


KINDS: Final = (
    Kind("waitress", by_itself("waitress"), "waitress", tells_who_left=True),
    Kind("gunicorn gthread", by_gunicorn, "gunicorn", tells_who_left=True),
    Kind("cheroot", by_itself("cheroot"), "cheroot"),
    Kind("uWSGI", by_uwsgi, "uwsgi"),
    Kind("wsgiref", by_itself("wsgiref")),
)
