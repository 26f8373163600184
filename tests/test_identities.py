"""P11: made-up flow ids cost no more than a bound, and tell."""

import pytest

from flowctl import BandConfig, Config, FlowController, FlowKey, Outcome, Request, Ticket
from flowctl.request import RESERVED_PREFIX
from flowctl.testing import FakeClock
from tests.support import MakeController, Spawn
from tests.test_flows import registry_of


def ids(controller: FlowController) -> set[str]:
    return {key.id for key in controller.flows()}


def test_at_max_flows_the_flow_that_was_idle_for_longest_goes_first(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(max_flows=3))
    for name in "cab":
        controller.admit(name).release()
        clock.advance(1)
    controller.admit("c").release()

    controller.admit("d").release()
    assert ids(controller) == {"b", "c", "d"}
    controller.admit("e").release()
    assert ids(controller) == {"c", "d", "e"}
    assert controller.stats().folded == 0


def test_what_is_used_stays_however_long_it_is_held(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(max_flows=2), limit=10)
    _old = controller.admit("old")
    clock.advance(1000)
    for name in "abc":
        controller.admit(name).release()
        clock.advance(1)

    assert ids(controller) == {"old", "c"}


def test_if_all_are_used_new_ids_share_overflow_flows(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_flows=2, overflow_flows=4), limit=1000)
    holders = [controller.admit(name) for name in "ab"]
    folded = [controller.admit(f"new-{nth}") for nth in range(100)]

    shared = ids(controller) - {"a", "b"}
    assert shared == {f"{RESERVED_PREFIX}overflow-{nth}" for nth in range(4)}
    assert {ticket.key.id for ticket in folded} == shared
    assert controller.stats().folded == 100
    assert controller.admit("a").key.id == "a", "who exists is served at his own"
    holders[0].release()


def test_the_same_id_goes_to_the_same_overflow_flow(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_flows=1), limit=1000)
    _holder = controller.admit("holder")

    assert len({controller.admit("new").key for _ in range(5)}) == 1
    assert controller.admit("new", priority=7).key.priority == 7


def test_an_id_with_a_weight_is_never_folded(make_controller: MakeController) -> None:
    bands = [BandConfig(priority=0, weights={"important": 5.0})]
    controller = make_controller(Config(max_flows=1, bands=bands), limit=10)
    _holder = controller.admit("holder")

    assert controller.admit("important").key.id == "important"
    assert controller.admit("new").key.id != "new"


def test_who_was_folded_gets_a_flow_of_his_own_once_there_is_room(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_flows=1), limit=10)
    holder = controller.admit("holder")
    controller.admit("new").release()
    holder.release()

    assert controller.admit("new").key.id == "new"


def test_more_used_flows_than_are_looked_at_hide_an_idle_one_only_for_a_while(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_flows=101), limit=1000)
    holders = [controller.admit(f"used-{nth}") for nth in range(100)]
    controller.admit("idle").release()

    tried = 0
    while "idle" in ids(controller):
        tried += 1
        controller.admit(f"new-{tried}").release()
    assert tried <= 10
    assert len(holders) == 100


def test_without_a_bound_nobody_is_folded(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_flows=None))
    for nth in range(10_100):
        controller.admit(f"f{nth}").release()

    assert controller.stats().flows == 10_100


def test_30_000_made_up_ids_leave_no_more_than_max_flows(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_flows=50))
    for nth in range(30_000):
        controller.admit(f"made-up-{nth}").release()

    registry = registry_of(controller)
    assert controller.stats().flows == 50
    assert len(registry._wheel) + len(registry._newborn) == 50
    assert sum(len(band.flows.entries) for band in registry.bands.entries.values()) == 50


def test_made_up_ids_from_many_threads_exceed_the_bound_by_no_more_than_the_threads(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(Config(max_flows=50), limit=100)

    def attack(number: int) -> int:
        most = 0
        for nth in range(500):
            controller.admit(f"{number}-{nth}").release()
            most = max(most, len(registry_of(controller).topology))
        return most

    assert max(each.result() for each in [spawn(attack, number) for number in range(8)]) <= 58


def test_a_folded_request_waits_and_is_limited_like_any_other(make_controller: MakeController) -> None:
    band = BandConfig(max_requests_per_flow=2)
    controller = make_controller(Config(max_flows=1, overflow_flows=1, default_band=band))
    holder = controller.admit("holder")
    told: list[Ticket] = []
    for nth in range(3):
        controller.submit(Request(FlowKey(f"new-{nth}")), told.append)

    assert [(ticket.outcome, ticket.error and ticket.error.scope) for ticket in told] == [
        (Outcome.REJECTED_CAPACITY, "flow")
    ]
    holder.release()
    assert told[1].outcome is Outcome.DISPATCHED


@pytest.mark.parametrize("bad", [0, -1])
def test_a_bound_of_nothing_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=f"max_flows must be at least 1, not {bad}"):
        Config(max_flows=bad)
    with pytest.raises(ValueError, match=f"overflow_flows must be at least 1, not {bad}"):
        Config(overflow_flows=bad)
