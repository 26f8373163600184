"""How long `admit` takes on threads that ask, hold and ask again, while something else goes on beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.crew import Window, on_threads
from flowctl import FlowController

THREADS: Final = 8
HOLD: Final = 0.001
"""Seconds: the threads sleep most of the time, so that neither the GIL nor the cores are what they wait for."""

Names = Callable[[int], Iterator[str]]
"""The flow ids that the thread of this number asks with, one after the other, without end."""


def waits(controller: FlowController, names: Names, beside: Callable[[], None]) -> list[float]:
    """Milliseconds of each `admit` on all threads, for as long as `beside` runs."""
    window = Window()

    def job(number: int) -> list[float]:
        mine: list[float] = []
        flows = names(number)
        while not window.over:
            flow = next(flows)
            began = time.perf_counter()
            ticket = controller.admit(flow)
            mine.append((time.perf_counter() - began) * 1e3)
            time.sleep(HOLD)
            ticket.release()
        return mine

    def meanwhile() -> None:
        try:
            beside()
        finally:
            window.over = True

    return [wait for mine in on_threads(THREADS, job, meanwhile).results for wait in mine]
