"""Negative controls of the stateful test: a protection is taken away, and the machine has to find out.

Each breaks the real code in one place. An example that differs from the oracle is looked for, not shrunk.
"""

from __future__ import annotations

import heapq
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    FlowKey,
    LongestFlow,
    LowerPriority,
    Outcome,
    Ticket,
    capacity,
    keyed,
    turn,
)
from flowctl.band import NOBODY, Halts, PriorityBand
from flowctl.bands import Bands
from flowctl.flow import Flow
from flowctl.gate import Load
from flowctl.keyed import KeyedQueue
from flowctl.lease import MARKED_FOR_DELETION, ONE_PIN
from flowctl.ledger import Ledger
from flowctl.policies.displacement import Backlog, Newcomer
from flowctl.queue import FlowQueue
from flowctl.ranking import Ranking
from flowctl.registry import FlowRegistry
from flowctl.request import RESERVED_PREFIX
from flowctl.shard import Shard
from flowctl.ticket import Hold, ReleaseOutcome, Wait
from flowctl.topology import Topology
from flowctl.turn import Turn
from flowctl.wheel import Wheel
from tests.oracle import Q
from tests.proof import Proof
from tests.test_stateful import CLAIM, ControllerMachine, examples

ENOUGH: Final = 3_000
"""Examples, of which one has to show the difference."""

Patch = pytest.MonkeyPatch
Price = Callable[[Flow], float]

SEEN: Final = (Exception, pytest.fail.Exception)
"""The machine sees a difference, or what was broken raises; the second is what `pytest.raises` says."""


def idle_capacity_is_held_against_a_flow(patch: Patch) -> None:
    withdraw = PriorityBand.withdraw

    def broken(self: PriorityBand[Flow], flow: Flow, ticket: Ticket) -> None:
        virtual_time, began = self.virtual_time, self._began
        withdraw(self, flow, ticket)
        self.virtual_time, self._began = virtual_time, began

    patch.setattr(PriorityBand, "withdraw", broken)


def a_withdrawal_runs_no_round(patch: Patch) -> None:
    def broken(self: Turn, ticket: Ticket, outcome: Outcome) -> bool:
        with self.lock:
            withdrawn = self._evict_locked(ticket, outcome, self._now())
        self.help()
        return withdrawn

    patch.setattr(Turn, "withdraw", broken)


def who_comes_and_goes_next_runs_no_round(patch: Patch) -> None:
    def broken(self: Turn, flow: Flow, ticket: Ticket) -> bool:
        return False

    patch.setattr(Turn, "_is_next", broken)


def a_head_whose_deadline_has_come_keeps_others_out(patch: Patch) -> None:
    run_round = Turn._round_locked

    def broken(self: Turn, now: float) -> None:
        run_round(self, now)
        self._stuck_until = math.inf if self._stuck_until > -math.inf else -math.inf

    patch.setattr(Turn, "_round_locked", broken)


def a_new_limit_runs_no_round(patch: Patch) -> None:
    def broken(self: ConcurrencyLimit, limit: int) -> None:
        self._limit = limit

    patch.setattr(ConcurrencyLimit, "set", broken)


def places_are_given_back_at_the_next_sweep(patch: Patch) -> None:
    dequeue, tick = Ledger.dequeue, Turn.tick
    owed: list[int] = []

    def broken(self: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        dequeue(self, ticket, wait, flow)
        owed.append(ticket.size)
        self.queued_bytes += ticket.size

    def broken_tick(self: Turn) -> None:
        self.ledger.queued_bytes -= sum(owed)
        owed.clear()
        tick(self)

    patch.setattr(Ledger, "dequeue", broken)
    patch.setattr(Turn, "tick", broken_tick)


def a_queue_takes_one_more_than_its_limit(patch: Patch) -> None:
    def broken(queued: int, max_requests: int | None, total: int, max_bytes: int | None) -> tuple[int, int]:
        requests = 0 if max_requests is None else max(queued - max_requests, 0)
        return requests, 0 if max_bytes is None else max(total - max_bytes, 0)

    patch.setattr(capacity, "_over", broken)


def the_gate_takes_one_more_than_its_limit(patch: Patch) -> None:
    def broken(self: ConcurrencyLimit, load: Load, cost: int, ceiling: float) -> bool:
        return load.in_flight + cost <= self._limit + 1 or not load.in_flight

    patch.setattr(ConcurrencyLimit, "admits", broken)


def what_is_larger_than_the_limit_never_goes(patch: Patch) -> None:
    def broken(self: ConcurrencyLimit, load: Load, cost: int, ceiling: float) -> bool:
        return load.in_flight + cost <= self._limit

    patch.setattr(ConcurrencyLimit, "admits", broken)


def the_newest_of_a_flow_goes_first(patch: Patch) -> None:
    patch.setattr(FlowQueue, "head", FlowQueue.newest)


def equal_tags_go_by_hash(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow], flow: Flow) -> None:
        flow.place = place = flow.start, zlib.crc32(flow.id.encode()), flow
        heapq.heappush(self._ring, place)

    patch.setattr(PriorityBand, "_place", broken)


def a_flow_that_was_idle_comes_with_its_credit(patch: Patch) -> None:
    enter = PriorityBand._enter

    def broken(self: PriorityBand[Flow], flow: Flow, price: float) -> None:
        enter(self, flow, price)
        flow.start = flow.finish
        self._place(flow)

    patch.setattr(PriorityBand, "_enter", broken)


def newcomers_go_before_those_who_wait_for_their_next_turn(patch: Patch) -> None:
    enter = PriorityBand._enter

    def broken(self: PriorityBand[Flow], flow: Flow, price: float) -> None:
        virtual_time = self.virtual_time
        enter(self, flow, price)
        flow.start = max(virtual_time, flow.finish)
        self._place(flow)

    patch.setattr(PriorityBand, "_enter", broken)


def what_was_overtaken_is_given_back_all_the_same(patch: Patch) -> None:
    correct = PriorityBand.correct

    def broken(self: PriorityBand[Flow], flow: Flow, wait: Wait, charge: float) -> None:
        wait.activation = flow.activation
        correct(self, flow, wait, charge)

    patch.setattr(PriorityBand, "correct", broken)


def who_comes_overtakes_equals_who_wait(patch: Patch) -> None:
    retop = Ledger._retop

    def broken(self: Ledger) -> None:
        retop(self)
        self.top -= 0.5

    patch.setattr(Ledger, "_retop", broken)


def idle_time_begins_when_a_seat_is_taken(patch: Patch) -> None:
    release = Turn.release

    def broken(self: Turn, ticket: Ticket, outcome: ReleaseOutcome) -> bool:
        flow = ticket._flow
        since = flow.since if isinstance(flow, Flow) else 0.0
        released = release(self, ticket, outcome)
        if released and isinstance(flow, Flow):
            flow.since = since
        return released

    patch.setattr(Turn, "release", broken)


def equals_make_room(patch: Patch) -> None:
    def broken(self: LowerPriority, newcomer: Newcomer, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return iter([ticket for backlog in backlogs for ticket in backlog.newest_first()])

    patch.setattr(LowerPriority, "victims", broken)


def some_leave_for_a_newcomer_in_vain(patch: Patch) -> None:
    make_room = capacity.make_room

    def broken(config: Config, ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> capacity.Room:
        room = make_room(config, ledger, ticket, wait, flow)
        lower = [
            other for band in ledger.waiting if band.priority < flow.band.priority for other in band.newest_first()
        ]
        more = [other for other in lower if other not in room.victims][:1]
        return capacity.Room(room.full, [*room.victims, *more], tripped=room.tripped, error=room.error)

    patch.setattr(turn, "make_room", broken)


def an_unknown_priority_goes_to_the_nearest_above(patch: Patch) -> None:
    nearest = Bands.nearest

    def broken(self: Bands, priority: int) -> int | None:
        found = nearest(self, priority)
        assert found is not None
        return min((known for known in self.table.entries if known > found != priority), default=found)

    patch.setattr(Bands, "nearest", broken)


def a_request_may_wait_as_long_as_it_likes(patch: Patch) -> None:
    deadline = Config.deadline

    def broken(self: Config, received_at: float, ttl: float | None, band_ttl: float | None) -> float:
        return deadline(self, received_at, None, ttl) if ttl is not None else deadline(self, received_at, ttl, band_ttl)

    patch.setattr(Config, "deadline", broken)


def the_ordering_policy_is_not_asked(patch: Patch) -> None:
    def broken(self: Turn, band: PriorityBand[Flow], wait: Wait) -> float:
        return 0.0

    patch.setattr(Turn, "_order_locked", broken)


def equal_keys_go_by_the_latest_arrival(patch: Patch) -> None:
    def broken(ticket: Ticket) -> tuple[float, int]:
        return (0.0 if ticket.wait is None else ticket.wait.order), -ticket.serial

    patch.setattr(keyed, "_key", broken)


def a_withdrawal_from_the_middle_puts_the_first_one_last(patch: Patch) -> None:
    withdraw = FlowQueue.withdraw

    def broken(self: FlowQueue, ticket: Ticket) -> None:
        from_the_middle = self.head is not ticket is not self.newest
        withdraw(self, ticket)
        if from_the_middle and not isinstance(self, KeyedQueue):
            self._tickets.move_to_end(next(iter(self._tickets)))

    patch.setattr(FlowQueue, "withdraw", broken)


def a_withdrawal_from_the_middle_of_a_keyed_queue_takes_out_the_head(patch: Patch) -> None:
    def broken(self: KeyedQueue, ticket: Ticket) -> None:
        FlowQueue.withdraw(self, ticket)
        self._order.pop(0)

    patch.setattr(KeyedQueue, "withdraw", broken)


def a_better_head_that_comes_later_is_not_seen(patch: Patch) -> None:
    push = PriorityBand.push

    def broken(self: PriorityBand[Flow], flow: Flow, ticket: Ticket) -> None:
        was_active, by_head = flow.place is not None, self._by_head
        self._by_head = by_head and not was_active
        push(self, flow, ticket)
        self._by_head = by_head

    patch.setattr(PriorityBand, "push", broken)


def a_flow_keeps_the_place_of_a_head_that_left(patch: Patch) -> None:
    withdraw = PriorityBand.withdraw

    def broken(self: PriorityBand[Flow], flow: Flow, ticket: Ticket) -> None:
        by_head, self._by_head = self._by_head, False
        withdraw(self, flow, ticket)
        self._by_head = by_head

    patch.setattr(PriorityBand, "withdraw", broken)


def weights_are_ignored(patch: Patch) -> None:
    price = PriorityBand.price

    def broken(self: PriorityBand[Flow], cost: int, weight: float, metadata: Mapping[str, object] | None) -> float:
        return price(self, cost, 1.0, metadata)

    patch.setattr(PriorityBand, "price", broken)


def what_the_work_really_cost_is_ignored(patch: Patch) -> None:
    adjust = Turn.adjust

    def broken(self: Turn, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool:
        return adjust(self, ticket, None, {})

    patch.setattr(Turn, "adjust", broken)


def what_the_work_really_cost_is_charged_on_top(patch: Patch) -> None:
    adjust = Turn.adjust

    def broken(self: Turn, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool:
        if ticket.wait is not None and ticket.wait.charged is not None:
            ticket.wait.charged = 0
        return adjust(self, ticket, cost, usage)

    patch.setattr(Turn, "adjust", broken)


def a_correction_does_not_move_a_flow_that_waits(patch: Patch) -> None:
    correct = PriorityBand.correct

    def broken(self: PriorityBand[Flow], flow: Flow, wait: Wait, charge: float) -> None:
        place, flow.place = flow.place, None
        correct(self, flow, wait, charge)
        flow.place = place

    patch.setattr(PriorityBand, "correct", broken)


def a_flow_that_grew_is_not_ranked_anew(patch: Patch) -> None:
    def broken(self: Ranking[Flow], flow: Flow, queued: int) -> None:
        pass

    patch.setattr(Ranking, "grew", broken)


def a_flow_that_shrank_is_not_ranked_anew(patch: Patch) -> None:
    longest_first, share = PriorityBand.longest_first, PriorityBand.share

    def broken(self: PriorityBand[Flow]) -> Iterator[tuple[float, Ticket]]:
        if self._ranking._heap is None:
            return longest_first(self)
        _, _, flow = self._ranking._heap[0]
        newest = flow.queue.newest
        if newest is None:
            return longest_first(self)
        return iter([(share(self, flow.queue.requests - 1, flow.queue.size - newest.size), newest)])

    patch.setattr(PriorityBand, "longest_first", broken)


def the_longest_flow_is_emptied_before_the_next(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow]) -> Iterator[tuple[float, Ticket]]:
        flows = [place[2] for place in self._ring if place[2].place is place]
        for flow in sorted(flows, key=lambda flow: -self.share(flow.queue.requests, flow.queue.size)):
            newest_first = list(flow.queue.newest_first())
            for nth, ticket in enumerate(newest_first, start=1):
                staying = newest_first[nth:]
                yield self.share(len(staying), sum(other.size for other in staying)), ticket

    patch.setattr(PriorityBand, "longest_first", broken)


def bytes_are_no_part_of_a_share(patch: Patch) -> None:
    share = PriorityBand.share

    def broken(self: PriorityBand[Flow], requests: int, size: int) -> float:
        return share(self, requests, 0)

    patch.setattr(PriorityBand, "share", broken)


def equally_long_flows_make_room_for_each_other(patch: Patch) -> None:
    victims = LongestFlow.victims

    def broken(self: LongestFlow, newcomer: Newcomer, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return victims(self, newcomer._replace(share=0.0), backlogs)

    patch.setattr(LongestFlow, "victims", broken)


def the_longest_flow_makes_room_for_a_lower_priority(patch: Patch) -> None:
    victims = LongestFlow.victims

    def broken(self: LongestFlow, newcomer: Newcomer, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return victims(self, newcomer._replace(priority=1_000), backlogs)

    patch.setattr(LongestFlow, "victims", broken)


def a_retired_band_still_takes_requests(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow]) -> None:
        pass

    patch.setattr(PriorityBand, "retire", broken)


def a_retired_band_takes_requests_on_the_fast_path(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow]) -> None:
        self.is_retired = True

    patch.setattr(PriorityBand, "retire", broken)


def a_retired_band_is_never_collected(patch: Patch) -> None:
    sweep = Bands.sweep

    def broken(self: Bands) -> int:
        retired = [band for band in self.table.entries.values() if band.is_retired and band.lease.try_pin()]
        swept = sweep(self)
        for band in retired:
            band.lease.unpin(self._clock.now)
        return swept

    patch.setattr(Bands, "sweep", broken)


def a_retired_band_waits_for_its_timeout(patch: Patch) -> None:
    def broken(self: FlowRegistry, band: PriorityBand[Flow], now: float) -> list[Flow]:
        return []

    patch.setattr(FlowRegistry, "_sweep_retired", broken)


def a_band_that_comes_back_keeps_its_old_limits(patch: Patch) -> None:
    opening = PriorityBand.open

    def broken(self: PriorityBand[Flow], config: BandConfig) -> None:
        opening(self, self.config)

    patch.setattr(PriorityBand, "open", broken)


def a_band_that_is_added_may_be_collected(patch: Patch) -> None:
    configure = Bands.configure

    def broken(self: Bands, config: BandConfig) -> PriorityBand[Flow]:
        band = configure(self, config)
        band.lease.unpin(self._clock.now)
        self.configured = {other: known for other, known in self.configured.items() if other != config.priority}
        return band

    patch.setattr(Bands, "configure", broken)


def bands_are_added_beyond_max_bands(patch: Patch) -> None:
    configure = Bands.configure

    def broken(self: Bands, config: BandConfig) -> PriorityBand[Flow]:
        allowed, self._config = self._config, replace(self._config, max_bands=64)
        try:
            return configure(self, config)
        finally:
            self._config = allowed

    patch.setattr(Bands, "configure", broken)


def who_is_paused_is_granted_on_the_fast_path(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow], halts: Halts) -> None:
        self.halts = halts
        self.door = NOBODY if self.is_retired else self.priority

    patch.setattr(PriorityBand, "align", broken)


def who_is_paused_is_granted_on_arrival(patch: Patch) -> None:
    queue_locked = Turn._queue_locked

    def broken(self: Turn, ticket: Ticket, wait: Wait, flow: Flow, now: float) -> Outcome | None:
        if flow.band.priority > self.ledger.top and self._has_room_locked(ticket.cost, flow.band.priority):
            self._grant_locked(ticket, self.ledger.holds[ticket.serial], wait, now)
            return None
        return queue_locked(self, ticket, wait, flow, now)

    patch.setattr(Turn, "_queue_locked", broken)


def a_paused_band_keeps_lower_ones_out(patch: Patch) -> None:
    retop = Ledger._retop

    def broken(self: Ledger) -> None:
        retop(self)
        self.top = max(self.top, self.waiting[-1].priority if self.waiting else NOBODY)

    patch.setattr(Ledger, "_retop", broken)


def a_pause_of_what_does_not_exist_yet_is_forgotten(patch: Patch) -> None:
    halt = Ledger.halt

    def broken(
        self: Ledger, priority: int, halts: Halts, bands: Mapping[int, PriorityBand[Flow]], price: Price
    ) -> None:
        if priority in bands:
            halt(self, priority, halts, bands, price)

    patch.setattr(Ledger, "halt", broken)


def who_is_resumed_comes_with_his_credit(patch: Patch) -> None:
    halt = PriorityBand.halt

    def broken(self: PriorityBand[Flow], halts: Halts, price: Price) -> None:
        was_paused = list(self._paused)
        halt(self, halts, price)
        for flow in was_paused:
            if flow.place is not None:
                flow.start = flow.finish
                self._place(flow)

    patch.setattr(PriorityBand, "halt", broken)


def nobody_goes_when_he_is_resumed(patch: Patch) -> None:
    def broken(
        self: Turn, bands: Mapping[int, PriorityBand[Flow]], priority: int, change: Callable[[Halts], Halts]
    ) -> None:
        with self.lock:
            halts = change(self.ledger.halts.get(priority, Halts()))
            self.ledger.halt(priority, halts, bands, self._price_head_locked)

    patch.setattr(Turn, "halt", broken)


def who_is_paused_is_left_behind_by_a_close(patch: Patch) -> None:
    round_locked = Turn._round_locked

    def broken(self: Turn, now: float) -> None:
        if self.ledger.ready or not self.ledger.closed:
            round_locked(self, now)

    patch.setattr(Turn, "_round_locked", broken)


def who_is_drained_may_wait(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow], flow: Flow) -> bool:
        return False

    patch.setattr(PriorityBand, "is_drained", broken)


def who_waits_is_paused_by_a_drain(patch: Patch) -> None:
    halt = Ledger.halt

    def broken(
        self: Ledger, priority: int, halts: Halts, bands: Mapping[int, PriorityBand[Flow]], price: Price
    ) -> None:
        halt(self, priority, Halts(halts.paused | halts.drained, halts.drained), bands, price)

    patch.setattr(Ledger, "halt", broken)


def a_resize_loses_the_flows_of_the_shards_that_go(patch: Patch) -> None:
    def broken(self: Topology) -> tuple[Shard, ...]:
        return self.live

    patch.setattr(Topology, "shards", property(broken))


def a_resize_moves_no_new_flow(patch: Patch) -> None:
    def broken(self: Topology, flow_id: str, priority: int) -> Shard:
        return self.live[0]

    patch.setattr(Topology, "shard_for", broken)


def a_retired_shard_stays_for_ever(patch: Patch) -> None:
    def broken(self: Shard) -> bool:
        return False

    patch.setattr(Shard, "try_drop", broken)


def a_retired_shard_goes_with_its_flows(patch: Patch) -> None:
    def broken(self: Shard) -> bool:
        went, self.dropped = not self.dropped, True
        return went

    patch.setattr(Shard, "try_drop", broken)


def the_flow_that_was_used_last_makes_room(patch: Patch) -> None:
    def broken(self: FlowRegistry) -> bool:
        idle = [flow for flow in self.topology.flows() if not flow.lease.pins]
        flow = max(idle, key=Flow.load, default=None)
        return flow is not None and flow.lease.try_mark(self._clock.now(), 0.0) and self._take_away(flow)

    patch.setattr(FlowRegistry, "_collect_longest_idle", broken)


def the_flow_that_is_the_oldest_makes_room(patch: Patch) -> None:
    def broken(self: Wheel[Flow], at: int) -> bool:
        return False

    patch.setattr(Wheel, "is_later", broken)


def who_comes_is_folded_although_somebody_is_idle(patch: Patch) -> None:
    def broken(self: FlowRegistry) -> bool:
        return False

    patch.setattr(FlowRegistry, "_collect_longest_idle", broken)


def a_flow_in_use_makes_room(patch: Patch) -> None:
    collect = FlowRegistry._collect_longest_idle

    def broken(self: FlowRegistry) -> bool:
        if collect(self):
            return True
        flow = next((flow for flow in self.topology.flows() if not flow.queue.requests), None)
        if flow is None:
            return False
        flow.pins = MARKED_FOR_DELETION // ONE_PIN
        return self._take_away(flow)

    patch.setattr(FlowRegistry, "_collect_longest_idle", broken)


def who_has_a_weight_is_folded_all_the_same(patch: Patch) -> None:
    key_for = FlowRegistry.key_for

    def broken(self: FlowRegistry, key: FlowKey) -> FlowKey:
        most = self._config.max_flows
        found = key_for(self, key)
        if found != key or most is None or len(self.topology) < most:
            return found
        self.folded.fetch_add(1)
        return FlowKey(f"{RESERVED_PREFIX}overflow-0", key.priority)

    patch.setattr(FlowRegistry, "key_for", broken)


def there_is_no_bound_on_flows(patch: Patch) -> None:
    def broken(self: FlowRegistry, key: FlowKey) -> FlowKey:
        return key

    patch.setattr(FlowRegistry, "key_for", broken)


def ceilings_are_not_asked_again_when_a_band_comes(patch: Patch) -> None:
    adopt = Turn.adopt

    def broken(self: Turn, hold: Hold[Flow], flow: Flow) -> None:
        ceilings = self._ceilings
        adopt(self, hold, flow)
        self._ceilings = {flow.band.priority: 1.0, **ceilings} if ceilings else ceilings

    patch.setattr(Turn, "adopt", broken)


def ceilings_are_not_asked_again_when_a_band_goes(patch: Patch) -> None:
    patch.setattr(Turn, "see_bands", lambda self: None)


def every_priority_may_fill_the_back_end(patch: Patch) -> None:
    patch.setattr(Turn, "_ceiling_locked", lambda self, priority: 1.0)


def seats_stay_what_they_are_whatever_the_work_takes(patch: Patch) -> None:
    adjust = Turn.adjust

    def broken(self: Turn, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool:
        hold = self.ledger.holds.get(ticket.serial)
        before = 0 if hold is None else hold.cost
        adjusted = adjust(self, ticket, cost, usage)
        if hold is not None and adjusted:
            self.ledger.in_flight += before - hold.cost
            hold.cost = before
        return adjusted

    patch.setattr(Turn, "adjust", broken)


CONTROLS: Final[Sequence[Callable[[Patch], None]]] = (
    idle_capacity_is_held_against_a_flow,
    a_flow_that_was_idle_comes_with_its_credit,
    a_withdrawal_runs_no_round,
    who_comes_and_goes_next_runs_no_round,
    a_head_whose_deadline_has_come_keeps_others_out,
    a_new_limit_runs_no_round,
    places_are_given_back_at_the_next_sweep,
    a_queue_takes_one_more_than_its_limit,
    the_gate_takes_one_more_than_its_limit,
    what_is_larger_than_the_limit_never_goes,
    the_newest_of_a_flow_goes_first,
    equal_tags_go_by_hash,
    who_comes_overtakes_equals_who_wait,
    idle_time_begins_when_a_seat_is_taken,
    equals_make_room,
    some_leave_for_a_newcomer_in_vain,
    an_unknown_priority_goes_to_the_nearest_above,
    a_request_may_wait_as_long_as_it_likes,
    the_ordering_policy_is_not_asked,
    equal_keys_go_by_the_latest_arrival,
    a_withdrawal_from_the_middle_puts_the_first_one_last,
    a_withdrawal_from_the_middle_of_a_keyed_queue_takes_out_the_head,
    a_better_head_that_comes_later_is_not_seen,
    a_flow_keeps_the_place_of_a_head_that_left,
    weights_are_ignored,
    what_the_work_really_cost_is_ignored,
    what_the_work_really_cost_is_charged_on_top,
    a_correction_does_not_move_a_flow_that_waits,
    a_flow_that_grew_is_not_ranked_anew,
    a_flow_that_shrank_is_not_ranked_anew,
    the_longest_flow_is_emptied_before_the_next,
    bytes_are_no_part_of_a_share,
    equally_long_flows_make_room_for_each_other,
    the_longest_flow_makes_room_for_a_lower_priority,
    a_retired_band_still_takes_requests,
    a_retired_band_takes_requests_on_the_fast_path,
    a_retired_band_is_never_collected,
    a_retired_band_waits_for_its_timeout,
    a_band_that_comes_back_keeps_its_old_limits,
    a_band_that_is_added_may_be_collected,
    bands_are_added_beyond_max_bands,
    who_is_paused_is_granted_on_the_fast_path,
    who_is_paused_is_granted_on_arrival,
    a_paused_band_keeps_lower_ones_out,
    a_pause_of_what_does_not_exist_yet_is_forgotten,
    who_is_resumed_comes_with_his_credit,
    nobody_goes_when_he_is_resumed,
    who_is_paused_is_left_behind_by_a_close,
    who_is_drained_may_wait,
    who_waits_is_paused_by_a_drain,
    a_resize_loses_the_flows_of_the_shards_that_go,
    a_resize_moves_no_new_flow,
    a_retired_shard_stays_for_ever,
    a_retired_shard_goes_with_its_flows,
    the_flow_that_was_used_last_makes_room,
    the_flow_that_is_the_oldest_makes_room,
    who_comes_is_folded_although_somebody_is_idle,
    a_flow_in_use_makes_room,
    who_has_a_weight_is_folded_all_the_same,
    there_is_no_bound_on_flows,
    ceilings_are_not_asked_again_when_a_band_comes,
    ceilings_are_not_asked_again_when_a_band_goes,
    every_priority_may_fill_the_back_end,
    seats_stay_what_they_are_whatever_the_work_takes,
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("control", [pytest.param(control, id=control.__name__) for control in CONTROLS])
def test_the_machine_finds_that(control: Callable[[Patch], None], monkeypatch: Patch, proof: Proof) -> None:
    made: list[ControllerMachine] = []
    failed: list[int] = []

    class Counted(ControllerMachine):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                if isinstance(sys.exc_info()[1], SEEN):
                    failed.append(len(made))  # the first one counts; what comes after it is its replay

    control(monkeypatch)
    with pytest.raises(SEEN):
        run_state_machine_as_test(Counted, settings=examples(ENOUGH, derandomize=True, phases=(Phase.generate,)))

    proof.missed(CLAIM, control.__name__.replace("_", " "), failed[0], "examples")
