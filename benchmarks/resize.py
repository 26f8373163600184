"""Who notices that the number of shards changes?

8 threads ask and hold for 1 ms each; every 16th time for a flow that does not exist yet, since others never meet a
shard. In every second window the shards go from 1 to 8, and back, 50 times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final, final

from benchmarks.harness import Depth, Question, Row, Step, Target, in_turns, percentile
from benchmarks.waiting import THREADS, waits
from flowctl import ConcurrencyLimit, Config, FlowController

SHARE: Final = 0.999
PERIOD: Final = 0.02
NEW: Final = 16
WINDOW: Final = 0.6
"""Of the usual one."""

TARGET: Final = Target("ratio", "at most", 2.0)


@final
class Load:
    """A controller with so many seats, and windows of load on it."""

    def __init__(self, seats: int) -> None:
        # flows go after a second, so that retired shards do
        config = Config(shards=1, flow_gc_timeout=1.0)
        self.controller = FlowController(config, gate=ConcurrencyLimit(seats))
        self._fresh = count()
        self.resized = 0

    def names(self, number: int) -> Iterator[str]:
        """A thread's own flow, and now and then a new one."""
        for turn in count(1):
            yield f"new-{next(self._fresh)}" if turn % NEW == 0 else f"tenant-{number}"

    def window(self, beside: Callable[[], None]) -> list[float]:
        """Milliseconds of each admit."""
        return waits(self.controller, self.names, beside)

    def resize(self, seconds: float) -> None:
        """Up and down for so long, down in the end."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for shards in (8, 1):
                time.sleep(PERIOD)
                self.controller.resize(shards)
                self.resized += 1


def _measure(name: str, seats: int, depth: Depth) -> Sequence[Row]:
    load, seconds = Load(seats), WINDOW * depth.window
    with load.controller:
        load.window(lambda: time.sleep(seconds / 4))  # warm
        busy, quiet = in_turns(
            depth.windows,
            [
                lambda: percentile(load.window(lambda: load.resize(seconds)), SHARE),
                lambda: percentile(load.window(lambda: time.sleep(seconds)), SHARE),
            ],
        )
    return [
        Row(
            name=name,
            unit="ms",
            samples=tuple(busy),
            rival="no resize",
            rival_samples=tuple(quiet),
            target=TARGET,
        )
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    found = []
    for seats, room in ((2 * THREADS, "seats for all"), (THREADS // 2, "4 seats")):
        name = f"p{SHARE * 100:g} of admit's wait, {THREADS} threads, {room}"
        found.append(
            Step(name, (2 * depth.windows + 0.25) * depth.window * WINDOW, partial(_measure, name, seats, depth))
        )
    return found


QUESTION: Final = Question("resize", "how long admit takes while shards go from 1 to 8 and back", steps)
