"""Who notices that flows come and go? 8 threads ask and hold for 1 ms; beside them keys are made up, used once each,
and collected, until none of them is left. A part of the question `matrix`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count, repeat
from typing import Final, NamedTuple, final

from benchmarks.harness import Row, percentile
from benchmarks.waiting import THREADS, waits
from flowctl import ConcurrencyLimit, Config, FlowController

IDLE: Final = 0.02
BATCH: Final = 500


class Churned(NamedTuple):
    """Keys made and collected a second; milliseconds: the p99 of the workers' waits meanwhile, and without that."""

    keys: float
    p99: float
    quiet: float


@final
class Churn:
    """Flows that come and go beside workers that hold for 1 ms and keep theirs."""

    def __init__(self, keys: int) -> None:
        config = Config(shards=8, max_flows=None, flow_gc_timeout=IDLE, gc_interval=1.0)
        # without a collector of its own: who makes the keys collects them
        self.controller = FlowController(config, gate=ConcurrencyLimit(2 * THREADS), background=False)
        self._keys = keys
        self._fresh = count()

    def measured(self) -> Churned:
        """One window with churn, and one as long without."""
        began = time.perf_counter()
        busy = waits(self.controller, self._names, self.churn)
        seconds = time.perf_counter() - began
        quiet = waits(self.controller, self._names, lambda: time.sleep(seconds))
        self.check()
        return Churned(self._keys / seconds, percentile(busy, 0.99), percentile(quiet, 0.99))

    def _names(self, number: int) -> Iterator[str]:
        return repeat(f"tenant-{number}")

    def churn(self) -> None:
        """Make all keys, and collect until none of them is left."""
        for number in range(self._keys):
            self.controller.admit(f"churn-{next(self._fresh)}").release()
            if number % BATCH == 0:
                self.controller.collect()
        while any(key.id.startswith("churn") for key in self.controller.flows()):
            time.sleep(IDLE)
            self.controller.collect()

    def check(self) -> None:
        """Nothing is left of them."""
        stats = self.controller.stats()
        assert (stats.in_flight, stats.queued, stats.rejected, stats.repairs) == (0, 0, 0, 0), f"wrong: {stats}"
        assert stats.flows <= THREADS, f"{stats.flows} flows are left of {self._keys:,} keys"
        self.controller._check()


def measure(keys: int) -> Sequence[Row]:
    churn = Churn(keys)
    with churn.controller:
        found = churn.measured()
    at: dict[str, str | float] = {"keys": keys}
    return [
        Row(name="keys made and collected, beside workers", unit="/s", samples=(found.keys,), at=at),
        Row(
            name=f"p99 of the wait of {THREADS} workers, while keys come and go",
            unit="ms",
            samples=(found.p99,),
            rival="while nothing else happens",
            rival_samples=(found.quiet,),
            at=at,
        ),
    ]
