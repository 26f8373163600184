"""Shards: who looks and who changes never do so at once."""

from collections.abc import Callable

import pytest

from flowctl import BandConfig, sync
from flowctl.atomic import CellWord
from flowctl.band import PriorityBand
from flowctl.flow import Flow
from flowctl.lease import Lease, born
from flowctl.shard import Shard
from tests.support import Spawn

A_MOMENT = 0.05
"""Real seconds in which a thread that need not wait would have ended."""


def attach_another(shard: Shard, flow: Flow) -> object:
    return shard.attach(Flow("another", flow.band, shard, flow._section, flow.load()))


CHANGES: dict[str, Callable[[Shard, Flow], object]] = {"attach": attach_another, "detach": Shard.detach}
LOOKS: dict[str, Callable[[Shard], object]] = {"flows": Shard.flows, "counts": Shard.counts}


@pytest.fixture
def shard() -> Shard:
    return Shard()


@pytest.fixture
def flow(shard: Shard) -> Flow:
    band: PriorityBand[Flow] = PriorityBand(0, BandConfig(priority=0), Lease(CellWord(born(0.0, pins=1))))
    flow = Flow("a", band, shard, sync.RLock(), born(0.0, pins=0))
    shard.attach(flow)
    return flow


@pytest.mark.parametrize("change", CHANGES)
def test_who_attaches_or_detaches_waits_for_those_who_look(spawn: Spawn, shard: Shard, flow: Flow, change: str) -> None:
    with shard.lock.read():
        changing = spawn(CHANGES[change], shard, flow)
        changing.thread.join(A_MOMENT)
        waited = not changing.done

    assert changing.result()
    assert waited


@pytest.mark.parametrize("look", LOOKS)
def test_who_looks_waits_for_whoever_attaches_or_detaches(spawn: Spawn, shard: Shard, flow: Flow, look: str) -> None:
    with shard.lock.write():
        looking = spawn(LOOKS[look], shard)
        looking.thread.join(A_MOMENT)
        waited = not looking.done

    assert looking.result() in ([flow], {0: 1})
    assert waited


def test_a_priority_without_flows_is_not_counted(shard: Shard, flow: Flow) -> None:
    shard.detach(flow)

    assert shard.counts() == {}


def test_a_flow_that_was_never_attached_takes_nobody_with_it(shard: Shard, flow: Flow) -> None:
    stranger = Flow("stranger", flow.band, shard, flow._section, flow.load())

    assert not shard.detach(stranger)
    assert shard.flows() == [flow]


def test_a_retired_shard_that_its_last_flow_has_left_is_dropped_once(shard: Shard, flow: Flow) -> None:
    shard.retire()
    assert not shard.try_drop()
    shard.detach(flow)

    assert [shard.try_drop(), shard.try_drop()] == [True, False]
