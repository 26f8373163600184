"""What the parts of a controller tell about themselves. Frozen, and safe to keep."""

from __future__ import annotations

from typing import Literal, NamedTuple


class CollectReport(NamedTuple):
    """How much one `FlowController.collect()` took away."""

    flows: int = 0
    bands: int = 0
    shards: int = 0


class SignalState(NamedTuple):
    """A saturation signal as it stands: "fresh", "failing" (its latest sample failed, an older one still counts), or
    "stale" (none counts any more: `on_failure` does). `age` is that of the latest good sample, in seconds from when its
    source was asked; None if there was none, below 0 if the clock went back since (then it is stale).
    """

    name: str
    status: Literal["fresh", "failing", "stale"]
    value: float | None
    age: float | None
    failures: int
    error: str | None


class RevocationStats(NamedTuple):
    """How many holders were asked to stop, did, and had not by the timeout."""

    issued: int
    confirmed: int
    timed_out: int
