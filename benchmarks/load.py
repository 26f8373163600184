"""Load on a back end, by an open or by a closed loop, the same for flowctl and for what stands beside it.

In a closed loop a thread asks again once it was served: who is slow to answer is asked less, and the waits that his
slowness would have caused are never seen. In an open loop requests come when they come: the moments are worked out
before, and a latency counts from the *intended* one, whatever kept the request from being asked for then.

Each request is a thread that waits, as in a threaded server, so that being woken is part of what it takes. Only a
thread can ask a semaphore, and `submit`, which needs none, would leave the waking out for one side alone. A pool of
threads is enough: each takes the next arrival and sleeps until its moment by itself, so that no pacer stands between
them, which would be late for many once it is late for one. Where all threads are busy, or the interpreter wakes one too
late, the arrival is late; how late is kept (`tally.lateness`), since then the load was not what it was meant to be.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, final

from benchmarks.crew import Window, on_threads
from benchmarks.tally import Asked
from flowctl import FlowControlError, FlowController

MOST_THREADS: Final = 1_000

LEAD: Final = 0.05
LEAD_PER_THREAD: Final = 0.0002
"""Seconds for the threads to stand ready before the first arrival may come."""

Holds = Literal["constant", "exponential"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who asks. `share` is of the arrivals, or of the threads, against the shares of the others."""

    name: str
    share: float = 1.0
    weight: float = 1.0
    priority: int = 0
    ttl: float | None = None
    cost: int = 1


class Arrival(NamedTuple):
    """A request that is to come: seconds after the begin, whose, and the seconds of work that it is."""

    at: float
    tenant: int
    work: float


Leave = Callable[[], object]
Ask = Callable[[Tenant], Leave]
"""Waits for a seat, and returns what gives it back; raises `FlowControlError` or `TimeoutError` if there is none."""


# --- what lets requests through ------------------------------------------------------------------------------------


def by_flowctl(controller: FlowController) -> Ask:
    """Each tenant a flow."""

    def ask(tenant: Tenant) -> Leave:
        return controller.admit(tenant.name, priority=tenant.priority, cost=tenant.cost, ttl=tenant.ttl).release

    return ask


def by_semaphore(seats: int) -> Ask:
    """A plain `BoundedSemaphore`, which knows neither tenants nor costs."""
    semaphore = threading.BoundedSemaphore(seats)

    def ask(tenant: Tenant) -> Leave:
        if not semaphore.acquire(timeout=tenant.ttl):
            raise TimeoutError
        return semaphore.release

    return ask


def unlimited(tenant: Tenant) -> Leave:
    """Everybody goes at once."""
    return _nothing


def _nothing() -> None:
    pass


@final
class BackEnd:
    """Works on up to `seats` requests at full speed; more of them share that speed. None of it is lost: a real back
    end that is overrun does worse.
    """

    def __init__(self, seats: int) -> None:
        # fixed after construction
        self._seats = seats
        self._lock = threading.Lock()
        # guarded by _lock
        self._inside = 0
        self._done = 0.0  # seconds of work, of a request that was there all the time
        self._since = time.perf_counter()

    def serve(self, work: float, cost: int = 1) -> None:
        """Block until so many seconds of work are done."""
        with self._lock:
            self._advance_locked()
            self._inside += cost
            goal = self._done + work
            left = work * self._slowness_locked()
        try:
            while left > 0:
                time.sleep(left)
                left = self._left(goal)
        finally:
            with self._lock:
                self._advance_locked()
                self._inside -= cost

    def _left(self, goal: float) -> float:
        """Seconds until then, if nobody comes or goes."""
        with self._lock:
            self._advance_locked()
            return (goal - self._done) * self._slowness_locked()

    def _advance_locked(self) -> None:
        now = time.perf_counter()
        self._done += (now - self._since) / self._slowness_locked()
        self._since = now

    def _slowness_locked(self) -> float:
        return max(1.0, self._inside / self._seats)


# --- the two loops -------------------------------------------------------------------------------------------------


def works(hold: float, holds: Holds, seed: object) -> Iterator[float]:
    """Seconds of work, one after the other, without end."""
    numbers = random.Random(f"work {seed}")
    while True:
        yield hold if holds == "constant" else numbers.expovariate(1 / hold)


def poisson(
    tenants: Sequence[Tenant], rate: float, seconds: float, work: Iterator[float], seed: object
) -> list[Arrival]:
    """So many arrivals a second on average, each independent of the others, divided among tenants by their shares."""
    numbers = random.Random(f"arrivals {seed}")
    shares, places = [tenant.share for tenant in tenants], range(len(tenants))
    found: list[Arrival] = []
    at = numbers.expovariate(rate)
    while at < seconds:
        found.append(Arrival(at, numbers.choices(places, shares)[0], next(work)))
        at += numbers.expovariate(rate)
    return found


def open_loop(
    ask: Ask, back_end: BackEnd, tenants: Sequence[Tenant], arrivals: Sequence[Arrival], threads: int
) -> list[Asked]:
    """Have each arrival ask at its moment, or as soon after it as one of so many threads is free. All are seen to their
    end, those that still wait after the last arrival too.
    """
    start, line = _Start(), _Line(arrivals)

    def job(number: int) -> list[Asked]:
        begin = start.wait()
        mine: list[Asked] = []
        arrival = line.take()
        while arrival is not None:
            pause = begin + arrival.at - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            mine.append(_asked(ask, back_end, tenants, arrival, begin))
            arrival = line.take()
        return mine

    def meanwhile() -> None:
        start.give(LEAD + threads * LEAD_PER_THREAD)

    done = on_threads(threads, job, meanwhile)
    return [asked for mine in done.results for asked in mine]


def closed_loop(
    ask: Ask,
    back_end: BackEnd,
    tenants: Sequence[Tenant],
    threads: Sequence[int],
    *,
    seconds: float,
    work: Callable[[int], Iterator[float]],
    beside: Callable[[float], object] | None = None,
) -> list[Asked]:
    """Have so many threads of each tenant ask again and again for so long. `work(number)` is that of one thread.

    `beside(begin)` runs meanwhile; the loop goes on until it has ended, too.
    """
    owners = [tenant for tenant, count in enumerate(threads) for _ in range(count)]
    start, window = _Start(), Window()

    def job(number: int) -> list[Asked]:
        own_work, begin = work(number), start.wait()
        mine: list[Asked] = []
        while not window.over:
            arrival = Arrival(time.perf_counter() - begin, owners[number], next(own_work))
            mine.append(_asked(ask, back_end, tenants, arrival, begin))
        return mine

    def meanwhile() -> None:
        begin = start.give()
        try:
            if beside is not None:
                beside(begin)
        except BaseException:
            window.over = True
            raise
        window.last(max(begin + seconds - time.perf_counter(), 0.0))

    return [asked for mine in on_threads(len(owners), job, meanwhile).results for asked in mine]


@final
class _Start:
    """The moment from which all count."""

    def __init__(self) -> None:
        self._is_given = threading.Event()
        self._begin = 0.0  # written before the event is set

    def give(self, lead: float = 0.0) -> float:
        self._begin = time.perf_counter() + lead
        self._is_given.set()
        return self._begin

    def wait(self) -> float:
        self._is_given.wait()
        return self._begin


@final
class _Line:
    """The arrivals, for threads that take them in order."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._lock = threading.Lock()
        self._coming = iter(arrivals)  # guarded by _lock

    def take(self) -> Arrival | None:
        """The next one; None after the last."""
        with self._lock:
            return next(self._coming, None)


def _asked(ask: Ask, back_end: BackEnd, tenants: Sequence[Tenant], arrival: Arrival, begin: float) -> Asked:
    tenant, refused = tenants[arrival.tenant], ""
    began = time.perf_counter()
    try:
        leave = ask(tenant)
    except (FlowControlError, TimeoutError) as error:
        settled = ended = time.perf_counter()
        refused = type(error).__name__
    else:
        settled = time.perf_counter()
        back_end.serve(arrival.work, tenant.cost)
        leave()
        ended = time.perf_counter()
    return Asked(arrival.tenant, arrival.at, began - begin, settled - begin, ended - begin, refused)


def threads_by_share(tenants: Sequence[Tenant], threads: int) -> list[int]:
    """So many threads, divided by the shares: one each at least.

    >>> threads_by_share([Tenant(name="a", share=3), Tenant(name="b")], 8)
    [6, 2]
    """
    total = sum(tenant.share for tenant in tenants)
    return [max(round(threads * tenant.share / total), 1) for tenant in tenants]
