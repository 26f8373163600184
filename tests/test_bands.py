"""Bands: made when they are first asked for, kept while they have a flow, and gone after their own timeout."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

import flowctl.bands
from flowctl import BandConfig, CollectReport, Config, FlowController, FlowKey, Rejected, Request
from flowctl.flow import Flow
from flowctl.lease import LeaseTable
from flowctl.shard import Shard
from flowctl.testing import FakeClock
from flowctl.ticket import Ticket
from tests.support import MakeController, Spawn
from tests.test_flows import TIMEOUT, BoomError, band_pins, flow_of, in_shards, marked, raise_boom, registry_of

BAND_TIMEOUT = 2 * TIMEOUT
"""The default `band_gc_timeout`."""


def visit(controller: FlowController, flow_id: str, priority: int = 0) -> None:
    controller.admit(flow_id, priority=priority).release()


def give_back(ticket: Ticket) -> None:
    ticket.release()


def collect_flows(clock: FakeClock, controller: FlowController) -> None:
    """All that are idle."""
    clock.advance(TIMEOUT)
    controller.collect()


# --- the band's lease ----------------------------------------------------------------------------------------------


def test_the_band_lease_counts_flows_as_they_appear_and_the_same_flow_adds_nothing(
    clock: FakeClock, controller: FlowController
) -> None:
    for nth, flow_id in enumerate("abc", start=1):
        visit(controller, flow_id)
        assert band_pins(controller) == nth
    for _ in range(3):
        visit(controller, "b")
        assert band_pins(controller) == 3

    clock.advance(TIMEOUT / 2)
    visit(controller, "c")
    clock.advance(TIMEOUT / 2)
    controller.collect()
    assert band_pins(controller) == 1, "and falls as they are collected"
    collect_flows(clock, controller)
    assert band_pins(controller) == 0


def test_a_configured_band_has_one_pin_more(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5)]))
    assert band_pins(controller, 5) == 1

    visit(controller, "a", 5)
    assert band_pins(controller, 5) == 2


def test_ten_threads_that_ask_for_one_unknown_priority_get_one_band(
    make_controller: MakeController, spawn: Spawn
) -> None:
    for priority in range(20):
        controller = make_controller(limit=10)
        start = threading.Barrier(10)

        def ask(
            nth: int, controller: FlowController = controller, start: threading.Barrier = start, at: int = priority
        ) -> Ticket:
            start.wait()
            return controller.admit(f"f{nth}", priority=at)

        tickets = [asker.result() for asker in [spawn(ask, nth) for nth in range(10)]]

        assert controller.bands() == [priority]
        assert band_pins(controller, priority) == 10
        band = registry_of(controller).bands.entries[priority]
        assert all(flow.band is band for flow in in_shards(controller))
        for ticket in tickets:
            ticket.release()


# --- how long a band lives -----------------------------------------------------------------------------------------


def test_a_dynamic_band_outlives_its_last_flow_by_its_own_timeout_and_then_goes_everywhere(
    clock: FakeClock, controller: FlowController
) -> None:
    visit(controller, "a", 7)
    visit(controller, "b", 3)
    clock.advance(TIMEOUT)
    visit(controller, "b", 3)
    assert controller.collect() == CollectReport(flows=1, bands=0)
    clock.advance(BAND_TIMEOUT - 0.001)
    visit(controller, "b", 3)
    assert controller.collect() == CollectReport(flows=0, bands=0)
    assert controller.bands() == [7, 3]

    clock.advance(0.001)
    assert controller.collect() == CollectReport(flows=0, bands=1)
    assert controller.bands() == [3]
    assert list(controller.stats().bands) == [3]
    assert 7 not in registry_of(controller).bands.entries
    assert all(7 not in shard.counts() for shard in registry_of(controller).topology.shards)


def test_three_bands_that_are_due_go_in_one_cycle(clock: FakeClock, controller: FlowController) -> None:
    for priority in (1, 2, 3):
        visit(controller, "a", priority)
    collect_flows(clock, controller)
    clock.advance(BAND_TIMEOUT)

    assert controller.collect() == CollectReport(bands=3)
    assert controller.bands() == []


def test_a_band_does_not_go_while_one_flow_exists(clock: FakeClock, controller: FlowController) -> None:
    holder = controller.admit("held", priority=4)
    for _ in range(5):
        clock.advance(10 * BAND_TIMEOUT)
        assert controller.collect().bands == 0
    assert controller.bands() == [4]

    holder.release()
    collect_flows(clock, controller)
    clock.advance(BAND_TIMEOUT)
    assert controller.collect().bands == 1


def test_a_band_whose_timeout_equals_that_of_its_flows_still_outlives_them(
    clock: FakeClock, make_controller: MakeController
) -> None:
    controller = make_controller(Config(flow_gc_timeout=10, band_gc_timeout=10))
    visit(controller, "a")
    clock.advance(10)
    assert controller.collect() == CollectReport(flows=1, bands=0)
    clock.advance(10)
    assert controller.collect() == CollectReport(flows=0, bands=1)


def test_a_configured_band_stays_for_ever_with_its_own_limits_and_policies(
    clock: FakeClock, make_controller: MakeController
) -> None:
    mine = BandConfig(priority=5, max_requests=3, max_bytes=1234)
    controller = make_controller(Config(bands=[mine]))
    band = registry_of(controller).bands.entries[5]
    for flow_id in "abc":
        visit(controller, flow_id, 5)
    for _ in range(4):
        clock.advance(100 * BAND_TIMEOUT)
        controller.collect()

    assert controller.bands() == [5]
    assert registry_of(controller).bands.entries[5] is band
    assert band.config is mine
    stats = controller.stats().bands[5]
    assert (stats.max_requests, stats.max_bytes, stats.flows) == (3, 1234, 0)
    assert band_pins(controller, 5) == 1
    visit(controller, "again", 5)
    assert flow_of(controller, "again", 5).band is band


def test_a_flow_opened_on_a_band_past_its_timeout_keeps_the_band_and_starts_its_clock_over(
    clock: FakeClock, controller: FlowController
) -> None:
    visit(controller, "a")
    collect_flows(clock, controller)
    band = registry_of(controller).bands.entries[0]
    clock.advance(5 * BAND_TIMEOUT)
    visit(controller, "b")

    assert controller.collect().bands == 0
    collect_flows(clock, controller)
    assert band.lease.idle_for(clock.now()) == 0.0, "idle since its last flow went"
    clock.advance(BAND_TIMEOUT - 0.001)
    assert controller.collect().bands == 0
    assert registry_of(controller).bands.entries[0] is band
    clock.advance(0.001)
    assert controller.collect().bands == 1


def test_a_band_that_is_marked_but_still_in_the_table_is_replaced_at_once(
    clock: FakeClock, controller: FlowController
) -> None:
    visit(controller, "a")
    collect_flows(clock, controller)
    old = registry_of(controller).bands.entries[0]
    assert old.lease.try_mark(clock.now(), 0.0)

    with controller.admit("a"):
        new = registry_of(controller).bands.entries[0]
        assert new is not old
        assert flow_of(controller).band is new
        assert controller.collect().bands == 0
    assert controller.bands() == [0]


def test_a_collector_that_dies_before_it_removes_a_band_is_completed_by_the_next_cycle(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit(controller, "a")
    collect_flows(clock, controller)
    clock.advance(BAND_TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(LeaseTable, "remove", raise_boom)
        with pytest.raises(BoomError):
            controller.collect()
    assert registry_of(controller).bands.entries[0].lease.is_marked

    assert controller.collect().bands == 1
    assert controller.bands() == []


def test_a_band_made_anew_starts_from_nothing(clock: FakeClock, controller: FlowController) -> None:
    holder = controller.admit("holder", priority=9)
    for flow_id in "ab":
        controller.submit(Request(FlowKey(flow_id)), give_back)
    holder.release()
    first = registry_of(controller).bands.entries[0]
    assert first._began > 0
    collect_flows(clock, controller)
    clock.advance(BAND_TIMEOUT)
    controller.collect()

    visit(controller, "a")
    assert registry_of(controller).bands.entries[0] is not first
    assert registry_of(controller).bands.entries[0]._began == 0


def test_a_band_whose_constructor_raises_fails_for_its_caller_alone(
    controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(flowctl.bands, "PriorityBand", raise_boom)
        with pytest.raises(Rejected) as refused:
            controller.admit("a", priority=3)

    assert isinstance(refused.value.__cause__, BoomError)
    assert (controller.bands(), controller.flows()) == ([], [])
    with controller.admit("a", priority=3):
        assert controller.bands() == [3]


def test_the_first_flow_of_a_band_that_fails_leaves_an_empty_band_that_is_collected(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "attach", raise_boom)
        with pytest.raises(Rejected):
            controller.admit("a", priority=3)
    assert band_pins(controller, 3) == 0

    clock.advance(BAND_TIMEOUT)
    assert controller.collect().bands == 1


# --- which band, and with which configuration ----------------------------------------------------------------------


def test_an_unknown_priority_gets_a_band_of_the_default_template(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=11), bands=[BandConfig(priority=5)]))
    for priority in (5, 6, -6):
        visit(controller, "a", priority)

    limits = {priority: band.max_requests for priority, band in controller.stats().bands.items()}
    assert limits == {6: 11, 5: 5_000, -6: 11}


def test_an_unknown_priority_below_0_gets_a_band_of_the_negative_template(make_controller: MakeController) -> None:
    config = Config(
        default_band=BandConfig(max_requests=11),
        negative_band=BandConfig(max_requests=2),
        bands=[BandConfig(priority=-5, max_requests=77)],
    )
    controller = make_controller(config)
    for priority in (1, 0, -1, -5, -(2**31)):
        visit(controller, "a", priority)

    limits = {priority: band.max_requests for priority, band in controller.stats().bands.items()}
    assert limits == {1: 11, 0: 11, -1: 2, -5: 77, -(2**31): 2}


def test_two_bands_of_one_template_share_no_state(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig()))
    holder = controller.admit("holder", priority=9)
    for flow_id in "ab":
        controller.submit(Request(FlowKey(flow_id, 1)), give_back)
    visited = registry_of(controller).bands.entries[1]
    holder.release()
    visit(controller, "a", 2)

    assert visited._began > 0
    assert registry_of(controller).bands.entries[2]._began == 0
    assert controller.stats().bands[2].queued == 0


def test_bands_are_listed_from_the_highest(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=3), BandConfig(priority=-3)]))
    for priority in (0, 100, -100, 7):
        visit(controller, "a", priority)

    assert controller.bands() == [100, 7, 3, 0, -3, -100]
    assert list(controller.stats().bands) == [100, 7, 3, 0, -3, -100]


FIXED = (-10, 0, 10)


def fixed(*priorities: int) -> Config:
    bands: Sequence[BandConfig] = [BandConfig(priority=priority) for priority in priorities]
    return Config(bands=bands, dynamic_bands=False)


@pytest.mark.parametrize(
    ("asked", "served"),
    [(10, 10), (11, 10), (2**31 - 1, 10), (9, 0), (1, 0), (0, 0), (-1, -10), (-10, -10), (-11, -10), (-(2**31), -10)],
)
def test_without_dynamic_bands_a_priority_goes_to_the_nearest_band_below_else_to_the_lowest(
    make_controller: MakeController, asked: int, served: int
) -> None:
    controller = make_controller(fixed(*FIXED))
    with controller.admit("a", priority=asked) as ticket:
        assert ticket.key == FlowKey("a", served)
        assert controller.stats().bands[served].in_flight == 1

    assert controller.bands() == [10, 0, -10]
    assert controller.flows() == [FlowKey("a", served)]


def test_requests_that_are_sent_to_one_band_are_one_flow_there(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(fixed(*FIXED), limit=40)
    tickets = [spawn(controller.admit, "a", priority=1 + nth % 9).result() for nth in range(40)]

    assert controller.flows() == [FlowKey("a", 0)]
    assert flow_of(controller).lease.pins == 40
    assert band_pins(controller) == 2
    for ticket in tickets:
        ticket.release()


def test_a_request_that_is_sent_to_another_band_leaves_nothing_behind(make_controller: MakeController) -> None:
    controller = make_controller(fixed(0))
    for _ in range(500):
        visit(controller, "a", 7)
    controller.collect()

    registry = registry_of(controller)
    assert len(registry._wheel) + len(registry._newborn) == 1, "the one flow that there is"


def test_a_request_that_is_sent_to_another_band_meets_a_marked_flow_there_and_goes_on_at_once(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(fixed(0))
    visit(controller, "a", 7)
    old = marked(flow_of(controller), clock)
    try:
        ticket = spawn(controller.admit, "a", priority=7).result(timeout=5)
    finally:
        registry_of(controller).remove(old)
    assert flow_of(controller) is not old
    assert ticket.release()


def test_beyond_max_bands_a_priority_goes_to_the_nearest_band_that_exists(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_bands=3, bands=[BandConfig(priority=0)]))
    visit(controller, "a", 10)
    visit(controller, "a", 20)
    for asked, served in {15: 10, 25: 20, 5: 0, -5: 0, 20: 20}.items():
        with controller.admit("b", priority=asked) as ticket:
            assert ticket.key == FlowKey("b", served)

    assert controller.bands() == [20, 10, 0]


def test_a_band_that_goes_makes_room_for_another(clock: FakeClock, make_controller: MakeController) -> None:
    controller = make_controller(Config(max_bands=1))
    visit(controller, "a", 10)
    with controller.admit("a", priority=20) as ticket:
        assert ticket.key == FlowKey("a", 10)
    collect_flows(clock, controller)
    clock.advance(BAND_TIMEOUT)
    controller.collect()
    assert controller.bands() == []

    with controller.admit("a", priority=20) as ticket:
        assert ticket.key == FlowKey("a", 20)


def test_many_threads_with_priorities_of_their_own_do_not_exceed_max_bands(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(Config(max_bands=4), limit=64)
    start = threading.Barrier(32)

    def ask(nth: int) -> None:
        start.wait()
        visit(controller, "a", nth)

    for asker in [spawn(ask, nth) for nth in range(32)]:
        asker.result()

    assert len(controller.bands()) <= 4


# --- while bands come and go ---------------------------------------------------------------------------------------


def test_snapshots_while_flows_and_bands_come_and_go_are_consistent_and_sorted(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(Config(flow_gc_timeout=0, band_gc_timeout=0, max_bands=1000), limit=100)
    stop = threading.Event()

    def come_and_go(nth: int) -> None:
        for turn in range(150):
            visit(controller, f"f{turn % 11}", (turn * 7 + nth) % 40 - 20)
            clock.advance(0.001)

    def look() -> None:
        while not stop.is_set():
            stats = controller.stats()
            assert list(stats.bands) == sorted(stats.bands, reverse=True)
            assert 0 <= stats.in_flight <= 6
            controller.flows()

    def collect() -> None:
        while not stop.is_set():
            controller.collect()

    watchers = [spawn(look), spawn(look), spawn(collect), spawn(collect)]
    for user in [spawn(come_and_go, nth) for nth in range(6)]:
        user.result()
    stop.set()
    for watcher in watchers:
        watcher.result()
    assert controller.stats().incidents == 0
    controller._check()


def test_a_flow_is_in_exactly_one_shard_and_the_same_key_always_in_the_same(make_controller: MakeController) -> None:
    homes: list[dict[FlowKey, int]] = []
    for _ in range(2):
        controller = make_controller(Config(shards=8))
        for nth in range(100):
            visit(controller, f"f{nth}", nth % 3)
        shards = registry_of(controller).topology.shards
        homes.append({flow.key: at for at, shard in enumerate(shards) for flow in shard.flows()})
        assert sum(len(shard.flows()) for shard in shards) == 100
        assert all(shard.flows() for shard in shards)

    assert homes[0] == homes[1]


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_who_goes_next_does_not_depend_on_the_shards(make_controller: MakeController, shards: int) -> None:
    controller = make_controller(Config(shards=shards))
    holder, order = controller.admit("holder", priority=99), list[str]()

    def served(ticket: Ticket) -> None:
        order.append(f"{ticket.key.id}{ticket.key.priority}")
        ticket.release()

    for arrival in ("a0", "b0", "a0", "c1", "b0", "c0", "a1", "c1"):
        controller.submit(Request(FlowKey(arrival[0], int(arrival[1]))), served)
    holder.release()

    assert order == ["c1", "a1", "c1", "a0", "b0", "c0", "a0", "b0"]


def test_flows_of_a_band_are_those_that_the_shards_have(make_controller: MakeController) -> None:
    controller = make_controller()
    for flow_id in "abc":
        visit(controller, flow_id, 1)
    visit(controller, "z", 2)

    band = registry_of(controller).bands.entries[1]
    members: set[Flow] = {flow for flow in in_shards(controller) if flow.band is band}
    assert members == set(band.flows.entries.values())
    assert controller.stats().bands[1].flows == 3
    assert controller.stats().flows == 4
