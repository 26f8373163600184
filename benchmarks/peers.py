"""What would one use instead, and what does it cost? The same work for flowctl and for its peers, in turns.

Free seats; one seat for many threads; a few seats that are held; and a thousand threads. All by the wall clock: with
some of the peers another thread does the work, which no clock of the caller's own would show.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, final

from benchmarks.crew import BATCH, Window, on_threads, served_in_window
from benchmarks.harness import Depth, Plot, Question, Row, Step, Target, in_turns, percentile
from benchmarks.rivals import DISPATCHER, OURS, PEERS, SEMAPHORE, Peer
from flowctl.clock import has_gil

FREE_SEATS: Final = 64
FREE_THREADS: Final = (1, 8)
THREADS: Final = 64
CROWD: Final = (1_000, 200)
CROWD_SEATS: Final = 100
HOLD: Final = 0.001
WARM: Final = (0.03, 0.0002)
"""Seconds that threads compete before anything counts, and more for each of them: they do not all begin at once."""

FEW: Final = [OURS, SEMAPHORE, DISPATCHER]
"""Who is asked where there is no time for all."""

STARVES: Final = 0.5
"""Who serves one thread less than this share of what another gets is said to starve it."""

FREE: Final = Target("ratio", "at most", 0.1)
WAIT: Final = Target("value", "at most", 1.5)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Competition:
    """So many threads that ask for one of so many seats, have it for `hold` seconds, and ask again."""

    threads: int
    seats: int
    hold: float

    @property
    def name(self) -> str:
        seats = f"{self.seats} seat{'s' * (self.seats > 1)}"
        return f"{self.threads:,} threads, a flow each, {seats}{' of 1 ms' if self.hold else ', no hold'}"


ONE_SEAT: Final = Competition(threads=THREADS, seats=1, hold=0.0)
EIGHT_SEATS: Final = Competition(threads=THREADS, seats=8, hold=HOLD)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of the threads in one window."""

    rate: float  # admissions a second
    p99: float  # ms, of the waits
    least_to_most: float  # what the least-served thread got, of what the most-served one got
    rounds: float  # the p99 of the waits, as a multiple of the time in which as many as there are threads were served


def competed(peer: Peer, competition: Competition, seconds: float) -> Seen:
    """Have the threads compete for so many seconds. Who was still waiting at the end has waited until he was served."""
    window = Window()
    span: list[float] = []

    def work() -> float:
        granted = time.perf_counter()
        if competition.hold:
            time.sleep(competition.hold)
        return granted

    def job(number: int) -> tuple[Sequence[float], Sequence[float]]:
        asked, granted = array("d"), array("d")
        while not window.over:
            asked.append(time.perf_counter())
            granted.append(peer.serve(number, work))
        return asked, granted

    def meanwhile() -> None:
        try:
            time.sleep(WARM[0] + WARM[1] * competition.threads)
            span.append(time.perf_counter())
        finally:
            window.last(seconds)
        span.append(time.perf_counter())

    threads = on_threads(competition.threads, job, meanwhile).results
    begin, end = span
    served = [sum(begin <= moment < end for moment in granted) for _, granted in threads]
    waits = [
        had - wanted
        for asked, granted in threads
        for wanted, had in zip(asked, granted, strict=True)
        if had >= begin and wanted < end
    ]
    rate, p99 = sum(served) / (end - begin), percentile(waits, 0.99)
    return Seen(
        rate=rate,
        p99=p99 * 1e3,
        least_to_most=min(served) / max(served) if max(served) else 0.0,
        rounds=p99 * rate / competition.threads,
    )


@contextmanager
def opened(seats: int, callers: int, names: Sequence[str]) -> Iterator[dict[str, Peer]]:
    """These peers, whose threads end with the block."""
    with ExitStack() as closing:
        peers: dict[str, Peer] = {}
        for name in names:
            peers[name] = PEERS[name](seats, callers)
            closing.callback(peers[name].close)
        yield peers


# --- the rows ------------------------------------------------------------------------------------------------------


def beside(
    name: str,
    unit: str,
    found: Mapping[str, Sequence[float]],
    *,
    at: Mapping[str, str | float],
    target: Target | None = None,
    divisible: bool = True,
) -> list[Row]:
    """A row a peer: ours beside the dispatcher thread's, the others' beside ours."""
    return [
        Row(
            name=f"{name}: {peer}",
            unit=unit,
            samples=tuple(samples),
            rival=DISPATCHER if peer == OURS else OURS,
            rival_samples=tuple(found[DISPATCHER if peer == OURS else OURS]),
            divisible=divisible and 0 not in found[DISPATCHER if peer == OURS else OURS],
            target=target if peer == OURS else None,
            at={**at, "peer": peer},
        )
        for peer, samples in found.items()
    ]


def _nanoseconds(peer: Peer, threads: int, seconds: float) -> float:
    done = served_in_window(threads, seconds, lambda number: peer.loop(number, BATCH))
    return done.wall * 1e9 / (sum(done.results) * BATCH)


def free(threads: int, rounds: int, seconds: float) -> list[Row]:
    """Admit and release where nobody has to wait."""
    with opened(FREE_SEATS, threads, list(PEERS)) as peers:
        found = in_turns(rounds, [partial(_nanoseconds, peer, threads, seconds) for peer in peers.values()])
    name = f"free, {threads} thread{'s' * (threads > 1)}"
    at: dict[str, str | float] = {"work": "free", "threads": threads}
    return beside(name, "ns", dict(zip(peers, found, strict=True)), at=at, target=FREE)


def saturated(
    competition: Competition,
    names: Sequence[str],
    rounds: int,
    seconds: float,
    *,
    rate: Target | None = None,
    share: Target | None = None,
) -> list[Row]:
    """More threads than seats: how many get through, how long do they wait, does everyone get a share?"""
    with opened(competition.seats, competition.threads, names) as peers:
        windows = in_turns(rounds, [partial(competed, peer, competition, seconds) for peer in peers.values()])
    seen = dict(zip(peers, windows, strict=True))
    name = competition.name
    at: dict[str, str | float] = {"threads": competition.threads, "seats": competition.seats}

    def of(figure: Callable[[Seen], float]) -> dict[str, list[float]]:
        return {peer: [figure(each) for each in mine] for peer, mine in seen.items()}

    # a semaphore may leave a thread out altogether, and have others not wait at all
    return [
        *beside(name, "admissions/s", of(lambda each: each.rate), at={**at, "figure": "rate"}, target=rate),
        *beside(
            f"{name}, least/most served",
            "least/most",
            of(lambda each: each.least_to_most),
            at={**at, "figure": "share"},
            target=share,
            divisible=False,
        ),
        *beside(f"{name}, p99 wait", "ms", of(lambda each: each.p99), at={**at, "figure": "p99"}, divisible=False),
        Row(
            name=f"{name}, p99 wait, in rounds of all threads: {OURS}",
            unit="rounds",
            samples=tuple(of(lambda each: each.rounds)[OURS]),
            target=WAIT if competition is ONE_SEAT else None,
        ),
    ]


def crowded(sizes: tuple[int, int], names: Sequence[str], rounds: int, seconds: float, target: Target) -> list[Row]:
    """What is left of the rate when there are more threads."""
    more, fewer = (Competition(threads=size, seats=CROWD_SEATS, hold=HOLD) for size in sizes)
    with opened(CROWD_SEATS, max(sizes), names) as peers:
        found = in_turns(
            rounds,
            [partial(competed, peer, competition, seconds) for peer in peers.values() for competition in (more, fewer)],
        )
    rates = [tuple(seen.rate for seen in mine) for mine in found]
    return [
        Row(
            name=f"{more.name}: {peer}",
            unit="admissions/s",
            samples=rates[2 * number],
            rival=f"the same with {fewer.threads:,}",
            rival_samples=rates[2 * number + 1],
            divisible=0 not in rates[2 * number + 1],
            target=target if peer == OURS else None,
            at={"peer": peer, "threads": more.threads, "seats": CROWD_SEATS, "figure": "crowd"},
        )
        for number, peer in enumerate(peers)
    ]


# --- the question --------------------------------------------------------------------------------------------------


def steps(depth: Depth) -> list[Step]:
    found = []
    for threads in FREE_THREADS:
        rounds = depth.pick(3, 7, 15) if threads == 1 else depth.pick(1, 3, 9)
        seconds = depth.pick(0.03, 0.05, 0.15) if threads == 1 else depth.pick(0.1, 0.15, 0.3)
        step = partial(free, threads, rounds, seconds)
        found.append(Step(f"free, {threads} thread{'s' * (threads > 1)}", rounds * len(PEERS) * (seconds + 0.01), step))
    rate = Target("ratio", "at least", 1.5 if has_gil() else 2.5)
    share = Target("value", "at least", 0.95 if has_gil() else 0.90)
    left = Target("ratio", "at least", 0.75 if has_gil() else 0.6)
    rounds, seconds, names = depth.pick(1, 3, 7), depth.pick(0.1, 0.25, 1.0), list(PEERS)
    step = partial(saturated, ONE_SEAT, names, rounds, seconds, rate=rate)
    found.append(Step(ONE_SEAT.name, rounds * len(names) * (seconds + 0.1), step))
    # a thread is served every 9 ms at most: in a window that is too short, one time more or less is no small share
    rounds, seconds, names = depth.pick(1, 2, 7), depth.pick(0.35, 0.5, 1.0), depth.pick(FEW, names, names)
    step = partial(saturated, EIGHT_SEATS, names, rounds, seconds, share=share)
    found.append(Step(EIGHT_SEATS.name, rounds * len(names) * (seconds + 0.1), step))
    names = depth.pick([OURS], names, names)
    rounds, seconds = depth.pick(1, 1, 3), depth.pick(0.25, 0.3, 0.8)
    step = partial(crowded, CROWD, names, rounds, seconds, left)
    found.append(Step(f"{CROWD[0]:,} threads", rounds * len(names) * 2 * (seconds + 0.4), step))
    return found


def concludes(rows: Sequence[Row]) -> list[str]:
    """Who leaves threads out, and how little they got."""
    return [
        f"{row.at['peer']} starves: of {row.at['threads']:,} threads for {row.at['seats']} "
        f"seat{'s' * (row.at['seats'] != 1)} the least-served got {row.value:.2g} of what the most-served got."
        for row in rows
        if row.at.get("figure") == "share" and row.value < STARVES
    ]


PLOTS: Final = (
    Plot(title="admit and release, free (ns)", x="peer", by="threads", where={"work": "free"}, log_y=True),
    Plot(title="admissions a second, 64 threads", x="peer", by="seats", where={"figure": "rate"}, log_y=True),
    Plot(title="least-served of most-served, 64 threads", x="peer", by="seats", where={"figure": "share"}),
    Plot(title="p99 wait (ms), 64 threads", x="peer", by="seats", where={"figure": "p99"}, log_y=True),
    Plot(title="admissions a second, 1,000 threads", x="peer", where={"figure": "crowd"}),
)

QUESTION: Final = Question(
    "peers", "what one would use instead, and how it does at the same work", steps, PLOTS, concludes
)
