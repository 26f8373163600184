"""Who makes room at a queue limit: nobody, the lower priorities, or the longest flow."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

import pytest

from flowctl import (
    BandConfig,
    Config,
    Displaced,
    FlowController,
    FlowKey,
    LongestFlow,
    LowerPriority,
    Never,
    Outcome,
    QueueFull,
    Request,
    RoundRobin,
    Ticket,
    WaitingRoom,
)
from flowctl.atomic import CellWord
from flowctl.band import PriorityBand
from flowctl.capacity import LOOKED_AT
from flowctl.lease import Lease, born
from flowctl.policies.displacement import Backlog, Displacement, Newcomer, T
from flowctl.queue import EMPTY
from flowctl.testing import FakeClock
from flowctl.ticket import Unborn
from tests.policies.workload import queue
from tests.support import MakeController, Spawn
from tests.test_band import Flow
from tests.test_flows import BoomError
from tests.test_queue import NoDesk

POLICIES: list[Displacement] = [Never(), LowerPriority(), LongestFlow()]


@pytest.fixture(params=POLICIES, ids=repr)
def policy(request: pytest.FixtureRequest) -> Displacement:
    policy: Displacement = request.param
    return policy


class Story:
    """A band with arrivals and withdrawals, and no controller."""

    def __init__(self, priority: int = 0, *, max_requests: int | None = 12, max_bytes: int | None = 40) -> None:
        config = BandConfig(priority=priority, max_requests=max_requests, max_bytes=max_bytes)
        self.band: PriorityBand[Flow] = PriorityBand(priority, config, Lease(CellWord(born(0.0, pins=1))))
        self.flows: dict[str, Flow] = {}
        self.queued: list[Ticket] = []
        self.serials = count(1)

    def arrive(self, name: str, size: int = 1) -> Ticket:
        ticket = Ticket(NoDesk(), Unborn(FlowKey(name, self.band.priority)), 1, size)
        ticket.serial = next(self.serials)
        self.band.push(self.flows.setdefault(name, Flow(name)), ticket)
        self.queued.append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        self.band.withdraw(self.flows[ticket.key.id], ticket)
        self.queued.remove(ticket)

    def share(self, tickets: list[Ticket]) -> float:
        return self.band.share(len(tickets), sum(ticket.size for ticket in tickets))

    def check_longest_first(self, named: Iterable[tuple[float, Ticket]]) -> int:
        """Each is the newest of a flow that has the largest share of what is left, all counted anew; how many."""
        staying, length = self.queued.copy(), 0
        for share, ticket in named:
            flows = [[t for t in staying if t.key.id == name] for name in {t.key.id for t in staying}]
            largest = max(map(self.share, flows))
            assert ticket in [flow[-1] for flow in flows if self.share(flow) == largest]
            staying.remove(ticket)
            assert share == self.share([t for t in staying if t.key.id == ticket.key.id])
            length += 1
        return length


# --- what every displacement policy does ------------------------------------------------------------------------------


def stories() -> list[Story]:
    """Bands of three priorities, the lowest first."""
    rng, made = random.Random(5), [Story(priority) for priority in (-1, 0, 4)]
    for story in made:
        for _ in range(12):
            story.arrive(rng.choice("aaaab"), size=rng.choice([0, 1, 5]))
    return made


@pytest.mark.parametrize("priority", [-2, -1, 0, 1, 4, 9])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 2.0])
def test_only_those_who_are_queued_are_named_each_once_and_none_of_a_higher_priority(
    policy: Displacement, priority: int, share: float
) -> None:
    made = stories()
    victims = list(policy.victims(Newcomer(priority, share), [story.band for story in made]))

    assert len(victims) == len(set(map(id, victims)))
    assert all(any(victim in story.queued for story in made) for victim in victims)
    assert all(victim.key.priority <= priority for victim in victims)
    assert [victim.key.priority for victim in victims] == sorted(victim.key.priority for victim in victims)


def test_to_be_asked_changes_nothing(policy: Displacement) -> None:
    made, before = stories(), pickle.dumps(policy)
    bands = [story.band for story in made]
    first = [list(policy.victims(Newcomer(4, 0.1), bands)) for _ in range(3)]
    next(policy.victims(Newcomer(4, 0.0), bands), None)  # and lets go in the middle
    list(islice(policy.victims(Newcomer(4, 0.0), bands), 5))
    again = [list(policy.victims(Newcomer(4, 0.1), bands)) for _ in range(3)]

    assert first == again == [first[0]] * 3
    assert pickle.dumps(policy) == before
    for story in made:
        story.band._check()


def test_where_nobody_is_queued_nobody_is_named(policy: Displacement) -> None:
    assert list(policy.victims(Newcomer(5, 0.0), [])) == []
    assert list(policy.victims(Newcomer(5, 0.0), [Story().band])) == []


def test_a_displacement_policy_is_equal_by_value_and_has_nowhere_to_keep_a_state(policy: Displacement) -> None:
    assert policy == type(policy)()
    assert hash(policy) == hash(type(policy)())
    assert len({*POLICIES, policy}) == len(POLICIES)
    assert not hasattr(policy, "__dict__")


def test_a_displacement_policy_can_be_pickled_and_copied_also_in_a_configuration(policy: Displacement) -> None:
    config = Config(bands=[BandConfig(priority=1, displacement=policy)], displacement=policy)

    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("level", ["band", "global"])
@pytest.mark.parametrize("seed", range(3))
def test_no_limit_is_ever_exceeded_and_every_place_comes_back(
    make_controller: MakeController, policy: Displacement, level: str, seed: int
) -> None:
    config = Config(default_band=BandConfig(max_requests=8, max_bytes=30, displacement=policy))
    if level == "global":
        config = Config(max_requests=8, max_bytes=30, displacement=policy)
    rng, controller = random.Random(seed), make_controller(config)
    holder = controller.admit("holder")
    tickets: list[Ticket] = []
    for _ in range(300):
        size = rng.choice([0, 1, 9, 31])
        tickets.append(queue(controller, rng.choice("aaabc"), priority=rng.choice([0, 0, 1, 2]), size=size))
        if rng.random() < 0.2:
            rng.choice(tickets).cancel()
        controller._check()
        stats = controller.stats()
        for counted in stats.bands.values() if level == "band" else [stats]:
            assert counted.queued <= 8
            assert counted.queued_bytes <= 30
    stats = controller.stats()
    assert stats.dispatched + stats.rejected + stats.evicted + stats.queued == len(tickets) + 1
    controller.close()
    holder.release()
    assert controller.stats().queued_bytes == 0


def test_by_default_the_longest_flow_makes_room_in_a_band_and_lower_priorities_between_bands() -> None:
    assert BandConfig().displacement == LongestFlow()
    assert Config().displacement == LowerPriority()


# --- the longest flow -------------------------------------------------------------------------------------------------


def seated(make_controller: MakeController, config: Config) -> tuple[FlowController, Ticket]:
    controller = make_controller(config)
    return controller, controller.admit("holder")


def of_band(max_requests: int | None = None, max_bytes: int | None = None, per_flow: int | None = None) -> Config:
    band = BandConfig(max_requests=max_requests, max_bytes=max_bytes, max_requests_per_flow=per_flow)
    return Config(default_band=band)


def states(tickets: Sequence[Ticket]) -> list[str]:
    return [ticket.state for ticket in tickets]


def test_the_newest_of_the_longest_flow_makes_room_and_not_the_polite_ones(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(5))
    greedy = [queue(controller, "greedy") for _ in range(3)]
    polite = queue(controller, "polite")
    greedy.append(queue(controller, "greedy"))

    newcomer = queue(controller, "other")

    assert states([newcomer, polite]) == ["queued", "queued"]
    assert states(greedy) == ["queued", "queued", "queued", "refused"]
    assert greedy[3].outcome is Outcome.EVICTED_DISPLACED
    assert controller.stats().queued == 5


def test_also_where_the_polite_one_came_last(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(5))
    greedy = [queue(controller, "greedy") for _ in range(4)]
    polite = queue(controller, "polite")

    again = queue(controller, "polite")

    assert states([polite, again]) == ["queued", "queued"]
    assert states(greedy) == ["queued", "queued", "queued", "refused"]


def test_the_longest_flows_own_newcomer_displaces_nobody(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(5))
    tickets = [queue(controller, flow) for flow in ("greedy", "greedy", "greedy", "a", "b")]

    refused = queue(controller, "greedy")

    assert isinstance(refused.error, QueueFull)
    assert refused.error.scope == "band"
    assert states(tickets) == ["queued"] * 5


@pytest.mark.parametrize("each", [1, 2, 3])
def test_of_flows_that_have_the_same_nobody_is_displaced(make_controller: MakeController, each: int) -> None:
    controller, _holder = seated(make_controller, of_band(3 * each))
    tickets = [queue(controller, flow) for _ in range(each) for flow in "abc"]

    for flow in "abc":
        assert queue(controller, flow).outcome is Outcome.REJECTED_CAPACITY
    assert states(tickets) == ["queued"] * (3 * each)


@pytest.mark.parametrize(("longest", "has_room"), [(1, False), (2, True), (3, True)])
def test_a_flow_makes_room_only_while_it_keeps_no_less_than_the_newcomers_would_have(
    make_controller: MakeController, longest: int, has_room: bool
) -> None:
    controller, _holder = seated(make_controller, of_band(longest))
    for _ in range(longest):
        queue(controller, "a")

    assert (queue(controller, "b").state == "queued") is has_room
    assert controller.stats().evicted == has_room


def test_two_flows_do_not_displace_each_other_in_turn(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(9))
    for _ in range(50):
        queue(controller, "a")
    for _ in range(50):
        queue(controller, "b")
        queue(controller, "a")

    stats = controller.stats()
    assert (stats.queued, stats.evicted) == (9, 4), "5 to 4, and never again"


@pytest.mark.parametrize("seed", range(5))
def test_shares_only_become_more_equal_until_nothing_moves(make_controller: MakeController, seed: int) -> None:
    rng, limit = random.Random(seed), 20
    controller, _holder = seated(make_controller, of_band(limit))
    tickets = [queue(controller, rng.choice("aaaaaaab")) for _ in range(limit)]

    def held(name: str) -> int:
        return sum(ticket.key.id == name and ticket.state == "queued" for ticket in tickets)

    unequal = sum(held(name) ** 2 for name in "abcdefg")
    for _ in range(400):
        evicted = controller.stats().evicted
        tickets.append(queue(controller, rng.choice("abcdefg")))
        now = sum(held(name) ** 2 for name in "abcdefg")
        assert now < unequal if controller.stats().evicted > evicted else now == unequal
        unequal = now
    counts = [held(name) for name in "abcdefg"]
    assert sum(counts) == limit
    assert max(counts) - min(counts) <= 1


def test_bytes_may_take_several_and_no_more_than_that(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_bytes=100))
    greedy = [queue(controller, "greedy", size=20) for _ in range(5)]

    newcomer = queue(controller, "polite", size=35)

    assert newcomer.state == "queued"
    assert states(greedy) == ["queued"] * 3 + ["refused"] * 2
    assert controller.stats().queued_bytes == 95


def test_several_flows_may_have_to_make_room_each_while_it_is_the_longest(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_bytes=100))
    longest = [queue(controller, "longest", size=10) for _ in range(6)]
    second = [queue(controller, "second", size=10) for _ in range(4)]

    newcomer = queue(controller, "polite", size=30)

    assert newcomer.state == "queued"
    assert states(longest) == ["queued"] * 4 + ["refused"] * 2 or states(longest) == ["queued"] * 3 + ["refused"] * 3
    assert controller.stats().queued_bytes == 100
    assert sum(ticket.state == "queued" for ticket in longest) + sum(t.state == "queued" for t in second) == 7


def test_a_newcomer_that_cannot_fit_displaces_nobody(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_bytes=100))
    greedy = [queue(controller, "greedy", size=20) for _ in range(5)]

    too_large_a_share = queue(controller, "polite", size=60)
    larger_than_the_band = queue(controller, "polite", size=101)

    for refused in (too_large_a_share, larger_than_the_band):
        assert refused.outcome is Outcome.REJECTED_CAPACITY
    assert states(greedy) == ["queued"] * 5


def test_whose_leaving_does_not_help_stays(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_bytes=100))
    large = [queue(controller, "greedy", size=45) for _ in range(2)]
    empty = [queue(controller, "greedy") for _ in range(5)]

    newcomer = queue(controller, "polite", size=30)

    assert newcomer.state == "queued"
    assert states(large) == ["queued", "refused"]
    assert states(empty) == ["queued"] * 5


def test_what_counts_is_the_larger_part_of_the_limits(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_requests=10, max_bytes=100))
    many = [queue(controller, "many", size=1) for _ in range(6)]
    large = [queue(controller, "large", size=45) for _ in range(2)]

    assert queue(controller, "c", size=40).state == "queued"
    assert (states(many), states(large)) == (["queued"] * 6, ["queued", "refused"])


def test_the_newcomers_large_share_counts_against_it_at_the_limit_of_requests_too(
    make_controller: MakeController,
) -> None:
    controller, _holder = seated(make_controller, of_band(max_requests=4, max_bytes=100))
    greedy = [queue(controller, "greedy") for _ in range(4)]

    assert queue(controller, "polite", size=80).outcome is Outcome.REJECTED_CAPACITY
    assert states(greedy) == ["queued"] * 4
    assert queue(controller, "polite", size=75).state == "queued"
    assert states(greedy) == ["queued"] * 3 + ["refused"]


def test_one_that_is_large_may_save_those_before_it(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_bytes=100))
    base, large, small = (queue(controller, "greedy", size=size) for size in (40, 40, 5))
    other = queue(controller, "other", size=15)

    newcomer = queue(controller, "polite", size=35)

    assert newcomer.state == "queued"
    assert states([base, large, small, other]) == ["queued", "refused", "queued", "queued"]


def test_the_limit_of_the_flow_itself_makes_nobody_leave(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_requests=4, per_flow=2))
    tickets = [queue(controller, flow) for flow in "aabb"]

    refused = queue(controller, "a")
    assert refused.error is not None
    assert refused.error.scope == "flow"
    assert states(tickets) == ["queued"] * 4


def test_whoever_the_global_limit_keeps_out_displaces_nobody_in_its_band(make_controller: MakeController) -> None:
    band = BandConfig(priority=0, max_requests=3)
    config = Config(bands=[band], max_requests=4, max_bytes=10, displacement=Never())
    controller, _holder = seated(make_controller, config)
    greedy = [queue(controller, "greedy", size=1) for _ in range(3)]
    queue(controller, "above", priority=1, size=7)

    refused = queue(controller, "polite", size=2)

    assert refused.error is not None
    assert refused.error.scope == "global"
    assert states(greedy) == ["queued"] * 3


def test_who_makes_room_in_the_band_makes_room_at_the_global_limit_too(make_controller: MakeController) -> None:
    band = BandConfig(priority=1, max_requests=3)
    controller, _holder = seated(make_controller, Config(bands=[band], max_requests=4))
    greedy = [queue(controller, "greedy", priority=1) for _ in range(3)]
    below = queue(controller, "below")

    assert queue(controller, "polite", priority=1).state == "queued"
    assert below.state == "queued", "one who leaves is enough for both"
    assert states(greedy) == ["queued", "queued", "refused"]


def test_at_the_global_limit_the_longest_flow_of_the_lowest_band_makes_room_for_no_lower_one(
    make_controller: MakeController,
) -> None:
    config = Config(max_requests=6, displacement=LongestFlow(), default_band=BandConfig(max_requests=6))
    controller, _holder = seated(make_controller, config)
    above = [queue(controller, "a", priority=5) for _ in range(3)]
    below = [queue(controller, flow, priority=0) for flow in "aab"]

    assert queue(controller, "c", priority=0).state == "queued"
    assert states(below) == ["queued", "refused", "queued"]
    assert queue(controller, "d", priority=-1).outcome is Outcome.REJECTED_CAPACITY
    assert states(above) == ["queued"] * 3
    assert queue(controller, "e", priority=5).state == "queued", "the longest of its own band"
    assert states(above) == ["queued"] * 2 + ["refused"]


def test_who_does_not_wait_displaces_nobody(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(2))
    greedy = [queue(controller, "greedy") for _ in range(2)]

    assert queue(controller, "polite", ttl=0).outcome is Outcome.REJECTED_SATURATED
    assert states(greedy) == ["queued"] * 2


def test_whose_time_is_up_makes_room_before_anybody_is_displaced(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller, _holder = seated(make_controller, of_band(3))
    over, *greedy = [queue(controller, "greedy", ttl=ttl) for ttl in (1, 50, 50)]
    clock.advance(1)

    assert queue(controller, "polite").state == "queued"
    assert over.outcome is Outcome.EVICTED_TTL
    assert states(greedy) == ["queued"] * 2


def test_the_displaced_learn_it_at_once(make_controller: MakeController, clock: FakeClock, spawn: Spawn) -> None:
    controller, holder = seated(make_controller, of_band(3))
    told: list[Ticket] = []
    first, second = (controller.submit(Request(FlowKey("greedy")), on_settled=told.append) for _ in range(2))
    thread = spawn(controller.admit, "greedy")
    clock.wait_for_sleepers(1)

    queue(controller, "polite")
    with pytest.raises(Displaced) as displaced:
        thread.result()
    assert displaced.value.key == FlowKey("greedy")
    assert told == []

    queue(controller, "other")
    assert told == [second]
    assert isinstance(second.error, Displaced)
    assert first.state == "queued"
    holder.release()


class OldestFirst:
    """The one that came first makes room, a head too."""

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        for backlog in backlogs:
            yield from reversed(list(backlog.newest_first()))


def test_when_a_head_makes_room_those_go_whom_it_kept_out(make_controller: MakeController) -> None:
    band = BandConfig(max_requests=2, displacement=OldestFirst())
    controller = make_controller(Config(default_band=band, default_ttl=None), limit=2)
    holder = controller.admit("holder")
    head = queue(controller, "large", cost=2)  # one seat is free, and it takes two
    kept_out = queue(controller, "a")

    newcomer = queue(controller, "b")

    assert states([head, kept_out, newcomer]) == ["refused", "dispatched", "queued"]
    holder.release()


def test_a_callback_of_the_displaced_may_come_again(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(3))
    again: list[Ticket] = []

    def come_again(ticket: Ticket) -> None:
        assert isinstance(ticket.error, Displaced)
        again.append(queue(controller, "greedy"))

    tickets = [controller.submit(Request(FlowKey("greedy")), on_settled=come_again) for _ in range(3)]
    newcomer = queue(controller, "polite")

    assert newcomer.state == "queued"
    assert [ticket.outcome for ticket in again] == [Outcome.REJECTED_CAPACITY]
    assert states(tickets) == ["queued", "queued", "refused"]
    for ticket in tickets:
        if ticket.wait is not None:
            ticket.wait.on_settled = None


def test_the_place_in_a_waiting_room_can_be_made_too(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    config = Config(displacement=LongestFlow(), default_band=BandConfig(max_requests=10))
    controller, holder = seated(make_controller, config)
    room = WaitingRoom(limit=2, limit_per_flow=2)
    first = spawn(admit_and_release, controller, "greedy", room)
    clock.wait_for_sleepers(1)
    second = spawn(admit_and_release, controller, "greedy", room)
    clock.wait_for_sleepers(2)
    elsewhere = [queue(controller, "elsewhere") for _ in range(2)]

    polite = spawn(admit_and_release, controller, "polite", room)
    with pytest.raises(Displaced):
        second.result()
    assert states(elsewhere) == ["queued"] * 2
    for _ in range(3):
        holder.release()
    for ticket in elsewhere:
        ticket.cancel()
        ticket.release()
    first.result()
    polite.result()


def admit_and_release(controller: FlowController, flow: str, room: WaitingRoom) -> None:
    controller.admit(flow, room=room).release()


def test_who_is_displaced_keeps_the_turn_of_its_flow(make_controller: MakeController) -> None:
    controller, holder = seated(make_controller, of_band(6))
    tickets = [queue(controller, flow) for flow in "aaaabb"]
    tickets.append(queue(controller, "c"))
    went = ""
    for _ in range(6):
        waiting = [ticket for ticket in tickets if ticket.state == "queued"]
        holder.release()
        (holder,) = [ticket for ticket in waiting if ticket.state == "dispatched"]
        went += holder.key.id

    assert went == "abcaba"


def test_more_than_are_looked_at_are_not_displaced(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(max_requests=None, max_bytes=4 * LOOKED_AT))
    for _ in range(4 * LOOKED_AT):
        queue(controller, "greedy", size=1)

    assert queue(controller, "polite", size=LOOKED_AT + 1).outcome is Outcome.REJECTED_CAPACITY
    assert controller.stats().evicted == 0
    assert queue(controller, "polite", size=LOOKED_AT - 1).state == "queued"
    assert controller.stats().evicted == LOOKED_AT - 1


def test_a_flood_of_one_flow_keeps_none_of_a_thousand_others_out(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, of_band(2_000))
    for _ in range(3_000):
        queue(controller, "flood")
    polite = []
    for nth in range(1_000):
        polite.append(queue(controller, f"polite-{nth}"))
        queue(controller, "flood")

    assert states(polite) == ["queued"] * 1_000
    assert controller.stats().evicted == 1_000
    controller._check()


# --- the ranking of flows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limits", [(12, 40), (12, None), (None, 40), (None, None)], ids=str)
def test_at_random_the_longest_first_are_those_of_a_slow_model(
    seed: int, limits: tuple[int | None, int | None]
) -> None:
    rng = random.Random(seed)
    story = Story(max_requests=limits[0], max_bytes=limits[1])
    names = "abcdefgh"[: rng.choice([2, 4, 8])]
    for _ in range(400):
        action = rng.random()
        if action < 0.5:
            story.arrive(rng.choice(names), size=rng.choice([0, 1, 1, 5, 30]))
        elif action < 0.75 and story.queued:
            story.withdraw(rng.choice([story.queued[0], story.queued[-1], rng.choice(story.queued)]))
        elif action < 0.9:
            story.check_longest_first(islice(story.band.longest_first(), rng.choice([1, 1, 2, 5])))
        elif rng.random() < 0.2:
            for ticket in story.queued.copy():
                story.withdraw(ticket)
        else:
            assert story.check_longest_first(story.band.longest_first()) == len(story.queued)
        story.band._check()


@pytest.mark.parametrize("seed", range(5))
def test_who_is_longest_is_known_while_flows_are_served(seed: int) -> None:
    rng, story = random.Random(seed), Story()
    for _ in range(500):
        if rng.random() < 0.55 or not story.queued:
            story.arrive(rng.choice("abcde"), size=rng.choice([0, 3]))
        else:
            flow = story.band.next_flow()
            assert flow is not None
            assert flow.queue.head is not None
            story.band.charge(flow, rng.choice([0, 1, 5]))
            story.withdraw(flow.queue.head)
        story.check_longest_first(islice(story.band.longest_first(), 2))


def test_two_who_look_at_once_do_not_disturb_each_other() -> None:
    story = Story()
    for name in "aaaabbbcc":
        story.arrive(name)
    one, other = story.band.longest_first(), story.band.longest_first()
    seen: tuple[list[tuple[float, Ticket]], list[tuple[float, Ticket]]] = [], []
    for _ in range(9):
        seen[0].append(next(one))
        seen[1].append(next(other))

    assert seen[0] == seen[1]
    story.check_longest_first(seen[0])
    assert next(one, None) is next(other, None) is None


def test_a_band_that_is_cleared_ranks_anew() -> None:
    story = Story()
    for name in "aaab":
        story.arrive(name)
    assert next(iter(story.band.longest_first()))[1].key.id == "a"
    story.band.clear()
    for flow in story.flows.values():
        flow.queue = EMPTY
    story.queued.clear()
    for name in "abb":
        story.arrive(name)

    assert story.check_longest_first(story.band.longest_first()) == 3


def test_ranks_that_went_stale_do_not_pile_up() -> None:
    story = Story()
    story.arrive("a")
    for _ in range(2_000):
        next(iter(story.band.longest_first()))
        story.withdraw(story.arrive("b"))

    assert len(story.band._ranking._heap or ()) < 200


@pytest.mark.parametrize(
    ("requests", "size", "share"), [(0, 0, 0), (3, 0, 0.25), (3, 10, 0.25), (3, 20, 0.5), (24, 0, 2.0)]
)
def test_a_share_is_the_larger_part_of_the_limits(requests: int, size: int, share: float) -> None:
    assert Story(max_requests=12, max_bytes=40).band.share(requests, size) == share


# --- the lower priorities, and nobody ---------------------------------------------------------------------------------


def test_lower_priorities_make_room_from_the_lowest_up_and_the_newest_first() -> None:
    made = stories()
    victims = list(LowerPriority().victims(Newcomer(4, 99.0), [story.band for story in made]))

    assert victims == [*made[0].queued[::-1], *made[1].queued[::-1]]


def test_at_the_global_limit_several_bands_may_have_to_make_room(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, Config(max_bytes=40))
    lowest, lower, equal = (
        [queue(controller, "a", priority=priority, size=10) for _ in range(number)]
        for priority, number in ((-5, 1), (0, 2), (3, 1))
    )

    assert queue(controller, "b", priority=3, size=15).state == "queued"
    assert (states(lowest), states(lower), states(equal)) == (["refused"], ["queued", "refused"], ["queued"])


def test_lower_priorities_mind_nobodys_share(make_controller: MakeController) -> None:
    controller, _holder = seated(make_controller, Config(max_requests=3))
    greedy = [queue(controller, "greedy") for _ in range(2)]
    polite = queue(controller, "polite")

    assert queue(controller, "above", priority=1).state == "queued"
    assert (polite.outcome, states(greedy)) == (Outcome.EVICTED_DISPLACED, ["queued"] * 2)


def test_lower_priorities_at_the_limit_of_a_band_are_nobody(make_controller: MakeController) -> None:
    band = BandConfig(max_requests=2, displacement=LowerPriority(), fairness=RoundRobin())
    controller, _holder = seated(make_controller, Config(default_band=band))
    tickets = [queue(controller, "greedy", priority=priority) for priority in (1, 1, 0)]

    assert queue(controller, "polite", priority=1).outcome is Outcome.REJECTED_CAPACITY
    assert states(tickets) == ["queued"] * 3


# --- a policy of the user's own ---------------------------------------------------------------------------------------


class Names:
    """Names what it is told to, then those who are queued if `more`."""

    def __init__(self, *names: object, more: bool = False) -> None:
        self._names = names
        self._more = more

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        for name in self._names:
            if isinstance(name, Exception):
                raise name
            yield name  # type: ignore[misc]
        if self._more:
            for backlog in backlogs:
                yield from backlog.newest_first()


class Returns:
    """Returns no iterator at all."""

    def __init__(self, returned: object) -> None:
        self._returned = returned

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        return self._returned  # type: ignore[return-value]


NONSENSE: list[Displacement] = [
    Names(BoomError()),
    Names(None),
    Names("everybody"),
    Names(1.5, more=True),
    Names(StopIteration()),
    Returns(None),
    Returns(7),
    Returns(float("nan")),
]


@pytest.mark.parametrize("level", ["band", "global"])
@pytest.mark.parametrize("policy", NONSENSE)
def test_where_a_policy_fails_nobody_leaves_and_that_is_counted(
    make_controller: MakeController, policy: Displacement, level: str
) -> None:
    config = Config(default_band=BandConfig(max_requests=2, displacement=policy))
    if level == "global":
        config = Config(max_requests=2, displacement=policy)
    controller, holder = seated(make_controller, config)
    queued = [queue(controller, flow) for flow in "ab"]

    refused = queue(controller, "c", priority=1 if level == "global" else 0)

    assert refused.error is not None
    assert refused.error.scope == level
    assert states(queued) == ["queued"] * 2
    assert controller.stats().incidents == 1
    controller._check()
    holder.release()
    for ticket in queued:
        assert ticket.release()
    stats = controller.stats()
    assert (stats.queued, stats.in_flight, stats.repairs) == (0, 0, 0)


def test_one_that_fails_after_it_named_enough_has_named_enough(make_controller: MakeController) -> None:
    class NewestAndThenRaises:
        def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
            yield next(iter(backlogs[0].newest_first()))
            yield next(iter(backlogs[0].newest_first()))
            raise BoomError

    config = Config(default_band=BandConfig(max_requests=2, displacement=NewestAndThenRaises()))
    controller, _holder = seated(make_controller, config)
    queued = [queue(controller, flow) for flow in "ab"]

    assert queue(controller, "c").state == "queued"
    assert states(queued) == ["queued", "refused"]
    assert controller.stats().incidents == 0


def test_who_is_not_queued_here_cannot_be_displaced(make_controller: MakeController) -> None:
    other, _its_holder = seated(make_controller, Config())
    elsewhere = queue(other, "a")
    named: list[Ticket] = [elsewhere]

    class NamesOthers:
        def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
            return iter(named)  # type: ignore[arg-type]

    config = Config(default_band=BandConfig(max_requests=2, displacement=NamesOthers()))
    controller, holder = seated(make_controller, config)
    queued = [queue(controller, "a"), queue(controller, "b", priority=-1), queue(controller, "a")]
    gone = queue(controller, "c", priority=2)
    gone.cancel()
    named += [holder, gone, queued[1]]

    refused = queue(controller, "b")
    assert refused.outcome is Outcome.REJECTED_CAPACITY
    assert states([elsewhere, *queued]) == ["queued"] * 4
    assert holder.state == "dispatched"


def test_one_that_never_ends_is_not_heard_to_its_end(make_controller: MakeController) -> None:
    class NamesTheSameForEver:
        def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
            while True:
                yield next(iter(backlogs[0].newest_first()))

    config = Config(default_band=BandConfig(max_bytes=20, displacement=NamesTheSameForEver()))
    controller, _holder = seated(make_controller, config)
    queued = [queue(controller, flow, size=10) for flow in "ab"]

    assert queue(controller, "c", size=15).outcome is Outcome.REJECTED_CAPACITY
    assert states(queued) == ["queued"] * 2
    assert queue(controller, "c", size=10).state == "queued"


def test_a_policy_learns_the_newcomers_priority_and_what_its_flow_would_hold(make_controller: MakeController) -> None:
    seen: list[Newcomer] = []

    class Notes:
        def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
            seen.append(newcomer)
            return iter(())

    config = Config(default_band=BandConfig(max_requests=4, max_bytes=100, displacement=Notes()))
    controller, _holder = seated(make_controller, config)
    for flow in "aaab":
        queue(controller, flow, priority=3, size=1)
    for flow, size in (("b", 0), ("a", 0), ("new", 50), ("b", 89)):
        queue(controller, flow, priority=3, size=size)

    assert seen == [Newcomer(3, 0.5), Newcomer(3, 1.0), Newcomer(3, 0.5), Newcomer(3, 0.9)]
