"""Does a noisy tenant hurt the others, if requests come when they come?

Three tenants before a back end of 8 seats of 5 ms: a noisy one with 70 % of the requests, a polite one with 20 %, and
an important one with 10 %, at a higher priority. They arrive by an open loop (`load.py`), at shares of what the back
end can do; latency counts from the intended moment, and the arrivals are the same for all that is compared. Beside it
stands the closed loop of the same mix: there nobody sees the waits of those who were not even asked for.

Then four tenants of equal weight that all want more than a quarter, one of them far more: how even is what they get?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal, get_args

from benchmarks.harness import Depth, Plot, Question, Row, Step, in_turns, percentile
from benchmarks.load import (
    LEAD,
    LEAD_PER_THREAD,
    MOST_THREADS,
    Arrival,
    Ask,
    BackEnd,
    Tenant,
    by_flowctl,
    by_semaphore,
    closed_loop,
    open_loop,
    poisson,
    threads_by_share,
    unlimited,
    works,
)
from benchmarks.tally import LATE, Asked, jain, latencies, lateness, rate, served
from flowctl import ConcurrencyLimit, FlowController

SEATS: Final = 8
WORK: Final = 0.005
CAPACITY: Final = SEATS / WORK
SEED: Final = 1

MIX: Final = (
    Tenant(name="noisy", share=0.7),
    Tenant(name="polite", share=0.2),
    Tenant(name="important", share=0.1, priority=10),
)
CLOSED_THREADS: Final = 40
HUNGRY: Final = tuple(
    Tenant(name=name, share=share, ttl=0.25) for name, share in (("greedy", 1.0), ("a", 0.3), ("b", 0.3), ("c", 0.3))
)
HUNGER: Final = sum(tenant.share for tenant in HUNGRY)
"""Their arrivals, of the capacity."""

System = Literal["flowctl", "BoundedSemaphore", "no limit"]
SYSTEMS: Final[tuple[System, ...]] = get_args(System)
PERCENTILES: Final = (0.5, 0.99)


@contextmanager
def asking(system: System) -> Iterator[Ask]:
    """How to ask it for a seat. Asserts that nothing is left at the end."""
    if system == "BoundedSemaphore":
        yield by_semaphore(SEATS)
    elif system == "no limit":
        yield unlimited
    else:
        with FlowController(gate=ConcurrencyLimit(SEATS)) as controller:
            yield by_flowctl(controller)
            stats = controller.stats()
            assert (stats.in_flight, stats.queued) == (0, 0), f"something is left: {stats}"


# --- the three tenants ---------------------------------------------------------------------------------------------


def threads_for(arrivals: Sequence[Arrival], seconds: float) -> int:
    """Enough for all that wait at once: what the back end cannot do, and the chance of more. The others sleep."""
    backlog = max(len(arrivals) - CAPACITY * seconds, 0.0)
    return min(int(backlog + 3 * len(arrivals) ** 0.5) + 100, MOST_THREADS)


def opened(system: System, tenants: Sequence[Tenant], load: float, seconds: float, seed: object) -> list[Asked]:
    """What became of the arrivals, at this share of what the back end can do."""
    arrivals = poisson(tenants, load * CAPACITY, seconds, works(WORK, "constant", seed), seed)
    with asking(system) as ask:
        return open_loop(ask, BackEnd(SEATS), tenants, arrivals, threads_for(arrivals, seconds))


def closed(system: System, threads: int, seconds: float) -> list[Asked]:
    """What became of the requests of so many threads that ask again at once."""
    with asking(system) as ask:
        counts = threads_by_share(MIX, threads)
        work = partial(works, WORK, "constant")
        return closed_loop(ask, BackEnd(SEATS), MIX, counts, seconds=seconds, work=work)


def rows(load: float, found: Sequence[Sequence[Sequence[Asked]]]) -> list[Row]:
    """Latencies by tenant. `found` is what became of the arrivals: of each system, in each round."""
    late = [max(lateness(asked) for asked in rounds) for rounds in zip(*found, strict=True)]
    is_late = max(late) > LATE
    made = []
    for system, rounds in zip(SYSTEMS, found, strict=True):
        for place, tenant in enumerate(MIX):
            for share in PERCENTILES if system == SYSTEMS[0] else PERCENTILES[-1:]:
                is_ours, what = system == SYSTEMS[0], f"p{share * 100:g}"
                made.append(
                    Row(
                        name=f"{load:.0%}: {what} of {tenant.name}{'' if is_ours else f', {system}'}",
                        unit="ms",
                        samples=_percentiles(rounds, place, share),
                        rival=SYSTEMS[1] if is_ours else None,
                        rival_samples=_percentiles(found[1], place, share) if is_ours else (),
                        late=is_late,
                        at={"load": round(load * 100), "tenant": tenant.name, "system": system, "of": what},
                    )
                )
    name = f"{load:.0%}: p99 of how late requests were asked for"
    made.append(Row(name=name, unit="ms", samples=tuple(each * 1e3 for each in late), late=is_late))
    return made


def _percentiles(rounds: Sequence[Sequence[Asked]], tenant: int, share: float) -> tuple[float, ...]:
    return tuple(percentile(latencies(asked, tenant), share) for asked in rounds)


def closed_rows(found: Sequence[Sequence[Sequence[Asked]]]) -> list[Row]:
    """The same mix by a closed loop: of flowctl and of the semaphore, in each round."""
    ours, theirs = found
    made = [
        Row(
            name=f"closed loop, {CLOSED_THREADS} threads: served",
            unit="/s",
            samples=tuple(rate(asked) for asked in ours),
            rival=SYSTEMS[1],
            rival_samples=tuple(rate(asked) for asked in theirs),
        )
    ]
    made.extend(
        Row(
            name=f"closed loop, {CLOSED_THREADS} threads: p99 of {tenant.name}",
            unit="ms",
            samples=_percentiles(ours, place, 0.99),
            rival=SYSTEMS[1],
            rival_samples=_percentiles(theirs, place, 0.99),
            at={"tenant": tenant.name, "of": "p99, closed loop"},
        )
        for place, tenant in enumerate(MIX)
    )
    return made


def _measure(load: float, rounds: int, seconds: float) -> Sequence[Row]:
    numbers = {system: iter(range(rounds)) for system in SYSTEMS}

    def side(system: System) -> list[Asked]:
        # the same arrivals for all in one round, and others in the next
        return opened(system, MIX, load, seconds, f"{SEED} {next(numbers[system])}")

    return rows(load, in_turns(rounds, [partial(side, system) for system in SYSTEMS]))


def _measure_closed(rounds: int, seconds: float) -> Sequence[Row]:
    sides = [partial(closed, system, CLOSED_THREADS, seconds) for system in SYSTEMS[:2]]
    return closed_rows(in_turns(rounds, sides))


# --- the four hungry ones ------------------------------------------------------------------------------------------


def evenness(asked: Sequence[Asked], begin: float, end: float) -> float:
    """Jain's index of what the hungry tenants got in this part of the time."""
    return jain([served(asked, tenant, begin, end) for tenant in range(len(HUNGRY))])


def hungry_rows(found: Sequence[Sequence[Sequence[Asked]]], seconds: float, slices: int) -> list[Row]:
    """Jain's index, on the whole and over time."""
    ours, theirs = found
    is_late = max(lateness(asked) for rounds in found for asked in rounds) > LATE
    made = [
        Row(
            name=f"{HUNGER:.0%}, four tenants of equal weight: Jain's index of service",
            unit="",
            samples=tuple(evenness(asked, 0.0, seconds) for asked in ours),
            rival=SYSTEMS[1],
            rival_samples=tuple(evenness(asked, 0.0, seconds) for asked in theirs),
            late=is_late,
        )
    ]
    width = seconds / slices
    for system, rounds in zip(SYSTEMS[:2], found, strict=True):
        made.extend(
            Row(
                name=f"{HUNGER:.0%}: Jain's index from second {begin:.3g}, {system}",
                unit="",
                samples=tuple(evenness(asked, begin, begin + width) for asked in rounds),
                late=is_late,
                at={"second": round(begin, 3), "system": system, "of": "Jain's index"},
            )
            for begin in (number * width for number in range(slices))
        )
    return made


def _measure_hungry(rounds: int, seconds: float, slices: int) -> Sequence[Row]:
    sides = [partial(opened, system, HUNGRY, HUNGER, seconds, SEED) for system in SYSTEMS[:2]]
    return hungry_rows(in_turns(rounds, sides), seconds, slices)


# --- the question --------------------------------------------------------------------------------------------------


def steps(depth: Depth) -> list[Step]:
    rounds, seconds = depth.pick(1, 1, 3), depth.pick(0.4, 1.2, 2.5)
    threads = 0.15  # that they start and end
    pool = threads + LEAD + 500 * LEAD_PER_THREAD
    found = [
        Step(
            f"closed loop, {CLOSED_THREADS} threads",
            rounds * 2 * (seconds + threads),
            partial(_measure_closed, rounds, seconds),
        )
    ]
    for load in depth.pick((1.1,), (0.5, 0.9, 1.1), (0.5, 0.9, 1.1)):
        expected = rounds * 3 * (seconds * max(load, 1.0) + pool)
        found.append(Step(f"open loop, {load:.0%}", expected, partial(_measure, load, rounds, seconds)))
    if depth.level:  # a quick run has no time for it
        slices = depth.pick(0, 4, 10)
        expected = rounds * 2 * (seconds + 0.25 + 2 * pool)
        found.append(Step("four hungry tenants", expected, partial(_measure_hungry, rounds, seconds, slices)))
    return found


PLOTS: Final = (
    *(
        Plot(
            title=f"p99 of the latency by tenant, at {load} % of the capacity",
            x="tenant",
            by="system",
            where={"load": load, "of": "p99"},
            log_y=True,
        )
        for load in (50, 90, 110)
    ),
    Plot(title="p99 of the latency by load", x="load", by="tenant", where={"system": "flowctl", "of": "p99"}),
    Plot(title="Jain's index over time, four hungry tenants", x="second", by="system", where={"of": "Jain's index"}),
)


def concludes(rows: Sequence[Row]) -> list[str]:
    """Who waits in an overload, and who does not."""
    return [
        f"At {row.at['load']:g} % of the capacity, 99 % of {row.at['tenant']} are answered within {row.value:,.0f} ms; "
        f"beside a {row.rival}, within {row.rival_value:,.0f} ms."
        for row in rows
        if row.at.get("load", 0) == 110 and row.at["of"] == "p99" and row.rival_value is not None
    ]


QUESTION: Final = Question("arrivals", "latency by tenant, where requests come when they come", steps, PLOTS, concludes)
