"""What changes at run time, in every order: shards, bands, halts, and identities that make room for each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from flowctl import BandConfig, Config, FlowKey, Outcome, Ticket
from flowctl.band import Halts, PriorityBand
from flowctl.bands import Bands
from flowctl.flow import Flow
from flowctl.lease import born
from flowctl.ledger import Ledger
from flowctl.registry import FlowRegistry
from flowctl.request import RESERVED_PREFIX
from flowctl.shard import Shard
from flowctl.topology import Topology
from flowctl.turn import Turn
from tests.interleave.claims import Claim
from tests.interleave.explorer import Handler, Scenario
from tests.interleave.scheduled import SharedValue
from tests.interleave.stage import SHORT, Stage
from tests.proof import Proof

pytestmark = pytest.mark.timeout(900)

TWO_BANDS = [BandConfig(priority=0), BandConfig(priority=5)]


def at_most(flows: int) -> Config:
    return Config(max_flows=flows, overflow_flows=1, flow_gc_timeout=SHORT, shards=1)


def at_once(shards: int = 1) -> Config:
    return Config(flow_gc_timeout=0, band_gc_timeout=0, shards=shards)


def fixed() -> Config:
    """Both bands are there from the beginning, and no other will be."""
    return Config(bands=TWO_BANDS, dynamic_bands=False, flow_gc_timeout=SHORT, shards=1)


def ending(stage: Stage, at_end: Callable[[], None], *actors: Callable[[], object]) -> Scenario:
    def ask_both() -> None:
        stage.at_end()
        at_end()

    return Scenario(actors, stage.check, ask_both)


# --- who makes room for whom ---------------------------------------------------------------------------------------


def assert_all_are_filed(stage: Stage) -> None:
    wheel, newborn = stage.registry._wheel, stage.registry._newborn
    filed = {*wheel._turning, *newborn, *[flow for flows in wheel._spokes.values() for flow in flows]}
    assert filed >= set(stage.registry.flows()), "R3: a flow that nobody will look at again"


def assert_bounded(stage: Stage, most: int) -> None:
    own = [flow for flow in stage.registry.flows() if not flow.id.startswith(RESERVED_PREFIX)]
    assert len(own) <= most, "R4: more flows than there may be"


def an_eviction_and_a_pin() -> Scenario:
    """The only flow is asked for while it is to make room for another."""
    stage = Stage(at_most(1), limit=2)
    stage.use("a")
    stage.outcomes.clear()

    def at_end() -> None:
        assert stage.outcomes == ["granted"] * 2
        assert_all_are_filed(stage)

    return ending(stage, at_end, lambda: stage.use("new"), lambda: stage.use("a"))


def an_eviction_and_a_sweep() -> Scenario:
    """Both look at what is on the wheel: one flow that is due, and one that is not."""
    stage = Stage(at_most(2), limit=2)
    stage.idle_flow("due")
    stage.use("fresh")
    stage.outcomes.clear()

    def at_end() -> None:
        assert stage.outcomes == ["granted"]
        assert_all_are_filed(stage)
        assert_bounded(stage, 2)

    return ending(stage, at_end, lambda: stage.use("new"), stage.sweep)


def two_evictions() -> Scenario:
    """Each takes one away; who comes between an eviction and its creation may take that room too."""
    stage = Stage(at_most(2), limit=2)
    for flow in "ab":
        stage.use(flow)
    stage.outcomes.clear()

    def at_end() -> None:
        assert stage.outcomes == ["granted"] * 2
        assert_all_are_filed(stage)
        assert_bounded(stage, 2 + 1)

    return ending(stage, at_end, lambda: stage.use("c"), lambda: stage.use("d"))


def an_eviction_that_a_handler_interrupts() -> Scenario:
    """The handler looks for room too, in the middle of a look at who is idle."""
    stage = Stage(at_most(3), limit=2)
    for flow in "abc":
        stage.use(flow)

    def at_end() -> None:
        stage.at_end()
        assert_all_are_filed(stage)
        assert len(stage.registry.flows()) in {1, 2}, "a flow that was looked at is gone, and nobody took it away"

    look = stage.registry._collect_longest_idle
    return Scenario([look], stage.check, at_end, [Handler(0, look)])


# --- shards --------------------------------------------------------------------------------------------------------


def assert_listed(stage: Stage, *flows: str) -> None:
    """H1, of the flows that are there and of these."""
    shards = stage.registry.topology.shards
    assert not any(shard.dropped for shard in shards), "H2: a shard that is gone is listed"
    for band in stage.registry.bands.entries.copy().values():
        for flow in band.flows.entries.copy().values():
            assert flow.detached or flow.shard in shards, "H1: a flow in a shard that is not listed"
    assert set(flows) <= {flow.id for flow in stage.registry.flows()}, "H1: a flow that is in no shard"


def fewer_shards_a_creator_and_a_collector() -> Scenario:
    """The flow comes to the shard that is retired, and dropped as soon as it is empty."""
    stage = Stage(Config(flow_gc_timeout=SHORT, shards=2), limit=2)
    last = stage.registry.topology.live[1]
    flow = next(name for name in "abcdefgh" if stage.registry.topology.shard_for(name, 0) is last)

    def at_end() -> None:
        assert_listed(stage, flow)
        stage.registry.topology.sweep()
        assert len(stage.registry.topology.live) == 1
        assert last.dropped == (not last.flows())
        assert_listed(stage, flow)

    topology = stage.registry.topology
    return ending(stage, at_end, lambda: stage.use(flow), lambda: topology.resize(1), topology.sweep)


def two_resizes_and_a_creator() -> Scenario:
    stage = Stage(limit=2)
    topology = stage.registry.topology

    def at_end() -> None:
        assert_listed(stage)
        assert len(topology.live) in {2, 3}

    def resize_and_create(shards: int) -> None:
        topology.resize(shards)
        for name in "wxyz":
            flow = Flow(name, band, topology.shard_for(name, 0), stage.registry._section, born(0.0, pins=0))
            topology.attach(flow)
            attached.append(flow)

    stage.idle_flow()
    known = stage.registry.find(FlowKey("a", 0))
    assert known is not None
    band = known.band
    attached: list[Flow] = []

    def all_are_listed() -> None:
        at_end()
        assert set(attached) <= set(topology.flows()), "H1: a flow that is in no shard"
        topology._check()

    return Scenario([lambda: resize_and_create(2), lambda: resize_and_create(3)], at_end=all_are_listed)


# --- bands ---------------------------------------------------------------------------------------------------------


def use_and_retire(stage: Stage) -> tuple[Callable[[], None], Callable[[], None]]:
    """A request of band 5, and its retirement: whoever begins after that is not served in it."""
    retired = SharedValue(value=False)

    def use() -> None:
        is_late = retired.get()
        ticket = stage.admit("a", priority=5)
        assert ticket is not None
        assert not (is_late and ticket.key.priority == 5), "a retired band takes a new request"
        stage.release(ticket)

    def retire() -> None:
        stage.controller.retire_band(5)
        retired.set(True)

    return use, retire


def a_retirement_a_known_flow_and_a_collector() -> Scenario:
    """Whoever comes after the retirement goes to another band, and whoever came before is served."""
    stage = Stage(fixed(), limit=2)
    stage.idle_flow("a", priority=5)

    def at_end() -> None:
        stage.controller.collect()
        stage.controller.collect()
        assert stage.controller.bands() == [0], "L6: a retired band that nobody uses stays"

    return ending(stage, at_end, *use_and_retire(stage), stage.collect)


def a_retirement_and_a_known_flow_on_the_fast_path() -> Scenario:
    """The same without a collector: the flow is found, and only its band says that it is too late."""
    stage = Stage(fixed(), limit=2)
    stage.use("a", priority=5)
    return stage.scenario(*use_and_retire(stage))


def a_revival_a_request_and_a_collector() -> Scenario:
    """A band is retired and added again; in between it may be collected."""
    stage = Stage(fixed(), limit=2)
    stage.idle_flow("a", priority=5)

    def retire_and_add() -> None:
        stage.controller.retire_band(5)
        stage.controller.add_band(BandConfig(priority=5))

    def at_end() -> None:
        ticket = stage.admit("b", priority=5)
        assert ticket is not None
        assert ticket.key.priority == 5, "a band that was added takes nothing"
        stage.release(ticket)
        stage.clock.advance(99.0)
        stage.collect()
        assert stage.controller.bands() == [5, 0], "a configured band was collected"
        stage.controller._check()

    return ending(stage, at_end, retire_and_add, stage.collect, lambda: stage.use("a", priority=5))


def a_new_band_and_its_first_request() -> Scenario:
    """Made from the template by the request, or as it was configured: it is one band, and stays."""
    stage = Stage(at_once(), limit=2)

    def at_end() -> None:
        stage.clock.advance(99.0)
        stage.collect()
        stage.collect()
        assert stage.controller.bands() == [5], "a configured band was collected"
        band = stage.registry.bands.entries[5]
        assert band.config.max_requests == 7, "it was added, and has other limits"
        assert band.lease.pins == 1

    added = BandConfig(priority=5, max_requests=7)
    return ending(
        stage, at_end, lambda: stage.use("a", priority=5), lambda: stage.controller.add_band(added), stage.collect
    )


def an_audit_beside(change: Callable[[FlowRegistry], object]) -> Scenario:
    """Somebody has taken a configured band's pin and not said so yet, or the other way round."""
    stage = Stage(fixed())
    mended: list[int] = []

    def at_end() -> None:
        stage.at_end()
        assert mended == [0], "the audit took a pin away that somebody answers for"

    audit = stage.registry.audit_bands
    return Scenario([lambda: change(stage.registry), lambda: mended.append(audit())], stage.check, at_end)


def add_band(registry: FlowRegistry) -> None:
    registry.add_band(BandConfig(priority=9))


def retire_band(registry: FlowRegistry) -> None:
    registry.retire_band(5)


# --- halts ---------------------------------------------------------------------------------------------------------


def a_pause_a_release_and_who_waits() -> Scenario:
    """Whoever is paused and not granted by then is not granted at all; whoever is not paused goes before it."""
    stage = Stage()
    holder = stage.admit("holder")
    assert holder is not None
    waiting = stage.submit("a")
    stage.outcomes.clear()
    held_back: list[Ticket] = []

    def pause_it() -> None:
        stage.controller.pause("a")
        if waiting.outcome is None:
            held_back.append(waiting)

    def check() -> None:
        stage.check()
        assert not any(ticket.outcome is not None for ticket in held_back), "granted though it is paused"

    def at_end() -> None:
        check()
        if waiting.outcome is None:
            held_back.clear()
            stage.controller.resume("a")
        assert waiting.outcome is Outcome.DISPATCHED, "resumed beside a free seat, and not granted"
        stage.release(waiting)
        stage.at_end()
        assert sorted(stage.outcomes) == ["granted"] * 2

    return Scenario([pause_it, lambda: stage.release(holder), lambda: stage.submit_and_use("b")], check, at_end)


def a_pause_a_resume_and_who_waits() -> Scenario:
    """Both sleep until the holder or the resumption lets them go: if neither does, it is a deadlock."""
    stage = Stage()
    holder = stage.admit("holder")
    assert holder is not None

    def pause_and_resume() -> None:
        stage.controller.pause("a")
        stage.controller.resume("a")

    return stage.scenario(pause_and_resume, lambda: stage.use("a"), lambda: stage.release(holder))


def a_pause_and_a_first_request(priority: int, whom: str | None) -> Scenario:
    """Of a flow, or of a band, that does not exist when it is paused, or comes at that very moment."""
    stage = Stage(limit=2)
    stage.use("another")
    stage.outcomes.clear()
    paused = SharedValue(value=False)
    asked: list[tuple[bool, Ticket]] = []

    def pause_it() -> None:
        stage.controller.pause(whom, priority=priority)
        paused.set(True)

    def ask() -> None:
        is_late = paused.get()
        asked.append((is_late, stage.submit_and_use("new", priority=priority)))

    def at_end() -> None:
        asked.append((True, stage.submit_and_use("new", priority=priority)))
        for is_late, ticket in asked:
            assert ticket.outcome is None or not is_late, "granted though it is paused"
        stage.controller.resume(whom, priority=priority)
        assert all(ticket.outcome is Outcome.DISPATCHED for _, ticket in asked), "resumed, and not granted"
        stage.at_end()

    return Scenario([pause_it, ask], stage.check, at_end)


def a_pause_and_a_known_flow() -> Scenario:
    """On the fast path, which asks nobody but the door of the band."""
    stage = Stage()
    stage.use("a")
    stage.outcomes.clear()
    paused = SharedValue(value=False)

    def pause_it() -> None:
        stage.controller.pause("a")
        paused.set(True)

    def ask() -> None:
        is_late = paused.get()
        stage.use("a", ttl=0)
        assert stage.outcomes == ["Saturated"] or not is_late, "granted though it is paused"

    return stage.scenario(pause_it, ask)


EVICTION_AND_PIN = Claim(
    "L1-L5, P11", "a flow that is asked for while it is to make room is served", an_eviction_and_a_pin, preemptions=1
)
EVICTION_AND_SWEEP = Claim(
    "P11, R3", "an eviction and a sweep: every flow stays filed", an_eviction_and_a_sweep, preemptions=1
)
TWO_EVICTIONS = Claim("P11, R3", "two evictions: each is served, every flow stays filed", two_evictions, preemptions=1)
NESTED_EVICTION = Claim(
    "P11, R3", "a handler that needs room in the middle of an eviction", an_eviction_that_a_handler_interrupts
)
FEWER_SHARDS = Claim(
    "H1, H2",
    "fewer shards, a creator and a sweep: no flow is in a shard that is gone",
    fewer_shards_a_creator_and_a_collector,
    preemptions=1,
)
TWO_RESIZES = Claim("H1", "two resizes and what is created after each", two_resizes_and_a_creator, preemptions=2)
RETIREMENT = Claim(
    "L6",
    "a retirement, a known flow and a collector: what is late goes elsewhere, the band goes",
    a_retirement_a_known_flow_and_a_collector,
    preemptions=1,
)
RETIREMENT_AND_FAST_PATH = Claim(
    "T1",
    "a retirement and a known flow: who is late goes elsewhere",
    a_retirement_and_a_known_flow_on_the_fast_path,
    preemptions=2,
)
REVIVAL = Claim(
    "L6",
    "a band that is retired and added again takes requests and stays",
    a_revival_a_request_and_a_collector,
    preemptions=1,
)
NEW_BAND = Claim(
    "L6", "a band that is added while it is first asked for", a_new_band_and_its_first_request, preemptions=1
)
AUDIT_AND_ADD = Claim("R2", "an audit beside an added band mends nothing", lambda: an_audit_beside(add_band))
AUDIT_AND_RETIRE = Claim("R2", "an audit beside a retired band mends nothing", lambda: an_audit_beside(retire_band))
PAUSE = Claim(
    "T2", "a pause, a release and another: who is paused is not granted", a_pause_a_release_and_who_waits, preemptions=1
)
RESUME = Claim(
    "T2, P4", "a pause and a resume: nobody sleeps beside a free seat", a_pause_a_resume_and_who_waits, preemptions=1
)
NEW_FLOW_PAUSED = Claim(
    "T2", "a pause and a flow's first request", lambda: a_pause_and_a_first_request(0, "new"), preemptions=1
)
NEW_BAND_PAUSED = Claim(
    "T2", "a pause and a band's first request", lambda: a_pause_and_a_first_request(7, None), preemptions=1
)
KNOWN_FLOW_PAUSED = Claim("T2", "a pause and a flow that is known", a_pause_and_a_known_flow, preemptions=2)
CLAIMS = [
    EVICTION_AND_PIN,
    EVICTION_AND_SWEEP,
    TWO_EVICTIONS,
    NESTED_EVICTION,
    FEWER_SHARDS,
    TWO_RESIZES,
    RETIREMENT,
    RETIREMENT_AND_FAST_PATH,
    REVIVAL,
    NEW_BAND,
    AUDIT_AND_ADD,
    AUDIT_AND_RETIRE,
    PAUSE,
    RESUME,
    NEW_FLOW_PAUSED,
    NEW_BAND_PAUSED,
    KNOWN_FLOW_PAUSED,
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_it_holds_in_every_interleaving(claim: Claim, proof: Proof) -> None:
    claim.holds(proof)


# --- negative controls ---------------------------------------------------------------------------------------------


def test_control_a_wheel_that_two_turn_at_once_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def turn(registry: FlowRegistry, act: Callable[[], bool]) -> bool:
        return act()

    monkeypatch.setattr(FlowRegistry, "_turn_wheel", turn)

    EVICTION_AND_SWEEP.fails_without("the mutex around the wheel", proof, "invariant", "exception")


def test_control_a_handler_that_turns_the_wheel_too_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def turn(registry: FlowRegistry, act: Callable[[], bool]) -> bool:
        with registry._idle:
            return act()

    monkeypatch.setattr(FlowRegistry, "_turn_wheel", turn)

    NESTED_EVICTION.fails_without("what tells a handler that the wheel is turning", proof, "invariant", "exception")


def test_control_an_eviction_that_minds_no_pin_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def collect(registry: FlowRegistry, flow: Flow, now: float, timeout: float) -> bool:
        if flow.lease.pins or timeout == float("inf"):
            registry._wheel.file(flow, registry._due_at(flow, now))
            return False
        flow.pins |= 1 << 22
        return registry._take_away(flow)

    monkeypatch.setattr(FlowRegistry, "_collect_locked", collect)

    claim = replace(EVICTION_AND_PIN, preemptions=2)
    claim.fails_without("the exchange that marks a victim", proof, "invariant", "exception")


def test_control_two_resizes_at_once_are_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def resize(topology: Topology, count: int) -> None:
        while not topology._try_resize(count):
            pass

    monkeypatch.setattr(Topology, "resize", resize)

    TWO_RESIZES.fails_without("one resize at a time", proof)


def test_control_a_shard_that_looks_before_its_lock_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    attach = Shard.attach

    def look_and_attach(shard: Shard, flow: Flow) -> bool:
        if shard.retired:
            return False
        with shard.lock.write():
            retired, shard.retired = shard.retired, False
        try:
            return attach(shard, flow)
        finally:
            shard.retired = retired

    monkeypatch.setattr(Shard, "attach", look_and_attach)

    FEWER_SHARDS.fails_without("the look at `retired` under the shard's lock", proof)


def test_control_a_band_that_is_retired_and_open_on_the_fast_path_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def retire(turn: Turn, band: PriorityBand[Flow]) -> None:
        band.is_retired = True

    monkeypatch.setattr(Turn, "retire", retire)

    RETIREMENT_AND_FAST_PATH.fails_without("the door that a retirement shuts", proof, "exception")


def test_control_a_configured_band_without_a_pin_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    configure = Bands.configure

    def configure_only(bands: Bands, config: BandConfig) -> PriorityBand[Flow]:
        band = configure(bands, config)
        band.lease.unpin(bands._clock.now)
        return band

    monkeypatch.setattr(Bands, "configure", configure_only)

    NEW_BAND.fails_without("the pin of a configured band", proof)


@pytest.mark.parametrize("claim", [AUDIT_AND_ADD, AUDIT_AND_RETIRE], ids=str)
def test_control_a_change_of_bands_that_is_not_announced_is_found(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def begin(registry: FlowRegistry, move: object) -> None:
        pass

    monkeypatch.setattr(FlowRegistry, "_begin", begin)

    claim.fails_without("the announcement of a changed band to the audit", proof, "invariant", "exception")


def test_control_a_flow_that_is_adopted_without_a_look_at_halts_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def adopt_only(ledger: Ledger, band: PriorityBand[Flow]) -> None:
        pass

    monkeypatch.setattr(Ledger, "adopt_band", adopt_only)

    NEW_BAND_PAUSED.fails_without("the look at halts when a flow is adopted", proof)


def test_control_a_pause_that_leaves_the_door_open_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def leave_open(band: PriorityBand[Flow], halts: Halts) -> None:
        band.halts = halts

    monkeypatch.setattr(PriorityBand, "align", leave_open)

    KNOWN_FLOW_PAUSED.fails_without("the door that a pause shuts", proof, "exception")


def test_control_a_resumption_without_a_round_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def set_only(turn: Turn, bands: object, priority: int, change: Callable[..., object]) -> None:
        with turn.lock:
            for band in turn.ledger.waiting or []:
                halts = change(band.halts)
                assert isinstance(halts, tuple)
                turn.ledger.halt(priority, Halts(*halts), {priority: band}, lambda flow: 0.0)

    monkeypatch.setattr(Turn, "halt", set_only)

    PAUSE.fails_without("the round of a resumption", proof)
