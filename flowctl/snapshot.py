"""Snapshots: what the controller tells about itself. Frozen, and safe to keep.

Loaded by the first one: these classes alone are a tenth of the import of all of flowctl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from flowctl.stats import LockUse, RevocationStats, SignalState


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
