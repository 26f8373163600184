"""Who exists: creates flows when they are first asked for, and takes them away when they were idle.

R1  A flow is finalised once, by whoever flips its `detached` under its shard's lock; that call gives the band's lease
    back, last.
R2  A band's lease has a pin for each flow that was built and not finalised, and one more if it is configured.
R3  Nothing that is built gets lost: a new flow is filed to be looked at before anybody can see it, and stays filed
    until it is finalised.
R4  With `max_flows` flows in existence no new one is created, but for the overflow flows and those with a weight, and
    by threads that create at the same moment.

Lock order: the founding of a band; the order of the idle; a shard's lock, a table's mutex, words. Never under the turn.
"""

from __future__ import annotations

import math
import weakref
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar, final

from flowctl import sync
from flowctl.atomic import CellWord
from flowctl.band import PriorityBand
from flowctl.bands import Bands
from flowctl.clock import Clock, give_way
from flowctl.config import BandConfig, Config
from flowctl.flow import Flow, Home
from flowctl.lease import MARKED_FOR_DELETION, ONE_PIN, LeaseTable, born
from flowctl.profile import Profile
from flowctl.request import RESERVED_PREFIX, FlowKey
from flowctl.topology import Topology
from flowctl.wheel import Wheel

T = TypeVar("T")

_SPOKES_A_TIMEOUT = 32

LOOKS: Final = 16
"""At so many flows at most it is looked to find one that is idle, each time that a new one needs room."""

A_SECTION: Final = 32
"""So many flows are filed or collected at a time: so long others wait for the locks."""


@final
class _Move:
    """Stands for one creation or finalisation of a flow, or change of which bands are configured, in the frame that
    runs it: while it lives, a band may have a pin without a flow.
    """

    __slots__ = ("__weakref__",)


@final
class FlowRegistry:
    """The flows and bands of one controller."""

    __slots__ = (
        "_begun",
        "_clock",
        "_config",
        "_idle",
        "_is_interrupted",
        "_is_turning",
        "_moves",
        "_newborn",
        "_section",
        "_wheel",
        "bands",
        "folded",
        "founded",
        "topology",
    )

    def __init__(
        self,
        config: Config,
        clock: Clock,
        section: sync.Mutex,
        is_interrupted: Callable[[], bool],
        profile: Profile | None = None,
    ) -> None:
        # fixed after construction; a flow's word changes in the section
        self._config = config
        self._clock = clock
        self._section = section
        self._is_interrupted = is_interrupted
        self.founded = Bands(config, clock, profile)
        self.bands: LeaseTable[int, PriorityBand[Flow]] = self.founded.table
        self.topology = Topology(config.shards, profile and profile.now)
        # appended to by creators, emptied under _idle
        self._newborn: deque[Flow] = deque()
        # one look at a flow that may be idle at a time. Re-entrant for handlers, whom _is_turning tells that they came
        # in the middle of one; rank: before a shard's lock
        self._idle: sync.Mutex = sync.RLock() if profile is None else profile.idle()
        # guarded by _idle
        self._is_turning = False
        self._wheel: Wheel[Flow] = Wheel(spoke=int(config.flow_gc_timeout * 1000) // _SPOKES_A_TIMEOUT)
        # how many requests were sent to an overflow flow
        self.folded = CellWord()
        # moves: another object since each that began, and those that are on their way
        self._begun = object()
        self._moves: dict[int, weakref.ref[_Move]] = {}

    # --- creating --------------------------------------------------------------------------------------------------

    def find(self, key: FlowKey) -> Flow | None:
        """The flow, if it exists; perhaps marked already. Takes no lock."""
        try:
            flows = self.bands.entries[key.priority].flows.entries
            return flows[key.id] if key.id in flows else None  # mostly not: an exception would cost more
        except KeyError:
            return None

    def look_up(self, asked: FlowKey) -> tuple[FlowKey, Flow | None] | None:
        """Where a request is served, and that flow if it exists: its own, at the nearest priority that takes it, or one
        that it shares. None if no band takes it.
        """
        priority = self.founded.nearest(asked.priority)
        if priority is None:
            return None
        key = asked if priority == asked.priority else FlowKey(asked.id, priority)
        flow = self.find(key)
        if flow is not None:
            return key, flow
        served = self.key_for(key)
        return served, None if served is key else self.find(served)

    def key_for(self, key: FlowKey) -> FlowKey:
        """At which flow a request is served whose own does not exist: that; or, where there are too many and none of
        them is idle, one that it shares with others.
        """
        most = self._config.max_flows
        for _ in range(LOOKS):  # more than one may have to go: the overflow flows come on top
            if most is None or len(self.topology) < most:
                return key
            if not self._collect_longest_idle():
                break
        band = self.bands.entries.get(key.priority)
        config = self.founded.config_at(key.priority) if band is None else band.config
        if key.id in config.weights:
            return key
        self.folded.fetch_add(1)
        share = zlib.crc32(key.id.encode()) % self._config.overflow_flows
        return FlowKey(f"{RESERVED_PREFIX}overflow-{share}", key.priority)

    def create(self, key: FlowKey, adopt: Callable[[Flow], None]) -> Flow:
        """The flow of this key: created, if nobody was faster. Waits for no collection.

        A new flow is born with one pin; `adopt` is told before anybody else can see the flow, and owns that pin.
        Whatever a constructor raises goes to this caller alone, and nothing stays behind.
        """
        return self._announced(lambda: self._create(key.id, self.founded.pin(key.priority), adopt))

    def _create(self, flow_id: str, band: PriorityBand[Flow], adopt: Callable[[Flow], None]) -> Flow:
        """The same, at a band that the caller has pinned for it."""
        flow: Flow | None = None
        winner: Flow | None = None
        try:
            shard = self.topology.shard_for(flow_id, band.priority)
            flow = Flow(flow_id, band, shard, self._section, born(self._clock.now(), pins=1))
            adopt(flow)  # before the collector knows of it: it takes away pins that nobody answers for
            self._newborn.append(flow)
            self.topology.attach(flow)
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

    def add_band(self, config: BandConfig) -> PriorityBand[Flow]:
        """See `Bands.configure`."""
        return self._announced(lambda: self.founded.configure(config))

    def retire_band(self, priority: int) -> PriorityBand[Flow]:
        """See `Bands.unconfigure`."""
        return self._announced(lambda: self.founded.unconfigure(priority))

    def _announced(self, change: Callable[[], T]) -> T:
        """Make a change in the course of which a band has another number of pins than it should."""
        move = _Move()
        try:
            self._begin(move)
            return change()
        finally:
            self._moves.pop(id(move), None)
            del move  # whoever keeps an exception keeps this frame

    def remove(self, flow: Flow) -> None:
        """Take a marked flow out of its band's table, if it is still in: whoever meets one helps."""
        flow.band.flows.remove(flow.id, flow)

    # --- collecting ------------------------------------------------------------------------------------------------

    def sweep_flows(self, pinned: Callable[[Flow], None]) -> int:
        """Collect the flows that were idle for the timeout; how many. Looks only at what fell due.

        `pinned` is told of each flow that is due but pinned.
        """
        now = self._clock.now()
        collected: list[int] = []

        def bring_up() -> bool:
            self._wheel.turn(int(now * 1000))
            return True

        def look_at_some() -> bool:
            return self._look_locked(now, collected.append, pinned)

        self._file_newborn(now)
        if self._turn_wheel(bring_up):
            while self._turn_wheel(look_at_some):
                give_way()
        retired = [band for band in self.bands.entries.copy().values() if band.is_retired]
        return sum(collected) + sum([self._sweep_retired(band, now) for band in retired])

    def _look_locked(self, now: float, collected: Callable[[int], None], pinned: Callable[[Flow], None]) -> bool:
        """Look at some of the flows that are up, and tell what became of them; False once none is left."""
        flows = self._wheel.next(A_SECTION)
        leaving = {flow: None for flow in flows if self._try_mark(flow, now, self._config.flow_gc_timeout)}
        for flow in leaving:
            self.remove(flow)
        if leaving:
            collected(self._finalise(*leaving))
        for flow in flows:  # until here all are on the wheel: should this collection die, another one finds them there
            if flow not in leaving:
                self._wheel.file(flow, self._due_at(flow, now))
                if flow.lease.pins:
                    pinned(flow)
            self._wheel.drop()
        return bool(flows)

    def _sweep_retired(self, band: PriorityBand[Flow], now: float) -> int:
        """The flows of a retired band go as soon as they are idle: nobody comes to them any more. How many went."""
        flows = [flow for shard in self.topology.shards for flow in shard.flows_at(band.priority)]
        return sum([flow.lease.try_mark(now, 0.0) and self._take_away(flow) for flow in flows])

    def _turn_wheel(self, act: Callable[[], bool]) -> bool:
        """Do something with the wheel, and return what it returns; False for a handler in the middle of that, or of a
        section of the turn: whoever turns the wheel may wait for that section.
        """
        if self._is_interrupted():
            return False
        with self._idle:
            if self._is_turning:
                return False
            self._is_turning = True
            try:
                return act()
            finally:
                self._is_turning = False

    def _collect_longest_idle(self) -> bool:
        """Collect the flow that was idle for longest; False if none of those looked at is idle."""
        self._file_newborn(self._clock.now())
        return self._turn_wheel(self._collect_longest_idle_locked)

    def _collect_longest_idle_locked(self) -> bool:
        now = self._clock.now()
        self._file_newborn_locked(now, most=len(self._newborn))
        looks = 0
        while looks < LOOKS:
            self._wheel.turn_next(key=_word)
            flow = self._wheel.up
            if flow is None:
                return False
            looks += not (flow.detached and flow.lease.is_marked)  # what went with its band is only dropped
            was_used = self._wheel.is_later(self._due_at(flow, now))
            collected = self._collect_locked(flow, now, math.inf if was_used else 0.0)
            self._wheel.drop()
            if collected:
                return True
        return False

    def _collect_locked(self, flow: Flow, now: float, timeout: float) -> bool:
        """Take a flow away, if it was idle for so long; else file it for when it may have been."""
        if self._try_mark(flow, now, timeout):
            return self._take_away(flow)
        self._wheel.file(flow, self._due_at(flow, now))
        return False

    def _try_mark(self, flow: Flow, now: float, timeout: float) -> bool:
        """Mark it, if it was idle for so long; True if it is marked, also by a collection that died."""
        lease = flow.lease
        return (timeout < math.inf and lease.try_mark(now, timeout)) or lease.is_marked

    def _take_away(self, flow: Flow) -> bool:
        """Remove and finalise a marked flow; True if this call finalised it."""
        self.remove(flow)
        return self._finalise(flow) > 0

    def _file_newborn(self, now: float) -> None:
        """File all those that there are by now, some at a time: whoever needs the wheel does not wait for all."""

        def file_some() -> bool:
            self._file_newborn_locked(now, most=A_SECTION)
            return True

        for _ in range(0, len(self._newborn), A_SECTION):
            self._turn_wheel(file_some)

    def _file_newborn_locked(self, now: float, most: int) -> None:
        newborn = self._newborn
        for _ in range(min(most, len(newborn))):
            self._wheel.file(newborn[0], self._due_at(newborn[0], now))
            newborn.popleft()

    def _due_at(self, flow: Flow, now: float) -> int:
        """The earliest moment, in milliseconds, at which it can have been idle for the timeout."""
        lease = flow.lease
        idle_for = 0.0 if lease.pins else lease.idle_for(now)
        return int((now - idle_for + self._config.flow_gc_timeout) * 1000)

    def sweep_bands(self) -> int:
        """Collect the bands that nobody uses; how many."""
        return self.founded.sweep()

    def audit_bands(self) -> int:
        """Give back the pins of bands that an exception kept from being given back; of how many bands.

        Only where nothing moved from before the words were read until the flows were counted. What moves after that
        changes the band's word, so that the exchange fails.
        """
        mended = 0
        begun = self._begun
        if any(move() is not None for move in self._moves.copy().values()):
            return 0  # somebody is between a pin and its flow
        flows: Counter[int] = Counter(list(self.founded.configured))
        words = {priority: band.lease.word.load() for priority, band in self.bands.entries.copy().items()}
        for shard in self.topology.shards:
            flows.update(shard.counts())
        for priority, word in words.items():
            band = self.bands.entries.get(priority)
            pins = flows[priority]
            if band is None or word >= MARKED_FOR_DELETION or word // ONE_PIN <= pins or self._begun is not begun:
                continue
            mended += band.lease.word.compare_exchange(word, word % ONE_PIN + pins * ONE_PIN)
        return mended

    def _finalise(self, *flows: Flow) -> int:
        """Let go of flows that nobody can find any more; how many this call did: where one is in no shard, nothing is
        left to be done.
        """
        return self._announced(lambda: self._let_go(flows))

    def _let_go(self, flows: Sequence[Flow]) -> int:
        homes: dict[tuple[Home, PriorityBand[Flow]], list[Flow]] = {}
        for flow in flows:
            homes.setdefault((flow.shard, flow.band), []).append(flow)
        gone = 0
        for (shard, band), members in homes.items():  # a lock is taken once for all of them
            detached = shard.detach(*members)
            if detached:
                band.lease.unpin(self._clock.now, detached)
            gone += detached
        return gone

    def _begin(self, move: _Move) -> None:
        """Announce a move: it stands among the moves before it counts, so that no audit can miss both."""
        self._moves[id(move)] = weakref.ref(move)
        self._begun = object()

    # --- looking ---------------------------------------------------------------------------------------------------

    def flows(self) -> list[Flow]:
        """All that exist, in no order."""
        return self.topology.flows()

    def _check(self, pins: Mapping[Flow, int]) -> None:
        """At rest: no creation and no collection is on its way. `pins`: what the turn's books say."""
        self.bands._check()
        alive = self.flows()
        assert len(set(alive)) == len(alive), "a flow in two shards"
        for priority, band in self.bands.entries.items():
            members = [flow for flow in alive if flow.band is band]
            assert band.lease.pins == len(members) + (priority in self.founded.configured), (
                f"L6: the lease of band {priority}"
            )
            for flow in members:
                assert band.flows.entries.get(flow.id) is flow or flow.lease.is_marked, "L2: out of the table, unmarked"
        for flow in alive:
            assert flow.lease.pins == pins.get(flow, 0), f"L3: {flow.key} has pins that no request answers for"
            held = not pins.get(flow) or flow.band.flows.entries.get(flow.id) is flow
            assert held, f"L4: {flow.key} is held, and is not the one in the table"
            assert not flow.detached, f"L5: {flow.key} was finalised and is still there"
            assert self.bands.entries.get(flow.band.priority) is flow.band, "a flow of a band that is gone"
        self.topology._check()


def _word(flow: Flow) -> int:
    return flow.load()
