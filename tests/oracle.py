"""What a controller must do, said so that it can be read in one go, and slowly: plain lists, everything counted anew.

It has nothing of what it judges but the nouns of its API. One thread, and time stands still within a step: what
threads do to each other between two sections of the turn is the explorer's question.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from flowctl import (
    BandConfig,
    BandStats,
    CollectReport,
    Config,
    EarliestDeadline,
    Fcfs,
    FlowKey,
    GlobalStrict,
    LongestFlow,
    Never,
    Outcome,
    RevocationStats,
    RoundRobin,
    SloDeadline,
    Stats,
    Ticket,
    WeightedFair,
)
from flowctl.policies.displacement import Backlog, Displacement, Newcomer, Queued

Q = TypeVar("Q", bound=Queued)

Slo = str | float | None
Halt = Literal["pause", "drain", "resume"]

SLO_SECONDS: Final[Mapping[Slo, float]] = {
    None: math.inf,
    "soon": math.inf,
    -1.0: math.inf,
    0.0: 0.0,
    "2": 2.0,
    7.5: 7.5,
    1.0: 1.0,
    "3e1": 30.0,
}
"""What a request may say of its objective, and how many seconds that is."""


NOTHING: Final[Mapping[str, object]] = {}

LOOKS: Final = 16
"""For a flow that is idle it is looked so many times: where there are fewer flows, that is all of them."""


class ByUsage:
    """A metered policy: each token costs as much as a seat, and who has an objective pays one more."""

    def charge(self, cost: int, weight: float, metadata: Mapping[str, object] = NOTHING) -> float:
        tokens = metadata.get("tokens", 0)
        assert isinstance(tokens, int)
        return (cost + tokens + (metadata["slo"] is not None)) / weight


class NewestOfTheBand:
    """At a band's limit its newest make room: a policy that only tests would want."""

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return iter([ticket for backlog in backlogs for ticket in backlog.newest_first()])


@dataclass
class NotedLongestFlow:
    """The library's own, and which requests it was shown: of equally long flows it may take whichever it likes."""

    shown: list[int] = field(default_factory=list)

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return LongestFlow().victims(newcomer, [NotedBacklog(backlog, self.shown) for backlog in backlogs])


@dataclass
class NotedBacklog(Generic[Q]):
    """A backlog that notes what is taken from it."""

    backlog: Backlog[Q]
    shown: list[int]

    @property
    def priority(self) -> int:
        return self.backlog.priority

    def newest_first(self) -> Iterable[Q]:
        return self.backlog.newest_first()

    def longest_first(self) -> Iterator[tuple[float, Q]]:
        for share, ticket in self.backlog.longest_first():
            self.shown.append(number_of(ticket))
            yield share, ticket


def number_of(ticket: object) -> int:
    """The number of the request whose ticket this is, as its metadata has it."""
    assert isinstance(ticket, Ticket)
    assert ticket.wait is not None
    assert ticket.wait.metadata is not None
    number = ticket.wait.metadata["number"]
    assert isinstance(number, int)
    return number


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
    slo: Slo = None
    is_dated: bool = False  # whoever asked said when it was received
    probed: bool = False  # its client can be asked for
    client_left: bool = False
    forgotten: bool = False  # whoever asked has dropped the ticket
    deadline: float = math.inf
    order: float = 0  # the smallest of its flow goes first
    charged: float | None = None  # to its flow, if others had to wait for it
    activation: int = 0  # of its flow, in which it was
    outcome: Outcome | None = None


@dataclass(eq=False)
class Shard:
    """Where flows live."""


@dataclass(eq=False)
class Flow:
    idle_since: float
    home: Shard
    start: float = 0
    finish: float = 0
    place: int = 0  # among flows with equal tags: which got its tag first
    activation: int = 0
    slack: float = 0  # by how much the virtual time had overtaken it at its latest activation


@dataclass(eq=False)
class Band:
    config: BandConfig
    idle_since: float
    is_configured: bool = False
    is_retired: bool = False
    virtual_time: float = 0
    has_gone: bool = False  # somebody, since it ran empty
    began: int = 0  # what was charged up to this activation is of no account any more


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
        self.bands = {
            band.priority: Band(band, now, is_configured=True) for band in config.bands if band.priority is not None
        }
        self.flows: dict[FlowKey, Flow] = {}
        self.shards = [Shard() for _ in range(config.shards)]
        self.retired_shards: list[Shard] = []
        # a flow of a priority, or with None all of them; whether they exist or not
        self.paused: set[tuple[int, str | None]] = set()
        self.drained: set[tuple[int, str | None]] = set()
        self.queue: list[Asked] = []  # in the order of arrival
        self.held: list[Asked] = []
        self.told: list[Told] = []  # in the order of settlement
        self.dispatched = self.rejected = self.evicted = self.abandoned = self.folded = self.places = 0
        # which requests the displacement policies were shown, as far as they noted it
        self.shown: list[int] = []
        # which flow made room for the one that is arriving: of equally idle ones any may
        self.gone: set[FlowKey] = set()

    # --- who goes next ---------------------------------------------------------------------------------------------

    def section(self, act: Callable[[], object] = lambda: None) -> None:
        """Whoever passes gives back what was dropped, does what he came for, and lets go whoever can go."""
        for asked in self.dropped():
            self.give(asked)
            self.abandoned += 1
        act()
        self.round()

    def round(self) -> None:
        while self.closed and self.queue:  # those who are paused too
            highest = max(asked.key.priority for asked in self.queue)
            self.evict(next(asked for asked in self.queue if asked.key.priority == highest), Outcome.EVICTED_CLOSED)
        while self.ready():
            head = self.next()
            if head.deadline <= self.now:
                self.evict(head, Outcome.EVICTED_TTL)
            elif self.has_room(head):
                flow, band = self.flows[head.key], self.bands[head.key.priority]
                band.virtual_time, band.has_gone = max(band.virtual_time, flow.start), True
                head.charged, head.activation = self.price(head, head.cost, {}), flow.activation
                self.charge(flow, head.charged)
                self.leave(head)
                self.grant(head)
            else:
                break  # nobody overtakes the head

    def next(self) -> Asked:
        """The first of the flow whose turn it is, in the highest band where somebody waits."""
        band = self.top_band()
        heads = [self.first(key) for key in {asked.key for asked in band}]
        if isinstance(self.bands[band[0].key.priority].config.fairness, GlobalStrict):
            return min(heads, key=lambda head: (head.order, self.queue.index(head)))
        return min(heads, key=lambda head: (self.flows[head.key].start, self.flows[head.key].place))

    def first(self, key: FlowKey) -> Asked:
        """The first of a flow, or the oldest of those."""
        return min([asked for asked in self.queue if asked.key == key], key=lambda asked: asked.order)

    def order(self, asked: Asked) -> float:
        policy = self.bands[asked.key.priority].config.ordering
        if isinstance(policy, EarliestDeadline):
            return asked.deadline
        if isinstance(policy, SloDeadline):
            return asked.received_at + SLO_SECONDS[asked.slo]
        assert isinstance(policy, Fcfs)
        return 0

    def price(self, asked: Asked, cost: int, usage: Mapping[str, object]) -> float:
        config = self.bands[asked.key.priority].config
        weight = config.weights.get(asked.key.id, 1.0)
        match config.fairness:
            case RoundRobin():
                return 1
            case WeightedFair():
                return cost / weight
            case GlobalStrict():
                return 0
            case ByUsage() as metered:
                return metered.charge(cost, weight, {"number": asked.number, "slo": asked.slo, **usage})
            case other:
                raise AssertionError(other)

    def charge(self, flow: Flow, more: float) -> None:
        """Move a flow back by so much, behind those with the same tag."""
        flow.start = flow.finish = flow.start + more
        flow.place = self.places = self.places + 1

    def correct(self, asked: Asked, more: float) -> None:
        """As if it had been charged so much more; but for what was never held against its flow."""
        flow, band = self.flows[asked.key], self.bands[asked.key.priority]
        if asked.activation <= band.began:
            return
        if asked.activation < flow.activation:
            ahead = max(0.0, -flow.slack)
            flow.slack -= more
            more = max(0.0, -flow.slack) - ahead
        if more:
            self.charge(flow, more)

    def activate(self, asked: Asked) -> None:
        """A flow has something queued again: it stands as if it had gone just now, if anybody went since they wait."""
        flow, band = self.flows[asked.key], self.bands[asked.key.priority]
        if flow.activation <= band.began:
            flow.finish = 0
        just_gone = band.virtual_time + (self.price(asked, asked.cost, {}) if band.has_gone else 0)
        flow.activation = flow.place = self.places = self.places + 1
        flow.slack = just_gone - flow.finish
        flow.start = max(just_gone, flow.finish)

    def forgive(self, priority: int) -> None:
        """Where nobody waits any more, all begins anew: capacity that was used alone is no debt."""
        band = self.bands[priority]
        if all(other.key.priority != priority for other in self.queue):
            band.virtual_time, band.began, band.has_gone = 0, self.places, False

    def adjust(self, asked: Asked, cost: int | None, usage: Mapping[str, object]) -> bool:
        was_held = asked in self.held

        def act() -> None:
            if was_held and cost is not None:
                asked.cost = max(cost, 1)
            if was_held and asked.charged is not None:
                charge = self.price(asked, asked.cost if cost is None else cost, usage)
                self.correct(asked, charge - asked.charged)
                asked.charged = charge

        self.section(act)
        return was_held

    def ready(self) -> list[Asked]:
        """Those who wait for nothing but their turn."""
        return [asked for asked in self.queue if not self.is_among(self.paused, asked.key)]

    def top_band(self) -> list[Asked]:
        return [asked for asked in self.ready() if asked.key.priority == self.top()]

    def top(self) -> float:
        return max((asked.key.priority for asked in self.ready()), default=-math.inf)

    def has_room(self, asked: Asked) -> bool:
        priorities = sorted({*self.bands, asked.key.priority}, reverse=True)
        ceilings = self.config.ceilings.ceilings(priorities)
        ceiling = ceilings[priorities.index(asked.key.priority)]
        seats = sum(other.cost for other in self.held) + asked.cost
        return not self.held or all(seats / limit <= ceiling for limit in self.limits)

    def can_go(self, asked: Asked) -> bool:
        is_first = asked.key.priority > self.top() and not self.is_among(self.paused, asked.key)
        return not self.closed and is_first and self.has_room(asked)

    def dropped(self) -> list[Asked]:
        return [asked for asked in self.held if asked.forgotten]

    def look(self) -> None:
        """Who only looks helps, if something was dropped."""
        if self.dropped():
            self.section()

    # --- arriving --------------------------------------------------------------------------------------------------

    def arrive(self, asked: Asked) -> None:
        known = not asked.is_dated and asked.key in self.flows
        if known and self.takes_anybody(asked.key.priority) and self.can_go(asked):
            self.grant(asked)  # and passes nobody: who is past its deadline goes with the next who comes by
            self.look()
            return
        priority = self.nearest(asked.key.priority)
        if priority is None:
            asked.deadline = self.deadline(asked, None)
            late = Outcome.REJECTED_EXPIRED if self.is_late(asked) else Outcome.REJECTED_OTHER
            self.turn_away(asked, Outcome.REJECTED_CLOSED if self.closed else late)
            self.look()
            return
        asked.key = self.key_for(FlowKey(asked.key.id, priority))
        asked.deadline = self.deadline(asked, self.limits_at(priority).default_ttl)
        is_new = asked.key not in self.flows
        if is_new and (self.closed or self.is_late(asked)):
            self.decide(asked)  # for a request that has no chance nothing is created
            self.look()
            return
        if is_new:
            self.create(asked.key)
            if self.paused or self.drained:
                self.section()  # whether somebody is held back in a band that may be new
        self.section(lambda: self.decide(asked))

    def decide(self, asked: Asked) -> None:
        if self.closed:
            self.refuse(asked, Outcome.REJECTED_CLOSED)
        elif self.is_late(asked):
            self.refuse(asked, Outcome.REJECTED_EXPIRED)
        elif self.is_among(self.drained, asked.key):
            self.refuse(asked, Outcome.REJECTED_OTHER)
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
            asked.order = self.order(asked)
            full, leaving = self.make_room(asked)
            assert not self.shown, "a policy was shown more than it needed"
            if full is not None:
                self.refuse(asked, Outcome.REJECTED_CAPACITY, full)
                return
            for victim in leaving:
                self.evict(victim, Outcome.EVICTED_DISPLACED)
            is_alone = all(other.key != asked.key for other in self.queue)
            if is_alone and not self.is_among(self.paused, asked.key):
                self.activate(asked)
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
            if limit.holds(asked, []):
                continue
            for victim in self.victims(policy, asked, everywhere=scope == "global"):
                if limit.holds(asked, leaving):
                    break
                if limit.is_relieved_by(victim) and victim not in leaving:
                    leaving.append(victim)
            if not limit.holds(asked, leaving):
                return scope, []
        for victim in tuple(leaving):
            others = [other for other in leaving if other is not victim]
            if all(limit.holds(asked, others) for _, _, limit in limits):
                leaving = others
        return None, leaving

    def victims(self, policy: Displacement, newcomer: Asked, *, everywhere: bool) -> Iterable[Asked]:
        if isinstance(policy, Never):
            return []
        if isinstance(policy, NotedLongestFlow):
            return self.of_longest_flows(newcomer, everywhere=everywhere)
        newest_first = self.queue[::-1]
        if isinstance(policy, NewestOfTheBand):
            return [asked for asked in newest_first if asked.key.priority == newcomer.key.priority]
        lower = [asked for asked in newest_first if asked.key.priority < newcomer.key.priority]
        return sorted(lower, key=lambda asked: asked.key.priority)

    def of_longest_flows(self, newcomer: Asked, *, everywhere: bool) -> Iterator[Asked]:
        own = newcomer.key.priority
        its_share = self.share([newcomer, *[asked for asked in self.queue if asked.key == newcomer.key]])
        for priority in sorted({asked.key.priority for asked in self.queue}) if everywhere else [own]:
            staying = [asked for asked in self.queue if asked.key.priority == priority]
            while staying:
                victim = self.newest_of_a_longest_flow(staying)
                staying.remove(victim)
                kept = self.share([asked for asked in staying if asked.key == victim.key])
                if priority > own or kept < its_share:
                    break
                yield victim

    def newest_of_a_longest_flow(self, staying: list[Asked]) -> Asked:
        flows = [[asked for asked in staying if asked.key == key] for key in {asked.key for asked in staying}]
        largest = max(map(self.share, flows))
        newest = [flow[-1] for flow in flows if self.share(flow) == largest]
        if not self.shown:
            return newest[0]  # the controller asked for less, and that will be seen
        number = self.shown.pop(0)
        assert number in [asked.number for asked in newest], "not the newest of one of the longest flows"
        return next(asked for asked in newest if asked.number == number)

    def share(self, of_flow: list[Asked]) -> float:
        """How much of its band these requests of one flow take; of requests or of bytes, whichever is more."""
        if not of_flow:
            return 0
        limits = self.bands[of_flow[0].key.priority].config
        requests = len(of_flow) / (limits.max_requests or 2**53)
        return max(requests, sum(asked.size for asked in of_flow) / _or_infinite(limits.max_bytes))

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
        if asked.key in self.flows:
            self.flows[asked.key].idle_since = self.now
        self.turn_away(asked, outcome, scope)

    def turn_away(self, asked: Asked, outcome: Outcome, scope: str | None = None) -> None:
        """Refuse it without a look at its flow."""
        self.rejected += 1
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
        self.forgive(asked.key.priority)

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

    # --- who is held back ------------------------------------------------------------------------------------------

    def is_among(self, halted: set[tuple[int, str | None]], key: FlowKey) -> bool:
        return (key.priority, key.id) in halted or (key.priority, None) in halted

    def takes_anybody(self, priority: int) -> bool:
        """Is nobody held back at this priority, and its band not retired?"""
        halted = {priority for priority, _ in self.paused | self.drained}
        return priority not in halted and not self.bands[priority].is_retired

    def halt(self, how: Halt, flow_id: str | None, priority: int, order: Sequence[str]) -> None:
        """`order`: of those who are paused in this band. Who may go again does so in this order, with equal tags."""

        def act() -> None:
            paused = {asked.key for asked in self.queue} - {asked.key for asked in self.ready()}
            for halted in (self.paused, self.drained):
                halted.discard((priority, flow_id))
            if how != "resume":
                (self.paused if how == "pause" else self.drained).add((priority, flow_id))
            resumed = [key for key in paused if not self.is_among(self.paused, key)]
            for key in sorted(resumed, key=lambda key: order.index(key.id)):
                self.activate(self.first(key))

        self.section(act)

    # --- who exists ------------------------------------------------------------------------------------------------

    def nearest(self, priority: int) -> int | None:
        """The priority at which a request is served; None if all bands are retired."""
        may_be_created = self.config.dynamic_bands and len(self.bands) < self.config.max_bands
        if not self.bands or (priority not in self.bands and may_be_created):
            return priority
        takers = [known for known, band in self.bands.items() if not band.is_retired]
        return max((known for known in takers if known <= priority), default=min(takers, default=None))

    def key_for(self, key: FlowKey) -> FlowKey:
        """The flow at which a request is served: where there are too many, the one that was idle for longest makes room
        for a new one; and if none is idle, those without a weight share a few.
        """
        assert self.config.max_flows is not None
        if key in self.flows or len(self.flows) < self.config.max_flows:
            return key
        assert len(self.flows) < LOOKS, "a controller need not find the one that is idle"
        shared = FlowKey(f"\0overflow-{zlib.crc32(key.id.encode()) % self.config.overflow_flows}", key.priority)
        while idle := {other: flow.idle_since for other, flow in self.flows.items() if other not in self.in_use()}:
            longest = [other for other, since in idle.items() if since == min(idle.values())]
            went = [other for other in longest if other in self.gone] or [other for other in longest if other == shared]
            assert went, "not one of those that were idle for longest"
            self.forget(went[0])
            if len(self.flows) < self.config.max_flows:
                return key
        if key.id in self.limits_at(key.priority).weights:
            return key
        self.folded += 1
        return shared

    def limits_at(self, priority: int) -> BandConfig:
        if priority in self.bands:
            return self.bands[priority].config
        negative = self.config.negative_band if priority < 0 else None
        return negative or self.config.default_band

    def create(self, key: FlowKey) -> None:
        if key.priority not in self.bands:
            self.bands[key.priority] = Band(self.limits_at(key.priority), self.now)
        home = self.shards[zlib.crc32(f"{key.priority}:{key.id}".encode()) % len(self.shards)]
        self.flows[key] = Flow(self.now, home)

    def forget(self, key: FlowKey) -> None:
        del self.flows[key]
        self.bands[key.priority].idle_since = self.now

    def in_use(self) -> set[FlowKey]:
        return {asked.key for asked in self.queue + self.held}

    def resize(self, shards: int) -> None:
        self.retired_shards += self.shards[shards:]
        self.shards = self.shards[:shards] + [Shard() for _ in range(shards - len(self.shards))]

    def add_band(self, config: BandConfig) -> str | None:
        """Why it cannot be, if that is so."""
        assert config.priority is not None
        band = self.bands.get(config.priority)
        if band is None and len(self.bands) >= self.config.max_bands:
            return "one band more than max_bands"
        if band is None:
            band = self.bands[config.priority] = Band(config, self.now)
        if band.is_configured:
            return "must not be configured yet"
        if (band.config.ordering, band.config.fairness) != (config.ordering, config.fairness):
            band.idle_since = self.now  # it was pinned for the comparison
            return "ordering and fairness"
        band.is_configured = True
        opened = band

        def act() -> None:
            opened.config, opened.is_retired = config, False

        self.section(act)
        return None

    def retire_band(self, priority: int) -> str | None:
        """Why it cannot be, if that is so."""
        band = self.bands.get(priority)
        if band is None:
            return "must be that of a band"
        configured = [other for other in self.bands.values() if other.is_configured]
        if configured == [band] and not self.config.dynamic_bands:
            return "the last band"
        if band.is_configured:
            band.is_configured, band.idle_since = False, self.now
        self.section(lambda: setattr(band, "is_retired", True))
        return None

    def collect(self) -> CollectReport:
        for asked in [asked for asked in self.queue if asked.client_left]:
            self.withdraw(asked, Outcome.EVICTED_CANCELLED)
        self.section(self.expire)
        self.look()
        gone_flows = [key for key in self.flows if key not in self.in_use() and self.is_due(key)]
        for key in gone_flows:
            self.forget(key)
        self.section()
        empty_bands = [band for band in self.bands if band not in {key.priority for key in self.flows}]
        gone_bands = [priority for priority in empty_bands if self.is_done_with(self.bands[priority])]
        for priority in gone_bands:
            del self.bands[priority]
        if gone_bands:
            self.section()
        left = [flow.home for flow in self.flows.values()]
        gone_shards = [shard for shard in self.retired_shards if shard not in left]
        self.retired_shards = [shard for shard in self.retired_shards if shard in left]
        return CollectReport(flows=len(gone_flows), bands=len(gone_bands), shards=len(gone_shards))

    def is_due(self, key: FlowKey) -> bool:
        return self.bands[key.priority].is_retired or self.is_idle(self.flows[key], self.config.flow_gc_timeout)

    def is_done_with(self, band: Band) -> bool:
        return band.is_retired or (not band.is_configured and self.is_idle(band, self.config.band_gc_timeout))

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
            shards=len(self.shards),
            dispatched=self.dispatched,
            rejected=self.rejected,
            evicted=self.evicted,
            folded=self.folded,
            abandoned=self.abandoned,
            repairs=0,
            incidents=0,
            signals=(),
            revocations=RevocationStats(0, 0, 0),
            overdue=0,
        )
