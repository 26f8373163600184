"""Who exists: creates flows and bands when they are first asked for, and takes them away when they were idle.

R1  A flow is finalised once, by whoever flips its `detached` under its shard's lock; that call gives the band's lease
    back, last.
R2  A band's lease has a pin for each flow that was built and not finalised, and one more if it is configured.
R3  Nothing that is built gets lost: a new flow is handed to the collector before anybody can see it, and stays with
    it until it is finalised.

Lock order: the founding of a band; a shard's lock, a table's mutex, words. Never under the turn.
"""

from __future__ import annotations

import weakref
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import final

from flowctl import sync
from flowctl.atomic import CellWord, SectionWord
from flowctl.band import PriorityBand
from flowctl.clock import Clock
from flowctl.config import Config
from flowctl.flow import Flow
from flowctl.lease import MARKED_FOR_DELETION, ONE_PIN, Lease, LeaseTable, born
from flowctl.request import FlowKey
from flowctl.shard import Shard
from flowctl.wheel import Wheel

_SPOKES_A_TIMEOUT = 32


@final
class _Move:
    """Stands for one creation or finalisation of a flow, in the frame that runs it: while it lives, a band may have a
    pin without a flow.
    """

    __slots__ = ("__weakref__",)


@final
class FlowRegistry:
    """The flows and bands of one controller."""

    __slots__ = (
        "_begun",
        "_clock",
        "_config",
        "_configured",
        "_founding",
        "_moves",
        "_newborn",
        "_section",
        "_wheel",
        "bands",
        "shards",
    )

    def __init__(self, config: Config, clock: Clock, section: sync.Mutex) -> None:
        # fixed after construction; a flow's word changes in the section
        self._config = config
        self._clock = clock
        self._section = section
        self._configured = [band.priority for band in config.bands if band.priority is not None]
        # one new band at a time, so that there are never too many. Re-entrant for handlers; rank: first of all
        self._founding = sync.RLock()
        self.bands: LeaseTable[int, PriorityBand[Flow]] = LeaseTable()
        self.shards = tuple(Shard() for _ in range(config.shards))
        # appended to by creators, emptied by the collector
        self._newborn: deque[Flow] = deque()
        # the collector's alone
        self._wheel: Wheel[Flow] = Wheel(spoke=int(config.flow_gc_timeout * 1000) // _SPOKES_A_TIMEOUT)
        # creations and finalisations: how many began, and those that are on their way
        self._begun = CellWord()
        self._moves: dict[int, weakref.ref[_Move]] = {}
        for priority in self._configured:
            # the pin that it is born with is never given back: a configured band is there for good
            self.bands.publish(priority, self._new_band(priority))

    # --- creating --------------------------------------------------------------------------------------------------

    def nearest(self, priority: int) -> int:
        """The priority at which a request is served: its own; or, where no band may be created for it, the nearest
        below, else the lowest that there is.
        """
        known = self.bands.entries
        if priority in known:
            return priority
        if self._config.dynamic_bands and len(known) < self._config.max_bands:
            return priority
        candidates = list(known)
        below = [candidate for candidate in candidates if candidate < priority]
        return max(below) if below else min(candidates, default=priority)

    def find(self, key: FlowKey) -> Flow | None:
        """The flow, if it exists; perhaps marked already. Takes no lock."""
        try:
            return self.bands.entries[key.priority].flows.entries[key.id]
        except KeyError:
            return None

    def create(self, key: FlowKey, adopt: Callable[[Flow], None]) -> Flow:
        """The flow of this key: created, if nobody was faster. Waits for no collection.

        A new flow is born with one pin; `adopt` is told before anybody else can see the flow, and owns that pin.
        Whatever a constructor raises goes to this caller alone, and nothing stays behind.
        """
        move = _Move()
        try:
            self._begin(move)
            return self._create(key.id, self._pin_band(key.priority), adopt)
        finally:
            self._moves.pop(id(move), None)
            del move  # whoever keeps an exception keeps this frame

    def _create(self, flow_id: str, band: PriorityBand[Flow], adopt: Callable[[Flow], None]) -> Flow:
        """The same, at a band that the caller has pinned for it."""
        flow: Flow | None = None
        winner: Flow | None = None
        try:
            word = SectionWord(self._section, born(self._clock.now(), pins=1))
            flow = Flow(flow_id, band, self._shard_for(flow_id, band.priority), word)
            adopt(flow)  # before the collector knows of it: it takes away pins that nobody answers for
            self._newborn.append(flow)
            self._attach(flow)
            winner = band.flows.publish(flow_id, flow)
            if winner is not flow:
                self._finalise(flow)
        except BaseException:
            if winner is None and (flow is None or flow.detached):
                band.lease.unpin(self._clock.now)  # nothing came into a shard
            elif flow is not None and band.flows.entries.get(flow.id) is not flow:  # else others may use it by now
                self._finalise(flow)
            raise
        return winner

    def _attach(self, flow: Flow) -> None:
        """Put a new flow into its shard; into another, if that was retired meanwhile."""
        while not flow.shard.attach(flow):
            flow.shard = self._shard_for(flow.id, flow.band.priority)

    def remove(self, flow: Flow) -> None:
        """Take a marked flow out of its band's table, if it is still in: whoever meets one helps."""
        flow.band.flows.remove(flow.id, flow)

    def _pin_band(self, priority: int) -> PriorityBand[Flow]:
        """The band of this priority, created if need be, with one pin for the caller."""
        while True:
            band = self.bands.pin(priority)
            if band is not None:
                return band
            with self._founding:
                priority = self.nearest(priority)  # looked at again: there may be no room for one more by now
                fresh = self._new_band(priority)
                if self.bands.publish(priority, fresh) is fresh:
                    return fresh

    def _new_band(self, priority: int) -> PriorityBand[Flow]:
        word = CellWord(born(self._clock.now(), pins=1))
        return PriorityBand(priority, self._config.band_at(priority), Lease(word))

    def _shard_for(self, flow_id: str, priority: int) -> Shard:
        # stable: the same key goes to the same shard in every process
        return self.shards[zlib.crc32(f"{priority}:{flow_id}".encode()) % len(self.shards)]

    # --- collecting: one thread at a time --------------------------------------------------------------------------

    def sweep_flows(self, pinned: Callable[[Flow], None]) -> int:
        """Collect the flows that were idle for the timeout; how many. Looks only at what fell due.

        `pinned` is told of each flow that is due but pinned.
        """
        now = self._clock.now()
        timeout = self._config.flow_gc_timeout
        while self._newborn:
            self._file(self._newborn[0], now)
            self._newborn.popleft()
        collected = 0
        for flow in self._wheel.due(int(now * 1000)):
            lease = flow.lease
            if lease.try_mark(now, timeout) or lease.is_marked:  # marked before: by a collection that died
                self.remove(flow)
                collected += self._finalise(flow)
            elif lease.pins:
                self._wheel.file(flow, int((now + timeout) * 1000))
                pinned(flow)
            else:
                self._file(flow, now)
        return collected

    def _file(self, flow: Flow, now: float) -> None:
        """Under the earliest moment at which it can have been idle for the timeout."""
        self._wheel.file(flow, int((now - flow.lease.idle_for(now) + self._config.flow_gc_timeout) * 1000))

    def sweep_bands(self) -> int:
        """Collect the bands that have no flow and were idle for the timeout; how many."""
        now = self._clock.now()
        assert self._config.band_gc_timeout is not None
        collected = 0
        for priority, band in self.bands.entries.copy().items():
            if band.lease.try_mark(now, self._config.band_gc_timeout) or band.lease.is_marked:
                collected += self.bands.remove(priority, band)
        return collected

    def audit_bands(self) -> int:
        """Give back the pins of bands that an exception kept from being given back; of how many bands.

        Only where nothing moved from before the words were read until the flows were counted. What moves after that
        changes the band's word, so that the exchange fails.
        """
        mended = 0
        begun = self._begun.load()
        if any(move() is not None for move in self._moves.copy().values()):
            return 0  # somebody is between a pin and its flow
        flows: Counter[int] = Counter(self._configured)
        words = {priority: band.lease.word.load() for priority, band in self.bands.entries.copy().items()}
        for shard in self.shards:
            flows.update(shard.counts())
        for priority, word in words.items():
            band = self.bands.entries.get(priority)
            pins = flows[priority]
            if band is None or word >= MARKED_FOR_DELETION or word // ONE_PIN <= pins or self._begun.load() != begun:
                continue
            mended += band.lease.word.compare_exchange(word, word % ONE_PIN + pins * ONE_PIN)
        return mended

    def _finalise(self, flow: Flow) -> bool:
        """Let go of a flow that nobody can find any more; False if it is in no shard: nothing is left to be done."""
        move = _Move()
        try:
            self._begin(move)
            if not flow.shard.detach(flow):
                return False
            flow.band.lease.unpin(self._clock.now)
            return True
        finally:
            self._moves.pop(id(move), None)
            del move  # whoever keeps an exception keeps this frame

    def _begin(self, move: _Move) -> None:
        """Announce a move: it stands among the moves before it counts, so that no audit can miss both."""
        self._moves[id(move)] = weakref.ref(move)
        self._begun.fetch_add(1)

    # --- looking ---------------------------------------------------------------------------------------------------

    def flows(self) -> list[Flow]:
        """All that exist, in no order."""
        return [flow for shard in self.shards for flow in shard.flows()]

    def _check(self, pins: Mapping[Flow, int]) -> None:
        """At rest: no creation and no collection is on its way. `pins`: what the turn's books say."""
        self.bands._check()
        alive = self.flows()
        assert len(set(alive)) == len(alive), "a flow in two shards"
        for priority, band in self.bands.entries.items():
            members = [flow for flow in alive if flow.band is band]
            assert band.lease.pins == len(members) + (priority in self._configured), f"L6: the lease of band {priority}"
            for flow in members:
                assert band.flows.entries.get(flow.id) is flow or flow.lease.is_marked, "L2: out of the table, unmarked"
        for flow in alive:
            assert flow.lease.pins == pins.get(flow, 0), f"L3: {flow.key} has pins that no request answers for"
            held = not pins.get(flow) or flow.band.flows.entries.get(flow.id) is flow
            assert held, f"L4: {flow.key} is held, and is not the one in the table"
            assert not flow.detached, f"L5: {flow.key} was finalised and is still there"
            assert self.bands.entries.get(flow.band.priority) is flow.band, "a flow of a band that is gone"
        for shard in self.shards:
            shard._check()
