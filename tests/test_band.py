"""Whose turn it is within a band: start-time fair queueing over its active flows."""

import random
from itertools import count, islice

import pytest

from flowctl import BandConfig, FlowKey
from flowctl.atomic import CellWord
from flowctl.band import Place, PriorityBand
from flowctl.lease import Lease, born
from flowctl.queue import EMPTY, FlowQueue
from flowctl.ticket import Ticket, Unborn
from tests.test_queue import NoDesk


class Flow:
    """A flow, as far as its band cares."""

    def __init__(self, name: str) -> None:
        self.id = self.name = name
        self.lease = Lease(CellWord(born(0.0, pins=1)))
        self.queue: FlowQueue = EMPTY
        self.start: float = 0
        self.finish: float = 0
        self.place: Place | None = None
        self.activation = 0
        self.slack: float = 0


class Story:
    """Arrivals and dispatches of one band, as a workload."""

    def __init__(self) -> None:
        self.band: PriorityBand[Flow] = PriorityBand(0, BandConfig(priority=0), Lease(CellWord(born(0.0, pins=1))))
        self.flows: dict[str, Flow] = {}
        self.serials = count(1)

    def flow(self, name: str) -> Flow:
        return self.flows.setdefault(name, Flow(name))

    def arrive(self, names: str) -> list[Ticket]:
        """One request for each letter, in this order."""
        tickets = []
        for name in names:
            ticket = Ticket(NoDesk(), Unborn(FlowKey(name)), 1, 1)
            ticket.serial = next(self.serials)
            self.band.push(self.flow(name), ticket)
            self.band._check()
            tickets.append(ticket)
        return tickets

    def withdraw(self, ticket: Ticket) -> None:
        self.band.withdraw(self.flow(ticket.key.id), ticket)
        self.band._check()

    def dispatch(self, times: int = 1, charge: float = 1) -> str:
        """So many dispatches, as far as there is something; who went."""
        went = ""
        for _ in range(times):
            flow = self.band.next_flow()
            if flow is None:
                break
            assert flow.queue.head is not None
            self.band.charge(flow, charge)
            self.band.withdraw(flow, flow.queue.head)
            self.band._check()
            went += flow.name
        return went


@pytest.fixture
def story() -> Story:
    return Story()


def test_an_empty_band_picks_nobody(story: Story) -> None:
    assert story.band.next_flow() is None
    assert story.dispatch() == ""


def test_flows_take_turns_whatever_one_of_them_piled_up(story: Story) -> None:
    story.arrive("aaaaa" + "bb" + "c")

    assert story.dispatch(8) == "abcabaaa"


def test_within_a_flow_the_first_that_came_goes_first(story: Story) -> None:
    tickets = story.arrive("aaa")
    flow = story.flow("a")

    for ticket in tickets:
        assert flow.queue.head is ticket
        story.dispatch()


def test_flows_with_equal_tags_go_by_arrival(story: Story) -> None:
    story.arrive("zmxaq")

    assert story.dispatch(5) == "zmxaq"


@pytest.mark.parametrize(
    "arrivals",
    [
        pytest.param("abcabcabc", id="in turn"),
        pytest.param("aaabbbccc", id="in blocks"),
        pytest.param("abba", id="the second of one before the second of the other"),
        pytest.param("abccbaabc", id="back and forth"),
        pytest.param("cbaabcabc", id="forth and back"),
    ],
)
def test_every_window_of_n_dispatches_among_n_backlogged_flows_has_n_different_flows(
    story: Story, arrivals: str
) -> None:
    story.arrive(arrivals)
    n = len(set(arrivals))
    rounds = min(arrivals.count(name) for name in set(arrivals))
    went = story.dispatch(n * rounds)

    windows = [went[at : at + n] for at in range(len(went) - n + 1)]
    assert [window for window in windows if len(set(window)) < n] == [], went


@pytest.mark.parametrize("seed", range(10))
def test_every_window_has_n_different_flows_under_random_arrivals(seed: int) -> None:
    rng, story, names = random.Random(seed), Story(), "abcde"
    story.arrive("".join(rng.sample(names, 5)))
    went = ""
    for _ in range(200):
        for name in names:
            if story.flow(name).queue.requests < 2 or rng.random() < 0.5:
                story.arrive(name)  # nobody ever runs dry
        went += story.dispatch()

    windows = [went[at : at + 5] for at in range(len(went) - 4)]
    assert [window for window in windows if len(set(window)) < 5] == []


def test_a_flow_that_was_idle_has_no_credit(story: Story) -> None:
    story.arrive("b")
    story.dispatch()
    story.arrive("a" * 20)
    story.dispatch(10)
    story.arrive("b" * 5)

    assert story.dispatch(8) in ("abababab", "babababa"), "not five of b in a row"


def test_a_flow_that_was_idle_has_no_debt(story: Story) -> None:
    """A piles up a large tag among others, drains and pauses; later it is like anybody else."""
    story.arrive("aaaa" + "b" * 30)
    story.dispatch(8)
    story.dispatch(10)
    story.arrive("aa")

    assert "a" in story.dispatch(2)


def test_a_flow_that_used_idle_capacity_alone_is_not_punished_for_it(story: Story) -> None:
    for _ in range(1000):
        story.arrive("a")
        assert story.dispatch() == "a"
    story.arrive("aaaabbbb")

    assert story.dispatch(8) == "abababab"


def test_one_large_charge_of_a_flow_that_was_alone_is_not_held_against_it(story: Story) -> None:
    story.arrive("a")
    story.dispatch(charge=1000)
    story.arrive("aabb")

    assert story.dispatch(4) == "abab"


def test_a_newcomer_goes_within_one_round(story: Story) -> None:
    story.arrive("aaaaabbbbb")
    story.dispatch(4)
    story.arrive("c")

    assert "c" in story.dispatch(3)


def test_flows_that_come_and_go_do_not_stall_or_reset_the_turn_of_the_others(story: Story) -> None:
    story.arrive("a" * 50 + "b" * 50)
    went = ""
    for nth in range(20):
        gone = story.arrive("xyz"[nth % 3])[0]
        if nth % 2:
            story.withdraw(gone)
        went += story.dispatch(2)

    stayed = [name for name in went if name in "ab"]
    assert abs(stayed.count("a") - stayed.count("b")) <= 1


def test_a_flow_whose_head_is_withdrawn_keeps_its_turn(story: Story) -> None:
    first, *_ = story.arrive("aabb")
    story.withdraw(first)

    assert sorted(story.dispatch(2)) == ["a", "b"]
    assert story.dispatch(2) == "b"


def test_a_flow_whose_queue_is_withdrawn_is_not_picked(story: Story) -> None:
    only, *_ = story.arrive("ab")
    story.withdraw(only)

    assert story.dispatch(2) == "b"


def test_withdrawing_and_asking_again_gains_nothing(story: Story) -> None:
    story.arrive("aaaa" + "bbbb")
    went = ""
    for _ in range(6):
        story.withdraw(story.arrive("a")[0])
        went += story.dispatch()

    assert went.count("a") == went.count("b") == 3


def test_the_virtual_time_never_goes_back_while_anybody_waits(story: Story) -> None:
    rng = random.Random(7)
    story.arrive("zzzz")
    times = [story.band.virtual_time]
    for _ in range(300):
        if rng.random() < 0.5:
            story.arrive(rng.choice("abcd"))
        elif story.band.queued > 1:
            story.dispatch(charge=rng.choice([0, 0.5, 1, 7]))
        times.append(story.band.virtual_time)

    assert times == sorted(times)


def test_a_flow_becomes_active_at_the_virtual_time_or_at_its_own_finish_whichever_is_later(story: Story) -> None:
    story.arrive("aab")
    story.dispatch(2, charge=10)
    story.arrive("c")

    assert story.flow("c").start == story.band.virtual_time
    story.dispatch(1, charge=10)
    story.arrive("b")
    assert story.flow("b").start == 10, "b has gone once"


def test_charges_share_capacity_in_proportion(story: Story) -> None:
    story.arrive("a" * 60 + "b" * 60)
    went = ""
    for _ in range(60):
        flow = story.band.next_flow()
        assert flow is not None
        went += story.dispatch(charge=2 if flow.name == "a" else 1)

    assert went.count("b") == pytest.approx(2 * went.count("a"), abs=2)


def test_the_backlog_is_in_order_of_arrival_and_can_be_read_backwards(story: Story) -> None:
    tickets = story.arrive("abcab")
    story.withdraw(tickets[2])

    assert [ticket.serial for ticket in story.band.newest_first()] == [5, 4, 2, 1]
    assert story.band.queued == 4
    assert story.band.queued_bytes == 4


def test_keys_that_went_stale_do_not_pile_up(story: Story) -> None:
    story.arrive("a")
    for _ in range(2_000):
        story.withdraw(story.arrive("b")[0])

    assert len(story.band._ring) < 200


def test_two_bands_share_no_state() -> None:
    one, other = Story(), Story()
    one.arrive("aaa")
    one.dispatch(3)

    assert (other.band.virtual_time, other.band.next_flow()) == (0, None)


def test_an_idle_flow_shares_one_empty_queue_with_all_others(story: Story) -> None:
    story.arrive("ab")
    one, other = story.flows["a"], story.flows["b"]
    assert one.queue is not other.queue

    assert story.dispatch(2) == "ab"

    assert one.queue is other.queue is EMPTY
    EMPTY._check()


def test_a_band_that_is_cleared_is_empty_and_can_be_used_again(story: Story) -> None:
    story.arrive("aab")
    story.band.clear()
    for flow in story.flows.values():
        flow.queue = EMPTY
    story.band._check()

    assert story.band.next_flow() is None
    story.arrive("ba")
    assert sorted(story.dispatch(2)) == ["a", "b"]


@pytest.mark.parametrize("seed", range(10))
def test_the_books_hold_under_random_arrivals_dispatches_and_withdrawals(seed: int) -> None:
    rng, story = random.Random(seed), Story()
    waiting: list[Ticket] = []
    for _ in range(500):
        action = rng.random()
        if action < 0.5 or not waiting:
            waiting += story.arrive(rng.choice("abcdefgh"))
        elif action < 0.75:
            story.withdraw(waiting.pop(rng.randrange(len(waiting))))
        else:
            flow = story.band.next_flow()
            assert flow is not None
            assert flow.start == min(other.start for other in story.flows.values() if other.queue.requests), (
                "the smallest tag"
            )
            head = flow.queue.head
            assert head is not None
            waiting.remove(head)
            assert story.dispatch(charge=rng.choice([1, 1, 3])) == flow.name
        assert story.band.queued == len(waiting)


def test_nobody_waits_for_more_than_everybody_else_once() -> None:
    rng, story = random.Random(3), Story()
    story.arrive("v" * 40 + "abcdefg" * 40)
    since = 0
    for name in islice(iter(story.dispatch, ""), 200):
        since = 0 if name == "v" else since + 1
        assert since <= 2 * len(story.flows)
        story.arrive(rng.choice("abcdefg"))
