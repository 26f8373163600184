"""Made-up flow ids, in a process of its own whose memory is looked at: ``python -m benchmarks.flood COUNT``.

First each is asked for once and given back at once. Then the flows that there may be are all kept in use, and a tenth
as many more are asked for: these share the overflow flows. Prints what it found as JSON. Linux only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from flowctl import ConcurrencyLimit, Config, FlowController

CONFIG: Final = Config()
SEATS: Final = 20_000
EVERY: Final = 10_000
"""Requests between two looks at the statistics."""

MEMORY: Final = Path("/proc/self/status")


def memory(what: str) -> float:
    """Megabytes that this process has (``VmRSS``), or had at most (``VmHWM``)."""
    lines = MEMORY.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def flood(count: int) -> dict[str, float]:
    """The most memory above what it had in the beginning, the most flows, and the requests that were folded."""
    assert CONFIG.max_flows is not None
    with FlowController(CONFIG, gate=ConcurrencyLimit(SEATS)) as controller:
        controller.admit("the first").release()
        base = memory("VmRSS")
        most = _ask(controller, "made-up", count)
        passing, idle = controller.stats(), memory("VmHWM")
        held = [controller.admit(f"held-{number}") for number in range(CONFIG.max_flows)]
        most = max(most, _ask(controller, "shared", count // 10))
        stats, used = controller.stats(), memory("VmHWM")
        for ticket in held:
            ticket.release()
    assert passing.folded == 0, f"{passing.folded} requests were folded where idle flows could go"
    assert (stats.rejected, stats.evicted, stats.in_flight) == (0, 0, CONFIG.max_flows), f"who was refused? {stats}"
    return {"idle": idle - base, "used": used - base, "flows": most, "folded": stats.folded}


def _ask(controller: FlowController, prefix: str, count: int) -> int:
    """With so many ids, one after the other; the most flows that there were."""
    most = 0
    for number in range(count):
        controller.admit(f"{prefix}-{number}").release()
        if number % EVERY == 0:
            most = max(most, controller.stats().flows)
    return max(most, controller.stats().flows)


if __name__ == "__main__":
    print(json.dumps(flood(int(sys.argv[1]))))
