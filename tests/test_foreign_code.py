"""What a user's own policy, gate, probe, callback or observer raises is counted and reported, and nothing leaks."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from flowctl import BandConfig, Config, FlowController, FlowKey, Outcome, QueueFull, Request
from flowctl.policies.displacement import Backlog, Newcomer, T
from flowctl.testing import FakeClock
from flowctl.ticket import ReleaseOutcome, Ticket
from tests.support import GateOver, MakeController, Spawn
from tests.test_flows import BoomError


class RaisingDisplacement:
    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        raise BoomError


class RaisingFairness:
    def __init__(self, charge: float | None = None) -> None:
        self._charge = charge

    def charge(self, cost: int, weight: float) -> float:
        if self._charge is None:
            raise BoomError
        return self._charge


class RaisingObserver:
    def settled(self, ticket: Ticket) -> None:
        raise BoomError

    def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
        raise BoomError


def keep(ticket: Ticket) -> None:
    """The caller of `submit` has it already."""


def raise_it(*args: object) -> None:
    raise BoomError


@pytest.mark.parametrize("level", ["band", "global"])
def test_a_displacement_policy_that_raises_makes_nobody_leave(make_controller: MakeController, level: str) -> None:
    limited = Config(default_band=BandConfig(max_requests=1, displacement=RaisingDisplacement()))
    if level == "global":
        limited = Config(max_requests=1, displacement=RaisingDisplacement())
    controller = make_controller(limited)
    holder = controller.admit("holder")
    queued = controller.submit(Request(FlowKey("a")), keep)

    with pytest.raises(QueueFull) as full:
        controller.admit("b")

    assert full.value.scope == level
    assert queued.state == "queued"
    assert controller.stats().incidents == 1
    controller._check()
    holder.release()
    queued.release()


@pytest.mark.parametrize("charge", [None, float("nan"), float("inf"), -1.0])
def test_a_fairness_policy_that_raises_or_talks_nonsense_holds_up_its_own_band_alone(
    make_controller: MakeController, charge: float | None
) -> None:
    bad = BandConfig(priority=5, fairness=RaisingFairness(charge))
    controller = make_controller(Config(bands=[bad]))
    holder = controller.admit("holder")
    stuck = controller.submit(Request(FlowKey("a", 5)), keep)
    below = controller.submit(Request(FlowKey("a", 1)), keep)
    holder.release()

    assert {"stuck": stuck.state, "below": below.state} == {"stuck": "queued", "below": "dispatched"}
    assert controller.stats().incidents >= 1
    controller._check()
    below.release()
    assert stuck.cancel()


def test_a_gate_that_raises_admits_nobody_and_loses_nothing(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(gate=GateOver(2))
    with monkeypatch.context() as patch:
        patch.setattr(GateOver, "admits", raise_it)
        waiting = controller.submit(Request(FlowKey("a")), keep)
        assert (controller.stats().queued, controller.stats().in_flight) == (1, 0)
    controller.collect()

    assert waiting.state == "dispatched"
    assert waiting.release()
    assert controller.stats().incidents >= 1


def test_a_callback_that_raises_is_reported_and_its_ticket_is_as_it_was(controller: FlowController) -> None:
    ticket = controller.submit(Request(FlowKey("a")), raise_it)

    assert ticket.outcome is Outcome.DISPATCHED
    assert controller.stats().incidents == 1
    assert ticket.release()


def test_an_observer_that_raises_changes_nothing(make_controller: MakeController) -> None:
    controller = make_controller(observer=RaisingObserver())
    ticket = controller.admit("a")

    assert ticket.release()
    assert controller.stats().incidents == 2
    assert controller.stats().in_flight == 0


def test_a_probe_that_raises_says_nothing(controller: FlowController, clock: FakeClock, spawn: Spawn) -> None:
    holder = controller.admit("holder")
    waiter = spawn(controller.admit, "a", cancel=raise_it)
    clock.wait_for_sleepers(1)
    controller.collect()
    assert not waiter.done

    holder.release()
    waiter.result().release()
    assert controller.stats().incidents >= 1


def test_a_report_in_the_midst_of_a_report_of_its_own_thread_does_not_get_stuck(
    controller: FlowController, spawn: Spawn
) -> None:
    """A finaliser may run wherever something is allocated, and release a ticket, whose observer raises."""

    class Interrupted(Counter[str]):
        interrupted = False

        def __setitem__(self, what: str, count: int) -> None:
            if not self.interrupted:
                self.interrupted = True
                controller._incidents.report("from a finaliser", BoomError())
            super().__setitem__(what, count)

    controller._incidents._by_kind = Interrupted()

    spawn(controller._incidents.report, "outer", BoomError()).result(timeout=5)
    assert controller.stats().incidents == 2


def test_a_forked_child_can_report_although_a_thread_of_its_parent_was_just_reporting(
    controller: FlowController,
) -> None:
    with controller._incidents._mutex:  # as another thread holds it at that moment
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            controller.submit(Request(FlowKey("a")), raise_it)
            os._exit(0 if controller.stats().incidents == 1 else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
