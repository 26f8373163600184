"""Revocation: who is asked to stop for whom, and what becomes of it; and who holds on for too long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from flowctl import (
    AdaptiveLimit,
    Aimd,
    ConcurrencyLimit,
    Config,
    FlowController,
    FlowKey,
    Gate,
    Outcome,
    Request,
    Revocation,
    RevocationStats,
    Revoked,
    Saturation,
    Ticket,
)
from flowctl.clock import MonotonicClock
from flowctl.gate import Load
from flowctl.testing import FakeClock, Seats
from tests.faults.moments import Moments
from tests.support import MakeController, Spawn

ON = Config(revocation=Revocation(grace=1.0, timeout=10.0))


KEPT: list[Ticket] = []
"""So that no ticket comes back because nobody has it any more."""


@pytest.fixture(autouse=True)
def _keep() -> Iterator[None]:
    yield
    KEPT.clear()


def submit(
    controller: FlowController, flow: str, priority: int = 0, *, cost: int = 1, revocable: bool | None = None
) -> Ticket:
    ticket = controller.submit(Request(FlowKey(flow, priority), cost=cost, revocable=revocable), lambda ticket: None)
    KEPT.append(ticket)
    return ticket


def revoked(*tickets: Ticket) -> list[bool]:
    return [ticket.is_revoked for ticket in tickets]


def test_nobody_is_asked_to_stop_unless_it_is_configured(make_controller: MakeController) -> None:
    controller = make_controller()
    holder = submit(controller, "batch", -1)
    submit(controller, "live", 5)

    controller.collect()

    assert not holder.is_revoked
    assert not holder.revoked.is_set()
    holder.check()


def test_nobody_is_asked_to_stop_while_nobody_waits(make_controller: MakeController) -> None:
    controller = make_controller(ON)
    holder = submit(controller, "batch", -1)

    controller.collect()

    assert not holder.is_revoked


def test_a_more_important_request_asks_for_as_much_as_it_needs_the_lowest_first_then_the_newest(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(revocation=Revocation(most=3)), limit=5)
    holders: list[Ticket] = []
    for flow, priority in (("a", -1), ("b", -2), ("c", -1), ("d", -2), ("e", 1)):
        holders.append(submit(controller, flow, priority))
        clock.advance(1)
    submit(controller, "live", 5, cost=3)

    controller.collect()

    assert revoked(*holders) == [False, True, True, True, False], "d and b, then c: not e, which is not revocable"
    assert controller.stats().revocations == RevocationStats(3, 0, 0)


def test_equals_and_those_above_are_never_asked(make_controller: MakeController) -> None:
    controller = make_controller(Config(revocation=Revocation(below=100)), limit=2)
    equal, above = submit(controller, "equal", 5), submit(controller, "above", 6)
    submit(controller, "live", 5)

    controller.collect()

    assert revoked(equal, above) == [False, False]


def test_a_request_says_itself_whether_it_may_be_asked_to_stop(make_controller: MakeController) -> None:
    controller = make_controller(ON, limit=3)
    may_not, may = submit(controller, "a", -5, revocable=False), submit(controller, "b", 3, revocable=True)
    fast = controller.admit("b", priority=3, revocable=True)
    submit(controller, "live", 5, cost=2)

    controller.collect()

    assert revoked(may_not, may, fast) == [False, True, True]


def test_who_was_asked_and_still_holds_is_counted_in(make_controller: MakeController) -> None:
    controller = make_controller(ON, limit=3)
    holders = [submit(controller, "batch", -1) for _ in range(3)]
    submit(controller, "live", 5)
    for _ in range(5):
        controller.collect()
    assert sum(revoked(*holders)) == 1, "one seat is enough"

    submit(controller, "live", 5)
    controller.collect()
    assert sum(revoked(*holders)) == 1, "only the head asks"


def test_a_holder_that_stops_lets_the_head_go_and_is_counted(make_controller: MakeController) -> None:
    controller = make_controller(ON)
    holder = submit(controller, "batch", -1)
    waiting = submit(controller, "live", 5)
    controller.collect()
    with pytest.raises(Revoked, match="a request of priority 5 waits") as told:
        holder.check()

    assert told.value.key == FlowKey("batch", -1)
    assert told.value.http_status == 429
    assert holder.release()
    assert waiting.state == "dispatched"
    controller.collect()
    assert controller.stats().revocations == RevocationStats(1, 1, 0)


def test_a_holder_that_does_not_stop_is_given_up_on_and_another_is_asked(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(ON, limit=2)
    old = submit(controller, "batch", -1)
    clock.advance(1)
    new = submit(controller, "batch", -1)
    submit(controller, "live", 5)
    controller.collect()
    assert revoked(old, new) == [False, True]

    clock.advance(10.5)
    controller.collect()

    assert revoked(old, new) == [True, True]
    assert controller.stats().revocations == RevocationStats(2, 0, 1)
    new.release()
    controller.collect()
    assert controller.stats().revocations == RevocationStats(2, 0, 1), "once given up on, not confirmed as well"


def test_a_waiter_for_the_event_wakes(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(ON)
    holder = controller.admit("batch", priority=-1)
    event = holder.revoked
    waiter = spawn(event.wait, 30)
    submit(controller, "live", 5)

    controller.collect()

    assert waiter.result()
    assert holder.revoked is event


def test_a_victim_gives_a_signal_its_credit_until_the_grace_is_over(
    make_controller: MakeController, clock: FakeClock
) -> None:
    gate = Saturation(lambda: 1.0, credit=0.5, stale_after=100)
    controller = make_controller(Config(revocation=Revocation(most=9, grace=2.0)), gate=[ConcurrencyLimit(100), gate])
    gate.change(lambda: None)
    level = [0.0]
    gate._source = lambda: level[0]
    controller.collect()
    holders = [submit(controller, "batch", -1) for _ in range(6)]
    level[0] = 1.0
    controller.collect()
    submit(controller, "live", 5)
    controller.collect()
    assert sum(revoked(*holders)) == 1

    for holder in holders:
        if holder.is_revoked:
            holder.release()
    controller.collect()
    assert controller.stats().revocations == RevocationStats(1, 1, 0), "the signal may not know it yet"
    clock.advance(3)
    controller.collect()
    assert controller.stats().revocations.issued == 2


def test_a_signal_that_is_stale_is_no_reason_to_stop_anybody(make_controller: MakeController, clock: FakeClock) -> None:
    failing = [False]

    def source() -> float:
        if failing[0]:
            raise LookupError
        return 0.0

    controller = make_controller(ON, gate=Saturation(source, stale_after=1.0))
    controller.collect()
    holder = submit(controller, "batch", -1)
    failing[0] = True
    clock.advance(5)
    waiting = submit(controller, "live", 5)

    controller.collect()

    assert (waiting.state, holder.is_revoked) == ("queued", False)


def test_what_a_revoked_request_took_is_no_sample_of_the_back_end(
    make_controller: MakeController, clock: FakeClock
) -> None:
    gate = AdaptiveLimit(Aimd(), initial=2, samples=1, window=0)
    controller = make_controller(ON, gate=gate)
    holders = [submit(controller, "batch", -1) for _ in range(2)]
    submit(controller, "live", 5)
    controller.collect()
    (victim,) = [holder for holder in holders if holder.is_revoked]

    assert victim.release()

    assert (gate.limit, gate.history) == (2, ())


def test_max_hold_asks_anybody_to_stop_who_holds_for_longer(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(max_hold=30.0), limit=2)
    early = controller.admit("a", priority=9)
    clock.advance(20)
    late = controller.admit("b", priority=9)
    clock.advance(11)

    controller.collect()

    assert revoked(early, late) == [True, False]
    with pytest.raises(Revoked, match=r"for more than 30.0 s"):
        early.check()


def test_who_cannot_hear_of_it_is_not_asked_to_stop_however_long_he_holds(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(max_hold=30.0), limit=2)
    deaf, other = controller.admit("a", revocable=False), controller.admit("b", revocable=True)
    clock.advance(31)

    controller.collect()

    assert revoked(deaf, other) == [False, True]


def test_whoever_holds_for_too_long_is_reported_once_with_the_stack_of_its_thread(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    controller = make_controller(Config(hold_warning=60.0))
    holds, done = threading.Event(), threading.Event()

    def a_function_that_hangs() -> None:
        with controller.admit("slow"):
            holds.set()
            done.wait(30)

    hanging = spawn(a_function_that_hangs)
    assert holds.wait(30)
    clock.advance(61)

    with caplog.at_level(logging.ERROR, "flowctl"):
        controller.collect()
        controller.collect()

    assert controller.stats().overdue == 1
    (record,) = [record for record in caplog.records if "hold_warning" in record.message]
    assert "slow" in record.message
    assert "holds 1 seats for 61.0 s" in record.message
    assert "a_function_that_hangs" in record.message
    done.set()
    hanging.result()
    controller.collect()
    assert controller.stats().overdue == 0


def test_whose_seat_was_taken_with_a_callback_is_in_no_known_thread(
    make_controller: MakeController, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    controller = make_controller(Config(hold_warning=60.0))
    request = Request(FlowKey("slow"))
    controller.admit("slow").release()
    with controller.submit(request, KEPT.append):  # of a flow that is known: granted on the spot
        clock.advance(61)
        with caplog.at_level(logging.ERROR, "flowctl"):
            controller.collect()

    (record,) = [record for record in caplog.records if "hold_warning" in record.message]
    assert record.message.endswith("and its thread is not known")


def test_whoever_waited_is_known_by_its_thread_too(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    controller = make_controller(Config(hold_warning=60.0))
    first = controller.admit("first")
    holds, done = threading.Event(), threading.Event()

    def waits_and_hangs() -> None:
        with controller.admit("second", ttl=None):
            holds.set()
            done.wait(30)

    hanging = spawn(waits_and_hangs)
    clock.wait_for_sleepers(1)
    first.release()
    assert holds.wait(30)
    clock.advance(61)
    controller.collect()

    assert "waits_and_hangs" in caplog.text
    done.set()
    hanging.result()


def test_the_collector_looks_after_revocation_by_itself(make_controller: MakeController) -> None:
    controller = make_controller(Config(revocation=Revocation()), background=True, clock=MonotonicClock())
    holder = controller.admit("batch", priority=-1)
    submit(controller, "live", 5)

    assert holder.revoked.wait(30)


def test_a_forked_state_has_asked_nobody(make_controller: MakeController) -> None:
    controller = make_controller(ON)
    submit(controller, "batch", -1)
    submit(controller, "live", 5)
    controller.collect()
    assert controller.stats().revocations.issued == 1

    controller.after_fork_in_child()

    assert controller.stats().revocations == RevocationStats(0, 0, 0)


# --- nobody is stopped in vain --------------------------------------------------------------------------------------


def test_nobody_is_asked_for_a_head_whose_deadline_has_come(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(ON)
    holder = submit(controller, "batch", -1)
    late = controller.submit(Request(FlowKey("live", 5), ttl=1.0), lambda ticket: None)
    clock.advance(2)

    controller.collect()

    assert (late.outcome, holder.is_revoked) == (Outcome.EVICTED_TTL, False)


def test_nobody_is_asked_if_all_together_could_not_make_room(make_controller: MakeController) -> None:
    controller = make_controller(ON, limit=10)
    for _ in range(9):
        submit(controller, "other", 5)
    holder = submit(controller, "batch", -1)
    submit(controller, "live", 7, cost=8)

    controller.collect()

    assert not holder.is_revoked


def test_nobody_is_asked_for_a_gate_that_is_open_while_another_one_is_stale(make_controller: MakeController) -> None:
    nearly_full, unknown = Saturation(lambda: 0.95), Saturation(lambda: 0.0)
    controller = make_controller(ON, gate=[nearly_full, unknown])
    controller.collect()
    holder = submit(controller, "batch", -1)
    unknown._sample = None
    waiting = submit(controller, "live", 5)
    nearly_full.sample()

    controller._state.turn.tick()

    assert (waiting.state, holder.is_revoked) == ("queued", False)


@pytest.mark.parametrize("ceiling", [1.0, 0.58, 0.7, 1 - 0.2, 1 / 3, 0.05])
def test_a_limit_asks_for_exactly_what_makes_it_admit(ceiling: float) -> None:
    for limit in range(1, 60):
        gate = ConcurrencyLimit(limit)
        for in_flight in range(limit + 3):
            excess = gate.excess(Seats(in_flight), 2, ceiling)
            enough = next(back for back in range(in_flight + 1) if gate.admits(Seats(in_flight - back), 2, ceiling))
            assert max(excess, 0) == enough, (limit, in_flight)


def test_a_gate_that_cannot_say_how_much_it_lacks_stops_nobody_and_keeps_the_collector_at_work(
    make_controller: MakeController, clock: FakeClock
) -> None:
    class Broken(Gate):
        def saturation(self, load: Load) -> float:
            return load.in_flight

        def excess(self, load: Load, cost: int, ceiling: float) -> float:
            raise ZeroDivisionError

    controller = make_controller(ON, gate=Broken())
    holder = submit(controller, "batch", -1)
    submit(controller, "live", 5)
    low = controller.submit(Request(FlowKey("low"), ttl=1.0), lambda ticket: None)
    clock.advance(5)

    controller.collect()

    assert (low.outcome, holder.is_revoked) == (Outcome.EVICTED_TTL, False)
    assert controller.stats().incidents == 1


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_handler_that_asks_in_the_middle_of_its_own_threads_wait_does_not_wait_for_itself(
    make_controller: MakeController,
) -> None:
    controller = make_controller(ON)
    holder = controller.admit("batch", priority=-1)
    event = holder.revoked
    submit(controller, "live", 5)
    at, passed = 1, 1
    while passed >= at:
        with Moments(at, controller.collect) as moments:
            event.wait(0.001)
        passed, at = moments.passed, at + 1

    assert event.is_set()


def test_two_who_look_for_the_notice_at_once_find_the_same(make_controller: MakeController) -> None:
    at, passed = 1, 1
    while passed >= at:
        controller = make_controller(ON)
        holder = controller.admit("batch", priority=-1)
        submit(controller, "live", 5)
        found: list[object] = []
        with Moments(at, lambda found=found, holder=holder: found.append(holder.revoked)) as moments:  # type: ignore[misc]
            controller._state.turn.revoke()
        passed, at = moments.passed, at + 1
        assert all(event is holder.revoked for event in found)
        assert holder.revoked.is_set()
