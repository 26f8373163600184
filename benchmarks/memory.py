"""How much memory does a flow keep while nobody uses it?

All that it keeps, as `tracemalloc` sees it, but for its id: the flow, its lease and queue, its places in the band's
table, in its shard and on the collector's wheel. Tables grow in leaps, so it is asked at many sizes: the median is the
figure, and the worst is shown beside it.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from typing import Final

from benchmarks.collection import Dial
from benchmarks.harness import Depth, Question, Row, Step, Target
from flowctl import ConcurrencyLimit, Config, FlowController

SIZES: Final = range(10_000, 44_000, 2_000)
TARGET: Final = Target("value", "at most", 350)


def _measure() -> Sequence[Row]:
    ids = [f"tenant-{number}" for number in range(SIZES[-1])]
    samples = []
    config = Config(max_flows=None)
    with FlowController(config, gate=ConcurrencyLimit(1), clock=Dial(), background=False) as controller:
        controller.admit("the band's first").release()
        controller.collect()
        gc.collect()
        tracemalloc.start()
        try:
            empty = tracemalloc.get_traced_memory()[0]
            for begin, size in zip((0, *SIZES), SIZES, strict=False):
                for flow in ids[begin:size]:
                    controller.admit(flow).release()
                controller.collect()  # nothing is due: it files the new ones on its wheel
                samples.append((tracemalloc.get_traced_memory()[0] - empty) / size)
        finally:
            tracemalloc.stop()
    return [
        Row(name="an idle flow, without its id", unit="bytes", samples=tuple(samples), target=TARGET),
        Row(name="the same, at the worst size of its tables", unit="bytes", samples=(max(samples),)),
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    return [Step("an idle flow", 4.0, _measure)]


QUESTION: Final = Question("memory", "how many bytes an idle flow keeps", steps)
