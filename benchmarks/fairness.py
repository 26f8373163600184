"""Does everybody get what is his? Threads of several tenants ask again as soon as they were served, so that more than
can be served always wait.

A share is the service that a tenant got of what its weight says: 1.0 is exact. A gap is the time between two grants to
one flow that always has somebody waiting, against what one round over all flows takes at the rate that was reached:
1.0 is round robin. And when thousands of queued requests give up at once (`storm.py`), are all seats used as before?
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, repeat
from typing import Final

from benchmarks import storm
from benchmarks.harness import Depth, Plot, Question, Row, Step, in_turns
from benchmarks.load import Ask, BackEnd, Tenant, by_flowctl, by_semaphore, closed_loop
from benchmarks.tally import Asked, jain, rate
from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController, WeightedFair

SEATS: Final = 8
HOLD: Final = 0.001
RIVAL: Final = "BoundedSemaphore"

WEIGHTS: Final = (1.0, 2.0, 4.0)
THREADS: Final = 20
"""Of each weighted tenant: more than the seats, so that one whose turn it is always has somebody who waits."""

CROWDED: Final = 40
FEW: Final = 10
EQUAL: Final = 4


def loop(ask: Ask, tenants: Sequence[Tenant], threads: Sequence[int], seconds: float) -> list[Asked]:
    """What became of the requests of tenants that always want more."""
    return closed_loop(ask, BackEnd(SEATS), tenants, threads, seconds=seconds, work=lambda number: repeat(HOLD))


def asked_of_flowctl(tenants: Sequence[Tenant], threads: Sequence[int], seconds: float) -> list[Asked]:
    """At a controller that goes by the tenants' weights. Asserts that nothing is left at the end."""
    band = BandConfig(fairness=WeightedFair(), weights={tenant.name: tenant.weight for tenant in tenants})
    with FlowController(Config(default_band=band), gate=ConcurrencyLimit(SEATS)) as controller:
        found = loop(by_flowctl(controller), tenants, threads, seconds)
        stats = controller.stats()
        assert (stats.in_flight, stats.queued, stats.dispatched) == (0, 0, len(found)), f"something is left: {stats}"
    return found


def asked_of_semaphore(tenants: Sequence[Tenant], threads: Sequence[int], seconds: float) -> list[Asked]:
    """At a semaphore, which knows of no tenants."""
    return loop(by_semaphore(SEATS), tenants, threads, seconds)


def both(
    rounds: int, tenants: Sequence[Tenant], threads: Sequence[int], seconds: float
) -> tuple[list[list[Asked]], list[list[Asked]]]:
    """What became of the requests, at flowctl and at the semaphore, round by round."""
    sides = [partial(side, tenants, threads, seconds) for side in (asked_of_flowctl, asked_of_semaphore)]
    ours, theirs = in_turns(rounds, sides)
    return ours, theirs


# --- shares --------------------------------------------------------------------------------------------------------


def shares(asked: Sequence[Asked], tenants: Sequence[Tenant]) -> list[float]:
    """What each got, of what its weight says, while all of them asked: the beginning and the end are left out."""
    last = max(each.began for each in asked)
    counts = [0] * len(tenants)
    for each in asked:
        counts[each.tenant] += 0.1 * last <= each.settled < 0.95 * last
    weight = sum(tenant.weight for tenant in tenants)
    return [
        count * weight / (tenant.weight * max(sum(counts), 1)) for count, tenant in zip(counts, tenants, strict=True)
    ]


def worst_error(shares: Sequence[float]) -> float:
    """How far the worst share is from what it should be.

    >>> worst_error([1.0, 1.25, 0.5])
    0.5
    """
    return max(abs(share - 1.0) for share in shares)


def least_to_most(shares: Sequence[float]) -> float:
    """What the tenant got that got least, of what the one got that got most.

    >>> least_to_most([1.0, 1.25, 0.5])
    0.4
    """
    return min(shares) / (max(shares) or 1.0)


def _row(
    name: str,
    unit: str,
    figure: Callable[[list[Asked]], float],
    found: tuple[list[list[Asked]], list[list[Asked]]],
    at: dict[str, str | float] | None = None,
) -> Row:
    ours, theirs = found
    return Row(
        name=name,
        unit=unit,
        samples=tuple(figure(asked) for asked in ours),
        rival=RIVAL,
        rival_samples=tuple(figure(asked) for asked in theirs),
        divisible=False,  # a semaphore may leave somebody out altogether
        at=at or {},
    )


def weighted_rows(rounds: int, seconds: float) -> list[Row]:
    """Tenants of several weights, with as many threads each."""
    tenants = [Tenant(name=f"weight {weight:g}", weight=weight) for weight in WEIGHTS]
    found = both(rounds, tenants, [THREADS] * len(tenants), seconds)
    what = f"weights {', '.join(f'{weight:g}' for weight in WEIGHTS)}"
    made = [
        _row(
            f"{what}: share of {tenant.name}, of what it should be",
            "x",
            lambda asked, place=place: shares(asked, tenants)[place],  # type: ignore[misc]
            found,
            {"weight": f"{tenant.weight:g}", "of": "share"},
        )
        for place, tenant in enumerate(tenants)
    ]
    made.append(_row(f"{what}: worst error", "x", lambda asked: worst_error(shares(asked, tenants)), found))
    made.append(
        _row(f"{what}: Jain's index of service by weight", "", lambda asked: jain(shares(asked, tenants)), found)
    )
    return made


def equal_rows(rounds: int, seconds: float) -> list[Row]:
    """Tenants of equal weight, of which one asks with many more threads."""
    tenants = [Tenant(name=f"tenant-{number}") for number in range(EQUAL)]
    found = both(rounds, tenants, [CROWDED] + [FEW] * (EQUAL - 1), seconds)
    what = f"{EQUAL} equal tenants, {CROWDED} threads of one, {FEW} of the others"
    return [
        _row(f"{what}: least / most", "", lambda asked: least_to_most(shares(asked, tenants)), found),
        _row(f"{what}: Jain's index", "", lambda asked: jain(shares(asked, tenants)), found),
    ]


# --- starvation ----------------------------------------------------------------------------------------------------


def longest_gap(asked: Sequence[Asked], flows: int) -> float:
    """The longest time that one flow had to wait for its next grant, in rounds over all flows.

    A flow that came once, or never, waited from the begin until the end.
    """
    begin, end = min(each.began for each in asked), max(each.began for each in asked)
    moments: defaultdict[int, list[float]] = defaultdict(list)
    for each in asked:
        if each.settled < end:
            moments[each.tenant].append(each.settled)
    longest = max(
        later - earlier for flow in range(flows) for earlier, later in pairwise([begin, *sorted(moments[flow]), end])
    )
    return longest * rate(asked) / flows


def starvation_rows(flows: int, rounds: int, seconds: float) -> list[Row]:
    """So many flows with two threads each: while one is served, the other waits."""
    tenants = [Tenant(name=f"flow-{number}") for number in range(flows)]
    found = both(rounds, tenants, [2] * flows, seconds)
    name = f"{flows} flows: longest gap between two grants, in rounds over all"
    return [_row(name, "x", lambda asked: longest_gap(asked, flows), found, {"flows": flows, "of": "gap"})]


# --- the question --------------------------------------------------------------------------------------------------


def steps(depth: Depth) -> list[Step]:
    rounds, seconds = depth.pick(1, 3, 5), depth.pick(0.4, 0.5, 1.2)
    pair = rounds * 2 * (seconds + 0.1)
    found = [
        Step("weights", pair, partial(weighted_rows, rounds, seconds)),
        Step("equal tenants", pair, partial(equal_rows, rounds, seconds)),
    ]
    found.extend(
        Step(f"starvation of {flows} flows", pair, partial(starvation_rows, flows, rounds, seconds))
        for flows in depth.pick((64,), (64,), (8, 64, 256))
    )
    length = depth.pick(0.8, 0.8, 1.5)
    found.append(Step("a storm of cancels", rounds * (length + 0.3), partial(storm.measure, rounds, length)))
    return found


PLOTS: Final = (
    Plot(title="share of what the weight says", x="weight", where={"of": "share"}),
    Plot(title="longest gap, in rounds over all flows", x="flows", where={"of": "gap"}, log_x=True),
)

QUESTION: Final = Question("fairness", "whether everybody gets what is his, and when seats come back", steps, PLOTS)
