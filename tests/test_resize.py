"""Shards that come and go under load."""

import threading
from collections.abc import Callable

import pytest

from flowctl import Config, FlowController, FlowKey, Request, Ticket
from flowctl.registry import FlowRegistry
from flowctl.shard import Shard
from flowctl.testing import FakeClock
from flowctl.topology import Topology
from tests.support import MakeController, Spawn
from tests.test_flows import registry_of


def topology_of(controller: FlowController) -> Topology:
    return registry_of(controller).topology


def test_more_shards_take_new_flows_and_leave_the_old_ones_where_they_are(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=1))
    for nth in range(40):
        controller.admit(f"old-{nth}").release()
    controller.resize(8)
    for nth in range(40):
        controller.admit(f"new-{nth}").release()

    homes = [{flow.id[:3] for flow in shard.flows()} for shard in topology_of(controller).live]
    assert homes[0] >= {"old"}
    assert all(home == {"new"} for home in homes[1:])
    assert controller.stats().shards == 8


def test_a_retired_shard_takes_no_new_flow_serves_what_it_has_and_goes_when_it_is_empty(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(shards=8, flow_gc_timeout=10), limit=100)
    holders = [controller.admit(f"old-{nth}") for nth in range(40)]
    before = topology_of(controller).live
    controller.resize(1)

    assert controller.stats().shards == 1
    assert len(controller.flows()) == 40
    assert controller.admit("old-7").key == FlowKey("old-7")
    for nth in range(40):
        controller.admit(f"new-{nth}").release()
    assert all(not flow.id.startswith("new") for shard in before[1:] for flow in shard.flows())

    clock.advance(11)
    assert controller.collect().shards == 0, "they are in use"
    for holder in holders:
        holder.release()
    clock.advance(11)
    assert controller.collect().shards == 7
    assert topology_of(controller).shards == before[:1]
    assert all(shard.dropped for shard in before[1:])


@pytest.mark.parametrize("bad", [0, -1])
def test_no_shards_are_refused_and_nothing_changes(controller: FlowController, bad: int) -> None:
    layout = topology_of(controller).shards

    with pytest.raises(ValueError, match=f"shards must be at least 1, not {bad}"):
        controller.resize(bad)

    assert topology_of(controller).shards == layout


def test_the_same_number_changes_nothing(controller: FlowController) -> None:
    layout = topology_of(controller).shards
    controller.resize(controller.stats().shards)

    assert topology_of(controller).shards == layout


def test_limits_stay_whole_whatever_the_shards(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=4, max_requests=2))
    _holder = controller.admit("holder")
    for shards in (4, 1, 8):
        controller.resize(shards)
        queued = [controller.submit(Request(FlowKey(f"{shards}-{nth}")), lambda ticket: None) for nth in range(3)]
        assert [ticket.state for ticket in queued] == ["queued", "queued", "refused"]
        for ticket in queued:
            ticket.cancel()


def test_a_request_that_waits_keeps_its_place_through_a_resize(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=4))
    holder, order = controller.admit("holder"), list[str]()

    def served(ticket: Ticket) -> None:
        order.append(ticket.key.id)
        ticket.release()

    for flow in ("a", "b", "a", "c"):
        controller.submit(Request(FlowKey(flow)), served)
    controller.resize(1)
    for flow in ("d", "a", "b"):
        controller.submit(Request(FlowKey(flow)), served)
    controller.resize(8)
    holder.release()

    assert order == ["a", "b", "c", "d", "a", "b", "a"]


def test_a_resize_under_load_refuses_and_loses_nobody(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(Config(flow_gc_timeout=0, band_gc_timeout=0), limit=4)
    stop = threading.Event()

    def use(number: int) -> int:
        served = 0
        for nth in range(150):
            with controller.admit(f"{number}-{nth % 7}", priority=nth % 2):
                served += 1
        return served

    def resize() -> None:
        while not stop.is_set():
            for shards in (1, 4, 2, 8):
                controller.resize(shards)
                controller.collect()

    resizing = [spawn(resize) for _ in range(2)]
    assert sum(user.result() for user in [spawn(use, number) for number in range(6)]) == 900
    stop.set()
    for each in resizing:
        each.result()
    stats = controller.stats()
    assert (stats.dispatched, stats.rejected, stats.evicted) == (900, 0, 0)
    controller.collect()
    assert len(topology_of(controller).shards) == stats.shards


def test_a_resize_in_the_middle_of_another_loses_no_shard(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler resizes and opens a flow, just as the thread that it interrupted has made its new shards."""
    controller = make_controller(Config(shards=1))
    intrude = [True]

    def shard(now: Callable[[], float] | None) -> Shard:
        if intrude:
            intrude.clear()
            topology_of(controller).resize(3)
            controller.admit("of-the-handler").release()
        return Shard(now)

    monkeypatch.setattr("flowctl.topology.Shard", shard)
    controller.resize(5)

    assert controller.stats().shards == 5
    assert controller.flows() == [FlowKey("of-the-handler")]
    controller._check()


def test_a_child_has_as_many_shards_as_there_were(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=1))
    controller.resize(5)
    controller.after_fork_in_child()

    assert controller.stats().shards == 5


def test_a_shard_that_an_exception_kept_from_being_retired_is_retired_by_the_next_cycle(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(Config(shards=2))
    last = topology_of(controller).live[1]
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "retire", interrupt)
        with pytest.raises(KeyboardInterrupt):
            controller.resize(1)

    assert controller.collect().shards == 1
    assert last.dropped


def interrupt(self: object) -> None:
    raise KeyboardInterrupt


def test_the_registry_knows_how_many_flows_there_are_without_a_lock(controller: FlowController) -> None:
    registry: FlowRegistry = registry_of(controller)
    for nth in range(10):
        controller.admit(f"f{nth}").release()

    assert len(registry.topology) == 10
