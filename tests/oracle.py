"""What a controller must do, said so that it can be read in one go, and slowly: plain lists, everything counted anew.

It has nothing of what it judges but the nouns of its API. One thread, and time stands still within a step: what
threads do to each other between two sections of the turn is the explorer's question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from flowctl import BandConfig, BandStats, CollectReport, Config, FlowKey, Never, Outcome, Stats
from flowctl.policies.displacement import Backlog, Displacement, Newcomer, Queued

Q = TypeVar("Q", bound=Queued)


class NewestOfTheBand:
    """At a band's limit its newest make room: a policy that only tests would want."""

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return iter([ticket for backlog in backlogs for ticket in backlog.newest_first()])


class Told(NamedTuple):
    """How a request was settled."""

    number: int
    key: FlowKey
    outcome: Outcome | None
    waited: float
    scope: str | None


@dataclass(eq=False)
class Asked:
    """One request."""

    number: int
    key: FlowKey  # at the priority that was asked for, and from its arrival on at that of its band
    cost: int
    size: int
    ttl: float | None
    received_at: float
    has_thread: bool
    probed: bool = False  # its client can be asked for
    client_left: bool = False
    forgotten: bool = False  # whoever asked has dropped the ticket
    deadline: float = math.inf
    outcome: Outcome | None = None


@dataclass(eq=False)
class Flow:
    idle_since: float
    start: float = 0
    finish: float = 0
    place: int = 0  # among flows with equal tags: which got its tag first


@dataclass(eq=False)
class Band:
    config: BandConfig
    idle_since: float
    virtual_time: float = 0


class Limit(NamedTuple):
    """A limit of a queue, for one newcomer."""

    queued: list[Asked]
    max_requests: int | None
    max_bytes: int | None

    def holds(self, newcomer: Asked, leaving: list[Asked]) -> bool:
        staying = [asked for asked in self.queued if asked not in leaving]
        total = sum(asked.size for asked in [*staying, newcomer])
        return len(staying) < _or_infinite(self.max_requests) and total <= _or_infinite(self.max_bytes)

    def is_relieved_by(self, victim: Asked) -> bool:
        too_many = len(self.queued) >= _or_infinite(self.max_requests)
        return victim in self.queued and (too_many or victim.size > 0)


def _or_infinite(limit: int | None) -> float:
    return math.inf if limit is None else limit


class Oracle:
    """A controller, as far as anybody outside can tell."""

    def __init__(self, config: Config, limits: list[int], now: float) -> None:
        self.config, self.limits, self.now, self.closed = config, limits, now, False
        self.bands = {band.priority: Band(band, now) for band in config.bands if band.priority is not None}
        self.flows: dict[FlowKey, Flow] = {}
        self.queue: list[Asked] = []  # in the order of arrival
        self.held: list[Asked] = []
        self.told: list[Told] = []  # in the order of settlement
        self.dispatched = self.rejected = self.evicted = self.abandoned = self.places = 0

    # --- who goes next ---------------------------------------------------------------------------------------------

    def section(self, act: Callable[[], object] = lambda: None) -> None:
        """Whoever passes gives back what was dropped, does what he came for, and lets go whoever can go."""
        for asked in self.dropped():
            self.give(asked)
            self.abandoned += 1
        act()
        self.round()

    def round(self) -> None:
        while self.queue:
            head = self.next()
            if self.closed:
                self.evict(self.top_band()[0], Outcome.EVICTED_CLOSED)
            elif head.deadline <= self.now:
                self.evict(head, Outcome.EVICTED_TTL)
            elif self.has_room(head):
                flow, band = self.flows[head.key], self.bands[head.key.priority]
                band.virtual_time = max(band.virtual_time, flow.start)
                flow.start = flow.finish = flow.start + band.config.fairness.charge(head.cost, 1.0)
                flow.place = self.places = self.places + 1
                self.leave(head)
                self.grant(head)
            else:
                break  # nobody overtakes the head

    def next(self) -> Asked:
        """The oldest of the flow with the smallest tag, in the highest band where somebody waits."""
        band = self.top_band()
        heads = [next(asked for asked in band if asked.key == key) for key in {asked.key for asked in band}]
        return min(heads, key=lambda head: (self.flows[head.key].start, self.flows[head.key].place))

    def top_band(self) -> list[Asked]:
        return [asked for asked in self.queue if asked.key.priority == self.top()]

    def top(self) -> float:
        return max((asked.key.priority for asked in self.queue), default=-math.inf)

    def has_room(self, asked: Asked) -> bool:
        return not self.held or sum(other.cost for other in self.held) + asked.cost <= min(self.limits)

    def can_go(self, asked: Asked) -> bool:
        return not self.closed and asked.key.priority > self.top() and self.has_room(asked)

    def dropped(self) -> list[Asked]:
        return [asked for asked in self.held if asked.forgotten]

    def look(self) -> None:
        """Who only looks helps, if something was dropped."""
        if self.dropped():
            self.section()

    # --- arriving --------------------------------------------------------------------------------------------------

    def arrive(self, asked: Asked) -> None:
        if asked.has_thread and asked.key in self.flows and self.can_go(asked):
            self.grant(asked)  # and passes nobody: who is past its deadline goes with the next who comes by
            self.look()
            return
        asked.key = FlowKey(asked.key.id, self.nearest(asked.key.priority))
        asked.deadline = self.deadline(asked, self.limits_at(asked.key.priority).default_ttl)
        is_new = asked.key not in self.flows
        if is_new and (self.closed or self.is_late(asked)):
            self.section(lambda: self.decide(asked))  # for a request that has no chance nothing is created
            return
        if is_new:
            self.create(asked.key)
            self.section()  # who creates a flow passes before it arrives, and after it
        self.section(lambda: self.decide(asked))
        if is_new:
            self.section()

    def decide(self, asked: Asked) -> None:
        if self.closed:
            self.refuse(asked, Outcome.REJECTED_CLOSED)
        elif self.is_late(asked):
            self.refuse(asked, Outcome.REJECTED_EXPIRED)
        else:
            self.round()  # a head whose deadline has come keeps nobody out
            self.take_or_queue(asked)

    def take_or_queue(self, asked: Asked) -> None:
        if self.can_go(asked):
            self.grant(asked)
        elif asked.deadline == asked.received_at:  # it may not wait
            self.refuse(asked, Outcome.REJECTED_SATURATED)
        else:
            self.expire()
            full, leaving = self.make_room(asked)
            if full is not None:
                self.refuse(asked, Outcome.REJECTED_CAPACITY, full)
                return
            for victim in leaving:
                self.evict(victim, Outcome.EVICTED_DISPLACED)
            if all(other.key != asked.key for other in self.queue):
                flow, self.places = self.flows[asked.key], self.places + 1
                flow.start, flow.place = max(self.bands[asked.key.priority].virtual_time, flow.finish), self.places
            self.queue.append(asked)

    def is_late(self, asked: Asked) -> bool:
        return asked.received_at < asked.deadline <= self.now

    def make_room(self, asked: Asked) -> tuple[str | None, list[Asked]]:
        """The limit that keeps it out, or those who have to leave: of these nobody in vain."""
        band, config = self.bands[asked.key.priority].config, self.config
        of_flow = [other for other in self.queue if other.key == asked.key]
        of_band = [other for other in self.queue if other.key.priority == asked.key.priority]
        limits = [
            ("flow", Never(), Limit(of_flow, band.max_requests_per_flow, band.max_bytes_per_flow)),
            ("band", band.displacement, Limit(of_band, band.max_requests, band.max_bytes)),
            ("global", config.displacement, Limit(self.queue, config.max_requests, config.max_bytes)),
        ]
        leaving: list[Asked] = []
        for scope, policy, limit in limits:
            for victim in self.victims(policy, asked):
                if limit.is_relieved_by(victim) and victim not in leaving and not limit.holds(asked, leaving):
                    leaving.append(victim)
            if not limit.holds(asked, leaving):
                return scope, []
        for victim in tuple(leaving):
            others = [other for other in leaving if other is not victim]
            if all(limit.holds(asked, others) for _, _, limit in limits):
                leaving = others
        return None, leaving

    def victims(self, policy: Displacement, newcomer: Asked) -> list[Asked]:
        if isinstance(policy, Never):
            return []
        newest_first = self.queue[::-1]
        if isinstance(policy, NewestOfTheBand):
            return [asked for asked in newest_first if asked.key.priority == newcomer.key.priority]
        lower = [asked for asked in newest_first if asked.key.priority < newcomer.key.priority]
        return sorted(lower, key=lambda asked: asked.key.priority)

    def deadline(self, asked: Asked, of_band: float | None) -> float:
        if asked.ttl is not None:
            return asked.received_at + min(asked.ttl, self.config.max_ttl)
        ttl = self.config.default_ttl if of_band is None else of_band
        return math.inf if ttl is None else asked.received_at + ttl

    # --- settling, and giving back ---------------------------------------------------------------------------------

    def grant(self, asked: Asked) -> None:
        self.dispatched += 1
        self.held.append(asked)
        self.settle(asked, Outcome.DISPATCHED, self.now - asked.received_at)

    def refuse(self, asked: Asked, outcome: Outcome, scope: str | None = None) -> None:
        self.rejected += 1
        if asked.key in self.flows:
            self.flows[asked.key].idle_since = self.now
        self.settle(asked, outcome, 0.0, scope)

    def evict(self, asked: Asked, outcome: Outcome) -> None:
        self.evicted += 1
        self.leave(asked)
        self.flows[asked.key].idle_since = self.now
        self.settle(asked, outcome, self.now - asked.received_at)

    def settle(self, asked: Asked, outcome: Outcome, waited: float, scope: str | None = None) -> None:
        assert asked.outcome is None, "settled twice"
        asked.outcome = outcome
        self.told.append(Told(asked.number, asked.key, outcome, waited, scope))

    def leave(self, asked: Asked) -> None:
        self.queue.remove(asked)
        priority, band = asked.key.priority, self.bands[asked.key.priority]
        if all(other.key.priority != priority for other in self.queue):  # capacity used while it was idle is no debt
            of_band = [flow.finish for key, flow in self.flows.items() if key.priority == priority]
            band.virtual_time = max(band.virtual_time, *of_band)

    def give(self, asked: Asked) -> None:
        if asked in self.held:
            self.held.remove(asked)
            self.flows[asked.key].idle_since = self.now

    # --- what users do ---------------------------------------------------------------------------------------------

    def release(self, asked: Asked) -> bool:
        was_held = asked in self.held
        self.section(lambda: self.give(asked))
        return was_held

    def withdraw(self, asked: Asked, outcome: Outcome) -> bool:
        if asked.outcome is not None:
            return False
        self.section(lambda: self.evict(asked, outcome))
        return True

    def look_round(self, asked: Asked) -> None:
        """Its thread wakes up, for whatever reason."""
        if asked.outcome is None and asked.deadline <= self.now:
            self.withdraw(asked, Outcome.EVICTED_TTL)
        elif asked.outcome is None and asked.client_left:
            self.withdraw(asked, Outcome.EVICTED_CANCELLED)
        elif asked.outcome is None:
            self.look()

    def give_up(self, asked: Asked) -> None:
        """An exception comes to its thread."""
        if not self.withdraw(asked, Outcome.EVICTED_CANCELLED):
            self.release(asked)

    def set_limit(self, gate: int, limit: int) -> None:
        self.section(lambda: self.limits.__setitem__(gate, limit))

    def close(self) -> bool:
        self.section(lambda: setattr(self, "closed", True))
        return not self.held

    # --- who exists (`resize`, `add_band` and `retire_band` will belong here) ---------------------------------------

    def nearest(self, priority: int) -> int:
        """The priority at which a request is served."""
        if priority in self.bands or (self.config.dynamic_bands and len(self.bands) < self.config.max_bands):
            return priority
        return max((known for known in self.bands if known < priority), default=min(self.bands))

    def limits_at(self, priority: int) -> BandConfig:
        if priority in self.bands:
            return self.bands[priority].config
        negative = self.config.negative_band if priority < 0 else None
        return negative or self.config.default_band

    def create(self, key: FlowKey) -> None:
        if key.priority not in self.bands:
            self.bands[key.priority] = Band(self.limits_at(key.priority), self.now)
        self.flows[key] = Flow(self.now)

    def collect(self) -> CollectReport:
        for asked in [asked for asked in self.queue if asked.client_left]:
            self.withdraw(asked, Outcome.EVICTED_CANCELLED)
        self.section(self.expire)
        self.look()
        in_use = {asked.key for asked in self.queue + self.held}
        idle_flows = [key for key, flow in self.flows.items() if self.is_idle(flow, self.config.flow_gc_timeout)]
        gone_flows = [key for key in idle_flows if key not in in_use]
        for key in gone_flows:
            del self.flows[key]
            self.bands[key.priority].idle_since = self.now
        self.section()
        idle_bands = [
            priority for priority, band in self.bands.items() if self.is_idle(band, self.config.band_gc_timeout)
        ]
        in_use_too = {key.priority for key in self.flows} | {band.priority for band in self.config.bands}
        gone_bands = [priority for priority in idle_bands if priority not in in_use_too]
        for priority in gone_bands:
            del self.bands[priority]
        return CollectReport(flows=len(gone_flows), bands=len(gone_bands))

    def expire(self) -> None:
        """Whom no thread of its own looks after."""
        due = [asked for asked in self.queue if asked.deadline <= self.now and not asked.has_thread]
        for asked in sorted(due, key=lambda asked: asked.deadline):
            self.evict(asked, Outcome.EVICTED_TTL)

    def is_idle(self, thing: Flow | Band, timeout: float | None) -> bool:
        assert timeout is not None
        return self.now - thing.idle_since >= timeout

    # --- what can be seen ------------------------------------------------------------------------------------------

    def state(self, asked: Asked) -> str:
        if asked.outcome is None:
            return "queued"
        if asked.outcome is not Outcome.DISPATCHED:
            return "refused"
        return "dispatched" if asked in self.held else "released"

    def stats(self) -> Stats:
        def of_band(priority: int, band: Band) -> BandStats:
            queued = [asked.size for asked in self.queue if asked.key.priority == priority]
            return BandStats(
                priority=priority,
                queued=len(queued),
                queued_bytes=sum(queued),
                in_flight=sum(asked.cost for asked in self.held if asked.key.priority == priority),
                flows=sum(key.priority == priority for key in self.flows),
                max_requests=band.config.max_requests,
                max_bytes=band.config.max_bytes,
            )

        in_flight = sum(asked.cost for asked in self.held)
        return Stats(
            queued=len(self.queue),
            queued_bytes=sum(asked.size for asked in self.queue),
            in_flight=in_flight,
            limit=min(self.limits),
            saturation=in_flight / min(self.limits),
            flows=len(self.flows),
            bands={priority: of_band(priority, band) for priority, band in self.bands.items()},
            shards=self.config.shards,
            dispatched=self.dispatched,
            rejected=self.rejected,
            evicted=self.evicted,
            folded=0,
            abandoned=self.abandoned,
            repairs=0,
            incidents=0,
        )
