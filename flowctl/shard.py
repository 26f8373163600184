"""A partition of who exists: the flows of each band, behind one reader-writer lock.

Its members are `Flow` objects, never keys: a successor with the same key is another member. (The sets are dicts
without values, whose `del` is a single step.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from flowctl import sync
from flowctl.flow import Flow


@final
class Shard:
    """Flows by priority. Written to attach and detach, read for snapshots; the request path of a flow that exists
    never comes here.
    """

    __slots__ = ("_flows", "dropped", "lock", "retired", "size")

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.lock = sync.RWLock(now)  # rank: first of all; it counts if there is a clock
        # guarded by lock, and each flipped once
        self.retired = False
        self.dropped = False
        self._flows: dict[int, dict[Flow, None]] = {}
        # written under lock, read by anyone: how many flows there are
        self.size = 0

    def attach(self, flow: Flow) -> bool:
        """Take a flow in; False if this shard takes no new ones any more."""
        with self.lock.write():
            if self.retired:
                return False
            priority = flow.band.priority
            # without a call, here and in `_detach_locked`: no exception can come between the steps, and no handler
            try:
                members = self._flows[priority]
            except KeyError:
                members = self._flows[priority] = {}
            members[flow] = None
            self.size += 1
            flow.shard = self
            flow.detached = False
            return True

    def detach(self, *flows: Flow) -> int:
        """Let flows go; how many this call did: its caller finalises these."""
        with self.lock.write():
            return sum([self._detach_locked(flow) for flow in flows])

    def _detach_locked(self, flow: Flow) -> bool:
        if flow.detached:
            return False
        priority = flow.band.priority
        members = self._flows[priority]
        del members[flow]
        self.size -= 1
        flow.detached = True
        if not members:
            del self._flows[priority]
        return True

    def retire(self) -> None:
        """Take no new flow from now on."""
        with self.lock.write():
            self.retired = True

    def try_drop(self) -> bool:
        """Go for good, if retired and left by the last flow; True for the one call that did."""
        with self.lock.write():
            if not self.retired or self._flows or self.dropped:
                return False
            self.dropped = True
            return True

    def flows(self) -> list[Flow]:
        """Those of this moment."""
        found: list[Flow] = []
        with self.lock.read():
            for members in list(self._flows.values()):
                found.extend(members)  # one step a set
        return found

    def flows_at(self, priority: int) -> list[Flow]:
        """Those of this moment, of one priority."""
        with self.lock.read():
            return list(self._flows.get(priority, ()))

    def counts(self) -> dict[int, int]:
        """How many flows there are at each priority."""
        with self.lock.read():
            return {priority: len(members) for priority, members in list(self._flows.items())}

    def _check(self) -> None:
        with self.lock.read():
            self._check_locked()

    def _check_locked(self) -> None:
        assert self.size == sum(map(len, self._flows.values())), "how many flows there are"
        assert not (self.dropped and self._flows), "a shard that was dropped has flows"
        for priority, members in self._flows.items():
            for flow in members:
                assert flow.band.priority == priority
                assert not flow.detached, "a finalised flow in a shard"
