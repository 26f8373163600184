"""A flow: a key, a lease, a queue, and where it belongs."""

from __future__ import annotations

from typing import Protocol, final

from flowctl import sync
from flowctl.band import Place, PriorityBand
from flowctl.lease import Lease, SectionWord
from flowctl.queue import EMPTY
from flowctl.request import FlowKey


class Home(Protocol):
    """A shard, as far as its flows care."""

    def attach(self, flow: Flow) -> bool: ...

    def detach(self, *flows: Flow) -> int: ...


@final
class Flow(SectionWord):
    """All there is of one flow, which is the word of its lease too: its section is the turn. It is pinned while any
    request of it is queued or in flight.
    """

    __slots__ = (
        "activation",
        "band",
        "detached",
        "finish",
        "id",
        "place",
        "queue",
        "shard",
        "slack",
        "start",
    )

    def __init__(self, flow_id: str, band: PriorityBand[Flow], shard: Home, section: sync.Mutex, word: int) -> None:
        super().__init__(section, word)
        # fixed after construction, but for the shard until it is attached
        self.id = flow_id
        self.band = band
        self.shard = shard
        # guarded by the turn
        self.queue = EMPTY
        self.start: float = 0
        self.finish: float = 0
        self.place: Place | None = None
        self.activation = 0
        self.slack: float = 0
        # in no shard: until it is attached, and for good once it is finalised; flipped under its shard's write lock
        self.detached = True

    @property
    def key(self) -> FlowKey:
        return FlowKey(self.id, self.band.priority)

    @property
    def lease(self) -> Lease:
        return Lease(self)
