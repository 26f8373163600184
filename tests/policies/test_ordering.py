"""Which request of a flow goes first: the queue in the order that its band's policy says."""

from __future__ import annotations

import copy
import math
import pickle
import random
from bisect import insort
from collections.abc import Iterator, Mapping

import pytest

from flowctl import BandConfig, Config, EarliestDeadline, Fcfs, FlowController, FlowKey, Outcome, SloDeadline, Ticket
from flowctl.keyed import KeyedQueue
from flowctl.policies.ordering import Ordering, Waiting
from flowctl.queue import FlowQueue
from flowctl.testing import FakeClock
from flowctl.ticket import Unborn, Wait
from tests.policies.workload import Arrival, OneSeat, queue
from tests.support import MakeController, Spawn
from tests.test_flows import BoomError
from tests.test_queue import NoDesk, drained

ORDERINGS: list[Ordering] = [Fcfs(), EarliestDeadline(), SloDeadline()]


@pytest.fixture(params=ORDERINGS, ids=repr)
def ordering(request: pytest.FixtureRequest) -> Ordering:
    policy: Ordering = request.param
    return policy


# --- what every ordering does -----------------------------------------------------------------------------------------

SOME_ARRIVALS = [
    Arrival(),
    Arrival(metadata={}),
    Arrival(arrived=0.0, deadline=0.0),
    Arrival(deadline=1001.5, metadata={"slo": 3}),
    Arrival(arrived=5.0, deadline=math.inf, metadata={"slo": "what?"}),
    Arrival(metadata={"slo": -1}),
]


def test_a_key_is_a_number_and_the_same_each_time(ordering: Ordering) -> None:
    keys = [ordering.key(arrival) for arrival in SOME_ARRIVALS]

    assert not any(math.isnan(key) for key in keys)
    assert keys == [ordering.key(arrival) for arrival in SOME_ARRIVALS]
    assert keys[::-1] == [ordering.key(arrival) for arrival in reversed(SOME_ARRIVALS)]


def test_an_ordering_has_no_state_and_is_equal_by_value(ordering: Ordering) -> None:
    before = pickle.dumps(ordering)
    for arrival in SOME_ARRIVALS:
        ordering.key(arrival)

    assert pickle.dumps(ordering) == before
    assert ordering == type(ordering)()
    assert hash(ordering) == hash(type(ordering)())
    assert len({*ORDERINGS, ordering}) == len(ORDERINGS)
    assert not hasattr(ordering, "__dict__"), "it has nowhere to keep a state"


def test_an_ordering_can_be_pickled_and_copied_also_in_a_configuration(ordering: Ordering) -> None:
    config = Config(bands=[BandConfig(priority=1, ordering=ordering)])

    assert pickle.loads(pickle.dumps(ordering)) == copy.deepcopy(ordering) == ordering
    assert pickle.loads(pickle.dumps(config)) == config


def test_requests_that_say_nothing_go_in_order_of_arrival(make_controller: MakeController, ordering: Ordering) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=ordering))
    tickets = [seat.queue("a") for _ in range(20)]

    assert seat.go() == tickets


def test_equal_keys_go_in_order_of_arrival_also_after_withdrawals(
    make_controller: MakeController, ordering: Ordering
) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=ordering))
    tickets = [seat.queue("a", ttl=30, metadata={"slo": 5}) for _ in range(20)]
    for ticket in tickets[3:15:2]:
        assert ticket.cancel()

    assert seat.go() == [ticket for ticket in tickets if ticket.outcome is not Outcome.EVICTED_CANCELLED]


def test_who_is_evicted_first_is_by_arrival_whatever_the_ordering(
    make_controller: MakeController, ordering: Ordering
) -> None:
    controller = make_controller(Config(default_band=BandConfig(ordering=ordering), max_requests=2))
    _holder = controller.admit("holder")
    urgent_but_new = [queue(controller, "a", ttl=ttl, metadata={"slo": ttl}) for ttl in (30, 2)][1]

    queue(controller, "b", priority=1)

    assert urgent_but_new.outcome is Outcome.EVICTED_DISPLACED


# --- first come, first served -----------------------------------------------------------------------------------------


def test_fcfs_goes_by_arrival_whatever_a_request_says(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=Fcfs()))
    tickets = [seat.queue("a", ttl=30 - n, metadata={"slo": 30 - n}) for n in range(10)]

    assert seat.go() == tickets


# --- the earliest deadline --------------------------------------------------------------------------------------------


def test_the_earlier_deadline_goes_first_none_goes_last_and_ties_go_by_arrival(
    make_controller: MakeController, clock: FakeClock
) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=EarliestDeadline()))
    never = seat.queue("a")
    late, soon, late_too = (seat.queue("a", ttl=ttl) for ttl in (50, 10, 50))
    never_too = seat.queue("a")
    clock.advance(5)
    soonest_of_late = seat.queue("a", ttl=44)
    same_as_soon = seat.queue("a", ttl=5)

    assert seat.go() == [soon, same_as_soon, soonest_of_late, late, late_too, never, never_too]


def test_the_deadline_that_counts_is_what_the_band_and_the_cap_leave_of_it(make_controller: MakeController) -> None:
    band = BandConfig(ordering=EarliestDeadline(), default_ttl=7)
    controller = make_controller(Config(default_band=band, max_ttl=20))
    holder = controller.admit("holder")
    capped, defaulted, own = (queue(controller, "a", ttl=ttl) for ttl in (1000, None, 5))
    first = [own, defaulted, capped]

    for ticket in first:
        holder.release()
        assert ticket.state == "dispatched"
        holder = ticket
    holder.release()


def test_a_request_whose_deadline_has_come_is_not_in_the_way_of_the_next(
    make_controller: MakeController, clock: FakeClock
) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=EarliestDeadline()))
    later, sooner = seat.queue("a", ttl=10), seat.queue("a", ttl=2)
    clock.advance(3)

    assert seat.next() is later
    assert sooner.outcome is Outcome.EVICTED_TTL


def test_threads_that_wait_go_by_their_deadlines_too(
    make_controller: MakeController, clock: FakeClock, spawn: Spawn
) -> None:
    controller = make_controller(Config(default_band=BandConfig(ordering=EarliestDeadline())))
    holder = controller.admit("holder")
    late = spawn(controller.admit, "a", ttl=50)
    clock.wait_for_sleepers(1)
    soon = spawn(controller.admit, "a", ttl=10)
    clock.wait_for_sleepers(2)

    holder.release()
    first = soon.result()
    assert not late.done
    first.release()
    late.result().release()


# --- the objective ----------------------------------------------------------------------------------------------------


class OddNumber:
    """A number of a library that we know nothing of."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __float__(self) -> float:
        if math.isinf(self._value):
            raise OverflowError
        return self._value


@pytest.mark.parametrize("slo", [3, 3.0, "3", " 3.0 ", "3e0", OddNumber(3.0)], ids=repr)
def test_an_objective_is_seconds_from_arrival_as_a_number_or_a_string_of_one(slo: object) -> None:
    assert SloDeadline().key(Arrival(arrived=1000.0, metadata={"slo": slo})) == 1003.0


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"SLO": 1},
        *[
            {"slo": slo}
            for slo in (
                None,
                "",
                "soon",
                "3 s",
                b"3",
                [3],
                -1,
                -1e-9,
                "-3",
                math.nan,
                "nan",
                math.inf,
                "inf",
                -math.inf,
                10**400,
                "1e400",
                3j,
                OddNumber(math.inf),
                OddNumber(math.nan),
            )
        ],
    ],
    ids=repr,
)
def test_what_is_no_objective_goes_last(make_controller: MakeController, metadata: Mapping[str, object] | None) -> None:
    assert SloDeadline().key(Arrival(metadata=metadata)) == math.inf

    seat = OneSeat(make_controller, BandConfig(ordering=SloDeadline()))
    nothing, tight, loose = (seat.queue("a", metadata=said) for said in (metadata, {"slo": 1}, {"slo": 10**6}))
    assert seat.go() == [tight, loose, nothing]
    assert seat.controller.stats().incidents == 0


def test_the_tighter_objective_goes_first_and_time_makes_it_tighter(
    make_controller: MakeController, clock: FakeClock
) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=SloDeadline()))
    loose, tight = seat.queue("a", metadata={"slo": 20}), seat.queue("a", metadata={"slo": "4"})
    clock.advance(10)
    at_once, as_loose = seat.queue("a", metadata={"slo": 0}), seat.queue("a", metadata={"slo": 10.0})

    assert seat.go() == [tight, at_once, loose, as_loose]


def test_an_objective_that_has_passed_is_no_deadline(make_controller: MakeController, clock: FakeClock) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=SloDeadline()))
    missed = seat.queue("a", metadata={"slo": 1})
    clock.advance(100)

    assert seat.next() is missed


# --- the queues -------------------------------------------------------------------------------------------------------


def ticket_at(serial: int, order: float) -> Ticket:
    ticket = Ticket(NoDesk(), Unborn(FlowKey("a")), 1, serial % 7)
    ticket.serial = serial
    ticket.wait = Wait(0.0, None)
    ticket.wait.order = order
    return ticket


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("keyed", [False, True])
def test_random_adds_and_withdrawals_agree_with_a_sorted_list(seed: int, keyed: bool) -> None:
    rng, serial = random.Random(seed), 0
    queue: FlowQueue = KeyedQueue() if keyed else FlowQueue()
    model: list[tuple[float, int]] = []
    tickets: dict[int, Ticket] = {}
    for _ in range(600):
        if model and rng.random() < (0.3 if len(tickets) < 60 else 0.7):
            at = rng.choice([0, -1, rng.randrange(len(model)), rng.randrange(len(model))])
            queue.withdraw(tickets.pop(model.pop(at)[1]))
        else:
            serial += 1
            order = rng.choice([0.0, 1.0, rng.random(), -rng.random(), math.inf, -math.inf]) if keyed else 0.0
            insort(model, (order, serial))
            tickets[serial] = ticket_at(serial, order)
            queue.push(tickets[serial])
        queue._check()
        assert queue.requests == len(model)
        assert queue.size == sum(ticket.size for ticket in tickets.values())
        assert queue.head is (tickets[model[0][1]] if model else None)
        assert queue.newest is (tickets[max(tickets)] if model else None)
        assert [ticket.serial for ticket in queue.newest_first()] == sorted(tickets, reverse=True)

    assert drained(queue) == [serial for _, serial in model]
    assert (queue.requests, queue.size, queue.head, queue.newest) == (0, 0, None, None)


def test_what_is_not_in_a_keyed_queue_cannot_be_withdrawn_from_it() -> None:
    queue = KeyedQueue()
    queue.push(ticket_at(1, 5.0))
    with pytest.raises(KeyError):
        queue.withdraw(ticket_at(2, 5.0))

    queue._check()
    assert drained(queue) == [1]


@pytest.mark.parametrize("damage", ["order", "place", "key"])
def test_a_damaged_keyed_queue_is_found(damage: str) -> None:
    queue, ticket, other = KeyedQueue(), ticket_at(1, 5.0), ticket_at(2, 3.0)
    queue.push(ticket)
    queue.push(other)
    if damage == "order":
        queue._order.pop(0)
    elif damage == "place":
        queue._order.add((9.0, 9))
    else:
        assert ticket.wait is not None
        ticket.wait.order = 1.0

    with pytest.raises(AssertionError):
        queue._check()


@pytest.mark.parametrize("seed", range(4))
def test_a_flow_goes_in_the_order_of_a_sorted_list_whoever_leaves(make_controller: MakeController, seed: int) -> None:
    rng = random.Random(seed)
    seat = OneSeat(make_controller, BandConfig(ordering=SloDeadline(), max_requests=None))
    model: list[tuple[float, int, Ticket]] = []
    for nth in range(400):
        action = rng.random()
        if action < 0.55 or not model:
            slo = rng.choice([math.inf, 1, 1, 2, rng.randrange(1000)])
            insort(model, (slo, nth, seat.queue("a", metadata={"slo": slo})))
        elif action < 0.75:
            assert model.pop(rng.randrange(len(model)))[2].cancel()
        else:
            assert seat.next() is model.pop(0)[2]

    assert seat.go() == [ticket for _, _, ticket in model]


def test_a_thousand_requests_in_the_worst_order_go_in_the_best(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=EarliestDeadline()))
    tickets = [seat.queue("a", ttl=3000 - n) for n in range(1000)]

    assert seat.go() == tickets[::-1]


# --- an ordering of the user's own ------------------------------------------------------------------------------------


class Wanted:
    """Has as key what the request's metadata says; or raises it."""

    def key(self, request: Waiting) -> float:
        wanted = (request.metadata or {})["key"]
        if isinstance(wanted, Exception):
            raise wanted
        return wanted  # type: ignore[return-value]


class UnderstandsNobody(Mapping[str, object]):
    """Metadata that raises."""

    def __getitem__(self, name: str) -> object:
        raise BoomError

    def __iter__(self) -> Iterator[str]:
        raise BoomError

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "nonsense", [BoomError(), math.nan, "first", None, [1], 3j, 10**400], ids=lambda nonsense: type(nonsense).__name__
)
def test_a_request_whose_ordering_fails_goes_last_and_that_is_counted(
    make_controller: MakeController, nonsense: object
) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=Wanted()))
    failed, good, other_failed, better = (
        seat.queue("a", metadata={"key": key}) for key in (nonsense, 10**9, nonsense, -5)
    )

    assert seat.controller.stats().incidents == 2
    assert seat.go() == [better, good, failed, other_failed]
    stats = seat.controller.stats()
    assert (stats.queued, stats.in_flight, stats.repairs, stats.abandoned) == (0, 0, 0, 0)


def test_metadata_that_raises_puts_the_request_last(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=SloDeadline()))
    failed, good = seat.queue("a", metadata=UnderstandsNobody()), seat.queue("a", metadata={"slo": 10**6})

    assert seat.go() == [good, failed]
    assert seat.controller.stats().incidents == 1


@pytest.mark.parametrize(("first", "second"), [(-math.inf, 0), (5, math.inf), (1, 1.5), (False, True)])
def test_keys_may_be_any_numbers_but_nan(make_controller: MakeController, first: float, second: float) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=Wanted()))
    late, soon = seat.queue("a", metadata={"key": second}), seat.queue("a", metadata={"key": first})

    assert seat.go() == [soon, late]
    assert seat.controller.stats().incidents == 0


def test_an_ordering_is_asked_once_for_a_request_that_waits_and_never_for_one_that_does_not(
    make_controller: MakeController,
) -> None:
    asked: list[object] = []

    class Noting:
        def key(self, request: Waiting) -> float:
            asked.append(request.metadata)
            return 0.0

    controller: FlowController = make_controller(Config(default_band=BandConfig(ordering=Noting())))
    holder = controller.admit("a", metadata={"n": 1})
    queued = [queue(controller, "a", metadata={"n": n}) for n in (2, 3)]
    queued[0].cancel()
    holder.release()
    queued[1].release()

    assert asked == [{"n": 2}, {"n": 3}]


def test_an_ordering_does_not_change_whose_turn_it_is_among_flows(make_controller: MakeController) -> None:
    seat = OneSeat(make_controller, BandConfig(ordering=EarliestDeadline()))
    for ttl in (30, 20, 10):
        seat.queue("a", ttl=1000 + ttl)
    for ttl in (30, 20, 10):
        seat.queue("b", ttl=ttl)

    went = seat.go()
    assert "".join(ticket.key.id for ticket in went) == "ababab"
    assert [ticket.wait.ttl for ticket in went if ticket.wait is not None] == [1010, 10, 1020, 20, 1030, 30]
