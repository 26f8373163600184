"""A partition of who exists: the flows of each band, behind one reader-writer lock.

Sets of `Flow` objects, never dicts by key: a successor with the same key is another member.
"""

from __future__ import annotations

from typing import final

from flowctl import sync
from flowctl.flow import Flow


@final
class Shard:
    """Flows by priority. Written to attach and detach, read for snapshots; the request path of a flow that exists
    never comes here.
    """

    __slots__ = ("_flows", "lock", "retired")

    def __init__(self) -> None:
        self.lock = sync.RWLock()  # rank: first of all
        # guarded by lock
        self.retired = False
        self._flows: dict[int, set[Flow]] = {}

    def attach(self, flow: Flow) -> bool:
        """Take a flow in; False if this shard takes no new ones any more."""
        with self.lock.write():
            if self.retired:
                return False
            flow.shard = self
            self._flows.setdefault(flow.band.priority, set()).add(flow)
            return True

    def detach(self, flow: Flow) -> bool:
        """Let a flow go; True for the one call that did: its caller finalises the flow."""
        with self.lock.write():
            if flow.detached:
                return False
            members = self._flows.get(flow.band.priority)
            if members is not None:
                members.discard(flow)
                if not members:
                    del self._flows[flow.band.priority]
            flow.detached = True  # last: if an exception kept us from getting here, the next one comes again
            return True

    def flows(self) -> list[Flow]:
        """Those of this moment."""
        found: list[Flow] = []
        with self.lock.read():
            for members in list(self._flows.values()):
                found.extend(members)  # one step a set
        return found

    def counts(self) -> dict[int, int]:
        """How many flows there are at each priority."""
        with self.lock.read():
            return {priority: len(members) for priority, members in list(self._flows.items())}

    def _check(self) -> None:
        with self.lock.read():
            for priority, members in self._flows.items():
                assert members, "an empty set stays behind"
                for flow in members:
                    assert flow.band.priority == priority
                    assert not flow.detached, "a finalised flow in a shard"
