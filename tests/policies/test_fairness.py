"""Which flow goes next: in turn, by weight, by the best head; and charges corrected by what the work took."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
from collections.abc import Callable, Mapping
from typing import Final

import pytest

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    EarliestDeadline,
    Fcfs,
    GlobalStrict,
    Outcome,
    RoundRobin,
    Saturated,
    SloDeadline,
    Ticket,
    WeightedFair,
)
from flowctl.policies.fairness import Fairness, is_metered
from flowctl.testing import FakeClock
from tests.policies.workload import OneSeat, queue
from tests.support import MakeController
from tests.test_flows import BoomError

FAIRNESSES: list[Fairness] = [RoundRobin(), WeightedFair(), GlobalStrict()]
IN_TURN: list[Fairness] = [RoundRobin(), WeightedFair()]  # where costs and weights are equal


@pytest.fixture(params=FAIRNESSES, ids=repr)
def fairness(request: pytest.FixtureRequest) -> Fairness:
    policy: Fairness = request.param
    return policy


@pytest.fixture(params=IN_TURN, ids=repr)
def in_turn(request: pytest.FixtureRequest) -> Fairness:
    policy: Fairness = request.param
    return policy


def windows(went: str, length: int) -> list[str]:
    return [went[at : at + length] for at in range(len(went) - length + 1)]


# --- what every fairness policy does ----------------------------------------------------------------------------------

COSTS = [1, 2, 7, 10**6, 2**53]
WEIGHTS = [1e-6, 0.5, 1.0, 3.0, 1e9]


def test_a_charge_is_finite_never_below_0_and_never_less_for_more(fairness: Fairness) -> None:
    for weight in WEIGHTS:
        charges = [fairness.charge(cost, weight) for cost in COSTS]
        assert all(0 <= charge < math.inf for charge in charges)
        assert charges == sorted(charges)
    for cost in COSTS:
        charges = [fairness.charge(cost, weight) for weight in WEIGHTS]
        assert charges == sorted(charges, reverse=True), "more weight is never charged more"


def test_work_that_came_to_nothing_can_be_charged(fairness: Fairness) -> None:
    assert 0 <= fairness.charge(0, 1.0) < math.inf


def test_a_fairness_policy_has_no_state_and_is_equal_by_value(fairness: Fairness) -> None:
    before = pickle.dumps(fairness)
    charges = [fairness.charge(cost, weight) for cost, weight in itertools.product(COSTS, WEIGHTS)]

    assert charges == [fairness.charge(cost, weight) for cost, weight in itertools.product(COSTS, WEIGHTS)]
    assert pickle.dumps(fairness) == before
    assert fairness == type(fairness)()
    assert hash(fairness) == hash(type(fairness)())
    assert len({*FAIRNESSES, fairness}) == len(FAIRNESSES)
    assert not hasattr(fairness, "__dict__"), "it has nowhere to keep a state"
    assert not is_metered(fairness)


def test_a_fairness_policy_can_be_pickled_and_copied_also_in_a_configuration(fairness: Fairness) -> None:
    config = Config(bands=[BandConfig(priority=1, fairness=fairness, weights={"a": 2})])

    assert pickle.loads(pickle.dumps(fairness)) == copy.deepcopy(fairness) == fairness
    assert pickle.loads(pickle.dumps(config)) == config


def test_within_a_flow_the_order_is_its_own(make_controller: MakeController, fairness: Fairness) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=fairness))
    tickets = seat.queue_each("abcab" * 4)

    went = seat.go()
    for name in "abc":
        assert [t for t in went if t.key.id == name] == [t for t in tickets if t.key.id == name]


@pytest.mark.parametrize("seed", range(3))
def test_whoever_leaves_everybody_else_goes_and_nobody_twice(
    make_controller: MakeController, fairness: Fairness, seed: int
) -> None:
    rng = random.Random(seed)
    seat = OneSeat(make_controller, BandConfig(fairness=fairness, ordering=SloDeadline(), weights={"a": 3.0}))
    tickets = [seat.queue(rng.choice("abcdef"), cost=rng.choice([1, 9]), metadata={"slo": n % 5}) for n in range(150)]
    leaving = rng.sample(tickets, 60)
    went: list[Ticket] = []
    for ticket in leaving:
        if ticket not in went:
            assert ticket.cancel()
        went += seat.go(1)
    went += seat.go()

    assert len(went) == len(set(map(id, went)))
    assert set(map(id, went)) == {id(ticket) for ticket in tickets if ticket.outcome is Outcome.DISPATCHED}
    assert all(ticket in leaving for ticket in tickets if ticket.outcome is not Outcome.DISPATCHED)


def test_two_bands_made_from_one_template_share_no_fairness_state(
    make_controller: MakeController, in_turn: Fairness
) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=in_turn), default_ttl=None))
    holder = controller.admit("holder")
    below = [queue(controller, flow) for flow in "aaabbb"]

    def go(times: int) -> str:
        nonlocal holder
        went = ""
        for _ in range(times):
            waiting = [ticket for ticket in below + above if ticket.state == "queued"]
            holder.release()
            (holder,) = [ticket for ticket in waiting if ticket.state == "dispatched"]
            went += holder.key.id
        return went

    above: list[Ticket] = []
    assert go(3) == "aba"
    above += [queue(controller, flow, priority=7) for flow in "bbaa"]
    assert go(4) == "baba", "nobody owes anything there"
    assert go(3) == "bab", "and here it goes on as if nothing had been"


# --- in turn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 7, 26])
@pytest.mark.parametrize("shuffled", [False, True])
def test_every_window_of_n_dispatches_among_n_backlogged_flows_has_n_different_flows(
    make_controller: MakeController, in_turn: Fairness, n: int, shuffled: bool
) -> None:
    seat, names = OneSeat(make_controller, BandConfig(fairness=in_turn)), "abcdefghijklmnopqrstuvwxyz"[:n]
    arrivals = list(names * 6)
    if shuffled:
        random.Random(n).shuffle(arrivals)
    seat.queue_each("".join(arrivals))

    went = seat.names()
    assert len(went) == 6 * n
    assert [window for window in windows(went, n) if len(set(window)) < n] == []


def test_round_robin_minds_neither_costs_nor_weights(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=RoundRobin(), weights={"a": 100.0}))
    seat.queue_each("aaa", cost=50)
    seat.queue_each("bbb")

    assert seat.names() == "ababab"


def test_flows_that_come_and_go_do_not_stall_or_reset_the_turn_of_the_others(
    make_controller: MakeController, in_turn: Fairness
) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=in_turn))
    seat.queue_each("abc" * 30)
    went = ""
    for nth in range(30):
        comes = seat.queue("xyz"[nth % 3])
        if nth % 2:
            assert comes.cancel()
        went += seat.names(2)

    stayed = "".join(name for name in went if name in "abc")
    assert len(stayed) >= 30
    assert [window for window in windows(stayed, 3) if len(set(window)) < 3] == []


def test_a_flow_that_was_idle_has_neither_credit_nor_debt(make_controller: MakeController, in_turn: Fairness) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=in_turn))
    seat.queue_each("ab")
    seat.queue_each("c" * 200)
    seat.go(100)  # a and b have gone once, and c all the time
    seat.queue_each("a" * 30)

    assert seat.names(20) in ("ac" * 10, "ca" * 10)
    seat.queue_each("b" * 10)
    assert sorted(seat.names(3)) == ["a", "b", "c"]
    assert all(sorted(window) == ["a", "b", "c"] for window in windows(seat.names(15), 3))


@pytest.mark.parametrize("seed", range(4))
def test_backlogged_flows_stay_level_while_others_come_and_go_at_random(
    make_controller: MakeController, in_turn: Fairness, seed: int
) -> None:
    rng, seat = random.Random(seed), OneSeat(make_controller, BandConfig(fairness=in_turn))
    seat.queue_each("abcd" * 150)
    counts = dict.fromkeys("abcd", 0)
    for _ in range(500):
        if rng.random() < 0.4:
            seat.queue_each(rng.choice("vwxyz") * rng.choice([1, 1, 4]))
        if rng.random() < 0.2 and (visitors := [ticket for ticket in seat.queued if ticket.key.id in "vwxyz"]):
            assert rng.choice(visitors).cancel()
            seat.queued = [ticket for ticket in seat.queued if ticket.state == "queued"]
        for name in seat.names(1):
            counts[name] = counts.get(name, 0) + 1
        backlogged = [counts[name] for name in "abcd"]
        assert max(backlogged) - min(backlogged) <= 1


# --- by weight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [{}, {"a": 3.0}, {"a": 0.1, "b": 10.0}, {"a": 1 / 3, "b": math.pi, "c": 7.0}])
def test_over_any_window_shares_follow_the_weights_within_one_largest_request(
    make_controller: MakeController, weights: dict[str, float], seed: int
) -> None:
    rng = random.Random(seed)
    costs: dict[str, Callable[[], int]] = {
        "a": lambda: 1,
        "b": lambda: rng.choice([1, 1, 1, 1, 200]),
        "c": lambda: rng.randrange(1, 30),
    }
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair(), weights=weights))
    served = dict.fromkeys(costs, 0.0)  # cost by weight
    history, largest = [served.copy()], dict.fromkeys(costs, 0.0)
    for _ in range(800):
        for name, cost in costs.items():
            while [ticket.key.id for ticket in seat.queued].count(name) < 2:
                seat.queue(name, cost=cost())
        (ticket,) = seat.go(1)
        name, charge = ticket.key.id, ticket.cost / weights.get(ticket.key.id, 1.0)
        served[name] += charge
        largest[name] = max(largest[name], charge)
        history.append(served.copy())

    for one, other in itertools.combinations(costs, 2):
        ahead = [at[one] - at[other] for at in history]
        # the window with the largest difference is between the two extremes
        assert max(ahead) - min(ahead) <= (largest[one] + largest[other]) * (1 + 1e-9)


@pytest.mark.parametrize(("weights", "rounds"), [({"a": 2.0}, "aab"), ({"a": 3.0}, "aaab"), ({"b": 0.5}, "aab")])
def test_equal_costs_go_in_rounds_of_the_weights(
    make_controller: MakeController, weights: dict[str, float], rounds: str
) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair(), weights=weights))
    seat.queue_each("a" * 60 + "b" * 60)

    went = seat.names(len(rounds) * 12)
    for window in windows(went, len(rounds) * 5):
        assert abs(window.count("b") - 5) <= 1
    assert abs(went.count("b") - 12) <= 1


def test_capacity_that_a_flow_used_alone_is_not_held_against_it(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair()))
    seat.queue("a", cost=1000)
    assert seat.names(1) == "a"
    seat.queue_each("aaabbb")

    assert seat.names() == "ababab"


def test_capacity_that_a_flow_used_while_others_waited_is(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair()))
    seat.queue("a", cost=10)
    seat.queue_each("aa" + "b" * 12)

    assert seat.names() == "a" + "b" * 10 + "abab"


def test_weights_are_those_of_their_band(make_controller: MakeController) -> None:
    heavy_a = BandConfig(priority=1, fairness=WeightedFair(), weights={"a": 3.0})
    heavy_b = BandConfig(priority=0, fairness=WeightedFair(), weights={"b": 3.0})
    controller = make_controller(Config(bands=[heavy_a, heavy_b]))
    holder = controller.admit("holder")
    waiting = [queue(controller, flow, priority=priority) for priority in (1, 0) for flow in "a" * 12 + "b" * 12]
    went = ""
    while waiting:
        holder.release()
        (holder,) = [ticket for ticket in waiting if ticket.state == "dispatched"]
        waiting.remove(holder)
        went += holder.key.id
    holder.release()

    assert went[:16].count("a") == 12
    assert went[24:40].count("b") == 12


# --- the best head ----------------------------------------------------------------------------------------------------


def test_strict_and_first_come_first_served_is_the_order_of_arrival(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=GlobalStrict()))
    tickets = seat.queue_each("aaabacbbcaad" * 5)
    for ticket in tickets[::7]:
        assert ticket.cancel()

    assert seat.go() == [ticket for ticket in tickets if ticket.outcome is not Outcome.EVICTED_CANCELLED]


def by_ttl(seat: OneSeat, flow: str, seconds: float | None) -> Ticket:
    return seat.queue(flow, ttl=seconds)


def by_slo(seat: OneSeat, flow: str, seconds: float | None) -> Ticket:
    return seat.queue(flow, metadata={"slo": seconds})


Ask = Callable[[OneSeat, str, float | None], Ticket]


@pytest.fixture(params=["deadline", "objective"])
def strict(request: pytest.FixtureRequest, make_controller: MakeController) -> tuple[OneSeat, Ask]:
    """A band where the best head of all goes, and how one asks it to be better than others."""
    if request.param == "deadline":
        return OneSeat(make_controller, BandConfig(fairness=GlobalStrict(), ordering=EarliestDeadline())), by_ttl
    return OneSeat(make_controller, BandConfig(fairness=GlobalStrict(), ordering=SloDeadline())), by_slo


def test_the_best_head_of_all_flows_goes_and_equals_by_arrival(strict: tuple[OneSeat, Ask]) -> None:
    seat, ask = strict
    waits = [(flow, seconds) for flow, seconds in zip("abcabcabd", (9, 5, None, 2, 5, 9, 5, 7, None), strict=True)]
    tickets = [ask(seat, flow, seconds) for flow, seconds in waits]
    seconds = [math.inf if seconds is None else seconds for _, seconds in waits]

    assert seat.go() == [tickets[at] for at in sorted(range(len(tickets)), key=seconds.__getitem__)]


def test_a_better_head_that_arrives_later_goes_first(strict: tuple[OneSeat, Ask]) -> None:
    seat, ask = strict
    worst, middle = ask(seat, "a", 30), ask(seat, "b", 20)
    best, between = ask(seat, "a", 10), ask(seat, "c", 25)

    assert seat.go() == [best, middle, between, worst]


def test_after_a_head_is_withdrawn_its_flow_stands_where_its_next_one_does(strict: tuple[OneSeat, Ask]) -> None:
    seat, ask = strict
    best, middle, worst = ask(seat, "a", 10), ask(seat, "b", 20), ask(seat, "a", 30)
    best.cancel()

    assert seat.go() == [middle, worst]


def test_a_head_that_is_replaced_and_withdrawn_again_and_again_leaves_no_trace(strict: tuple[OneSeat, Ask]) -> None:
    seat, ask = strict
    first, second = ask(seat, "a", 20), ask(seat, "b", 30)
    for _ in range(500):
        assert ask(seat, "b", 10).cancel()
        assert ask(seat, "a", 25).cancel()
    ring = seat.controller._state.bands[0]._ring

    assert len(ring) < 200
    assert seat.go() == [first, second]


@pytest.mark.parametrize("seed", range(5))
def test_at_random_the_best_head_of_all_goes(strict: tuple[OneSeat, Ask], seed: int) -> None:
    (seat, ask), rng = strict, random.Random(seed)
    model: list[tuple[float, int, Ticket]] = []
    for nth in range(400):
        action = rng.random()
        if action < 0.5 or not model:
            seconds = rng.choice([None, 10, rng.randrange(10, 3000)])
            model.append((math.inf if seconds is None else seconds, nth, ask(seat, rng.choice("abcdef"), seconds)))
        elif action < 0.7:
            assert model.pop(rng.randrange(len(model)))[2].cancel()
        else:
            model.sort()
            assert seat.next() is model.pop(0)[2]
    model.sort()

    assert seat.go() == [ticket for _, _, ticket in model]


def test_strict_is_strict_within_its_band_only(make_controller: MakeController) -> None:
    strict = BandConfig(fairness=GlobalStrict(), ordering=EarliestDeadline())
    controller = make_controller(Config(default_band=strict))
    holder = controller.admit("holder")
    urgent_below, above = queue(controller, "a", ttl=1), queue(controller, "b", priority=1)

    holder.release()
    assert (above.state, urgent_below.state) == ("dispatched", "queued")


def test_one_flow_can_have_it_all_where_nobody_wants_fairness(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=GlobalStrict(), ordering=EarliestDeadline()))
    seat.queue_each("b" * 5)
    for _ in range(20):
        seat.queue("a", ttl=5)

    assert seat.names() == "a" * 20 + "b" * 5


# --- a policy of the user's own ---------------------------------------------------------------------------------------


class Says:
    """Charges what it is told to; or raises it."""

    def __init__(self, charge: object) -> None:
        self.says = charge

    def charge(self, cost: int, weight: float) -> float:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says  # type: ignore[return-value]


NOTHING: Final[Mapping[str, object]] = {}


class Metered:
    """Charges tokens, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float, dict[str, object]]] = []

    def charge(self, cost: int, weight: float, metadata: Mapping[str, object] = NOTHING) -> float:
        self.asked.append((cost, weight, dict(metadata)))
        tokens = metadata.get("tokens", cost)
        assert isinstance(tokens, int)
        return tokens / weight


NONSENSE = [BoomError(), math.nan, math.inf, -1, -1e-300, -math.inf, "1", None, [1], 3j]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_a_policy_that_fails_holds_up_its_band_until_it_is_well_again_and_nothing_leaks(
    make_controller: MakeController, nonsense: object
) -> None:
    policy = Says(nonsense)
    controller = make_controller(Config(bands=[BandConfig(priority=5, fairness=policy)]), limit=2)
    holders = [controller.admit("holder"), controller.admit("holder")]
    stuck = [queue(controller, flow, priority=5) for flow in "aab"]
    below = [queue(controller, "a", priority=1), queue(controller, "b", priority=-1)]
    for holder in holders:
        holder.release()
        controller._check()

    assert [ticket.state for ticket in stuck + below] == ["queued"] * 3 + ["dispatched"] * 2
    incidents = controller.stats().incidents
    assert incidents >= 1

    policy.says = 1
    for ticket in below + stuck:
        controller._check()
        assert ticket.release()
    stats = controller.stats()
    assert (stats.queued, stats.in_flight, stats.dispatched, stats.repairs) == (0, 0, 7, 0)
    assert stats.incidents == incidents


def test_those_whom_a_failing_policy_holds_up_expire_and_are_evicted_like_any(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5, fairness=Says(None))]))
    holder = controller.admit("holder")
    expires, closed = queue(controller, "a", priority=5, ttl=5), queue(controller, "b", priority=5)
    holder.release()
    clock.advance(5)
    controller.collect()

    assert expires.outcome is Outcome.EVICTED_TTL
    assert closed.state == "queued"
    assert controller.close()
    assert closed.outcome is Outcome.EVICTED_CLOSED


@pytest.mark.parametrize("charge", [0, 0.0, 1e-300, 1e300, True])
def test_any_finite_charge_that_is_not_below_0_is_one(make_controller: MakeController, charge: float) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=Says(charge)))
    seat.queue_each("aabbab")

    assert sorted(seat.names()) == list("aaabbb")
    assert seat.controller.stats().incidents == 0


def test_where_nothing_is_charged_flows_still_take_turns(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=Says(0)))
    seat.queue_each("aaabbbccc")

    assert seat.names() == "abcabcabc"


def test_a_metered_policy_sees_what_the_request_says_and_charges_by_it(make_controller: MakeController) -> None:
    policy = Metered()
    seat = OneSeat(make_controller, BandConfig(fairness=policy, weights={"a": 2.0}))
    metadata = {"tokens": 8, "model": "m"}
    seat.queue("a", cost=3, metadata=metadata)
    seat.queue_each("a" + "b" * 6)

    assert seat.names() == "abbbbabb"
    assert policy.asked[0] == (3, 2.0, {"tokens": 8, "model": "m"})
    assert policy.asked[1] == (1, 1.0, {}), "who says nothing says an empty mapping"
    assert metadata == {"tokens": 8, "model": "m"}


# --- charges corrected ------------------------------------------------------------------------------------------------


@pytest.fixture
def seat(make_controller: MakeController) -> OneSeat:
    return OneSeat(make_controller, BandConfig(fairness=WeightedFair()))


def goes_first(seat: OneSeat, *, cost: int = 1) -> Ticket:
    """A request of `a` in flight, for which `b` has to wait; and plenty of both behind it."""
    ticket = seat.queue("a", cost=cost)
    seat.queue_each("a" * 20 + "b" * 20)
    assert seat.next() is ticket
    return ticket


def test_work_that_took_more_than_was_asked_for_is_charged_more(seat: OneSeat) -> None:
    assert goes_first(seat).adjust(cost=5)

    assert seat.names(9) == "bbbbb" + "abab"


def test_work_that_took_less_than_was_asked_for_is_charged_less(seat: OneSeat) -> None:
    assert goes_first(seat, cost=5).adjust(cost=2)

    assert seat.names(6) == "bb" + "abab"


def test_without_a_correction_what_was_asked_for_counts(seat: OneSeat) -> None:
    goes_first(seat, cost=5)

    assert seat.names(9) == "bbbbb" + "abab"


def test_work_that_came_to_nothing_is_charged_nothing(seat: OneSeat) -> None:
    assert goes_first(seat, cost=9).adjust(cost=0)

    assert seat.names(4) in ("baba", "abab"), "a is where it was"


def test_corrections_do_not_add_up_the_last_one_counts(seat: OneSeat) -> None:
    ticket = goes_first(seat, cost=3)
    for cost in (100, 0, 50, 7, 5, 5):
        assert ticket.adjust(cost=cost)

    assert seat.names(9) == "bbbbb" + "abab"


def test_without_a_cost_it_stays_what_it_was(seat: OneSeat) -> None:
    ticket = goes_first(seat, cost=50)
    assert ticket.adjust(cost=5)
    assert ticket.adjust()

    assert seat.names(9) == "bbbbb" + "abab"


def test_a_correction_counts_by_weight(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair(), weights={"a": 2.0}))
    assert goes_first(seat).adjust(cost=10)

    assert seat.names(6) == "bbbbb" + "a"


def test_a_correction_counts_for_a_flow_that_has_nothing_queued_meanwhile(seat: OneSeat) -> None:
    ticket = seat.queue("a")
    seat.queue_each("b" * 20)
    assert seat.next() is ticket
    assert ticket.adjust(cost=5)
    seat.queue_each("a" * 5)

    assert seat.names(9) == "bbbbb" + "abab"


def test_a_correction_while_nobody_else_wants_anything_is_held_against_nobody(seat: OneSeat) -> None:
    ticket = seat.queue("a")
    assert seat.next() is ticket
    assert ticket.adjust(cost=1000)
    seat.queue_each("aabb")

    assert seat.names() == "abab"


def test_a_correction_after_the_flow_went_on_counts_from_where_it_is(make_controller: MakeController) -> None:
    gate = ConcurrencyLimit(3)
    controller = make_controller(Config(default_band=BandConfig(fairness=WeightedFair())), gate=gate)
    holders = [controller.admit("holder") for _ in range(3)]
    waiting = [queue(controller, flow) for flow in "aaaa" + "b" * 8]
    for holder in holders:
        holder.release()
    first, other, second = waiting[0], waiting[4], waiting[1]
    assert {ticket.state for ticket in (first, other, second)} == {"dispatched"}

    assert first.adjust(cost=4)  # a has gone for 5 now, and b for 1
    gate.set(6)  # so that there is room for what it takes
    held, went = [other], ""
    for _ in range(6):
        before = {id(ticket) for ticket in waiting if ticket.state == "dispatched"}
        held.pop().release()
        held = [ticket for ticket in waiting if ticket.state == "dispatched" and id(ticket) not in before]
        went += "".join(ticket.key.id for ticket in held)

    assert went == "bbbb" + "ab"


def test_seats_are_what_the_work_takes_above_the_limit_too(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=WeightedFair())), limit=8)
    holder = controller.admit("holder", cost=8)
    ticket, behind = queue(controller, "a", cost=5), queue(controller, "b", cost=4)
    holder.release()

    assert (controller.stats().in_flight, behind.state) == (5, "queued")
    assert ticket.adjust(cost=3)
    assert (controller.stats().in_flight, behind.state) == (7, "dispatched")
    assert ticket.adjust(cost=1000)
    assert (controller.stats().in_flight, ticket.cost) == (1004, 5)
    assert ticket.release()
    assert controller.stats().in_flight == 4
    assert behind.adjust(cost=0), "it holds one seat at least"
    assert controller.stats().in_flight == 1


def test_what_is_not_in_flight_is_not_adjusted(make_controller: MakeController, clock: FakeClock) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair(), max_requests=20))
    done = seat.queue("a")
    assert seat.next() is done
    waiting = seat.queue_each("abababab")
    cancelled, expires = seat.queue("a"), seat.queue("a", ttl=1)
    cancelled.cancel()
    seat.next()
    clock.advance(1)
    seat.controller.collect()
    refused = seat.queue("a", ttl=0)
    outcomes = [ticket.outcome for ticket in (done, cancelled, expires, refused)]
    assert outcomes == [
        Outcome.DISPATCHED,
        Outcome.EVICTED_CANCELLED,
        Outcome.EVICTED_TTL,
        Outcome.REJECTED_SATURATED,
    ]

    for ticket in (done, cancelled, expires, refused, *waiting[1:]):
        assert not ticket.adjust(cost=1000)
    assert seat.names() == "bababab", "nothing has come of it"


def test_a_seat_that_nobody_waited_for_was_never_charged_and_is_not_corrected(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=Metered())), limit=2)
    controller.admit("a").release()
    first = controller.admit("a")
    again = queue(controller, "a", metadata={"tokens": 1})  # by the longer way, and still on the spot
    assert (first.wait, again.outcome) == (None, Outcome.DISPATCHED)
    waiting = [queue(controller, flow) for flow in "aabb"]

    assert first.adjust(tokens=1000)
    assert again.adjust(tokens=1000)
    went, holder = "", first
    while waiting:
        holder.release()
        (holder,) = [ticket for ticket in waiting if ticket.state == "dispatched"]
        waiting.remove(holder)
        went += holder.key.id
    assert went == "abab"
    again.release()
    holder.release()


def test_a_refused_ticket_of_a_thread_has_nothing_to_adjust(make_controller: MakeController) -> None:
    controller = make_controller()
    holder = controller.admit("a")
    with pytest.raises(Saturated):
        controller.try_admit("b")

    assert holder.adjust(cost=3)
    assert holder.release()
    assert not holder.adjust(cost=3)


def test_a_correction_means_nothing_to_round_robin_and_strict(make_controller: MakeController) -> None:
    strict = OneSeat(make_controller, BandConfig(fairness=GlobalStrict()))
    assert goes_first(strict).adjust(cost=1000)
    assert strict.names(20) == "a" * 20

    in_turn = OneSeat(make_controller, BandConfig(fairness=RoundRobin()))
    assert goes_first(in_turn).adjust(cost=1000)
    assert in_turn.names(6) == "bababa"


def test_a_metered_policy_sees_usage_over_what_the_request_said(make_controller: MakeController) -> None:
    policy = Metered()
    seat = OneSeat(make_controller, BandConfig(fairness=policy, weights={"a": 2.0}))
    ticket = seat.queue("a", cost=3, metadata={"tokens": 2, "model": "m"})
    seat.queue_each("a" + "b" * 6)
    assert seat.next() is ticket
    assert ticket.adjust(tokens=8, cached=True)
    assert ticket.adjust(4, tokens=10)

    assert policy.asked == [
        (3, 2.0, {"tokens": 2, "model": "m"}),
        (3, 2.0, {"tokens": 8, "model": "m", "cached": True}),
        (4, 2.0, {"tokens": 10, "model": "m"}),
    ]
    assert ticket.wait is not None
    assert ticket.wait.metadata == {"tokens": 2, "model": "m"}
    assert seat.names() == "bbbbbab"


def test_a_policy_that_is_not_metered_takes_usage_for_nothing(seat: OneSeat) -> None:
    assert goes_first(seat, cost=3).adjust(cost=5, tokens=10**9, weight=0)

    assert seat.names(9) == "bbbbb" + "abab"
    assert seat.controller.stats().incidents == 0


@pytest.mark.parametrize(
    ("cost", "kind"), [(-1, ValueError), (2**60, ValueError), (True, TypeError), (1.5, TypeError), ("1", TypeError)]
)
def test_a_bad_cost_is_one_clear_error_and_nothing_else(seat: OneSeat, cost: int, kind: type[Exception]) -> None:
    ticket = goes_first(seat, cost=5)

    with pytest.raises(kind, match=r"^cost must be "):
        ticket.adjust(cost=cost)
    assert seat.controller.stats().incidents == 0
    assert seat.names(6) == "bbbbba"


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_a_policy_that_fails_at_a_correction_leaves_the_charge_as_it_was(
    make_controller: MakeController, nonsense: object
) -> None:
    policy = Says(3)
    seat = OneSeat(make_controller, BandConfig(fairness=policy))
    ticket = goes_first(seat)
    policy.says = nonsense
    assert ticket.adjust(cost=1000)
    policy.says = 1

    assert seat.controller.stats().incidents == 1
    assert seat.names(6) == "bbbaba"
    assert seat.controller.stats().repairs == 0


def charge_five(ticket: Ticket) -> None:
    assert ticket.adjust(cost=5)


def test_a_callback_may_adjust_its_own_ticket(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair()))
    ticket = seat.queue("a")
    assert ticket.wait is not None
    ticket.wait.on_settled = charge_five
    seat.queue_each("a" * 5 + "b" * 10)

    assert seat.names(8) == "a" + "bbbbb" + "ab"
    assert seat.controller.stats().incidents == 0


def test_after_close_what_is_in_flight_can_still_be_adjusted(seat: OneSeat) -> None:
    ticket = goes_first(seat)
    assert not seat.controller.close()

    assert ticket.adjust(cost=5)
    assert ticket.release()
    assert not ticket.adjust(cost=5)


@pytest.mark.parametrize("seed", range(4))
def test_estimates_that_are_always_corrected_share_capacity_by_what_the_work_took(
    make_controller: MakeController, seed: int
) -> None:
    """Backlogged flows, one of which asks for ten times what it takes, and another for a tenth."""
    rng = random.Random(seed)
    seat = OneSeat(make_controller, BandConfig(fairness=WeightedFair()))
    estimate: dict[str, Callable[[int], int]] = {
        "a": lambda took: took * 10,
        "b": lambda took: max(took // 10, 1),
        "c": lambda took: took,
    }
    took = dict.fromkeys(estimate, 0)
    history = [took.copy()]
    for _ in range(600):
        for name, cost in estimate.items():
            while [ticket.key.id for ticket in seat.queued].count(name) < 2:
                takes = rng.choice([1, 5, 20])
                seat.queue(name, cost=cost(takes), metadata={"takes": takes})
        (ticket,) = seat.go(1)
        assert ticket.wait is not None
        assert ticket.wait.metadata is not None
        known = ticket.wait.metadata["takes"]
        assert isinstance(known, int)
        assert ticket.adjust(cost=known)
        took[ticket.key.id] += known
        history.append(took.copy())

    for one, other in itertools.combinations(estimate, 2):
        ahead = [at[one] - at[other] for at in history]
        assert max(ahead) - min(ahead) <= 2 * 20


def test_a_band_without_an_ordering_and_one_with_it_share_alike(make_controller: MakeController) -> None:
    went = []
    for ordering in (Fcfs(), EarliestDeadline()):
        seat = OneSeat(make_controller, BandConfig(ordering=ordering, fairness=WeightedFair(), weights={"b": 2.0}))
        seat.queue_each("aabcbbcabcac")
        went.append(seat.names())

    assert went[0] == went[1]
