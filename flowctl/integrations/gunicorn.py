"""Hooks for gunicorn with threads, to be imported into `gunicorn.conf.py`.

    worker_class, threads = "gthread", 16
    from flowctl.integrations.gunicorn import post_worker_init, worker_exit

G1  The middlewares of a worker know how many threads it has.
G2  Who is still queued shortly before the grace of a worker is over is answered, with 503, and not cut off.
G3  A worker whose threads are patched (gevent, eventlet) does not begin.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final, Protocol

from flowctl import sync
from flowctl.integrations.server import serving_controllers, tell_threads

LOOK: Final = 0.25
"""Seconds between two looks whether the worker is to end: gunicorn tells nobody."""

MARGIN: Final = 2.5
"""Seconds before the end of the grace at which nobody waits any longer, so that the answers still go out. At most half
of the grace.
"""


class Settings(Protocol):
    """Of gunicorn, as far as the hooks care."""

    @property
    def threads(self) -> int: ...

    @property
    def graceful_timeout(self) -> float: ...


class Worker(Protocol):
    """A process of gunicorn's that serves."""

    @property
    def cfg(self) -> Settings: ...

    @property
    def alive(self) -> bool: ...


def post_worker_init(worker: Worker) -> None:
    """Tell the middlewares of this worker how many threads it has, and have it end well. For gunicorn to call.

    When the worker is to end (it is stopped, reloaded, or has served `max_requests`), who has a seat goes on, and who
    is queued still gets his turn; shortly before `graceful_timeout` is over the controllers are closed. Raises
    `RuntimeError` if its threads are patched.
    """
    sync.check_threads_are_real()
    tell_threads(worker.cfg.threads)
    sync.start_thread(partial(_end_well, worker), "flowctl-gunicorn")


def worker_exit(server: object, worker: object) -> None:
    """Close what this worker's middlewares guard. For gunicorn to call."""
    for controller in serving_controllers():
        controller.close()


def _end_well(worker: Worker) -> None:
    nobody_wakes_us, master = sync.Parking(), os.getppid()
    while worker.alive and os.getppid() == master:  # a worker whose master is gone ends, and does not say so
        nobody_wakes_us.wait(LOOK)
    grace = worker.cfg.graceful_timeout
    nobody_wakes_us.wait(max(grace / 2, grace - MARGIN))
    worker_exit(None, worker)
