"""Negative controls of the stateful test: a protection is taken away, and the machine has to find out.

Each breaks the real code in one place. An example that differs from the oracle is looked for, not shrunk.
"""

from __future__ import annotations

import heapq
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from flowctl import ConcurrencyLimit, Config, LowerPriority, Outcome, Ticket, capacity, turn
from flowctl.band import PriorityBand
from flowctl.bands import Bands
from flowctl.flow import Flow
from flowctl.lease import STAMP_MASK
from flowctl.ledger import Ledger
from flowctl.policies.displacement import Backlog
from flowctl.queue import FlowQueue
from flowctl.ticket import ReleaseOutcome, Wait
from flowctl.turn import Turn
from tests.oracle import Q
from tests.proof import Proof
from tests.test_stateful import CLAIM, ControllerMachine, examples

ENOUGH: Final = 1_000
"""Examples, of which one has to show the difference."""

Patch = pytest.MonkeyPatch


def idle_capacity_is_held_against_a_flow(patch: Patch) -> None:
    withdraw = PriorityBand.withdraw

    def broken(self: PriorityBand[Flow], flow: Flow, ticket: Ticket) -> None:
        virtual_time = self.virtual_time
        withdraw(self, flow, ticket)
        self.virtual_time = virtual_time

    patch.setattr(PriorityBand, "withdraw", broken)


def a_withdrawal_runs_no_round(patch: Patch) -> None:
    def broken(self: Turn, ticket: Ticket, outcome: Outcome) -> bool:
        with self.lock:
            withdrawn = self._evict_locked(ticket, outcome, self._now())
        self.help()
        return withdrawn

    patch.setattr(Turn, "withdraw", broken)


def a_new_limit_runs_no_round(patch: Patch) -> None:
    def broken(self: ConcurrencyLimit, limit: int) -> None:
        self._store(limit)

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
    def broken(self: ConcurrencyLimit, in_flight: int, cost: int, priority: int) -> bool:
        return in_flight + cost <= self._limit + 1 or not in_flight

    patch.setattr(ConcurrencyLimit, "admits", broken)


def what_is_larger_than_the_limit_never_goes(patch: Patch) -> None:
    def broken(self: ConcurrencyLimit, in_flight: int, cost: int, priority: int) -> bool:
        return in_flight + cost <= self._limit

    patch.setattr(ConcurrencyLimit, "admits", broken)


def the_newest_of_a_flow_goes_first(patch: Patch) -> None:
    patch.setattr(FlowQueue, "head", FlowQueue.newest)


def equal_tags_go_by_hash(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow], flow: Flow) -> None:
        flow.place = place = flow.start, zlib.crc32(flow.id.encode()), flow
        heapq.heappush(self._ring, place)

    patch.setattr(PriorityBand, "_place", broken)


def a_flow_that_was_idle_comes_with_its_credit(patch: Patch) -> None:
    push = PriorityBand.push

    def broken(self: PriorityBand[Flow], flow: Flow, ticket: Ticket) -> None:
        virtual_time, self.virtual_time = self.virtual_time, 0
        push(self, flow, ticket)
        self.virtual_time = virtual_time

    patch.setattr(PriorityBand, "push", broken)


def who_comes_overtakes_equals_who_wait(patch: Patch) -> None:
    retop = Ledger._retop

    def broken(self: Ledger) -> None:
        retop(self)
        self.top -= 0.5

    patch.setattr(Ledger, "_retop", broken)


def idle_time_begins_when_a_seat_is_taken(patch: Patch) -> None:
    release = Turn.release

    def broken(self: Turn, ticket: Ticket, outcome: ReleaseOutcome) -> bool:
        hold = self.ledger.holds.get(ticket.serial)
        stamp = 0 if hold is None else hold.flow.word.value & STAMP_MASK
        released = release(self, ticket, outcome)
        if released and hold is not None:
            hold.flow.word.value = hold.flow.word.value & ~STAMP_MASK | stamp
        return released

    patch.setattr(Turn, "release", broken)


def equals_make_room(patch: Patch) -> None:
    def broken(self: LowerPriority, priority: int, backlogs: Sequence[Backlog[Q]]) -> Iterator[Q]:
        return iter([ticket for backlog in backlogs for ticket in backlog.newest_first()])

    patch.setattr(LowerPriority, "victims", broken)


def some_leave_for_a_newcomer_in_vain(patch: Patch) -> None:
    make_room = capacity.make_room

    def broken(config: Config, ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> capacity.Room:
        room = make_room(config, ledger, ticket, wait, flow)
        lower = [
            other for band in ledger.waiting if band.priority < flow.band.priority for other in band.newest_first()
        ]
        return room._replace(victims=[*room.victims, *[other for other in lower if other not in room.victims][:1]])

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


CONTROLS: Final[Sequence[Callable[[Patch], None]]] = (
    idle_capacity_is_held_against_a_flow,
    a_flow_that_was_idle_comes_with_its_credit,
    a_withdrawal_runs_no_round,
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
)


@pytest.mark.timeout(240)
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
                if isinstance(sys.exc_info()[1], Exception):
                    failed.append(len(made))  # the first one counts; what comes after it is its replay

    control(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - the machine sees a difference, or what was broken raises
        run_state_machine_as_test(Counted, settings=examples(ENOUGH, derandomize=True, phases=(Phase.generate,)))

    proof.missed(CLAIM, control.__name__.replace("_", " "), failed[0], "examples")
