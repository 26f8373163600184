"""The turn where it rarely goes: told at once, given up, refused in a handler, a limit that makes no sense."""

from typing import final

import pytest

from flowctl import BandConfig, Config, FlowKey, Outcome, Request, Ticket
from flowctl.testing import FakeClock
from flowctl.ticket import ReleaseOutcome
from tests.support import MakeController
from tests.test_interrupts import Interrupted, Intruder


class Diary:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.settled_as: list[Outcome | None] = []
        self.released_as: list[ReleaseOutcome] = []

    def settled(self, ticket: Ticket) -> None:
        self.settled_as.append(ticket.outcome)

    def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
        self.released_as.append(outcome)


def test_an_observer_is_told_of_a_grant_before_its_caller_is(make_controller: MakeController) -> None:
    diary = Diary()
    controller = make_controller(limit=2, observer=diary)
    controller.admit("a").release()
    diary.settled_as.clear()

    with controller.admit("a"):  # of a flow that exists: decided on the spot
        assert diary.settled_as == [Outcome.DISPATCHED]


def test_an_observer_is_told_how_the_work_went(make_controller: MakeController) -> None:
    diary = Diary()
    controller = make_controller(observer=diary)

    with controller.admit("a"):
        pass
    with pytest.raises(ZeroDivisionError), controller.admit("a"):
        raise ZeroDivisionError
    controller.admit("a").release("ignored")

    assert diary.released_as == ["ok", "dropped", "ignored"]


def test_a_seat_whose_caller_was_interrupted_is_free_although_somebody_keeps_its_ticket(
    make_controller: MakeController,
) -> None:
    diary = Diary()
    controller = make_controller(observer=diary)
    kept: list[Ticket] = []

    def keep_and_die(ticket: Ticket) -> None:
        kept.append(ticket)
        raise Interrupted

    with pytest.raises(Interrupted):
        controller.submit(Request(FlowKey("a")), keep_and_die)

    assert [ticket.state for ticket in kept] == ["released"]
    assert diary.released_as == ["ignored"]  # it says nothing about the back end
    assert (controller.stats().in_flight, controller.stats().abandoned) == (0, 0)


def test_a_handlers_request_whose_flow_is_collected_before_it_arrives_is_refused_and_told(
    make_controller: MakeController, clock: FakeClock
) -> None:
    gate = Intruder()
    controller = make_controller(Config(flow_gc_timeout=1), gate=gate)
    told: list[Ticket] = []
    controller.admit("other").release()
    controller.admit("a").release()
    flow = controller._state.registry.find(FlowKey("a"))
    assert flow is not None
    clock.advance(2)

    def submit_and_collect() -> None:
        controller.submit(Request(FlowKey("a")), told.append)
        assert flow.lease.try_mark(clock.now(), 1)

    gate.intrusion = submit_and_collect
    controller.admit("other").release()

    assert [ticket.outcome for ticket in told] == [Outcome.REJECTED_OTHER]
    assert controller.stats().rejected == 1
    controller.collect()


@pytest.mark.parametrize("bad", [0, -1])
def test_a_limit_that_makes_no_sense_is_named_and_changes_nothing(make_controller: MakeController, bad: int) -> None:
    gate = Intruder()
    make_controller(gate=gate)

    with pytest.raises(ValueError, match="limit must be"):
        gate.seats.set(bad)
    assert gate.seats.limit == 1


@final
class Cheap:
    """A fairness policy for which every dispatch costs the same little."""

    def __init__(self, price: float) -> None:
        self._price = price

    def charge(self, cost: int, weight: float) -> float:
        return self._price


@pytest.mark.parametrize("price", [0.0, 0.5])
def test_a_charge_below_one_or_none_at_all_is_a_charge(make_controller: MakeController, price: float) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=Cheap(price))))
    holder = controller.admit("a")
    told: list[Ticket] = []
    controller.submit(Request(FlowKey("b")), told.append)

    holder.release()

    assert [ticket.outcome for ticket in told] == [Outcome.DISPATCHED]
    assert controller.stats().incidents == 0
    told[0].release()
