"""Shards: who exists, in partitions."""

import threading

import pytest

from flowctl import BandConfig, sync
from flowctl.atomic import CellWord
from flowctl.band import PriorityBand
from flowctl.flow import Flow
from flowctl.lease import Lease, born
from flowctl.shard import Shard
from tests.support import Spawn


def band_at(priority: int) -> PriorityBand[Flow]:
    return PriorityBand(priority, BandConfig(priority=priority), Lease(CellWord(born(0.0, pins=1))))


def flow_of(shard: Shard, flow_id: str = "a", band: PriorityBand[Flow] | None = None) -> Flow:
    return Flow(flow_id, band_at(0) if band is None else band, shard, sync.RLock(), born(0.0, pins=0))


@pytest.fixture
def shard() -> Shard:
    return Shard()


def test_a_flow_that_is_attached_is_there_until_it_is_detached(shard: Shard) -> None:
    flow = flow_of(shard)

    assert shard.attach(flow)
    assert shard.flows() == [flow]
    assert shard.detach(flow)
    assert shard.flows() == []
    shard._check()


def test_attaching_makes_a_shard_the_flows_home(shard: Shard) -> None:
    flow = flow_of(Shard())
    shard.attach(flow)

    assert flow.shard is shard


def test_a_flow_is_finalised_by_exactly_one_of_those_who_detach_it(shard: Shard) -> None:
    flow = flow_of(shard)
    shard.attach(flow)

    assert [shard.detach(flow), shard.detach(flow)] == [1, 0]


def test_of_16_threads_that_detach_a_flow_one_finalises_it(shard: Shard, spawn: Spawn) -> None:
    for _ in range(50):
        flow, start = flow_of(shard), threading.Barrier(16)
        shard.attach(flow)

        def detach(flow: Flow = flow, start: threading.Barrier = start) -> int:
            start.wait()
            return shard.detach(flow)

        assert sum(thread.result() for thread in [spawn(detach) for _ in range(16)]) == 1


def test_a_flow_that_was_never_attached_is_not_finalised(shard: Shard) -> None:
    assert not shard.detach(flow_of(shard))
    shard._check()


def test_a_retired_shard_takes_no_new_flow_and_lets_its_own_go(shard: Shard) -> None:
    old, new = flow_of(shard), flow_of(shard, "b")
    shard.attach(old)
    shard.retired = True

    assert not shard.attach(new)
    assert shard.flows() == [old]
    assert shard.detach(old)


def test_a_successor_with_the_same_key_is_another_member(shard: Shard) -> None:
    band = band_at(3)
    old, new = flow_of(shard, "a", band), flow_of(shard, "a", band)
    shard.attach(old)
    shard.attach(new)

    shard.detach(old)
    assert shard.flows() == [new]


def test_flows_are_counted_by_priority_and_an_empty_one_leaves_nothing_behind(shard: Shard) -> None:
    low, high = band_at(-5), band_at(7)
    flows = [flow_of(shard, "a", low), flow_of(shard, "b", high), flow_of(shard, "c", high)]
    for flow in flows:
        shard.attach(flow)
    assert shard.counts() == {-5: 1, 7: 2}

    for flow in flows[1:]:
        shard.detach(flow)
    assert shard.counts() == {-5: 1}
    shard._check()


def test_snapshots_while_flows_come_and_go_are_consistent(shard: Shard, spawn: Spawn) -> None:
    stop, bands = threading.Event(), [band_at(priority) for priority in range(5)]

    def come_and_go() -> None:
        for nth in range(300):
            flow = flow_of(shard, "a", bands[nth % 5])
            assert shard.attach(flow)
            assert shard.detach(flow)

    def look() -> None:
        while not stop.is_set():
            assert len(set(shard.flows())) <= 6
            assert all(0 < number <= 6 for number in shard.counts().values())
            shard._check()

    lookers = [spawn(look) for _ in range(2)]
    for changer in [spawn(come_and_go) for _ in range(6)]:
        changer.result()
    stop.set()
    for looker in lookers:
        looker.result()
    assert shard.flows() == []


def test_readers_do_not_exclude_each_other(shard: Shard, spawn: Spawn) -> None:
    flow = flow_of(shard)
    shard.attach(flow)
    with shard.lock.read():
        assert spawn(shard.flows).result() == [flow]


def test_of_several_flows_that_are_let_go_those_are_counted_that_had_not_gone(shard: Shard) -> None:
    flows = [flow_of(shard, name) for name in "abc"]
    for flow in flows:
        shard.attach(flow)
    shard.detach(flows[1])

    assert shard.detach(*flows) == 2
    assert shard.size == 0
    shard._check()
