"""Who exists, where it is rarely looked at: how flows are spread, what a creation leaves, what a sweep looks at."""

import pytest

from flowctl import Config, FlowController
from flowctl.flow import Flow
from flowctl.testing import FakeClock
from tests.support import MakeController


def test_the_flows_of_one_id_are_spread_over_the_shards_by_their_priority(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=4, max_bands=64), limit=64)
    for priority in range(32):
        controller.admit("a", priority=priority).release()

    assert all(shard.counts() for shard in controller._state.registry.shards)


def test_a_flow_that_comes_again_goes_to_the_shard_that_it_was_in(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(flow_gc_timeout=1, shards=8))
    homes: list[dict[str, int]] = []
    for _ in range(2):
        for number in range(20):
            controller.admit(f"flow-{number}").release()
        shards = controller._state.registry.shards
        homes.append({flow.id: index for index, shard in enumerate(shards) for flow in shard.flows()})
        clock.advance(3)
        controller.collect()

    assert homes[0] == homes[1]
    assert len(homes[0]) == 20


@pytest.mark.parametrize("ids", [1, 5])
def test_a_creation_or_finalisation_leaves_nothing_behind_once_it_is_over(
    controller: FlowController, clock: FakeClock, ids: int
) -> None:
    for number in range(ids):
        controller.admit(f"flow-{number}").release()
    assert not controller._state.registry._moves

    clock.advance(10_000)
    assert controller.collect().flows == ids
    assert not controller._state.registry._moves


def test_a_flow_that_was_due_but_pinned_is_not_looked_at_again_before_a_timeout_has_passed(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(flow_gc_timeout=100))
    registry = controller._state.registry
    holder = controller.admit("a")
    looked_at: list[Flow] = []
    for seconds in (101, 1, 1, 101):
        clock.advance(seconds)
        registry.sweep_flows(pinned=looked_at.append)
        registry.sweep_flows(pinned=looked_at.append)

    assert [flow.id for flow in looked_at] == ["a", "a"]
    holder.release()
