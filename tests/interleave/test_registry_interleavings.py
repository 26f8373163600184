"""Who exists, created and collected in every order; and each protection, taken away, is missed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowctl import Config
from flowctl.band import PriorityBand
from flowctl.flow import Flow
from flowctl.lease import born
from flowctl.ledger import Ledger
from flowctl.registry import FlowRegistry
from flowctl.request import FlowKey
from flowctl.shard import Shard
from flowctl.ticket import Ticket, Wait
from tests.interleave.claims import Claim
from tests.interleave.explorer import Handler, Scenario
from tests.interleave.scheduled import SharedValue
from tests.interleave.stage import Stage
from tests.proof import Proof

pytestmark = pytest.mark.timeout(900)

AT_ONCE = Config(flow_gc_timeout=0, band_gc_timeout=0, shards=1)


class Died(BaseException):
    """What ends a thread wherever it is."""


def die() -> None:
    raise Died


def mortal(act: Callable[[], object]) -> Callable[[], None]:
    def live() -> None:
        try:
            act()
        except Died:
            pass

    return live


# --- scenarios -----------------------------------------------------------------------------------------------------


def pin_and_collect() -> Scenario:
    stage = Stage()
    stage.idle_flow()
    return stage.scenario(stage.use, stage.collect)


def collect_flow(stage: Stage, flow: Flow) -> None:
    """What a sweep does with a flow that fell due; beside others that do it too, as after one that died."""
    if flow.lease.try_mark(stage.clock.now(), 0.0) or flow.lease.is_marked:
        stage.registry.remove(flow)
        stage.registry._finalise(flow)


def pin_and_two_collectors() -> Scenario:
    stage = Stage()
    stage.idle_flow()
    flow = stage.registry.find(FlowKey("a", 0))
    assert flow is not None
    return stage.scenario(stage.use, lambda: collect_flow(stage, flow), lambda: collect_flow(stage, flow))


def two_creators() -> Scenario:
    stage = Stage(limit=2)
    return stage.scenario(stage.use, stage.use)


def a_queued_request_and_a_collector() -> Scenario:
    stage = Stage(AT_ONCE)
    holder = stage.admit("holder")
    assert holder is not None
    return stage.scenario(stage.use, stage.collect, lambda: stage.release(holder))


def two_creators_and_a_collector() -> Scenario:
    stage = Stage(AT_ONCE, limit=2)
    return stage.scenario(stage.use, stage.use, stage.collect)


def a_creator_that_fails_and_another() -> Scenario:
    """The first may fail wherever it makes a call."""
    stage = Stage(limit=2)
    return stage.scenario(mortal(stage.use), stage.use, handlers=[Handler(0, die, raises=True)])


def a_creator_that_fails_another_and_a_pin() -> Scenario:
    stage = Stage(AT_ONCE, limit=3)
    return stage.scenario(mortal(stage.use), stage.use, stage.use, handlers=[Handler(0, die, raises=True)])


def a_collector_that_dies_and_a_pin() -> Scenario:
    """The collector may die wherever it makes a call; the next one (at the end) completes what it left."""
    stage = Stage(Config(flow_gc_timeout=5.0, shards=1))
    stage.idle_flow()
    return stage.scenario(stage.use, mortal(stage.collect), handlers=[Handler(1, die, raises=True)])


def a_bands_last_flow_its_next_and_a_collector() -> Scenario:
    """The flow goes, so that the band may go; meanwhile somebody comes to it with another flow."""
    stage = Stage(AT_ONCE)
    stage.idle_flow("old")

    def collect_all() -> None:
        stage.sweep()
        stage.registry.sweep_bands()

    return stage.scenario(lambda: stage.use("new"), collect_all)


def a_bands_two_collectors_and_a_creator() -> Scenario:
    stage = Stage(AT_ONCE)
    stage.idle_flow("old")
    stage.sweep()
    return stage.scenario(lambda: stage.use("new"), stage.registry.sweep_bands, stage.registry.sweep_bands)


def a_release_and_a_collector() -> Scenario:
    """What is used until now is not collected, however long ago it was taken."""
    stage = Stage()
    stage.idle_flow()
    ticket = stage.admit()
    assert ticket is not None
    stage.clock.advance(99.0)
    flow = stage.registry.find(FlowKey("a", 0))

    def stays() -> None:
        stage.check()
        assert stage.registry.find(FlowKey("a", 0)) is flow, "collected though it was used until now"

    return Scenario([lambda: stage.release(ticket), stage.collect], stays, stage.at_end)


def an_audit_beside(act: Callable[[Stage, Flow], object]) -> Scenario:
    """Somebody is between a band's pin and its flow: that is not a pin of nobody's."""
    stage = Stage()
    stage.idle_flow()
    flow = stage.registry.find(FlowKey("a", 0))
    assert flow is not None
    mended: list[int] = []

    def at_end() -> None:
        stage.at_end()
        assert mended == [0], "the audit took a pin away that somebody answers for"

    return Scenario(
        [lambda: act(stage, flow), lambda: mended.append(stage.registry.audit_bands())], stage.check, at_end
    )


def attach_detach_and_drop() -> Scenario:
    """A shard is retired and dropped while one flow comes and another goes."""
    stage = Stage()
    stage.idle_flow("leaving")
    leaving = stage.registry.find(FlowKey("leaving", 0))
    assert leaving is not None
    old, new = stage.registry.topology.shards[0], Shard()
    shards = SharedValue([old])
    coming = Flow("coming", leaving.band, old, leaving._section, leaving.load())

    def come() -> None:
        shard = shards.get()[0]
        while not shard.attach(coming):
            shard = shards.get()[0]

    def resize() -> None:
        shards.set([new, old])
        old.retire()

    def drop() -> None:
        if old.try_drop():
            shards.set([shard for shard in shards.get() if shard is not old])

    def check() -> None:
        assert not (old.dropped and any(old._flows.values())), "a flow in a shard that is gone"

    def at_end() -> None:
        drop()
        assert coming in [flow for shard in shards.get() for flow in shard.flows()], "a flow in a shard that is gone"
        assert leaving.detached
        assert old.dropped == (not old.flows())

    return Scenario([come, resize, lambda: old.detach(leaving), drop], check, at_end)


PIN_AND_COLLECT = Claim(
    "L1-L4, L7", "a flow that is asked for while it is collected is served", pin_and_collect, preemptions=2
)
PIN_AND_TWO_COLLECTORS = Claim(
    "L1-L7, P2", "two collectors of one flow and a request for it", pin_and_two_collectors, preemptions=1
)
TWO_CREATORS = Claim("L3-L6", "two creators of one flow and a collector", two_creators_and_a_collector, preemptions=1)
TWO_CREATORS_SAMPLED = Claim(
    "L3-L6", "two creators of one flow and a collector, at random", two_creators_and_a_collector, runs=3000
)
FAILING_CREATOR = Claim(
    "L6, P7",
    "a creator that fails at any call: the other is served, and the collector leaves nothing behind",
    a_creator_that_fails_and_another,
    preemptions=1,
)
BAND = Claim(
    "L6",
    "a band that is collected while a flow comes to it",
    a_bands_last_flow_its_next_and_a_collector,
    preemptions=2,
)
AUDIT_AND_FINALISE = Claim(
    "R2", "an audit of bands beside a finalisation mends nothing", lambda: an_audit_beside(collect_flow), preemptions=2
)
AUDIT_AND_CREATE = Claim(
    "R2",
    "an audit of bands beside a creation mends nothing",
    lambda: an_audit_beside(lambda stage, flow: stage.use("new")),
    preemptions=2,
)
RELEASE_AND_COLLECT = Claim("L1", "a flow that was used until now is not collected", a_release_and_a_collector)
RETIRED_SHARD = Claim("R1", "a shard that is dropped has no flow, and gets none", attach_detach_and_drop)
QUEUED = Claim("L3", "a flow with a queued request is not collected", a_queued_request_and_a_collector, preemptions=1)
NEWBORN = Claim("L6, R2", "whoever loses a publication leaves nothing behind", two_creators, preemptions=1)
CLAIMS = [
    NEWBORN,
    QUEUED,
    PIN_AND_COLLECT,
    PIN_AND_TWO_COLLECTORS,
    TWO_CREATORS,
    TWO_CREATORS_SAMPLED,
    FAILING_CREATOR,
    Claim(
        "L6, P7",
        "a creator that fails at any call, another, and a pin, at random",
        a_creator_that_fails_another_and_a_pin,
        runs=3000,
    ),
    Claim(
        "L5, P12",
        "what a collector leaves that dies at any call, the next completes",
        a_collector_that_dies_and_a_pin,
        preemptions=1,
    ),
    BAND,
    Claim("L6", "two collectors of one band and a creator", a_bands_two_collectors_and_a_creator, preemptions=1),
    AUDIT_AND_FINALISE,
    AUDIT_AND_CREATE,
    RELEASE_AND_COLLECT,
    RETIRED_SHARD,
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_it_holds_in_every_interleaving(claim: Claim, proof: Proof) -> None:
    claim.holds(proof)


# --- negative controls ---------------------------------------------------------------------------------------------


def test_control_two_collectors_that_both_finalise_are_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    detach = Shard.detach

    def detach_again(shard: Shard, flow: Flow) -> bool:
        detach(shard, flow)
        return True  # whoever comes gives the band's lease back

    monkeypatch.setattr(Shard, "detach", detach_again)

    PIN_AND_TWO_COLLECTORS.fails_without("`detached`: two collectors give the band's lease back", proof, "exception")


def test_control_a_band_that_is_leased_after_publication_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def create(registry: FlowRegistry, flow_id: str, band: PriorityBand[Flow], adopt: Callable[[Flow], None]) -> Flow:
        band.lease.unpin(registry._clock.now)
        flow = new_flow(registry, flow_id, band, adopt)
        winner = band.flows.publish(flow_id, flow)
        band.lease.try_pin()
        return winner

    monkeypatch.setattr(FlowRegistry, "_create", create)

    BAND.fails_without("the band's lease before its flow is published", proof)


def test_control_a_failed_creation_that_deletes_by_key_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def create(registry: FlowRegistry, flow_id: str, band: PriorityBand[Flow], adopt: Callable[[Flow], None]) -> Flow:
        flow = new_flow(registry, flow_id, band, adopt)
        try:
            winner = band.flows.publish(flow_id, flow)
        except BaseException:
            band.flows.entries.pop(flow_id, None)
            registry._finalise(flow)
            raise
        if winner is not flow:
            registry._finalise(flow)
        return winner

    monkeypatch.setattr(FlowRegistry, "_create", create)

    FAILING_CREATOR.fails_without("identity when a creation fails", proof)


def test_control_a_loser_of_the_publication_that_stays_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def create(registry: FlowRegistry, flow_id: str, band: PriorityBand[Flow], adopt: Callable[[Flow], None]) -> Flow:
        return band.flows.publish(flow_id, new_flow(registry, flow_id, band, adopt))

    monkeypatch.setattr(FlowRegistry, "_create", create)

    NEWBORN.fails_without("the finalising of the flow that lost its publication", proof)


def test_control_finalising_by_key_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def detach(shard: Shard, flow: Flow) -> bool:
        with shard.lock.write():
            if flow.detached:
                return False
            members = shard._flows.get(flow.band.priority, {})
            for member in [member for member in members if member.id == flow.id]:
                del members[member]
            flow.detached = True
            return True

    monkeypatch.setattr(Shard, "detach", detach)

    TWO_CREATORS.fails_without("identity in a shard: finalising by key", proof)


def test_control_a_lease_held_only_while_distributing_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    enqueue, dequeue = Ledger.enqueue, Ledger.dequeue

    def enqueue_and_unpin(ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        enqueue(ledger, ticket, wait, flow)
        flow.pins -= 1

    def pin_and_dequeue(ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        flow.pins += 1
        dequeue(ledger, ticket, wait, flow)

    monkeypatch.setattr(Ledger, "enqueue", enqueue_and_unpin)
    monkeypatch.setattr(Ledger, "dequeue", pin_and_dequeue)

    QUEUED.fails_without("the pin of what is queued: a lease only while distributing", proof)


def test_control_a_move_that_is_not_announced_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def begin(registry: FlowRegistry, move: object) -> None:
        pass

    monkeypatch.setattr(FlowRegistry, "_begin", begin)

    AUDIT_AND_FINALISE.fails_without("the announcement of a move to the audit", proof, "invariant", "exception")
    AUDIT_AND_CREATE.fails_without("the announcement of a move to the audit", proof, "invariant", "exception")


def test_control_a_retired_shard_that_takes_a_flow_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def attach(shard: Shard, flow: Flow) -> bool:
        if shard.retired:
            return False
        with shard.lock.write():
            shard._flows.setdefault(flow.band.priority, {})[flow] = None
            flow.detached = False
            return True

    monkeypatch.setattr(Shard, "attach", attach)

    RETIRED_SHARD.fails_without("the look at `retired` under the shard's lock", proof)


def new_flow(registry: FlowRegistry, flow_id: str, band: PriorityBand[Flow], adopt: Callable[[Flow], None]) -> Flow:
    """Built, adopted and attached, as `FlowRegistry._create` does it."""
    word = born(registry._clock.now(), pins=1)
    flow = Flow(flow_id, band, registry.topology.shards[0], registry._section, word)
    adopt(flow)
    registry._newborn.append(flow)
    flow.shard.attach(flow)
    return flow
