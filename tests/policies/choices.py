"""``python -m tests.policies.choices``: what each choice of a policy changes, written to docs/policies.md.

Every figure comes from the real controller. Time is virtual, so that they are the same on every machine.
"""

# ruff: noqa: T201 - it talks to a terminal

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Final, NamedTuple

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    EarliestDeadline,
    Fcfs,
    FlowController,
    FlowKey,
    GlobalStrict,
    LongestFlow,
    LowerPriority,
    Never,
    Outcome,
    Request,
    RoundRobin,
    Ticket,
    WeightedFair,
)
from flowctl.collector import TICK
from flowctl.policies.displacement import Displacement
from flowctl.policies.fairness import Fairness
from flowctl.policies.ordering import Ordering
from flowctl.testing import FakeClock

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "policies.md"
SEATS: Final = 8
SERVICE: Final = 0.05


class Client(NamedTuple):
    """Somebody who asks so often a second, for so long; each request takes its seats for 50 ms."""

    name: str
    rate: float
    ends: float
    flow: str = ""  # its own, if it does not say
    priority: int = 0
    cost: int = 1
    ttl: float | None = None


class Served(NamedTuple):
    """What one client got."""

    tickets: Sequence[Ticket]

    def waits(self) -> Sequence[float]:
        return [ticket.waited for ticket in self.tickets if ticket.outcome is Outcome.DISPATCHED]

    def median(self) -> str:
        return f"{quantiles(self.waits(), n=20)[9] * 1000:,.0f} ms"

    def p95(self) -> str:
        return f"{quantiles(self.waits(), n=20)[18] * 1000:,.0f} ms"

    def share(self, outcome: Outcome) -> str:
        return f"{100 * sum(ticket.outcome is outcome for ticket in self.tickets) / len(self.tickets):.0f}%"

    def seats_until(self, moment: float) -> int:
        """That were granted to it."""
        granted = [ticket for ticket in self.tickets if ticket.outcome is Outcome.DISPATCHED]
        return sum(ticket.cost for ticket in granted if ticket.wait is None or ticket.wait.settled_at < moment)


def simulate(config: Config, *clients: Client) -> list[Served]:
    """Serve them all, one after the other what happens."""
    clock, rng, order = FakeClock(), random.Random(7), count()
    controller = FlowController(config, gate=ConcurrencyLimit(SEATS), clock=clock, background=False)
    events: list[tuple[float, int, Callable[[], object]]] = []
    settled: list[list[Ticket]] = [[] for _ in clients]

    def at(when: float, act: Callable[[], object]) -> None:
        heapq.heappush(events, (when, next(order), act))

    def ask(client: Client, tickets: list[Ticket]) -> None:
        def on_settled(ticket: Ticket) -> None:
            tickets.append(ticket)
            if ticket.outcome is Outcome.DISPATCHED:
                at(clock.now() + SERVICE, ticket.release)

        key = FlowKey(client.flow or client.name, client.priority)
        controller.submit(Request(key, cost=client.cost, ttl=client.ttl), on_settled)

    for client, tickets in zip(clients, settled, strict=True):
        moment = rng.expovariate(client.rate)
        while moment < client.ends:
            at(moment, partial(ask, client, tickets))
            moment += rng.expovariate(client.rate)
    for look in range(1_200):
        at(look * TICK, controller.collect)
    while events:
        when, _, act = heapq.heappop(events)
        clock.advance(max(when - clock.now(), 0.0))
        act()
    controller.close()
    return [Served(tickets) for tickets in settled]


def band(
    *,
    fairness: Fairness | None = None,
    ordering: Ordering | None = None,
    displacement: Displacement | None = None,
    weights: Mapping[str, float] | None = None,
    max_requests: int | None = None,
) -> Config:
    """Bands with these choices, and room for all unless it is said."""
    made = BandConfig(
        fairness=fairness or RoundRobin(),
        ordering=ordering or Fcfs(),
        displacement=displacement or LongestFlow(),
        weights=weights or {},
        max_requests=max_requests,
    )
    return Config(default_band=made)


Rows = list[Sequence[str]]
"""A table, its head first."""


# --- one table for each choice ---------------------------------------------------------------------------------------

NOISY: Final = Client("noisy", rate=300, ends=5)
POLITE: Final = Client("polite", rate=10, ends=15)


def fairness() -> Rows:
    """A noisy tenant asks for twice the capacity for 5 s; a polite one asks 10 times a second."""
    rows: Rows = [("fairness", "polite: median wait", "p95", "noisy: median wait", "p95")]
    for policy in (GlobalStrict(), RoundRobin()):
        noisy, polite = simulate(band(fairness=policy), NOISY, POLITE)
        rows.append((f"`{policy!r}`", polite.median(), polite.p95(), noisy.median(), noisy.p95()))
    return rows


def weights() -> Rows:
    """Two tenants that always want more than there is; the requests of one take 4 seats each."""
    rows: Rows = [("fairness", "weights", "large: share of the seats", "small")]
    large, small = Client("large", rate=100, cost=4, ends=5), Client("small", rate=300, ends=5)
    for policy, weighing in ((RoundRobin(), {}), (WeightedFair(), {}), (WeightedFair(), {"small": 3.0})):
        seats = [served.seats_until(5) for served in simulate(band(fairness=policy, weights=weighing), large, small)]
        rows.append((f"`{policy!r}`", f"`{weighing}`", *(f"{100 * each / sum(seats):.0f}%" for each in seats)))
    return rows


def ordering() -> Rows:
    """Half of one flow's requests may wait for 1 s, the others for 8 s; for 10 s they want 1.3 times what there is."""
    rows: Rows = [("ordering", "ttl 1 s: served", "median wait", "ttl 8 s: served", "median wait")]
    clients = [Client(f"{ttl}", rate=104, ends=10, flow="a", ttl=ttl) for ttl in (1.0, 8.0)]
    for policy in (Fcfs(), EarliestDeadline()):
        short, long = simulate(band(ordering=policy), *clients)
        served = Outcome.DISPATCHED
        rows.append((f"`{policy!r}`", short.share(served), short.median(), long.share(served), long.median()))
    return rows


def displacement() -> Rows:
    """The noisy tenant fills a queue of 40."""
    rows: Rows = [("displacement", "polite: refused", "p95 wait", "noisy: refused", "displaced")]
    for policy in (Never(), LongestFlow()):
        noisy, polite = simulate(band(max_requests=40, displacement=policy), NOISY, POLITE._replace(ends=5))
        rows.append(_refusals(f"`{policy!r}`", polite, noisy))
    return rows


def priority() -> Rows:
    """Low priority fills a queue of 40 that all share."""
    rows: Rows = [("displacement", "high: refused", "p95 wait", "low: refused", "displaced")]
    for policy in (Never(), LowerPriority()):
        config = Config(max_requests=40, displacement=policy)
        low, high = simulate(config, NOISY, POLITE._replace(priority=10, ends=5))
        rows.append(_refusals(f"`{policy!r}`", high, low))
    return rows


def _refusals(name: str, polite: Served, noisy: Served) -> Sequence[str]:
    full, displaced = Outcome.REJECTED_CAPACITY, Outcome.EVICTED_DISPLACED
    return name, polite.share(full), polite.p95(), noisy.share(full), noisy.share(displaced)


def doomed() -> Rows:
    """The noisy tenant alone, with a ttl of 1 s."""
    rows: Rows = [("`refuse_doomed`", "served", "refused at once", "expired, after 1 s in the queue")]
    outcomes = Outcome.DISPATCHED, Outcome.REJECTED_CAPACITY, Outcome.EVICTED_TTL
    for refuse in (False, True):
        config = Config(default_band=BandConfig(max_requests=None), refuse_doomed=refuse)
        (noisy,) = simulate(config, NOISY._replace(ttl=1.0))
        rows.append((f"`{refuse}`", *map(noisy.share, outcomes)))
    return rows


TABLES: Final[Sequence[Callable[[], Rows]]] = (fairness, weights, ordering, displacement, priority, doomed)


def markdown(rows: Rows) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def written(document: str, name: str, table: str) -> str:
    """The document with this table in its place."""
    marked = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    assert marked.search(document), f"no place for table {name!r}"
    return marked.sub(lambda found: f"{found[1]}{table}\n{found[2]}", document)


def write(path: Path, tables: Iterable[Callable[[], Rows]]) -> None:
    """Make these tables anew, show them, and write them into the document."""
    document = path.read_text("utf-8")
    for make in tables:
        table = markdown(make())
        print(f"{make.__name__}: {make.__doc__}\n{table}\n")
        document = written(document, make.__name__, table)
    path.write_text(document, "utf-8")


if __name__ == "__main__":
    write(DOCUMENT, TABLES)
