"""Flows come when they are asked for and go when they were idle; what has work never goes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

import flowctl.registry
from flowctl import CollectReport, Config, FlowController, FlowKey, Rejected, Request
from flowctl.flow import Flow
from flowctl.lease import MAX_PINS, Lease, LeaseTable
from flowctl.registry import FlowRegistry
from flowctl.shard import Shard
from flowctl.testing import FakeClock
from flowctl.ticket import Hold, Ticket, Unborn
from tests.support import MakeController, Spawn

TIMEOUT = 300.0
"""The default `flow_gc_timeout`."""


class BoomError(Exception):
    """What a constructor, or a dying collector, raises."""


def registry_of(controller: FlowController) -> FlowRegistry:
    return controller._state.registry


def flow_of(controller: FlowController, flow_id: str = "a", priority: int = 0) -> Flow:
    flow = registry_of(controller).find(FlowKey(flow_id, priority))
    assert flow is not None
    return flow


def band_pins(controller: FlowController, priority: int = 0) -> int:
    return registry_of(controller).bands.entries[priority].lease.pins


def in_shards(controller: FlowController) -> list[Flow]:
    return [flow for shard in registry_of(controller).topology.shards for flow in shard.flows()]


def marked(flow: Flow, clock: FakeClock) -> Flow:
    """As a collection leaves it that died right after."""
    assert flow.lease.try_mark(clock.now(), 0.0)
    return flow


# --- how long a flow lives -----------------------------------------------------------------------------------------


def test_the_first_request_of_an_unknown_flow_makes_flow_and_band(controller: FlowController) -> None:
    assert (controller.flows(), controller.bands()) == ([], [])

    with controller.admit("a", priority=7):
        assert controller.flows() == [FlowKey("a", 7)]
        assert controller.bands() == [7]
        assert band_pins(controller, 7) == 1
    assert controller.flows() == [FlowKey("a", 7)], "and both stay until they were idle for the timeout"
    assert controller.bands() == [7]


def test_the_same_id_at_two_priorities_is_two_flows(make_controller: MakeController) -> None:
    controller = make_controller(limit=2)
    with controller.admit("a", priority=1), controller.admit("a", priority=2):
        assert controller.flows() == [FlowKey("a", 2), FlowKey("a", 1)]
        assert flow_of(controller, "a", 1) is not flow_of(controller, "a", 2)


def test_a_flow_is_pinned_once_for_each_request_that_is_queued_or_in_flight(
    clock: FakeClock, controller: FlowController, spawn: Spawn
) -> None:
    holder = controller.admit("a")
    flow = flow_of(controller)
    assert flow.lease.pins == 1

    waiter = spawn(controller.admit, "a")
    clock.wait_for_sleepers(1)
    assert flow.lease.pins == 2
    holder.release()
    assert flow.lease.pins == 1
    waiter.result().release()
    assert flow.lease.pins == 0


def test_idle_just_past_the_timeout_is_collected_and_gone_from_every_shard(
    clock: FakeClock, controller: FlowController
) -> None:
    controller.admit("a").release()
    clock.advance(TIMEOUT)

    assert controller.collect() == CollectReport(flows=1)
    assert controller.flows() == []
    assert in_shards(controller) == []
    assert controller.stats().flows == 0
    assert registry_of(controller).find(FlowKey("a")) is None


def test_one_tick_before_the_timeout_a_flow_is_kept(clock: FakeClock, controller: FlowController) -> None:
    controller.admit("a").release()
    clock.advance(TIMEOUT - 0.001)

    assert controller.collect() == CollectReport()
    assert controller.flows() == [FlowKey("a")]


def test_a_flow_that_was_kept_is_collected_by_the_next_cycle(clock: FakeClock, controller: FlowController) -> None:
    controller.admit("a").release()
    clock.advance(TIMEOUT - 0.001)
    controller.collect()
    clock.advance(0.001)

    assert controller.collect().flows == 1


def test_used_again_one_second_before_the_timeout_the_clock_starts_over(
    clock: FakeClock, controller: FlowController
) -> None:
    controller.admit("a").release()
    flow = flow_of(controller)
    clock.advance(TIMEOUT - 1)
    controller.admit("a").release()

    clock.advance(TIMEOUT - 1)
    assert controller.collect().flows == 0
    assert flow_of(controller) is flow
    clock.advance(1)
    assert controller.collect().flows == 1


def test_a_held_flow_is_never_collected_whatever_its_stamp_says(clock: FakeClock, controller: FlowController) -> None:
    ticket = controller.admit("a")
    flow = flow_of(controller)
    for _ in range(10):
        clock.advance(10 * TIMEOUT)
        assert controller.collect() == CollectReport()
    assert flow_of(controller) is flow

    flow.pins, flow.since = 1, 0.0  # idle since the beginning of time, says the stamp
    assert controller.collect().flows == 0
    ticket.release()


def test_idle_time_starts_at_release_and_not_at_acquire(clock: FakeClock, controller: FlowController) -> None:
    ticket = controller.admit("a")
    clock.advance(2 * TIMEOUT)
    controller.collect()
    ticket.release()

    assert controller.collect().flows == 0
    assert controller.flows() == [FlowKey("a")]
    clock.advance(TIMEOUT - 0.001)
    assert controller.collect().flows == 0
    clock.advance(0.001)
    assert controller.collect().flows == 1


@pytest.mark.parametrize("end", ["expires", "cancelled", "granted and released"])
def test_idle_time_starts_when_the_last_request_ends_however_it_ends(
    clock: FakeClock, controller: FlowController, end: str
) -> None:
    holder = controller.admit("other")
    ticket = controller.submit(Request(FlowKey("a"), ttl=2 * TIMEOUT), lambda ticket: None)
    clock.advance(2 * TIMEOUT if end == "expires" else 1.5 * TIMEOUT)
    if end == "cancelled":
        assert ticket.cancel()
    elif end == "granted and released":
        holder.release()
        assert ticket.release()
    controller.collect()
    assert FlowKey("a") in controller.flows()
    assert flow_of(controller).lease.pins == 0

    clock.advance(TIMEOUT - 0.001)
    controller.collect()
    assert FlowKey("a") in controller.flows()
    clock.advance(0.001)
    controller.collect()
    assert FlowKey("a") not in controller.flows()


def test_a_request_that_waits_for_many_timeouts_without_new_traffic_is_still_served_by_the_same_flow(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn
) -> None:
    """Scale from zero."""
    controller = make_controller(Config(default_ttl=None))
    holder = controller.admit("holder")
    waiter = spawn(controller.admit, "a")
    clock.wait_for_sleepers(1)
    flow = flow_of(controller)
    for _ in range(20):
        clock.advance(TIMEOUT)
        controller.collect()
        assert flow_of(controller) is flow
        assert flow.queue.requests == 1

    holder.release()
    ticket = waiter.result()
    assert ticket.state == "dispatched"
    assert ticket.waited == 20 * TIMEOUT
    assert flow_of(controller) is flow
    ticket.release()


def test_one_cycle_takes_everything_that_is_due(clock: FakeClock, controller: FlowController) -> None:
    for nth in range(2_000):
        controller.admit(f"old-{nth}").release()
    clock.advance(TIMEOUT / 2)
    for nth in range(100):
        controller.admit(f"young-{nth}").release()
    clock.advance(TIMEOUT / 2)

    assert controller.collect().flows == 2_000
    assert len(controller.flows()) == 100
    assert band_pins(controller) == 100
    controller._check()


def test_a_cycle_looks_only_at_what_fell_due(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nth in range(1_000):
        controller.admit(f"young-{nth}").release()
    looks = 0
    try_mark = Lease.try_mark

    def counted(lease: Lease, now: float, idle_timeout: float) -> bool:
        nonlocal looks
        looks += 1
        return try_mark(lease, now, idle_timeout)

    monkeypatch.setattr(Lease, "try_mark", counted)
    clock.advance(TIMEOUT / 2)
    for _ in range(10):
        controller.collect()

    assert looks <= 10, "one for the band, in each cycle"


def test_a_flow_that_was_collected_leaves_nothing_with_the_collector(
    clock: FakeClock, controller: FlowController
) -> None:
    for _ in range(5):
        controller.admit("a").release()
        clock.advance(TIMEOUT)
        assert controller.collect().flows == 1

    registry = registry_of(controller)
    assert (len(registry._wheel), len(registry._newborn)) == (0, 0)


def test_a_timeout_of_0_collects_whatever_is_idle(clock: FakeClock, make_controller: MakeController) -> None:
    controller = make_controller(Config(flow_gc_timeout=0), limit=2)
    controller.admit("idle").release()
    held = controller.admit("held")

    assert controller.collect().flows == 1
    assert controller.flows() == [FlowKey("held")]
    held.release()
    clock.advance(0.001)
    assert controller.collect().flows == 1


# --- a flow that is being collected --------------------------------------------------------------------------------


def test_a_flow_that_is_marked_but_still_in_the_table_is_replaced_without_waiting_for_the_collector(
    clock: FakeClock, controller: FlowController
) -> None:
    controller.admit("a").release()
    old = marked(flow_of(controller), clock)

    with controller.admit("a"):
        new = flow_of(controller)
        assert new is not old
        assert (new.lease.pins, old.lease.pins) == (1, 0)
        assert band_pins(controller) == 2, "the old one is not finalised yet"
    assert controller.collect().flows == 0, "it is not due"
    clock.advance(TIMEOUT)
    controller.collect()
    assert band_pins(controller) == 0


def test_a_flow_made_anew_while_its_predecessor_is_finalised_keeps_its_own_queue(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(Config(max_ttl=10 * TIMEOUT))
    controller.admit("a").release()
    old = flow_of(controller)
    clock.advance(TIMEOUT)
    detach = Shard.detach
    tickets: list[Ticket] = []

    def come_back_meanwhile(shard: Shard, flow: Flow) -> int:
        if flow is old and not tickets:
            request = Request(FlowKey("a"), ttl=9 * TIMEOUT)
            tickets.extend(controller.submit(request, lambda ticket: None) for _ in range(2))
        return detach(shard, flow)

    monkeypatch.setattr(Shard, "detach", come_back_meanwhile)
    assert controller.collect().flows == 1

    new = flow_of(controller)
    assert new is not old
    assert [ticket.state for ticket in tickets] == ["dispatched", "queued"]
    assert new.queue.head is tickets[1]
    assert in_shards(controller) == [new]
    assert band_pins(controller) == 1
    tickets[0].release()
    assert tickets[1].release()


@pytest.mark.parametrize("owner", [LeaseTable, Shard], ids=["before removal", "before finalising"])
def test_a_collector_that_dies_half_way_holds_up_nobody_and_the_next_cycle_completes_it(
    clock: FakeClock,
    controller: FlowController,
    monkeypatch: pytest.MonkeyPatch,
    owner: type[LeaseTable[str, Flow] | Shard],
) -> None:
    controller.admit("a").release()
    old = flow_of(controller)
    clock.advance(TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "remove" if owner is LeaseTable else "detach", raise_boom)
        with pytest.raises(BoomError):
            controller.collect()
    assert old.lease.is_marked

    with controller.admit("a"):
        assert flow_of(controller) is not old
        assert controller.collect().flows == 1
        assert in_shards(controller) == [flow_of(controller)]
        assert band_pins(controller) == 1, "given back once"
        controller._check()
    assert controller.collect().flows == 0


@pytest.mark.parametrize("owner", [LeaseTable, Shard], ids=["before removal", "before finalising"])
def test_a_collection_that_died_is_completed_although_its_exception_is_kept(
    clock: FakeClock,
    controller: FlowController,
    monkeypatch: pytest.MonkeyPatch,
    owner: type[LeaseTable[str, Flow] | Shard],
) -> None:
    """A log handler, a debugger or an error tracker may keep the traceback, and with it the frame, for ever."""
    controller.admit("a").release()
    clock.advance(TIMEOUT)
    kept: list[BaseException] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, "remove" if owner is LeaseTable else "detach", raise_boom)
        try:
            controller.collect()
        except BoomError as error:
            kept.append(error)

    assert kept
    assert controller.collect().flows == 1


def test_a_collector_that_dies_right_after_a_flow_was_finalised_still_gives_the_band_lease_back(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.admit("a").release()
    clock.advance(TIMEOUT)
    detach = Shard.detach

    def detach_and_die(shard: Shard, flow: Flow) -> bool:
        detach(shard, flow)
        raise BoomError

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "detach", detach_and_die)
        with pytest.raises(BoomError):
            controller.collect()
    controller.collect()

    assert band_pins(controller) == 0
    controller._check()


def test_a_flow_that_a_dead_collection_left_marked_goes_also_if_nobody_asks_for_it_again(
    clock: FakeClock, controller: FlowController
) -> None:
    controller.admit("a").release()
    marked(flow_of(controller), clock)
    clock.advance(TIMEOUT)

    assert controller.collect().flows == 1
    assert (controller.flows(), band_pins(controller)) == ([], 0)


def test_of_two_collections_at_once_the_second_returns_at_once_and_the_band_lease_is_released_once(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    controller.admit("a").release()
    controller.admit("b").release()
    clock.advance(TIMEOUT)
    inside, go_on, detach = threading.Event(), threading.Event(), Shard.detach

    def slowly(shard: Shard, flow: Flow) -> int:
        inside.set()
        assert go_on.wait(30)
        return detach(shard, flow)

    monkeypatch.setattr(Shard, "detach", slowly)
    first = spawn(controller.collect)
    assert inside.wait(30)

    assert controller.collect() == CollectReport(), "at once"
    go_on.set()
    assert first.result().flows == 2
    assert band_pins(controller) == 0


def test_a_flow_is_finalised_once_however_many_try(controller: FlowController, clock: FakeClock, spawn: Spawn) -> None:
    registry = registry_of(controller)
    for nth in range(30):
        controller.admit(f"f{nth}").release()
        flow = marked(flow_of(controller, f"f{nth}"), clock)
        registry.remove(flow)
        finalised = [spawn(registry._finalise, flow) for _ in range(8)]
        assert sum(thread.result() for thread in finalised) == 1

    assert band_pins(controller) == 0


def test_100_threads_pin_and_unpin_against_three_hostile_collectors(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(Config(flow_gc_timeout=0, band_gc_timeout=0), limit=1_000)
    stop = threading.Event()

    def use(nth: int) -> None:
        for turn in range(20):
            use_once(controller, f"f{(nth + turn) % 7}", nth % 3)
            clock.advance(0.001)

    collectors = [
        spawn(collect_until, stop, controller),
        spawn(mark_and_finalise_until, stop, controller, clock),
        spawn(mark_and_finalise_until, stop, controller, clock),
    ]
    for user in [spawn(use, nth) for nth in range(100)]:
        user.result()
    stop.set()

    assert sum(collector.result() for collector in collectors) > 0
    assert controller.stats().repairs == 0
    controller._check()
    for _ in range(2):
        clock.advance(1)
        controller.collect()
    assert (controller.flows(), controller.bands()) == ([], []), "nothing survives idle"
    assert len(registry_of(controller)._wheel) == 0


def use_once(controller: FlowController, flow_id: str, priority: int) -> None:
    with controller.admit(flow_id, priority=priority):
        held = flow_of(controller, flow_id, priority)  # L4: the very object that the table holds
        assert held.lease.pins >= 1
        assert not held.lease.is_marked
        assert not held.detached
        assert registry_of(controller).bands.entries[priority] is held.band


def collect_until(stop: threading.Event, controller: FlowController) -> int:
    collected = 0
    while not stop.is_set():
        collected += controller.collect().flows
    return collected


def mark_and_finalise_until(stop: threading.Event, controller: FlowController, clock: FakeClock) -> int:
    """A collector of another make: it looks at everything, always."""
    registry, collected = registry_of(controller), 0
    while not stop.is_set():
        for flow in registry.flows():
            if flow.lease.try_mark(clock.now(), 0.0):
                registry.remove(flow)
                collected += registry._finalise(flow)
    return collected


# --- creating ------------------------------------------------------------------------------------------------------


def test_50_threads_that_open_the_same_new_flow_get_one_flow_and_one_band_lease(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(limit=50)
    start = threading.Barrier(50)

    def open_it() -> Ticket:
        start.wait()
        return controller.admit("a")

    tickets = [opener.result() for opener in [spawn(open_it) for _ in range(50)]]

    assert controller.flows() == [FlowKey("a")]
    assert len(in_shards(controller)) == 1
    assert band_pins(controller) == 1
    assert flow_of(controller).lease.pins == 50
    for ticket in tickets:
        ticket.release()
    assert flow_of(controller).lease.pins == 0


def test_a_creator_that_loses_the_race_to_publish_leaves_nothing(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    controller = make_controller(limit=2)
    attach, raced = Shard.attach, False
    winners: list[Flow] = []

    def lose_the_race(shard: Shard, flow: Flow) -> bool:
        nonlocal raced
        attached = attach(shard, flow)
        if not raced:
            raced = True
            spawn(controller.admit, "a").result().release()
            winners.append(flow_of(controller))
        return attached

    monkeypatch.setattr(Shard, "attach", lose_the_race)
    ticket = controller.admit("a")

    assert in_shards(controller) == winners
    assert flow_of(controller) is winners[0]
    assert (winners[0].lease.pins, band_pins(controller)) == (1, 1)
    ticket.release()
    clock.advance(TIMEOUT)
    assert controller.collect().flows == 1
    assert len(registry_of(controller)._wheel) == 0


def test_a_winner_that_is_marked_before_the_loser_could_use_it_is_replaced(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    attach, raced = Shard.attach, False

    def lose_to_one_that_is_collected_at_once(shard: Shard, flow: Flow) -> bool:
        nonlocal raced
        attached = attach(shard, flow)
        if not raced:
            raced = True
            spawn(controller.admit, "a").result().release()
            marked(flow_of(controller), clock)
        return attached

    monkeypatch.setattr(Shard, "attach", lose_to_one_that_is_collected_at_once)

    with controller.admit("a"):
        assert not flow_of(controller).lease.is_marked


def test_a_shard_that_takes_no_new_flow_is_asked_again(
    controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach, asked = Shard.attach, 0

    def refuse_twice(shard: Shard, flow: Flow) -> bool:
        nonlocal asked
        asked += 1
        return attach(shard, flow) if asked > 2 else False

    monkeypatch.setattr(Shard, "attach", refuse_twice)
    controller.admit("a").release()

    assert asked == 3
    assert len(in_shards(controller)) == 1


FAILING_PARTS = ["flow", "shard", "table"]


def break_a_part(patch: pytest.MonkeyPatch, part: str) -> None:
    if part == "flow":
        patch.setattr(flowctl.registry, "Flow", raise_boom)
    elif part == "shard":
        patch.setattr(Shard, "attach", raise_boom)
    else:
        patch.setattr(LeaseTable, "publish", raise_boom)


@pytest.mark.parametrize("part", FAILING_PARTS)
@pytest.mark.parametrize("others", [0, 2])
def test_a_constructor_that_raises_fails_for_its_caller_alone_and_leaves_nothing(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch, part: str, others: int
) -> None:
    controller = make_controller(limit=3)
    controller.admit("first").release()  # so that the band exists
    held = [controller.admit(f"other-{nth}") for nth in range(others)]
    before, flows, pins = controller.stats(), controller.flows(), band_pins(controller)
    with monkeypatch.context() as patch:
        break_a_part(patch, part)
        with pytest.raises(Rejected) as refused:
            controller.admit("a")

    assert type(refused.value) is Rejected
    assert isinstance(refused.value.__cause__, BoomError)
    assert refused.value.key == FlowKey("a")
    assert controller.flows() == flows
    assert band_pins(controller) == pins, "back where it was"
    after = controller.stats()
    assert (after.queued, after.in_flight, after.dispatched) == (0, before.in_flight, before.dispatched)
    assert after.rejected == before.rejected + 1
    controller._check()
    with controller.admit("a") as ticket:
        assert ticket.state == "dispatched", "the next caller tries anew"
    for ticket in held:
        ticket.release()


@pytest.mark.parametrize("part", FAILING_PARTS)
def test_a_constructor_that_raises_is_told_to_a_callback_too(
    controller: FlowController, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    controller.admit("first").release()
    settled: list[Ticket] = []
    with monkeypatch.context() as patch:
        break_a_part(patch, part)
        ticket = controller.submit(Request(FlowKey("a")), settled.append)

    assert settled == [ticket]
    assert ticket.error is not None
    assert isinstance(ticket.error.__cause__, BoomError)
    assert controller.flows() == [FlowKey("first")]


def test_concurrent_callers_of_a_constructor_that_raises_each_get_their_own_attempt(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    controller = make_controller(limit=20)
    attach, start = Shard.attach, threading.Barrier(20)
    failures = iter([True] * 3)

    def fail_three_times(shard: Shard, flow: Flow) -> bool:
        if next(failures, False):
            raise BoomError
        return attach(shard, flow)

    def try_it() -> Ticket | Rejected:
        start.wait()
        try:
            return controller.admit("a")
        except Rejected as refusal:
            return refusal

    monkeypatch.setattr(Shard, "attach", fail_three_times)
    results = [caller.result() for caller in [spawn(try_it) for _ in range(20)]]
    tickets = [result for result in results if isinstance(result, Ticket)]
    refusals = [result for result in results if isinstance(result, Rejected)]

    assert all(isinstance(refusal.__cause__, BoomError) for refusal in refusals)
    assert len(refusals) <= 3
    assert len(in_shards(controller)) == 1
    assert band_pins(controller) == 1
    assert flow_of(controller).lease.pins == len(tickets)
    for ticket in tickets:
        ticket.release()


@pytest.mark.parametrize("moment", ["before it is published", "right after it was published"])
def test_an_interrupt_in_the_midst_of_a_creation_leaves_no_broken_flow_behind(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What a signal handler raises may land anywhere; a flow that others can see must be a whole one."""
    controller.admit("first").release()
    publish = LeaseTable.publish

    def interrupted(table: LeaseTable[str, Flow], key: str, flow: Flow) -> Flow:
        if moment != "before it is published":
            publish(table, key, flow)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LeaseTable, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            controller.admit("a")

    with controller.admit("a"):
        assert not flow_of(controller).detached, "L4: a flow that is in use is attached to its shard"
        assert FlowKey("a") in controller.flows()
        controller._check()
    clock.advance(TIMEOUT)
    controller.collect()
    assert controller.flows() == []
    assert registry_of(controller).find(FlowKey("a")) is None
    assert band_pins(controller) == 0


def test_a_collection_in_the_midst_of_a_creation_takes_no_pin_from_the_newborn(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a timeout of 0 a flow is due as soon as the collector has heard of it."""
    controller = make_controller(Config(flow_gc_timeout=0, band_gc_timeout=0))
    turn = controller._state.turn
    ticket = Ticket(turn, Unborn(FlowKey("a")), 1, 0)
    hold: Hold[Flow] = turn.new_hold(ticket)

    def adopt(flow: Flow) -> None:
        controller.collect()  # in another thread, say
        turn.adopt(hold, flow)
        controller.collect()

    flow = registry_of(controller).create(FlowKey("a"), adopt)
    assert flow.lease.pins == 1
    assert controller.stats().repairs == 0
    turn.disown(hold)
    assert flow.lease.pins == 0
    assert flow.load() >= 0


def test_a_flow_that_is_pinned_to_the_maximum_refuses_and_does_not_spin(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(limit=8)
    controller.admit("a").release()
    flow = flow_of(controller)
    flow.pins += MAX_PINS
    try:
        with pytest.raises(Rejected):
            spawn(controller.admit, "a").result(timeout=5)
    finally:
        flow.pins -= MAX_PINS


def test_a_pin_never_waits_for_a_collection_that_stands_still(
    clock: FakeClock, controller: FlowController, monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    controller.admit("a").release()
    clock.advance(TIMEOUT)
    inside, go_on, remove = threading.Event(), threading.Event(), FlowRegistry.remove

    def stand_still(registry: FlowRegistry, flow: Flow) -> None:
        if not inside.is_set():  # the collection, which is the first to come here
            inside.set()
            assert go_on.wait(30)
        remove(registry, flow)

    monkeypatch.setattr(FlowRegistry, "remove", stand_still)
    collection = spawn(controller.collect)
    assert inside.wait(30)

    for _ in range(3):
        spawn(controller.admit, "a").result(timeout=5).release()
    assert not flow_of(controller).lease.is_marked
    go_on.set()
    assert collection.result().flows == 1
    assert controller.flows() == [FlowKey("a")], "the successor stays"


def test_one_collection_expires_all_that_no_thread_waits_for(clock: FakeClock, controller: FlowController) -> None:
    """Behind a head that has time, where only a look at the deadlines finds them."""
    holder = controller.admit("holder")
    settled: list[Ticket] = []
    controller.submit(Request(FlowKey("a"), ttl=3_000), settled.append)
    for _ in range(300):
        controller.submit(Request(FlowKey("a"), ttl=5), settled.append)
    clock.advance(6)
    controller.collect()

    assert len(settled) == 300
    assert controller.stats().queued == 1
    holder.release()


def raise_boom(*args: object, **kwargs: object) -> bool:
    raise BoomError


Action = Callable[[], object]


@pytest.mark.parametrize("steps", [("collect", "admit"), ("admit", "collect")])
def test_a_flow_that_is_due_is_either_used_or_collected_never_both(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn, steps: tuple[str, str]
) -> None:
    for _ in range(30):
        controller = make_controller(limit=1)
        controller.admit("a").release()
        old = flow_of(controller)
        clock.advance(TIMEOUT)
        start = threading.Barrier(2)
        actions: dict[str, Action] = {"collect": controller.collect, "admit": partial(controller.admit, "a")}

        def act(action: Action, start: threading.Barrier = start) -> object:
            start.wait()
            return action()

        results = dict(zip(steps, [spawn(act, actions[step]) for step in steps], strict=True))
        collected, ticket = results["collect"].result(), results["admit"].result()

        assert isinstance(ticket, Ticket)
        assert collected == CollectReport(flows=int(flow_of(controller) is not old))
        assert in_shards(controller) == [flow_of(controller)]
        ticket.release()
