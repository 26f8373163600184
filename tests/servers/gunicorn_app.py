"""What gunicorn serves in `test_gunicorn.py`: one seat a worker, and a process that can be asked about itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from flowctl import ConcurrencyLimit, FlowController
from flowctl.integrations.server import threads_of
from flowctl.integrations.wsgi import FlowControlMiddleware

controller = FlowController(gate=ConcurrencyLimit(1))
loaded_in = os.getpid()
held_by_parent = controller.admit("as it is loaded") if "--preload" in sys.argv else None  # it is not in the workers


def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/hold":
        environ["wsgi.input"].read(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


protected = FlowControlMiddleware(guarded, controller, classify=lambda environ: environ["HTTP_X_TENANT"])


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The protected application; `/self` asks for no seat, and tells of the process."""
    if environ["PATH_INFO"] != "/self":
        return protected(environ, start_response)
    stats = controller.stats()
    told = {
        "pid": os.getpid(),
        "loaded_in": loaded_in,
        "threads": threads_of(environ),
        "in_flight": stats.in_flight,
        "queued": stats.queued,
        "rejected": stats.rejected,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
