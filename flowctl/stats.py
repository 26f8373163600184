"""Snapshots: what the controller tells about itself. Frozen, and safe to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple


class CollectReport(NamedTuple):
    """How much one `FlowController.collect()` took away."""

    flows: int = 0
    bands: int = 0
    shards: int = 0


class LockUse(NamedTuple):
    """How often a lock was taken, how often somebody waited for it, and for how many seconds in all."""

    acquisitions: int
    waits: int
    waited: float


class ShardUse(NamedTuple):
    """The two sides of a shard's reader-writer lock."""

    read: LockUse
    write: LockUse


class Contention(NamedTuple):
    """Where threads meet: the turn's lock, the locks of the shards that take new flows, and the exchanges of the bands'
    leases, with those that another thread's made needless.
    """

    turn: LockUse
    shards: tuple[ShardUse, ...]
    exchanges: int
    lost_exchanges: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BandStats:
    """One priority band: requests queued and their bytes, seats in use, flows that exist, its limits (None: none)."""

    priority: int
    queued: int
    queued_bytes: int
    in_flight: int
    flows: int
    max_requests: int | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One controller at one moment.

    `in_flight` and `limit` are in seats; `saturation` is how full the back end is (1.0: full). `dispatched`,
    `rejected` and `evicted` count since the process began (or was forked): together with `queued` they are every
    request that was ever decided on. `folded` requests were served at an overflow flow, which their flow shares with
    others, since there were too many. `abandoned` tickets were granted, dropped without a release, and found.
    `repairs` counts books that were put right after an exception had torn them, `incidents` what a policy, observer,
    probe or callback raised. `overdue` requests held seats for longer than `hold_warning` when that was last looked at.
    """

    queued: int
    queued_bytes: int
    in_flight: int
    limit: int | None
    saturation: float
    flows: int
    bands: Mapping[int, BandStats]
    shards: int
    dispatched: int
    rejected: int
    evicted: int
    folded: int
    abandoned: int
    repairs: int
    incidents: int
    signals: tuple[SignalState, ...]
    revocations: RevocationStats
    overdue: int
