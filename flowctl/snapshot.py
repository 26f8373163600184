"""Snapshots: what the controller tells about itself. Frozen, and safe to keep.

Loaded by the first one: these classes alone are a tenth of the import of all of flowctl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flowctl.stats import RevocationStats, SignalState


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LockUse:
    """What became of all who took a lock. Times are seconds.

    `waits` are the acquisitions that did not find it free; they waited for `waited` in all, and `longest` at most.
    `handoffs` counts how often another thread took it than the one before. `histogram[n]` is how many of the waits
    took less than 2**n microseconds, and at least half of that; its last entry has no end.
    """

    acquisitions: int = 0
    waits: int = 0
    waited: float = 0.0
    longest: float = 0.0
    handoffs: int = 0
    histogram: tuple[int, ...] = field(default=(), repr=False)

    @property
    def p99(self) -> float:
        """Within so many seconds 99 of 100 acquisitions had the lock, up to a factor of 2; 0.0: at once.

        >>> LockUse(acquisitions=100, waits=2, waited=7e-6, longest=4e-6, histogram=(0, 0, 1, 1)).p99
        4e-06
        """
        slowest = self.acquisitions / 100
        for power in reversed(range(len(self.histogram))):
            slowest -= self.histogram[power]
            if slowest < 0:
                return min((1 << power) / 1e6, self.longest)
        return 0.0


class ShardUse(NamedTuple):
    """The two sides of a shard's reader-writer lock."""

    read: LockUse
    write: LockUse


class WordUse(NamedTuple):
    """How often words were to be exchanged, and how often in vain, since another thread was faster: then it is tried
    again. `handoffs` counts how often another thread exchanged a word than the one before.
    """

    attempts: int
    lost: int
    handoffs: int


class Contention(NamedTuple):
    """Where threads meet, counted since the process began (or was forked). Exact where no thread is under way.

    `turn` decides who goes next: a request that is granted at once enters it twice. `shards` are those that take new
    flows: written for each flow that comes or goes, read by `stats()` and the collector. `tables` are the mutexes of
    all tables that flows and bands are found in, entered for each that goes; `idle` is that of the order in which flows
    fell idle. `bands` are the words of all bands' leases; a flow's word changes within the turn, and waits for nothing
    else.
    """

    turn: LockUse
    shards: tuple[ShardUse, ...]
    tables: LockUse
    idle: LockUse
    bands: WordUse
