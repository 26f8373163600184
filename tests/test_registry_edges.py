"""Who exists, where it is rarely looked at: how flows are spread, what a creation leaves, what a sweep looks at."""

from collections.abc import Callable

import pytest

from flowctl import Config, FlowController
from flowctl.atomic import CellWord
from flowctl.band import PriorityBand
from flowctl.flow import Flow
from flowctl.lease import Lease
from flowctl.registry import A_SECTION
from flowctl.testing import FakeClock
from tests.support import MakeController, Spawn


def test_the_flows_of_one_id_are_spread_over_the_shards_by_their_priority(make_controller: MakeController) -> None:
    controller = make_controller(Config(shards=4, max_bands=64), limit=64)
    for priority in range(32):
        controller.admit("a", priority=priority).release()

    assert all(shard.counts() for shard in controller._state.registry.topology.shards)


def test_a_flow_that_comes_again_goes_to_the_shard_that_it_was_in(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(flow_gc_timeout=1, shards=8))
    homes: list[dict[str, int]] = []
    for _ in range(2):
        for number in range(20):
            controller.admit(f"flow-{number}").release()
        shards = controller._state.registry.topology.shards
        homes.append({flow.id: index for index, shard in enumerate(shards) for flow in shard.flows()})
        clock.advance(3)
        controller.collect()

    assert homes[0] == homes[1]
    assert len(homes[0]) == 20


def test_a_sweep_gives_way_after_each_section_and_holds_no_lock_then(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(limit=1)
    for number in range(3 * A_SECTION):
        controller.admit(f"flow-{number}").release()
    served: list[int] = []

    def others() -> int:
        controller.admit("another", priority=len(served)).release()  # takes every lock that a creation takes
        return controller.collect().flows  # one is running

    monkeypatch.setattr("flowctl.registry.give_way", lambda: served.append(spawn(others).result()))
    clock.advance(10_000)

    assert controller.collect().flows == 3 * A_SECTION
    assert served == [0] * len(served)
    assert len(served) >= 3


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
    for seconds in (1, 101, 1, 1, 101):
        clock.advance(seconds)
        registry.sweep_flows(pinned=looked_at.append)
        registry.sweep_flows(pinned=looked_at.append)

    assert [flow.id for flow in looked_at] == ["a", "a"]
    holder.release()


class Vanishing(dict[int, PriorityBand[Flow]]):
    """Bands that are collected right after they were counted."""

    def __len__(self) -> int:
        return 1000


def test_where_every_band_is_collected_while_the_nearest_is_looked_for_a_request_is_served_at_its_own_priority(
    controller: FlowController,
) -> None:
    registry = controller._state.registry
    registry.bands.entries = Vanishing()

    assert registry.founded.nearest(7) == 7


class LookedAtWord:
    """A band's word: whenever its turn comes to be read, an audit goes first."""

    def __init__(self, value: int, audit: Callable[[], object]) -> None:
        self._word = CellWord(value)
        self._audit: Callable[[], object] | None = audit

    def load(self) -> int:
        audit, self._audit = self._audit, None
        if audit is not None:  # else this look is the audit's own
            audit()
            self._audit = audit
        return self._word.load()

    def compare_exchange(self, expected: int, new: int) -> bool:
        return self._word.compare_exchange(expected, new)

    def fetch_add(self, amount: int) -> int:
        return self._word.fetch_add(amount)


def test_an_audit_in_the_middle_of_a_finalisation_mends_nothing(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(flow_gc_timeout=1))
    registry = controller._state.registry
    controller.admit("a").release()
    band, mended = registry.bands.entries[0], list[int]()
    band.lease = Lease(LookedAtWord(band.lease.word.load(), lambda: mended.append(registry.audit_bands())))

    controller.admit("b").release()
    clock.advance(2)
    assert registry.sweep_flows(pinned=lambda flow: None) == 2

    assert mended
    assert not any(mended)
