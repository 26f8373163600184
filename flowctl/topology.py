"""Which shards there are: those that take new flows, and retired ones that still have some.

H1  Every flow that was attached is in a shard that is listed here.
H2  A retired shard takes no flow, and is dropped once its last one has gone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import final

from flowctl import sync
from flowctl.flow import Flow
from flowctl.shard import Shard


@final
class Layout:
    """The shards of one moment. Never changed: another takes its place."""

    __slots__ = ("live", "retired")

    def __init__(self, live: tuple[Shard, ...], retired: tuple[Shard, ...] = ()) -> None:
        self.live = live
        self.retired = retired


@final
class Topology:
    """The shards of one controller. How many there are changes contention on who exists, never who goes next."""

    __slots__ = ("_layout", "_mutex", "_now")

    def __init__(self, count: int, now: Callable[[], float] | None = None) -> None:
        # fixed after construction; how the shards' locks count, if they do
        self._now = now
        # one resize at a time; re-entrant for handlers; rank: before a shard's lock
        self._mutex = sync.RLock()
        # replaced as a whole under _mutex, read by anyone
        self._layout = Layout(tuple(Shard(now) for _ in range(count)))

    @property
    def live(self) -> tuple[Shard, ...]:
        return self._layout.live

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All that may have flows."""
        layout = self._layout
        return layout.live + layout.retired

    def shard_for(self, flow_id: str, priority: int) -> Shard:
        """The shard of a new flow: the same for the same key, in every process."""
        live = self._layout.live
        return live[zlib.crc32(f"{priority}:{flow_id}".encode()) % len(live)]

    def attach(self, flow: Flow) -> None:
        """Put a new flow into its shard; into another, if that was retired meanwhile."""
        while not flow.shard.attach(flow):
            flow.shard = self.shard_for(flow.id, flow.band.priority)

    def resize(self, count: int) -> None:
        """Have new flows go to so many shards; those that exist stay where they are."""
        done = False
        while not done:  # again if a handler of our own thread changed the layout meanwhile
            with self._mutex:
                done = self._try_resize(count)

    def _try_resize(self, count: int) -> bool:
        seen = self._layout
        more = tuple(Shard(self._now) for _ in range(count - len(seen.live)))
        new = Layout(seen.live[:count] + more, seen.retired + seen.live[count:])
        if self._layout is not seen:
            return False
        self._layout = new  # nothing is called since it was compared: no handler can come between
        for shard in new.retired:
            shard.retire()
        return True

    def sweep(self) -> int:
        """Drop the retired shards that are empty; how many."""
        dropped = 0
        for shard in self._layout.retired:
            shard.retire()  # should an exception have kept the resize from it
            dropped += shard.try_drop()
        done = False
        while not done:
            with self._mutex:
                done = self._try_forget()
        return dropped

    def _try_forget(self) -> bool:
        seen = self._layout
        if not any(shard.dropped for shard in seen.retired):
            return True
        new = Layout(seen.live, tuple(shard for shard in seen.retired if not shard.dropped))
        if self._layout is not seen:
            return False
        self._layout = new
        return True

    def __len__(self) -> int:
        """How many flows there are. Takes no lock."""
        return sum([shard.size for shard in self.shards])

    def flows(self) -> list[Flow]:
        """All that exist, in no order."""
        return [flow for shard in self.shards for flow in shard.flows()]

    def _check(self) -> None:
        layout = self._layout
        assert layout.live, "no shard at all"
        assert len(set(map(id, self.shards))) == len(self.shards), "a shard twice"
        for shard in self.shards:
            shard._check()
            assert shard.retired == (shard in layout.retired), "H2: retired, or not"
