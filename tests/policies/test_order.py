"""Order as an oracle: arrival traces on virtual time, and each dispatch is the one that the definition says.

What the definitions are is said in `definitions.py` and `shares.py`, with nothing of the library's algorithm.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import pytest

from flowctl import BandConfig, Config, EarliestDeadline, Fcfs, FlowKey, GlobalStrict, RoundRobin, Ticket, WeightedFair
from flowctl import ledger as ledger_module
from flowctl.band import PriorityBand
from flowctl.flow import Flow
from flowctl.ledger import Ledger
from flowctl.policies.fairness import Fairness
from flowctl.policies.ordering import Ordering
from flowctl.queue import FlowQueue
from flowctl.ticket import Wait
from tests.policies.definitions import Definition, Line, Rank, Ring, Sorted, by_arrival, by_deadline
from tests.policies.replay import Library, Move, replay, started
from tests.policies.shares import Gap, Gaps, Weights, distances
from tests.policies.trace import TICK, Asked, Shape, Trace, all_at_once, make_trace, served_by_cost
from tests.proof import Proof

IN_ORDER: Final = "whole traces go in the order that the definition says"
IN_PROPORTION: Final = "of two flows that both wait neither gets more than a cost of each beyond its weight"

Patch = pytest.MonkeyPatch

SEATS: Final = 4
SHARDS: Final = (1, 2, 4, 8)
NEVER: Final = 86_400.0
"""Seconds after which an idle flow is collected: longer than any trace."""

SHAPES: Final[Mapping[str, Shape]] = {
    "bursts": Shape(),
    "several priorities and costs": Shape(priorities=(0, 0, 0, 7, -7), costs=(1, 1, 1, 2, 3, 6)),
    "some give up or come too late": Shape(priorities=(0, 0, 1), costs=(1, 1, 2), impatient=0.3, fickle=0.2),
    "never at rest": Shape(gaps=(0, 5, 10), services=(1, 2, 3)),
    "many flows, few requests of each": Shape(flows=400, present=300, skew=0.3),
}
COSTS: Final = (1, 1, 1, 2, 3, 5, 8)
SHARED: Final[Mapping[str, Shape]] = {
    "never at rest": Shape(requests=1_500, costs=COSTS, gaps=(0, 10, 40)),
    "bursts": Shape(requests=1_500, costs=COSTS, gaps=(0, 40, 400, 1_600)),
    "no flow is preferred": Shape(requests=1_500, costs=COSTS, skew=0.0, present=50, gaps=(200, 400)),
}
FARTHEST: Final = 5 * max(COSTS)
"""From the ideal share. No theorem bounds this while flows come and go: 31 was measured, however long the trace."""
WEIGHTS: Final[Mapping[str, Weights]] = {
    "weighted": {f"flow-{nth}": (0.5, 1.0, 2.0, 4.0, 8.0)[nth % 5] for nth in range(50)},
    "unweighted": {},
}


def config(
    fairness: Fairness,
    ordering: Ordering | None = None,
    *,
    weights: Weights | None = None,
    shards: int = 4,
    flow_gc_timeout: float = NEVER,
) -> Config:
    band = BandConfig(
        fairness=fairness, ordering=ordering or Fcfs(), weights=weights or {}, max_requests=None, max_bytes=None
    )
    return Config(default_band=band, shards=shards, default_ttl=None, flow_gc_timeout=flow_gc_timeout)


def serve(trace: Trace, config: Config, seats: int = SEATS) -> list[Move]:
    """What the library does."""
    moves, library = replay(trace, partial(Library, config=config, seats=seats))
    library.end()
    return moves


def define(trace: Trace, line: Callable[[Rank], Line], rank: Rank = by_arrival) -> list[Move]:
    """What is to be done."""
    return replay(trace, partial(Definition, seats=SEATS, line=partial(line, rank)))[0]


def difference(moves: Sequence[Move], defined: Sequence[Move]) -> int | None:
    """After how many dispatches they differ, in who goes or when; None if they do not."""
    ours, theirs = started(moves), started(defined)
    differing = (nth for nth, (mine, other) in enumerate(zip(ours, theirs, strict=False)) if mine != other)
    return next(differing, None if len(ours) == len(theirs) else min(len(ours), len(theirs)))


def largest_gap(trace: Trace, moves: Sequence[Move], weights: Weights) -> Gap:
    """The one that is largest for its bound."""
    gaps = Gaps(trace, weights)
    gaps.see(moves)
    return max(gaps.largest.values(), key=lambda gap: gap.size / gap.bound)


def farthest(trace: Trace, moves: Sequence[Move], weights: Weights) -> float:
    """How far any flow ever was from its ideal share, in units of cost."""
    return max(max(behind, before) for behind, before in distances(trace, moves, weights).values())


# --- in a ring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_flows_take_turns_in_a_ring_whatever_the_number_of_shards(shape: str, seed: int, proof: Proof) -> None:
    trace = make_trace(SHAPES[shape], seed)
    defined = define(trace, Ring)
    assert sum(at > trace.asked[number].at for number, at in started(defined)) > len(trace.asked) // 2, "most wait"

    for shards in SHARDS:
        moves = serve(trace, config(RoundRobin(), shards=shards))
        assert difference(moves, defined) is None, f"{shards} shards"

    proof.shown("P5", IN_ORDER, "property", len(SHARDS) * len(started(defined)), "operations")


@pytest.mark.parametrize("seed", range(4))
def test_a_flow_whose_turn_it_is_sends_its_earliest_deadline(seed: int) -> None:
    trace = make_trace(SHAPES["some give up or come too late"], seed)

    moves = serve(trace, config(RoundRobin(), EarliestDeadline()))
    assert difference(moves, define(trace, Ring, by_deadline)) is None


@pytest.mark.parametrize("seed", range(4))
def test_to_collect_a_flow_that_was_idle_since_its_band_ran_empty_changes_no_order(seed: int) -> None:
    trace = make_trace(Shape(gaps=(0, 1_600), look_every=16), seed)
    defined, definition = replay(trace, partial(Definition, seats=SEATS, line=partial(Ring, by_arrival)))

    short = config(RoundRobin(), flow_gc_timeout=definition.longest_busy + TICK)
    moves, library = replay(trace, partial(Library, config=short, seats=SEATS))

    library.end()
    assert library.collected > 100
    assert difference(moves, defined) is None


# --- newcomers -------------------------------------------------------------------------------------------------------


def arrivals(*waves: tuple[float, str]) -> Trace:
    """At each time one request for each letter, that keeps its seat for a second. The first takes the only seat."""
    asked = [(at, letter) for at, letters in waves for letter in letters]
    return Trace([Asked(nth, at, FlowKey(letter), 1, 1.0) for nth, (at, letter) in enumerate(asked)])


def went(trace: Trace, config: Config) -> str:
    return "".join(trace.asked[number].key.id for number, _ in started(serve(trace, config, seats=1)))


def test_a_newcomer_joins_at_the_back() -> None:
    trace = arrivals((0.0, "-aab"), (1.5, "c"))

    assert went(trace, config(RoundRobin())) == "-abac"


@pytest.mark.parametrize("fairness", [RoundRobin(), WeightedFair()])
def test_nobody_starves_while_new_flows_keep_coming(fairness: Fairness) -> None:
    newcomers = [(second - 0.5, chr(0x4E00 + second)) for second in range(1, 101)]
    trace = arrivals((0.0, "-" + "a" * 9), *newcomers)

    assert went(trace, config(fairness))[:100].count("a") > 2


def test_nobody_starves_while_the_flows_that_come_were_collected_meanwhile() -> None:
    others = [(second - 0.5, "bcdefghi"[second % 8]) for second in range(1, 101)]
    trace = arrivals((0.0, "-" + "a" * 50), *others)._replace(looks=[second + 0.25 for second in range(100)])

    assert went(trace, config(RoundRobin(), flow_gc_timeout=5.0))[:100].count("a") > 5


def test_to_collect_an_idle_flow_changes_no_order() -> None:
    trace = arrivals((0.0, "-abcdebb"), (4.5, "a"))._replace(looks=[4.25])

    assert went(trace, config(RoundRobin(), flow_gc_timeout=1.0)) == went(trace, config(RoundRobin()))


# --- without fairness ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("ordering", "rank"), [(Fcfs(), by_arrival), (EarliestDeadline(), by_deadline)])
def test_without_fairness_a_band_is_one_sorted_list(
    ordering: Ordering, rank: Rank, shape: str, seed: int, proof: Proof
) -> None:
    trace = make_trace(SHAPES[shape], seed)
    defined = define(trace, Sorted, rank)

    for shards in (1, 8):
        moves = serve(trace, config(GlobalStrict(), ordering, shards=shards))
        assert difference(moves, defined) is None, f"{shards} shards"

    proof.shown("P5", IN_ORDER, "property", 2 * len(started(defined)), "operations")


# --- by weight -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("seats", [1, max(COSTS)])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", SHARED)
def test_two_flows_that_wait_get_what_they_weigh(shape: str, weights: str, seats: int, seed: int, proof: Proof) -> None:
    """Over every interval in which both wait, whoever else comes and goes."""
    trace, weighing = served_by_cost(make_trace(SHARED[shape], seed)), WEIGHTS[weights]
    moves = serve(trace, config(WeightedFair(), weights=weighing), seats)

    gap = largest_gap(trace, moves, weighing)
    assert gap.size <= gap.bound + 1e-9, gap
    assert farthest(trace, moves, weighing) <= FARTHEST

    proof.shown("P5", IN_PROPORTION, "property", len(started(moves)), "operations")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weights", WEIGHTS)
def test_they_do_so_while_others_leave_and_idle_flows_are_collected(weights: str, seed: int) -> None:
    shape = Shape(costs=COSTS, priorities=(0,), impatient=0.3, fickle=0.2, look_every=16)
    trace, weighing = served_by_cost(make_trace(shape, seed)), WEIGHTS[weights]

    moves, library = replay(
        trace,
        partial(Library, config=config(WeightedFair(), weights=weighing, flow_gc_timeout=2.0), seats=max(COSTS)),
    )

    library.end()
    assert library.collected > 100
    gap = largest_gap(trace, moves, weighing)
    assert gap.size <= gap.bound + 1e-9, gap


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("flows", [2, 5, 50])
def test_equals_that_always_wait_are_within_one_cost_of_their_ideal_share(flows: int, seed: int) -> None:
    trace = all_at_once([f"flow-{nth}" for nth in range(flows)], 1_500 // flows, COSTS, seed)
    moves = serve(trace, config(WeightedFair()), seats=1)

    for behind, before in distances(trace, while_all_wait(trace, moves), {}).values():
        assert behind <= max(COSTS)
        assert before <= max(COSTS)


@pytest.mark.parametrize("seed", range(3))
def test_flows_that_always_wait_are_as_near_to_their_ideal_share_as_their_weights_allow(seed: int) -> None:
    """At most one cost before it, and behind it at most by one's own part of one cost of each of the others."""
    weights = WEIGHTS["weighted"]
    trace = all_at_once(list(weights), 40, COSTS, seed)
    moves = serve(trace, config(WeightedFair(), weights=weights), seats=1)

    for flow, (behind, before) in distances(trace, while_all_wait(trace, moves), weights).items():
        if flow in weights:
            assert behind <= weights[flow] / sum(weights.values()) * max(COSTS) * len(weights) + 1e-9, flow
            assert before <= max(COSTS) + 1e-9, flow


def while_all_wait(trace: Trace, moves: Sequence[Move]) -> Sequence[Move]:
    """The moves until the first flow of the lowest band has nothing left."""
    left = Counter(asked.key for asked in trace.asked)
    for nth, move in enumerate(moves):
        key = trace.asked[move.number].key
        left[key] -= move.what != "came"
        if not left[key] and not key.priority:
            return moves[: nth + 1]
    return moves


# --- negative controls: something is taken away, and the comparison has to find it ------------------------------------


def equal_tags_go_by_hash(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow], flow: Flow) -> None:
        flow.place = place = flow.start, zlib.crc32(flow.id.encode()), flow
        heapq.heappush(self._ring, place)

    patch.setattr(PriorityBand, "_place", broken)


def idle_flows_keep_their_credit(patch: Patch) -> None:
    push = PriorityBand.push

    def broken(self: PriorityBand[Flow], flow: Flow, ticket: Ticket) -> None:
        virtual_time, self.virtual_time = self.virtual_time, 0
        push(self, flow, ticket)
        self.virtual_time = virtual_time

    patch.setattr(PriorityBand, "push", broken)


def the_newest_of_a_flow_goes_first(patch: Patch) -> None:
    patch.setattr(FlowQueue, "head", FlowQueue.newest)


def who_comes_overtakes_equals_who_wait(patch: Patch) -> None:
    retop = Ledger._retop

    def broken(self: Ledger) -> None:
        retop(self)
        self.top -= 0.5

    patch.setattr(Ledger, "_retop", broken)


def bands_go_by_who_filled_last(patch: Patch) -> None:
    def broken(band: PriorityBand[Flow]) -> int:
        return 0

    patch.setattr(ledger_module, "_priority", broken)


def a_round_goes_by_cost(patch: Patch) -> None:
    def broken(self: RoundRobin, cost: int, weight: float) -> float:
        return cost

    patch.setattr(RoundRobin, "charge", broken)


def a_sorted_list_takes_turns(patch: Patch) -> None:
    patch.setattr(GlobalStrict, "by_head", False)


def deadlines_do_not_matter(patch: Patch) -> None:
    def broken(self: EarliestDeadline, request: object) -> float:
        return 0.0

    patch.setattr(EarliestDeadline, "key", broken)


def who_has_no_deadline_goes_first(patch: Patch) -> None:
    key = EarliestDeadline.key

    def broken(self: EarliestDeadline, request: Wait) -> float:
        return 0.0 if request.deadline == math.inf else key(self, request)

    patch.setattr(EarliestDeadline, "key", broken)


def weights_do_not_matter(patch: Patch) -> None:
    def broken(self: WeightedFair, cost: int, weight: float) -> float:
        return cost

    patch.setattr(WeightedFair, "charge", broken)


def costs_do_not_matter(patch: Patch) -> None:
    def broken(self: WeightedFair, cost: int, weight: float) -> float:
        return 1 / weight

    patch.setattr(WeightedFair, "charge", broken)


def served_flows_are_not_charged(patch: Patch) -> None:
    def broken(self: PriorityBand[Flow], flow: Flow, charge: float) -> None:
        self.virtual_time = max(self.virtual_time, flow.start)

    patch.setattr(PriorityBand, "charge", broken)


Control = Callable[[Patch], None]


def named(controls: Sequence[Control]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("control", [pytest.param(control, id=control.__name__) for control in controls])


def first_difference(fairness: Fairness, ordering: Ordering, line: Callable[[Rank], Line], rank: Rank) -> int | None:
    """After how many dispatches, of all traces, the library differs from the definition."""
    dispatches = 0
    for shape in SHAPES.values():
        trace = make_trace(shape, seed=0)
        defined = define(trace, line, rank)
        found = difference(serve(trace, config(fairness, ordering)), defined)
        if found is not None:
            return dispatches + found
        dispatches += len(started(defined))
    return None


@named(
    [
        equal_tags_go_by_hash,
        idle_flows_keep_their_credit,
        the_newest_of_a_flow_goes_first,
        who_comes_overtakes_equals_who_wait,
        bands_go_by_who_filled_last,
        a_round_goes_by_cost,
        served_flows_are_not_charged,
    ]
)
def test_the_ring_finds_that(control: Control, monkeypatch: Patch, proof: Proof) -> None:
    control(monkeypatch)
    found = first_difference(RoundRobin(), Fcfs(), Ring, by_arrival)

    assert found is not None
    proof.missed(IN_ORDER, control.__name__.replace("_", " "), found, "operations")


@named([a_sorted_list_takes_turns, deadlines_do_not_matter, who_has_no_deadline_goes_first])
def test_the_sorted_list_finds_that(control: Control, monkeypatch: Patch, proof: Proof) -> None:
    control(monkeypatch)
    found = first_difference(GlobalStrict(), EarliestDeadline(), Sorted, by_deadline)

    assert found is not None
    proof.missed(IN_ORDER, control.__name__.replace("_", " "), found, "operations")


@named(
    [
        weights_do_not_matter,
        costs_do_not_matter,
        idle_flows_keep_their_credit,
        served_flows_are_not_charged,
    ]
)
def test_the_shares_find_that(control: Control, monkeypatch: Patch, proof: Proof) -> None:
    control(monkeypatch)
    trace, weights = served_by_cost(make_trace(SHARED["never at rest"], seed=0)), WEIGHTS["weighted"]
    moves = serve(trace, config(WeightedFair(), weights=weights), seats=1)

    gap = largest_gap(trace, moves, weights)
    assert gap.size > gap.bound + 1e-9 or farthest(trace, moves, weights) > FARTHEST
    proof.missed(IN_PROPORTION, control.__name__.replace("_", " "), len(started(moves)), "operations")
