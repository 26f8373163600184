"""What does flowctl cost a process that has nothing to do? Its CPU, its threads, and its import.

Each is asked of processes of their own: ``python -m benchmarks.idle SECONDS EVERY`` is the idle one, with 10,000 idle
flows, whose collector looks round every so many seconds (0: as often as it does by itself).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.harness import Depth, Pairs, Plot, Question, Row, Step, Target
from flowctl import ConcurrencyLimit, Config, FlowController

FLOWS: Final = 10_000
SETTLED: Final = 0.3
"""Seconds after which the start of the collector's thread is over."""

ROOT: Final = Path(__file__).parents[1]
PATIENCE: Final = 60.0

BUSIEST: Final = 1.0
"""Seconds between two cycles where they are made frequent, so that a short window has some."""

CPU: Final = Target("value", "at most", 0.1)
THREADS: Final = Target("value", "at most", 1)
IMPORT: Final = Target("ratio", "at most", 2.0)
RIVAL: Final = "logging, dataclasses, threading, queue"
UNWANTED: Final = ("asyncio", "tomllib", "http", "rich")

TIMED: Final = """
import sys, time
began = time.thread_time()
import {modules}
print(time.thread_time() - began, *[name for name in {unwanted} if name in sys.modules])
"""


# --- the idle process ----------------------------------------------------------------------------------------------


def idle(seconds: float, every: float) -> dict[str, float]:
    """What an idle controller takes in so many seconds: % of a core, and how many threads it has."""
    config = Config(gc_interval=every) if every else Config()
    before = threading.active_count()
    with FlowController(config, gate=ConcurrencyLimit(8)) as controller:
        for number in range(FLOWS):
            controller.admit(f"tenant-{number}").release()
        controller.collect()  # it files the new ones
        time.sleep(SETTLED)
        assert controller.stats().flows == FLOWS
        began, cpu = time.monotonic(), time.process_time()
        time.sleep(seconds)
        share = (time.process_time() - cpu) / (time.monotonic() - began)
        return {"percent": share * 100, "threads": threading.active_count() - before}


def _percent(seconds: float) -> Sequence[Row]:
    usual, busiest = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.idle", str(seconds), str(every)], stdout=subprocess.PIPE, cwd=ROOT
        )
        for every in (0.0, BUSIEST)
    ]
    try:
        found = [json.loads(process.communicate(timeout=seconds + PATIENCE)[0]) for process in (usual, busiest)]
    finally:
        for process in (usual, busiest):
            process.kill()
            process.wait()
    return rows(*found)


def rows(usual: dict[str, float], busiest: dict[str, float]) -> list[Row]:
    """Of the two processes."""
    what = f"CPU of an idle process, {FLOWS:,} idle flows"
    return [
        Row(name=what, unit="% of a core", samples=(usual["percent"],), target=CPU),
        Row(
            name=f"the same, a cycle every {BUSIEST:.0f} s",
            unit="% of a core",
            samples=(busiest["percent"],),
            target=CPU,
        ),
        Row(name="threads of an idle controller", unit="threads", samples=(usual["threads"],), target=THREADS),
    ]


# --- the import ----------------------------------------------------------------------------------------------------


def imported(modules: str, compiled: Path) -> float:
    """CPU milliseconds that this import takes in a fresh process, which keeps compiled modules in that folder."""
    source = TIMED.format(modules=modules, unwanted=UNWANTED)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    run = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment,
    )
    seconds, *loaded = run.stdout.split()
    assert not loaded, f"import {modules} loads {', '.join(loaded)}"
    return float(seconds) * 1e3


def _imports(count: int) -> Sequence[Row]:
    pairs = Pairs()
    with TemporaryDirectory() as folder:
        ours, rival = (partial(imported, modules, Path(folder)) for modules in ("flowctl", RIVAL))
        ours()  # compiles; so does the rival
        rival()
        pairs.take(count, ours, rival)
    at = {"figure": "import"}
    return [
        Row(
            name="import flowctl",
            unit="ms",
            samples=tuple(pairs.ours),
            rival=RIVAL,
            rival_samples=tuple(pairs.rival),
            target=IMPORT,
            at={**at, "import": "flowctl"},
        ),
        Row(name=f"import {RIVAL}", unit="ms", samples=tuple(pairs.rival), at={**at, "import": RIVAL}),
    ]


def steps(depth: Depth) -> list[Step]:
    seconds = depth.pick(1.0, 5.0, 60.0)
    count = depth.pick(5, 15, 60)
    return [
        Step("CPU of an idle process", seconds + 1.5, partial(_percent, seconds)),
        Step("import", 0.3 + count * 0.2, partial(_imports, count)),
    ]


PLOTS: Final = (Plot(title="import (ms of CPU)", x="import", where={"figure": "import"}),)

QUESTION: Final = Question("idle", "what flowctl costs a process that has nothing to do", steps, PLOTS)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        print(json.dumps(idle(*map(float, sys.argv[1:]))))
