"""A mix of one's own: a TOML file says who asks for what, and what the back end can do (`scenarios/` has examples).

What may stand in a file is checked by `mix.py`. This runs it, and tells what became of each tenant's requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import mix
from benchmarks.harness import Depth, Plot, Question, Row, Step, percentile
from benchmarks.load import (
    LEAD,
    LEAD_PER_THREAD,
    MOST_THREADS,
    BackEnd,
    Tenant,
    by_flowctl,
    closed_loop,
    open_loop,
    poisson,
    threads_by_share,
    works,
)
from benchmarks.mix import Scenario
from benchmarks.tally import LATE, Asked, fair, jain, lateness, served, waits
from flowctl import ConcurrencyLimit, Config, FlowController

PLOTS: Final = tuple(
    Plot(title=title, x="tenant", where={"of": of})
    for title, of in (
        ("served a second by tenant", "served"),
        ("refused a second by tenant", "refused"),
        ("p99 of the wait by tenant, ms", "p99 of the wait"),
        ("share of what it should get", "share of what it should get"),
    )
)
KEPT: Final = Question("scenario", "a mix of one's own", lambda _: (), PLOTS)
"""Of a run that was kept: whoever shows it again may not have the file any more."""


def question(path: Path) -> Question:
    """What a file asks. `ValueError` with one line of what is wrong with it."""
    scenario = mix.read(path)
    load = f"{scenario.rate:g} arrivals a second" if scenario.rate else f"{scenario.threads} threads"
    asks = f"{scenario.name}: {scenario.seats} seats of {scenario.hold * 1e3:g} ms, {load}"
    return Question(KEPT.name, asks, partial(_steps, scenario), PLOTS)


def _steps(scenario: Scenario, depth: Depth) -> list[Step]:
    rounds, threads = depth.pick(1, 1, 3), threads_for(scenario)
    seconds = rounds * (scenario.seconds + 0.2 + LEAD + threads * LEAD_PER_THREAD)
    return [Step(scenario.name, seconds, partial(_measure, scenario, rounds))]


def _measure(scenario: Scenario, rounds: int) -> Sequence[Row]:
    return rows(scenario, [run(scenario, f"{scenario.seed} {number}") for number in range(rounds)])


def threads_for(scenario: Scenario) -> int:
    """As many as can be needed at once: those that no thread is left for are late, which is seen."""
    if scenario.threads:
        return scenario.threads
    total = sum(tenant.share for tenant in scenario.tenants)
    stay = sum(_stay(scenario, tenant) * tenant.share / total for tenant in scenario.tenants)
    return min(int(scenario.rate * stay) + scenario.seats + 50, MOST_THREADS)


def _stay(scenario: Scenario, tenant: Tenant) -> float:
    """The longest that one of its requests may take, about."""
    waits = scenario.seconds if tenant.ttl is None else min(tenant.ttl, scenario.seconds)
    return waits + 3 * scenario.hold


def run(scenario: Scenario, seed: object) -> list[Asked]:
    """What became of all requests. Asserts that nothing of them is left."""
    tenants, back_end = scenario.tenants, BackEnd(scenario.seats)
    with FlowController(Config(bands=scenario.bands), gate=ConcurrencyLimit(scenario.seats)) as controller:
        ask = by_flowctl(controller)
        if scenario.rate:
            work = works(scenario.hold, scenario.holds, seed)
            arrivals = poisson(tenants, scenario.rate, scenario.seconds, work, seed)
            asked = open_loop(ask, back_end, tenants, arrivals, threads_for(scenario))
        else:
            asked = closed_loop(
                ask,
                back_end,
                tenants,
                threads_by_share(tenants, scenario.threads),
                seconds=scenario.seconds,
                work=lambda number: works(scenario.hold, scenario.holds, f"{seed} {number}"),
            )
        stats = controller.stats()
        assert (stats.in_flight, stats.queued, stats.queued_bytes) == (0, 0, 0), f"something is left: {stats}"
        assert stats.dispatched + stats.rejected + stats.evicted == len(asked), f"somebody was not counted: {stats}"
        controller._check()
    return asked


# --- what is told of it --------------------------------------------------------------------------------------------


def rows(scenario: Scenario, rounds: Sequence[Sequence[Asked]]) -> list[Row]:
    """For each tenant what it asked for and got, in the time that the scenario lasts; and how even that was."""
    late = [lateness(asked) for asked in rounds]
    is_late = bool(scenario.rate) and max(late) > LATE
    made = [
        row
        for place, tenant in enumerate(scenario.tenants)
        for row in _rows_of_tenant(scenario, place, tenant, rounds, late=is_late)
    ]
    for priority in sorted({tenant.priority for tenant in scenario.tenants}, reverse=True):
        samples = [jain(list(found.values())) for found in (shares(scenario, priority, asked) for asked in rounds)]
        if sum(tenant.priority == priority for tenant in scenario.tenants) > 1:
            name = f"priority {priority}: Jain's index of shares"
            made.append(Row(name=name, unit="", samples=tuple(samples), late=is_late))
    if scenario.rate:
        name = "p99 of how late requests were asked for"
        made.append(Row(name=name, unit="ms", samples=tuple(each * 1e3 for each in late), late=is_late))
    return made


def _rows_of_tenant(
    scenario: Scenario, place: int, tenant: Tenant, rounds: Sequence[Sequence[Asked]], *, late: bool
) -> list[Row]:
    seconds = scenario.seconds

    def row(of: str, unit: str, figure: Callable[[Sequence[Asked]], float]) -> Row:
        samples = tuple(figure(asked) for asked in rounds)
        return Row(
            name=f"{tenant.name}: {of}", unit=unit, samples=samples, late=late, at={"tenant": tenant.name, "of": of}
        )

    made = [
        row("offered", "/s", lambda asked: _offered(asked, place) / seconds),
        row("served", "/s", lambda asked: served(asked, place, 0.0, seconds) / seconds),
        row("refused", "/s", lambda asked: _refused(asked, place) / seconds),
    ]
    if all(waits(asked, place) for asked in rounds):
        made.append(row("p50 of the wait", "ms", lambda asked: percentile(waits(asked, place), 0.5)))
        made.append(row("p99 of the wait", "ms", lambda asked: percentile(waits(asked, place), 0.99)))
    if sum(other.priority == tenant.priority for other in scenario.tenants) > 1:
        made.append(
            row("share of what it should get", "x", lambda asked: shares(scenario, tenant.priority, asked)[place])
        )
    return made


def shares(scenario: Scenario, priority: int, asked: Sequence[Asked]) -> dict[int, float]:
    """The service of each tenant of a priority, in seats, of what it should be; 1.0 where it should be nothing.

    In an open loop a tenant may ask for less than its weight would give it: then what it leaves is for the others. In a
    closed loop everybody always wants more.
    """
    mine = [place for place, tenant in enumerate(scenario.tenants) if tenant.priority == priority]
    tenants, seconds = scenario.tenants, scenario.seconds
    service = [served(asked, place, 0.0, seconds) * float(tenants[place].cost) for place in mine]
    demands = [_offered(asked, place) * float(tenants[place].cost) if scenario.rate else sum(service) for place in mine]
    due = fair(sum(service), demands, [tenants[place].weight for place in mine])
    return {place: got / should if should else 1.0 for place, got, should in zip(mine, service, due, strict=True)}


def _offered(asked: Sequence[Asked], tenant: int) -> int:
    return sum(each.tenant == tenant for each in asked)


def _refused(asked: Sequence[Asked], tenant: int) -> int:
    return sum(each.tenant == tenant and bool(each.refused) for each in asked)
