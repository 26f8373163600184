"""Fairness at its edges: what odd policies, metadata, weights, corrections and newcomers must not be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

import pytest

from flowctl import BandConfig, Config, LongestFlow, Outcome, RoundRobin, Ticket, WeightedFair
from tests.policies.test_fairness import Says
from tests.policies.workload import OneSeat, queue
from tests.support import MakeController
from tests.test_flows import BoomError


@pytest.mark.parametrize(("first", "then"), [(1.5, 10**400), (10**400, 1.5), (1.5, Decimal(1))], ids=range(3))
def test_a_charge_that_adds_to_no_float_tears_nothing(
    make_controller: MakeController, first: object, then: object
) -> None:
    policy = Says(first)
    seat = OneSeat(make_controller, BandConfig(fairness=policy))
    seat.queue_each("aaa")
    seat.next()
    policy.says = then
    seat.next()  # OverflowError or TypeError out of release()


def test_equals_never_displace_each_other_also_where_their_band_has_no_limits(
    make_controller: MakeController,
) -> None:
    band = BandConfig(max_requests=None, max_bytes=None)
    controller = make_controller(Config(max_requests=1, displacement=LongestFlow(), default_band=band))
    _holder = controller.admit("holder")
    first, *others = [queue(controller, flow) for flow in "abaa"]

    assert first.state == "queued"
    assert [ticket.outcome for ticket in others] == [Outcome.REJECTED_CAPACITY] * 3


def test_a_correction_gives_no_credit_for_what_was_never_held_against_the_flow(
    make_controller: MakeController,
) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=WeightedFair())), limit=101)
    holder = controller.admit("holder", cost=101)
    large = queue(controller, "a", cost=100)
    tickets = [queue(controller, "b") for _ in range(300)]
    holder.release()

    def go(times: int) -> str:
        went: list[Ticket] = []
        for _ in range(times):
            before = [ticket for ticket in tickets if ticket.state == "queued"]
            next(ticket for ticket in tickets if ticket.state == "dispatched").release()
            went += [ticket for ticket in before if ticket.state == "dispatched"]
        return "".join(ticket.key.id for ticket in went)

    go(150)  # virtual time is 150: what a was charged for is long past
    tickets += [queue(controller, "a") for _ in range(150)]
    assert go(4) in ("abab", "baba")
    large.adjust(cost=1)
    went = go(20)
    assert abs(went.count("a") - went.count("b")) <= 2, went


class UnderstandsNobody(Mapping[str, object]):
    def __getitem__(self, name: str) -> object:
        raise BoomError

    def __iter__(self) -> Iterator[str]:
        return iter(["slo"])

    def __len__(self) -> int:
        return 1


def test_metadata_that_raises_at_a_correction_is_an_incident(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair()))
    ticket = seat.queue("a", metadata=UnderstandsNobody())
    seat.next()
    assert ticket.adjust(5)  # BoomError, and the section is torn


def test_every_weight_that_is_accepted_can_be_charged(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair(), weights={"a": 1e-9}))
    seat.queue_each("ab")
    assert sorted(seat.names()) == ["a", "b"]


def test_a_correction_that_changes_nothing_costs_no_turn(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=RoundRobin())), limit=2)
    holders = [controller.admit("holder") for _ in range(2)]
    a, b, c, *behind = [queue(controller, flow) for flow in "abcabc"]
    for ticket in (*holders, b):
        ticket.release()
    a.adjust()  # a, b and c have gone once each
    c.release()
    assert [ticket.key.id for ticket in behind if ticket.state == "dispatched"] == ["a"]


def test_flows_that_come_once_do_not_stall_those_that_wait(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig())
    seat.queue_each("aaabbb")
    assert seat.names(2) == "ab"
    went: set[str] = set()
    for nth in range(200):
        seat.queue(f"once-{nth}")
        went |= {ticket.key.id for ticket in seat.go(1)}
    assert {"a", "b"} <= went


def test_a_configuration_can_be_hashed() -> None:
    config = BandConfig(weights={"a": 2.0})
    assert hash(config) == hash(BandConfig(weights={"a": 2.0}))


def test_a_policy_that_has_no_signature_works_or_is_refused_at_once(make_controller: MakeController) -> None:
    class Largest:
        charge = staticmethod(max)

    controller = make_controller(Config(default_band=BandConfig(fairness=Largest())))
    controller.admit("a").release()


def test_weights_hold_after_one_very_large_request_alone(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair(), weights={"a": 2.0}))
    seat.queue("z", cost=2**53)
    seat.next()
    seat.queue_each("a" * 20 + "b" * 20)
    went = seat.names(15)
    assert abs(went.count("a") - 10) <= 1, went
