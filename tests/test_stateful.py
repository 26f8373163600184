"""Whatever a controller is asked, in whatever order, it does what the oracle does: outcomes, their order, statistics.

The examples are made by Hypothesis. A request that waits is a greenlet in the real `admit`: it stands in `park` until
the machine lets it look round, so that its thread is as slow as can be, and the same example is the same run.

`FLOWCTL_EXAMPLES` says how many; where CI=true it is 2,000, and those are the same every time, so that a red run is red
again wherever it is repeated. Anywhere else each run looks at new ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Final, NamedTuple, final

import pytest
from greenlet import getcurrent, greenlet
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    EarliestDeadline,
    Fcfs,
    FlowControlError,
    FlowController,
    FlowKey,
    GlobalStrict,
    Holdback,
    LowerPriority,
    Never,
    Outcome,
    Request,
    RoundRobin,
    SloDeadline,
    Static,
    Ticket,
    WeightedFair,
)
from flowctl.policies.ceiling import Ceilings
from flowctl.policies.displacement import Displacement
from flowctl.sync import Parking
from flowctl.ticket import ReleaseOutcome
from tests.oracle import (
    SLO_SECONDS,
    Asked,
    ByUsage,
    Halt,
    NewestOfTheBand,
    NotedLongestFlow,
    Oracle,
    Slo,
    Told,
    number_of,
)
from tests.proof import Proof

CI: Final = os.environ.get("CI") == "true"
EXAMPLES: Final = int(os.environ.get("FLOWCTL_EXAMPLES") or (2_000 if CI else 200))
STEPS: Final = 30
CLAIM: Final = "a controller does what a slow, obvious model of it does: outcomes, their order, statistics"

IDS: Final = ("a", "b", "c")
PRIORITIES: Final = (0, 0, 0, 5, 1, -1)
MAX_REQUESTS: Final = st.sampled_from([*[None] * 6, 6, 3, 2, 1])
MAX_BYTES: Final = st.sampled_from([*[None] * 6, 9, 4, 2])
LIMITS: Final = st.sampled_from([(4,), (3,), (2,), (1,), (6,), (5, 3), (2, 4)])  # of one gate or two
MAX_FLOWS: Final = st.sampled_from([*[(10_000, 64)] * 7, (1, 1), (2, 1), (2, 2), (3, 2)])  # and how many they share
HALTS: Final[Sequence[Halt]] = ("pause", "pause", "resume", "drain")
LONGEST_FLOW: Final = NotedLongestFlow()
DISPLACEMENT: Final[st.SearchStrategy[Displacement]] = st.sampled_from(
    [LowerPriority(), LowerPriority(), Never(), LONGEST_FLOW]
)


class Ask(NamedTuple):
    """What one request asks for."""

    flow_id: str
    priority: int
    cost: int
    size: int
    ttl: float | None
    slo: Slo


ALL_ASKS: Final = [
    Ask(flow_id, priority, cost, size, ttl, slo)
    for slo in SLO_SECONDS
    for ttl in (None, None, 9.0, 9.0, 3.0, 1.0, 0.0)
    for cost in (1, 1, 2, 5)
    for size in (0, 1, 1, 3)
    for priority in PRIORITIES
    for flow_id in IDS
]
# One draw a request: what an example costs is mostly its draws. By its index: Hypothesis shows all it may draw from.
ASKS: Final = st.sampled_from(range(len(ALL_ASKS))).map(lambda index: ALL_ASKS[index])
WHICH: Final = st.integers(0, 11)  # one of those that there are
# halves and quarters: sums of charges are exact, in whatever order
WEIGHTS: Final[st.SearchStrategy[dict[str, float]]] = st.sampled_from([{}, {"a": 2.0}, {"a": 0.5, "b": 4.0}])

BANDS: Final = st.builds(
    BandConfig,
    ordering=st.sampled_from([Fcfs(), EarliestDeadline(), SloDeadline()]),
    fairness=st.sampled_from([RoundRobin(), WeightedFair(), ByUsage(), GlobalStrict()]),
    weights=WEIGHTS,
    max_requests=MAX_REQUESTS,
    max_bytes=MAX_BYTES,
    max_requests_per_flow=MAX_REQUESTS,
    max_bytes_per_flow=MAX_BYTES,
    displacement=st.sampled_from([Never(), NewestOfTheBand(), LONGEST_FLOW]),
    default_ttl=st.sampled_from([*[None] * 5, 2.0, 0.0]),
)


CEILINGS: st.SearchStrategy[Ceilings] = st.sampled_from(
    [Static(), Static(), Static(), Static(0.5), Holdback(0.5), Holdback(0.6, by="value"), Holdback({5: 0.8, 0: 0.4})]
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    template, other = draw(BANDS), draw(BANDS)
    configured = draw(st.sampled_from([(), (0,), (0, 5), (-1, 1)]))
    flow_gc_timeout = draw(st.sampled_from([1.0, 0.0, 4.0]))
    max_flows, overflow_flows = draw(MAX_FLOWS)
    return Config(
        bands=[band.at(priority) for band, priority in zip((other, template), configured, strict=False)],
        default_band=template,
        negative_band=draw(st.sampled_from([None, other])),
        dynamic_bands=draw(st.sampled_from([True, not configured])),
        max_bands=draw(st.sampled_from([64, 3, 2])),
        max_requests=draw(st.sampled_from([None, None, None, 6, 4, 2])),
        max_bytes=draw(st.sampled_from([None, None, 6, 4, 3])),
        default_ttl=draw(st.sampled_from([60.0, None, 2.0])),
        max_ttl=draw(st.sampled_from([3600.0, 2.0])),
        flow_gc_timeout=flow_gc_timeout,
        band_gc_timeout=draw(st.sampled_from([None, flow_gc_timeout])),
        shards=draw(st.sampled_from([1, 3])),
        max_flows=max_flows,
        overflow_flows=overflow_flows,
        displacement=draw(DISPLACEMENT),
        ceilings=draw(CEILINGS),
    )


@final
class HeldClock:
    """Time that moves when the machine says so. Who parks stands there until the machine lets it look round."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def park(self, parking: Parking, until: float | None) -> None:
        machine = getcurrent().parent
        assert machine is not None
        machine.switch()


class Interrupted(BaseException):
    """Comes to a thread that waits."""


class ControllerMachine(RuleBasedStateMachine):
    """The controller and the oracle, asked the same."""

    def __init__(self) -> None:
        super().__init__()
        self.real: FlowController | None = None
        self.unseen = False  # nobody is to look after this step
        self.few_flows = False  # there may be no more than these

    @initialize(config=configs(), limits=LIMITS, observed=st.booleans(), asks=st.lists(ASKS, max_size=12))
    def begin(self, config: Config, limits: tuple[int, ...], observed: bool, asks: list[Ask]) -> None:
        self.clock = HeldClock()
        self.gates = [ConcurrencyLimit(limit) for limit in limits]
        self.observed = observed
        observer = self if observed else None
        self.real = FlowController(config, gate=self.gates, clock=self.clock, observer=observer, background=False)
        self.model = Oracle(config, list(limits), self.clock.now())
        self.few_flows = config.max_flows in (1, 2, 3)
        self.asked: list[Asked] = []
        self.tickets: dict[int, Ticket] = {}  # in hand, by number
        self.waiters: dict[int, greenlet] = {}  # not back from `admit`
        self.raised: dict[int, tuple[Outcome | None, FlowKey | None]] = {}
        self.called: list[Told] = []
        self.observations: list[Told] = []
        for ask in asks:
            self.submit_one(ask, None)

    @property
    def controller(self) -> FlowController:
        assert self.real is not None
        return self.real

    # --- what the controller tells ---------------------------------------------------------------------------------

    def told(self, ticket: Ticket) -> Told:
        # a ticket that was granted on the spot waits for nothing, and is that of the request that is arriving
        number = len(self.asked) - 1
        if ticket.wait is not None:
            number = number_of(ticket)
        error = ticket.error
        return Told(number, ticket.key, ticket.outcome, ticket.waited, None if error is None else error.scope)

    def settled(self, ticket: Ticket) -> None:
        self.observations.append(self.told(ticket))

    def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
        assert ticket.outcome is Outcome.DISPATCHED

    # --- asking ----------------------------------------------------------------------------------------------------

    def ask(self, ask: Ask, received_at: float, *, has_thread: bool) -> Asked:
        key = FlowKey(ask.flow_id, ask.priority)
        asked = Asked(len(self.asked), key, ask.cost, ask.size, ask.ttl, received_at, has_thread, ask.slo)
        self.asked.append(asked)
        LONGEST_FLOW.shown.clear()
        return asked

    def arrive_in_model(self, asked: Asked) -> None:
        """After the controller: of equals, the model has that one make room that the controller has."""
        self.model.shown = LONGEST_FLOW.shown.copy()
        self.model.gone = set(self.model.flows) - set(self.controller.flows())
        self.model.arrive(asked)

    @rule(asks=st.lists(ASKS, min_size=1, max_size=10))
    def submit(self, asks: list[Ask]) -> None:
        for ask in asks:
            self.submit_one(ask, None)
            self.agree()

    @rule(ask=ASKS, ago=st.sampled_from([0.0, 1.0, 2.0, -1.0]))
    def submit_late(self, ask: Ask, ago: float) -> None:
        self.submit_one(ask, self.clock.now() - ago)

    def submit_one(self, ask: Ask, received_at: float | None) -> None:
        now = self.clock.now()
        asked = self.ask(ask, now if received_at is None else min(received_at, now), has_thread=False)
        asked.is_dated = received_at is not None
        request = Request(
            FlowKey(ask.flow_id, ask.priority),
            cost=ask.cost,
            size=ask.size,
            ttl=ask.ttl,
            received_at=received_at,
            metadata={"number": asked.number, "slo": ask.slo},
        )
        called, told = self.called, self.told
        self.tickets[asked.number] = self.controller.submit(request, lambda ticket: called.append(told(ticket)))
        self.arrive_in_model(asked)

    @precondition(lambda self: self.few_flows)
    @rule(flow_ids=st.lists(st.sampled_from([*IDS, "d"]), min_size=3, max_size=9))
    def pass_by(self, flow_ids: list[str]) -> None:
        """One after the other, none of whom stays: who was idle for longest makes room for the next."""
        for flow_id in flow_ids:
            self.submit_one(Ask(flow_id, 0, cost=1, size=0, ttl=0.0, slo=None), None)
            asked = self.asked[-1]
            assert self.tickets[asked.number].release() == self.model.release(asked)
            self.agree()
            self.advance(0.25, collect=False)

    @rule(asks=st.lists(ASKS, min_size=1, max_size=4), probed=st.booleans())
    def admit(self, asks: list[Ask], probed: bool) -> None:
        for ask in asks:
            self.admit_one(ask, probed)
            self.agree()

    def admit_one(self, ask: Ask, probed: bool) -> None:
        asked = self.ask(ask, self.clock.now(), has_thread=True)
        metadata = {"number": asked.number, "slo": ask.slo}
        cancel = (lambda: asked.client_left) if probed else None

        def admit() -> Ticket:
            if ask.ttl == 0.0 and not probed:
                return self.controller.try_admit(
                    ask.flow_id, priority=ask.priority, cost=ask.cost, size=ask.size, metadata=metadata
                )
            return self.controller.admit(
                ask.flow_id,
                priority=ask.priority,
                cost=ask.cost,
                size=ask.size,
                ttl=ask.ttl,
                cancel=cancel,
                metadata=metadata,
            )

        asked.probed = probed
        self.start(asked, admit)
        assert ask.ttl != 0.0 or asked.number not in self.waiters, "it waited, and was not to"

    def start(self, asked: Asked, admit: Callable[[], Ticket]) -> None:
        """Run a call that may park."""

        def run() -> None:
            try:
                self.tickets[asked.number] = admit()
            except FlowControlError as error:
                self.raised[asked.number] = error.outcome, error.key
            except Interrupted:
                self.raised[asked.number] = asked.outcome, asked.key

        self.waiters[asked.number] = greenlet(run)
        self.waiters[asked.number].switch()
        self.arrive_in_model(asked)
        self.see_whether_back(asked)

    def wake(self, asked: Asked, interruption: type[BaseException] | None = None) -> None:
        waiter = self.waiters[asked.number]
        if interruption is None:
            waiter.switch()
        else:
            waiter.throw(interruption)
        self.see_whether_back(asked)

    def see_whether_back(self, asked: Asked) -> None:
        if self.waiters[asked.number].dead:
            del self.waiters[asked.number]
            outcome, key = self.raised.pop(asked.number, (Outcome.DISPATCHED, asked.key))
            assert (outcome, key) == (asked.outcome, asked.key)

    # --- waiting ---------------------------------------------------------------------------------------------------

    def waiting(self) -> list[Asked]:
        return [self.asked[number] for number in self.waiters]

    @precondition(lambda self: self.waiters)
    @rule(which=WHICH)
    def look_round(self, which: int) -> None:
        """One of the waiters wakes, for whatever reason; and so do those who were told."""
        waiting = self.waiting()
        for asked in waiting:
            if asked is waiting[which % len(waiting)] or asked.outcome is not None:
                self.model.look_round(asked)
                self.wake(asked)
                assert (asked.number in self.waiters) == (asked.outcome is None), "it waits exactly while it is queued"
                self.agree()

    @precondition(lambda self: self.waiters)
    @rule(which=WHICH)
    def interrupt(self, which: int) -> None:
        """An exception comes to one of the waiters, perhaps after it was granted."""
        waiting = self.waiting()
        asked = waiting[which % len(waiting)]
        self.model.give_up(asked)
        self.wake(asked, Interrupted)
        assert asked.number not in self.waiters

    @precondition(lambda self: any(asked.probed for asked in self.waiting()))
    @rule(which=WHICH)
    def client_leaves(self, which: int) -> None:
        probed = [asked for asked in self.waiting() if asked.probed]
        probed[which % len(probed)].client_left = True

    @rule(seconds=st.sampled_from([1.0, 0.5, 2.0, 0.25, 4.0, 9.0]), collect=st.booleans())
    def advance(self, seconds: float, collect: bool) -> None:
        self.clock.time += seconds
        self.model.now += seconds
        if collect:
            self.collect()

    # --- settling --------------------------------------------------------------------------------------------------

    def in_hand(self, *states: str) -> list[Asked]:
        return [self.asked[number] for number in self.tickets if self.model.state(self.asked[number]) in states]

    @precondition(lambda self: self.in_hand("dispatched"))
    @rule(which=WHICH, times=st.sampled_from([1, 2, 5]), collect=st.booleans())
    def release(self, which: int, times: int, collect: bool) -> None:
        for _ in range(times):
            held = self.in_hand("dispatched")
            if held:
                asked = held[which % len(held)]
                assert self.tickets[asked.number].release() == self.model.release(asked)
                self.agree()
        if collect:
            self.collect()

    @precondition(lambda self: self.in_hand("queued"))
    @rule(which=WHICH, times=st.sampled_from([1, 2, 5]))
    def cancel(self, which: int, times: int) -> None:
        for _ in range(times):
            queued = self.in_hand("queued")
            if queued:
                asked = queued[which % len(queued)]
                with pytest.raises(RuntimeError, match="queued"):
                    self.tickets[asked.number].release()
                assert self.tickets[asked.number].cancel() == self.model.withdraw(asked, Outcome.EVICTED_CANCELLED)
                self.agree()

    @precondition(lambda self: self.model.queue)
    @rule()
    def serve_all(self) -> None:
        """Seat after seat is given back, and who waits in a thread goes on, until nobody waits."""
        for _ in range(2 * len(self.asked)):
            for asked in self.waiting():
                self.model.look_round(asked)
                self.wake(asked)
            self.agree()
            if self.in_hand("dispatched"):
                self.release(which=0, times=1, collect=False)
            elif not self.model.dropped() and all(asked.outcome is None for asked in self.waiting()):
                break  # no seat comes back with the next look, and nobody has one without having looked

    @precondition(lambda self: self.tickets)
    @rule(which=WHICH)
    def come_too_late(self, which: int) -> None:
        """What was decided stays so: cancelling a seat does nothing, nor does releasing what is no seat any more."""
        numbers = list(self.tickets)
        asked = self.asked[numbers[which % len(numbers)]]
        if asked.outcome is not None:
            assert not self.tickets[asked.number].cancel()
            assert not self.model.withdraw(asked, Outcome.EVICTED_CANCELLED)
        if self.model.state(asked) in ("released", "refused"):
            assert not self.tickets[asked.number].release()
            assert not self.model.release(asked)
            assert not self.tickets[asked.number].adjust(3)
            assert not self.model.adjust(asked, 3, {})

    @precondition(lambda self: self.tickets)
    @rule(
        which=WHICH,
        cost=st.sampled_from([None, 0, 1, 4, 9]),
        tokens=st.sampled_from([None, 0, 3, 8]),
        serve=st.booleans(),
    )
    def adjust(self, which: int, cost: int | None, tokens: int | None, serve: bool) -> None:
        """The work took more or less than was asked for; seldom it was no work."""
        candidates = self.in_hand("dispatched") or self.in_hand("queued", "refused", "released")
        asked, usage = candidates[which % len(candidates)], {} if tokens is None else {"tokens": tokens}
        assert self.tickets[asked.number].adjust(cost, **usage) == self.model.adjust(asked, cost, usage)
        if serve:
            self.agree()
            self.serve_all()

    def charged(self) -> list[Asked]:
        return [asked for asked in self.in_hand("dispatched") if asked.charged is not None]

    @precondition(lambda self: self.charged())
    @rule(which=WHICH, ask=ASKS, cost=st.sampled_from([9, 0, 4]), tokens=st.sampled_from([8, 0]))
    def adjust_while_others_wait(self, which: int, ask: Ask, cost: int, tokens: int) -> None:
        """Then the next ones go in another order."""
        asked = self.charged()[which % len(self.charged())]
        other = IDS[(IDS.index(asked.key.id) + 1) % len(IDS)] if asked.key.id in IDS else IDS[0]
        for flow_id in (asked.key.id, other, asked.key.id, other, asked.key.id, other):
            if flow_id in IDS:
                alike = ask._replace(flow_id=flow_id, priority=asked.key.priority, cost=1, size=0, ttl=None)
                self.submit_one(alike, None)
                self.agree()
        assert self.tickets[asked.number].adjust(cost, tokens=tokens) == self.model.adjust(
            asked, cost, {"tokens": tokens}
        )
        self.agree()
        self.serve_all()

    @precondition(lambda self: self.tickets)
    @rule(which=WHICH, unseen=st.booleans())
    def drop(self, which: int, unseen: bool) -> None:
        """Whoever asked lets go of the ticket, queued or granted or done; `unseen`: what comes next finds it so."""
        asked = self.asked[list(self.tickets)[which % len(self.tickets)]]
        asked.forgotten = True
        del self.tickets[asked.number]
        self.unseen = unseen

    # --- upkeep ----------------------------------------------------------------------------------------------------

    @rule(shards=st.sampled_from([None, None, 1, 2, 3, 5, 8]))
    def keep_up(self, shards: int | None) -> None:
        """A cycle of the collector, perhaps after a resize."""
        if shards is not None:
            self.controller.resize(shards)
            self.model.resize(shards)
            self.agree()
        self.collect()

    def collect(self) -> None:
        assert self.controller.collect() == self.model.collect()

    @rule(which=WHICH, limit=st.integers(1, 6))
    def set_limit(self, which: int, limit: int) -> None:
        self.model.set_limit(which % len(self.gates), limit)
        self.gates[which % len(self.gates)].set(limit)

    @rule(
        priority=st.sampled_from([5, 0, 1, -1, 9]),
        keyed=st.sampled_from([None, None, True]),
        max_requests=MAX_REQUESTS,
        weights=WEIGHTS,
    )
    def add_band(self, priority: int, keyed: bool | None, max_requests: int | None, weights: dict[str, float]) -> None:
        """Mostly with the policies that it has, or would have."""
        band = replace(self.model.limits_at(priority), priority=priority, max_requests=max_requests, weights=weights)
        if keyed:
            band = replace(band, ordering=EarliestDeadline())
        refusal = self.model.add_band(band)
        with nullcontext() if refusal is None else pytest.raises(ValueError, match=refusal):
            self.controller.add_band(band)

    @rule(priority=st.sampled_from([0, 0, 5, 1, -1, None]), collect=st.booleans())
    def retire_band(self, priority: int | None, collect: bool) -> None:
        """One of them, or all that there are."""
        for each in list(self.model.bands) if priority is None else [priority]:
            refusal = self.model.retire_band(each)
            with nullcontext() if refusal is None else pytest.raises(ValueError, match=refusal):
                self.controller.retire_band(each)
            self.agree()
        if collect:
            self.collect()

    @rule(how=st.sampled_from(HALTS), flow_id=st.sampled_from([*IDS, None]), priority=st.sampled_from(PRIORITIES))
    def halt(self, how: Halt, flow_id: str | None, priority: int) -> None:
        """Whether it exists or not."""
        band = self.controller._state.bands.get(priority)
        order = [] if band is None else [flow.id for flow in band._paused]
        match how:
            case "pause":
                self.controller.pause(flow_id, priority=priority)
            case "drain":
                self.controller.drain(flow_id, priority=priority)
            case "resume":
                self.controller.resume(flow_id, priority=priority)
        self.model.halt(how, flow_id, priority, order)

    @precondition(lambda self: self.model.queue)
    @rule(which=WHICH, whole_band=st.booleans(), seats=st.integers(0, 4), asks=st.lists(ASKS, max_size=3))
    def pause_for_a_while(self, which: int, whole_band: bool, seats: int, asks: list[Ask]) -> None:
        """Somebody who waits, while others come and go."""
        keys = list(dict.fromkeys([asked.key for asked in self.model.queue if asked.key.id in IDS]))
        if keys:
            flow_id, priority = keys[which % len(keys)]
            self.halt("pause", None if whole_band else flow_id, priority)
            self.agree()
            for ask in asks:
                self.submit_one(ask, None)
            self.release(which, seats, collect=False)
            self.halt("resume", None if whole_band else flow_id, priority)

    def resume_all(self) -> None:
        for priority, flow_id in sorted(self.model.paused | self.model.drained, key=repr):
            self.halt("resume", flow_id, priority)
            self.agree()

    @precondition(lambda self: len(self.asked) > 20)
    @rule()
    def close(self) -> None:
        assert self.controller.close() == self.model.close()

    # --- comparing -------------------------------------------------------------------------------------------------

    @invariant()
    def compare(self) -> None:
        if self.real is not None:
            if not self.unseen:
                self.agree()
            self.unseen = False

    def agree(self) -> None:
        """Everything that can be seen from outside is the same; and the controller's own invariants hold."""
        self.agree_on_news()
        is_settled = False
        while not is_settled:
            self.model.look()  # as whoever asks for statistics does first,
            assert self.controller.stats() == self.model.stats()
            self.model.look()  # and again: who was let go by that may have been dropped too
            self.agree_on_news()
            is_settled = not self.model.dropped()
        assert self.controller.flows() == sorted(self.model.flows, key=lambda key: (-key.priority, key.id))
        assert self.controller.bands() == sorted(self.model.bands, reverse=True)
        for number, ticket in self.tickets.items():
            assert ticket.state == self.model.state(self.asked[number])
        self.controller._check()

    def agree_on_news(self) -> None:
        """What was settled since the last look, and in which order."""
        told = self.model.told
        assert self.called == [told for told in self.model.told if not self.asked[told.number].has_thread]
        assert self.observations == (told if self.observed else [])
        for log in (told, self.called, self.observations):
            log.clear()

    def teardown(self) -> None:
        """Everything is served or closed, and then nothing is left; unless there is something to report already."""
        if self.real is None or sys.exc_info()[0] is not None:
            return
        if len(self.asked) % 3 == 0:
            self.close()
        else:
            self.resume_all()
        self.serve_all()
        assert not self.waiters, "somebody waits, and nothing is in flight"
        assert self.controller.stats().queued == self.controller.stats().in_flight == 0
        self.close()
        self.agree()


def examples(count: int, *, derandomize: bool = CI, phases: tuple[Phase, ...] = tuple(Phase)) -> settings:
    return settings(
        max_examples=count,
        stateful_step_count=STEPS,
        derandomize=derandomize,
        phases=phases,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.timeout(300 + EXAMPLES // 2)
def test_a_controller_does_what_the_oracle_does(proof: Proof) -> None:
    run_state_machine_as_test(ControllerMachine, settings=examples(EXAMPLES))

    proof.shown("P1, P3, P5", CLAIM, "property", EXAMPLES, "examples")
