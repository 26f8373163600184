"""Where do threads wait for each other, from how many of them on does it hurt, and what helps?

A controller that counts (`Config.profile`), and a load that meets all of its locks, like a server under tenants that
come and go: most requests are of tenants that stay, every 16th is of one that was never seen; every 64th holds its seat
for a while; in turns there are seats for all, and so few that most threads queue; flows are collected all the time,
and somebody looks at `stats()`. In windows of their own so many flows exist that each new one has another one go.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, cycle
from typing import Final, NamedTuple, final

from benchmarks.crew import Window, on_threads
from benchmarks.harness import Depth, Plot, Question, Row, Step, in_turns, percentile
from flowctl import ConcurrencyLimit, Config, Contention, FlowController, LockUse

SEATS: Final = 8
TENANTS: Final = 200
NEW: Final = 16
HELD: Final = 64
HOLD: Final = 0.001
LOOK: Final = 0.05
"""Seconds between two looks at `stats()`, at each of which the number of seats changes."""

MOST: Final = 300
"""So many flows at most, where they are to be too many."""

SHARDS: Final = Config().shards
"""What is usual: all locks are shown with so many."""

LOCKS: Final = ("turn", "shard write", "shard read", "tables", "idle")
HURTS: Final = 50.0
"""Milliseconds a second: a lock for which a thread waits as long as that hurts."""

LOST: Final = 100.0
"""So many of 1,000 exchanges that are lost to another thread hurt."""

GAIN: Final = 1.1
"""What helps lets so many times the requests through."""


class Setting(NamedTuple):
    """What a window is about: so many shards, and whether there are more tenants than flows may exist."""

    shards: int
    full: bool = False


USUAL: Final = Setting(SHARDS)
FULL: Final = Setting(SHARDS, full=True)


@final
@dataclass(frozen=True, slots=True)
class Sight:
    """What one window has shown."""

    contention: Contention
    requests: int
    seconds: float


@final
class Load:
    """One controller under one window of load."""

    def __init__(self, threads: int, setting: Setting) -> None:
        # a flow goes 0.1 s after its last request, or when another needs its room
        most = MOST if setting.full else None
        config = Config(profile=True, shards=setting.shards, flow_gc_timeout=0.1, max_flows=most)
        self._limit = ConcurrencyLimit(SEATS)
        self.controller = FlowController(config, gate=self._limit)
        self.threads = threads
        self._window = Window()
        # few tenants ask often, and many now and then
        numbers, often = random.Random(7), list(accumulate(1 / rank for rank in range(1, TENANTS + 1)))
        names = [f"tenant-{number}" for number in range(TENANTS)]
        self._names = [numbers.choices(names, cum_weights=often, k=500) for _ in range(threads)]

    def run(self, seconds: float) -> Sight:
        """Let all threads ask for so long, and tell what was counted meanwhile."""
        with self.controller as controller:
            done = on_threads(self.threads, self._ask, lambda: self._look(seconds))
            counted = controller.contention()
            settled = controller.stats()
        assert counted is not None
        requests = sum(done.results)
        assert (settled.dispatched, settled.in_flight, settled.queued) == (requests, 0, 0), "a request is lost"
        return Sight(counted, requests, done.wall)

    def _ask(self, number: int) -> int:
        controller, window, names = self.controller, self._window, self._names[number]
        asked = 0
        while not window.over:
            asked += 1
            new = asked % NEW == 0
            ticket = controller.admit(f"guest-{number}-{asked}" if new else names[asked % len(names)])
            if asked % HELD == 1:
                time.sleep(HOLD)
            ticket.release()
        return asked

    def _look(self, seconds: float) -> None:
        """Look every now and then, and change the number of seats, until the window is over."""
        until, seats = time.perf_counter() + seconds, cycle((2 * self.threads, SEATS))
        try:
            while time.perf_counter() < until:
                time.sleep(min(LOOK, seconds / 2))
                self.controller.stats()
                self._limit.set(next(seats))
        finally:
            self._window.over = True


# --- figures -------------------------------------------------------------------------------------------------------


def together(uses: Sequence[LockUse]) -> LockUse:
    """Several locks as if they were one."""
    return LockUse(
        acquisitions=sum(use.acquisitions for use in uses),
        waits=sum(use.waits for use in uses),
        waited=sum(use.waited for use in uses),
        longest=max(use.longest for use in uses),
        handoffs=sum(use.handoffs for use in uses),
        histogram=tuple(sum(counts) for counts in zip(*(use.histogram for use in uses), strict=True)),
    )


def locks_of(counted: Contention) -> dict[str, LockUse]:
    """Each kind of lock by its name."""
    return {
        "turn": counted.turn,
        "shard write": together([shard.write for shard in counted.shards]),
        "shard read": together([shard.read for shard in counted.shards]),
        "tables": counted.tables,
        "idle": counted.idle,
    }


def _waited(lock: str, threads: int, sight: Sight) -> float:
    """Milliseconds that a thread waits for it in a second."""
    return 1e3 * locks_of(sight.contention)[lock].waited / sight.seconds / threads


def _figures(lock: str, sights: Sequence[Sight]) -> dict[str, float]:
    """All else that is known of a lock: medians of the windows."""

    def middle(figure: Callable[[LockUse, float], float]) -> float:
        return percentile([figure(locks_of(sight.contention)[lock], sight.seconds) for sight in sights], 0.5)

    return {
        "operations/s": middle(lambda use, seconds: use.acquisitions / seconds),
        "waits/1,000": middle(lambda use, _: 1e3 * use.waits / max(use.acquisitions, 1)),
        "p99 us": middle(lambda use, _: 1e6 * use.p99),
        "longest ms": middle(lambda use, _: 1e3 * use.longest),
        "hand-offs/1,000": middle(lambda use, _: 1e3 * use.handoffs / max(use.acquisitions, 1)),
    }


def _retries(sight: Sight) -> float:
    use = sight.contention.bands
    return 1e3 * use.lost / max(use.attempts, 1)


def rows_of(threads: int, sights: Mapping[Setting, Sequence[Sight]]) -> list[Row]:
    """The rows of so many threads, from the windows of each setting."""
    rows = []
    for setting, seen in sights.items():
        where = f"{threads:,} thread{'s' * (threads > 1)}{_else(setting)}"
        place: dict[str, str | float] = {"threads": threads, "shards": setting.shards}
        rate = tuple(sight.requests / sight.seconds for sight in seen)
        kind = "full rate" if setting.full else "rate"
        rows.append(Row(name=f"requests, {where}", unit="/s", samples=rate, at={"figure": kind, **place}))
        for lock in _shown(setting):
            kind = "full" if setting.full else "waited"
            at = {"figure": kind, "lock": lock, **place, **_figures(lock, seen)}
            samples = tuple(_waited(lock, threads, sight) for sight in seen)
            rows.append(Row(name=f"wait for {lock}, {where}", unit="ms/s", samples=samples, at=at))
        if setting == USUAL:
            rows += _finer(where, place, seen)
    return rows


def _else(setting: Setting) -> str:
    """What of a setting is not as usual."""
    if setting.full:
        return ", at max_flows"
    return "" if setting == USUAL else f", {setting.shards} shard{'s' * (setting.shards > 1)}"


def _shown(setting: Setting) -> Sequence[str]:
    """The locks that a setting is about."""
    if setting.full:
        return ("idle",)
    return LOCKS if setting == USUAL else ("shard write",)


def _finer(where: str, place: Mapping[str, str | float], sights: Sequence[Sight]) -> list[Row]:
    """How long the slowest wait, and how many exchanges are in vain."""
    rows = []
    for lock in ("turn", "shard write"):
        samples = tuple(1e6 * locks_of(sight.contention)[lock].p99 for sight in sights)
        at = {"figure": "p99", "lock": lock, **place}
        rows.append(Row(name=f"p99 wait for {lock}, {where}", unit="us", samples=samples, at=at))
    samples = tuple(_retries(sight) for sight in sights)
    name = f"exchanges lost, words of bands, {where}"
    rows.append(Row(name=name, unit="/1,000", samples=samples, at={"figure": "retries", **place}))
    return rows


def _measure(threads: int, settings: Sequence[Setting], rounds: int, seconds: float) -> list[Row]:
    windows = [partial(_window, threads, setting, seconds) for setting in settings]
    return rows_of(threads, dict(zip(settings, in_turns(rounds, windows), strict=True)))


def _window(threads: int, setting: Setting, seconds: float) -> Sight:
    return Load(threads, setting).run(seconds)


def steps(depth: Depth) -> list[Step]:
    crowds = depth.threads_of(*depth.pick((1, 8, 64), (1, 2, 8, 64, 256), (1, 2, 8, 64, 256, 1_000)))
    compared = depth.threads_of(*depth.pick((64,), (64,), (8, 64, 256, 1_000)))
    shards = depth.pick((1, SHARDS), (1, 2, SHARDS, 8), (1, 2, SHARDS, 8))
    settings = [*(Setting(number) for number in shards), FULL]
    rounds, seconds = depth.pick(2, 3, 4), depth.pick(0.25, 0.6, 1.8)
    found = []
    for threads in crowds:
        mine = settings if threads in compared else [USUAL]
        # a window ends when each thread has seen that it is over
        took = rounds * len(mine) * (seconds + 0.3 + threads * 0.001)
        name = f"{threads:,} thread{'s' * (threads > 1)}"
        found.append(Step(name, took, partial(_measure, threads, mine, rounds, seconds)))
    return found


# --- in words ------------------------------------------------------------------------------------------------------

THE: Final = {
    "turn": "the turn",
    "shard write": "the write side of the shards",
    "shard read": "the read side of the shards",
    "tables": "the mutexes of the tables",
    "idle": "the order of the idle",
}

REMEDIES: Final = {
    "turn": "each decision takes the turn, whatever the number of shards. Let fewer threads come to it (a queue before"
    " the server's threads), or have more processes, each with a part of the limit.",
    "shard write": "it is taken for each flow that comes or goes. Raise flow_gc_timeout, so that fewer do; and shards,"
    " if they help.",
    "shard read": "stats() and the collector read each shard. Look less often, and raise gc_interval.",
    "tables": "they are taken for each flow that goes. Raise flow_gc_timeout, so that fewer do.",
    "idle": "each flow that goes is looked at there. Raise gc_interval, and max_flows.",
}


def concludes(rows: Sequence[Row]) -> list[str]:
    """Which lock is the first to hurt, from how many threads on, whether more shards help, and what to change."""
    waits = [row for row in rows if row.at.get("figure") == "waited" and row.at["shards"] == SHARDS]
    if not waits:
        return []
    hurting = sorted((row for row in waits if row.value >= HURTS), key=lambda row: (_threads(row), -row.value))
    if not hurting:
        # whether shards help is of no interest then
        worst = max(waits, key=lambda row: row.value)
        if not worst.value:
            return ["No lock hurts: no thread had to wait for one.", *_of_full(rows), *_of_words(rows)]
        said = (
            f"No lock hurts: of a thread's time at most {_share(worst)} went into waiting for one, {_the(worst)}, with "
            f"{_many(worst)}."
        )
        return [said, *_of_full(rows), *_of_words(rows)]
    first = hurting[0]
    return [
        _first(first, waits),
        *_next(hurting, waits),
        f"What to change: {REMEDIES[str(first.at['lock'])]}",
        *_of_shards(rows),
        *_of_full(rows),
        *_of_words(rows),
    ]


def _first(first: Row, waits: Sequence[Row]) -> str:
    said = (
        f"{_the(first).capitalize()} is the first to hurt, {_since(first, waits)}: a thread spends {_share(first)} of "
        f"its time waiting for it"
    )
    worst = max((row for row in waits if row.at["lock"] == first.at["lock"]), key=lambda row: row.value)
    if worst is not first:
        said += f", and {_share(worst)} with {_many(worst)}"
    p99, longest = float(worst.at.get("p99 us", 0.0)), float(worst.at.get("longest ms", 0.0))
    return f"{said} (its wait there: p99 {p99:,.0f} us, the longest {longest:,.0f} ms)."


def _next(hurting: Sequence[Row], waits: Sequence[Row]) -> list[str]:
    """The others that hurt, once each."""
    others: dict[str, Row] = {}
    for row in hurting:
        if row.at["lock"] != hurting[0].at["lock"]:
            others.setdefault(str(row.at["lock"]), row)
    said = [f"{_the(row)} {_since(row, waits)} ({_share(row)})" for row in others.values()]
    return [f"After it: {', '.join(said)}."] if said else []


def _since(first: Row, waits: Sequence[Row]) -> str:
    """From how many threads on; or with how many, if more of them do not hurt: a convoy comes and goes."""
    more = [row for row in waits if row.at["lock"] == first.at["lock"] and _threads(row) > _threads(first)]
    lasts = all(row.value >= HURTS for row in more)
    return f"from {_many(first)} on" if lasts else f"with {_many(first)} (and not with each larger number)"


def _of_shards(rows: Sequence[Row]) -> list[str]:
    """Whether more of them help, with the most threads that different numbers of them were measured with."""
    rates = {(_threads(row), _shards(row)): row for row in rows if row.at.get("figure") == "rate"}
    waits = {
        (_threads(row), _shards(row)): row.value
        for row in rows
        if row.at.get("figure") == "waited" and row.at["lock"] == "shard write"
    }
    grids = {threads: sorted(shards for many, shards in rates if many == threads) for threads, _ in rates}
    compared = [threads for threads, shards in grids.items() if len(shards) > 1]
    if not compared:
        return []
    threads = max(compared)
    few, many = (threads, grids[threads][0]), (threads, grids[threads][-1])
    # each round for itself: what only one round shows is noise
    gains = [more / less for more, less in zip(rates[many].samples, rates[few].samples, strict=True)]
    verdict = "make no difference that shows"
    if min(gains) >= GAIN:
        verdict = "help"
    elif max(gains) <= 1 / GAIN:
        verdict = "do harm"
    said = (
        f"More shards {verdict}: with {many[1]:g} instead of {few[1]:g} and {threads:,g} threads, "
        f"{rates[many].value / rates[few].value:.2f}x the requests go through, and a thread waits {waits[many]:.3g} ms "
        f"a second for their write side instead of {waits[few]:.3g}."
    )
    return [said]


def _of_full(rows: Sequence[Row]) -> list[str]:
    """Whether the order of the idle hurts where each new flow has another one go."""
    hurting = [row for row in rows if row.at.get("figure") == "full" and row.value >= HURTS]
    if not hurting:
        return []
    worst = max(hurting, key=lambda row: row.value)
    said = (
        f"Where max_flows is reached, {_share(worst)} of a thread's time goes into waiting for {_the(worst)} with "
        f"{_many(worst)}: raise max_flows above the number of tenants that come within flow_gc_timeout."
    )
    return [said]


def _of_words(rows: Sequence[Row]) -> list[str]:
    lost = [row for row in rows if row.at.get("figure") == "retries"]
    if not lost:
        return []
    worst = max(lost, key=lambda row: row.value)
    if worst.value < LOST:
        return [f"Retries do not hurt: at most {worst.value:.3g} of 1,000 exchanges of a word are lost."]
    said = (
        f"Of 1,000 exchanges of the words of bands, {worst.value:.0f} are lost with {_many(worst)}: "
        f"another backend may do better, see the questions lease and backends."
    )
    return [said]


def _threads(row: Row) -> float:
    return float(row.at["threads"])


def _shards(row: Row) -> float:
    return float(row.at["shards"])


def _many(row: Row) -> str:
    return f"{_threads(row):,g} thread{'s' * (_threads(row) > 1)}"


def _share(row: Row) -> str:
    return f"{row.value / 1e3:.1%}"


def _the(row: Row) -> str:
    return THE[str(row.at["lock"])]


QUESTION: Final = Question(
    "contention",
    "where threads wait for each other, and from how many on it hurts",
    steps,
    plots=(
        Plot(
            title="Time a thread waits for each lock, ms a second",
            x="threads",
            by="lock",
            where={"figure": "waited", "shards": SHARDS},
            log_x=True,
        ),
        Plot(
            title="p99 of the wait for a lock, us",
            x="threads",
            by="lock",
            where={"figure": "p99"},
            log_x=True,
            log_y=True,
        ),
        Plot(title="Requests a second, by shards", x="threads", by="shards", where={"figure": "rate"}, log_x=True),
    ),
    concludes=concludes,
)
