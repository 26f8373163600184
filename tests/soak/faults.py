"""Mixed traffic for minutes, and a fault every second; afterwards the books are exact, and nothing has grown."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import sysconfig
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, final

from flowctl import ConcurrencyLimit, Config, FlowControlError, FlowController, FlowKey, Request
from flowctl.snapshot import Stats
from tests.soak.run import PATIENCE, Crew, Run, live_blocks, open_descriptors, resident_bytes, slope
from tests.soak.traffic import LIMIT, Thread, Town

WORKERS: Final = 16
FAULT_EVERY: Final = 1.0
MOST_BLOCKS: Final = 0.005
"""Blocks of memory that may be left of each request, at rest: an object that one request of 200 leaves is found."""

BLOCKS_OF_THE_TOWN: Final = 5_000
"""It has 2,000 without any traffic, with what the interpreter keeps of whatever it did once."""

MOST_GROWTH: Final = 1e6
"""Bytes for each million requests, while they last. This finds what blocks do not count: threads, buffers, raw memory.
"""

WITHOUT_A_GIL: Final = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
WOBBLE: Final = 12e6 if WITHOUT_A_GIL else 4e6
"""Bytes by which an allocator's pages come and go: growth that is less than this in all says nothing. Without a GIL
there is a heap for each thread, with pages for each size of object, and a page stays as long as one object in it does,
whoever holds that. On CPython 3.13t, 16 threads that only hand objects to one another hold 700 of them after 1 million
hand-overs as after 10, and 38 to 46 MB for that; one thread that does it alone holds 15 MB.
"""


@final
class Faults:
    """What goes wrong in the town. Each is one call; `next` makes the next one."""

    def __init__(self, run: Run, town: Town) -> None:
        self._run = run
        self._town = town
        self._random = random.Random(run.seed)
        self._waiting: list[str] = []
        self.made: Counter[str] = Counter()
        self.memory: list[tuple[float, float]] = []  # after so many requests, so many bytes
        self.begun = 0
        self.ended = 0
        self.dropped = 0
        self.interrupts = 0
        self._kinds: dict[str, Callable[[], None]] = {
            "interrupt of a worker": lambda: self._interrupt(self._random.choice(town.workers)),
            "interrupt of a hostile collector": lambda: self._interrupt(self._random.choice(town.collectors)),
            "interrupt of the collector": self._interrupt_the_collector,
            "ticket dropped in a cycle": self._drop,
            "fork": self._fork,
            "side controller closed": self._close_another,
            "side controller forgotten": self._forget_another,
            "limit of 1": lambda: town.seats.set(1),
        }
        for what in ("observer of settled", "observer of released", "on_settled", "gate", "fairness", "displacement"):
            self._kinds[f"{what} raises"] = partial(town.foreign.arm, what)

    def next(self) -> None:
        if not self._waiting:
            self._waiting = self._random.sample(sorted(self._kinds), len(self._kinds))
        kind = self._waiting.pop()
        self.made[kind] += 1
        self._kinds[kind]()

    def _interrupt(self, thread: Thread) -> None:
        """And wait until it got there: a second one would come into the handling of the first."""
        before = thread.interrupts
        assert thread.ident is not None
        self._throw(thread.ident)
        self._wait(lambda: thread.interrupts > before, "an interrupted thread goes on")

    def _interrupt_the_collector(self) -> None:
        """In whatever phase it is. If it dies of it, the next flow that is created starts another."""
        collector = self._town.controller._state.collector
        thread, before = collector._thread, collector.heartbeat
        if thread is not None and thread.ident is not None and thread.is_alive():
            self._throw(thread.ident)
            self._wait(lambda: collector.heartbeat != before, "an interrupted collector is back")

    def _throw(self, ident: int) -> None:
        self.interrupts += 1
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))

    def _wait(self, reached: Callable[[], bool], rule: str) -> None:
        pause, until = threading.Event(), time.monotonic() + PATIENCE
        while not reached():
            if time.monotonic() > until:
                self._run.rule(False, f"{rule}: not within {PATIENCE:.0f} s")
                return
            pause.wait(0.005)

    def _drop(self) -> None:
        self.begun += 1
        try:
            held: list[object] = [self._town.controller.admit("dropped", priority=2, ttl=5.0)]
        except FlowControlError:
            pass
        else:
            held.append(held)
            del held
            gc.collect()
            self.dropped += 1
        self.ended += 1

    def _fork(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
            child = os.fork()
        if not child:
            status = 1
            try:
                status = _in_the_child(self._town.controller)
            finally:
                os._exit(status)
        ended: list[int] = []
        self._wait(lambda: _has_ended(child, ended), "a forked child ends")
        if ended:
            self._run.rule(ended == [0], f"a forked child finds its controller empty, and working: {ended[0]}")
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _close_another(self) -> None:
        told: list[str] = []
        side = FlowController(Config(default_ttl=None), gate=ConcurrencyLimit(1))
        held = side.admit("a")
        for number in range(5):
            side.submit(Request(FlowKey(f"b-{number}")), on_settled=lambda ticket: told.append(ticket.state))
        empty = side.close(drain=0.01)
        told_twice = [*told]
        held.release()
        side._check()
        stats = side.stats()
        well = not empty and told_twice == ["refused"] * 5 and stats.evicted == 5 and not stats.in_flight
        self._run.rule(well, f"closing evicts whatever is queued, and tells it once: {told}, {stats}")

    def _forget_another(self) -> None:
        FlowController(Config(flow_gc_timeout=0), gate=ConcurrencyLimit(1)).admit("a").release()


def _in_the_child(controller: FlowController) -> int:
    stats = controller.stats()
    if stats.in_flight or stats.queued or stats.dispatched or stats.flows:
        return 2
    controller.admit("child", ttl=5.0).release()
    controller.close()  # with its collector: only at rest can it be checked
    controller._check()
    return 0 if controller.stats().dispatched == 1 else 3


def _has_ended(child: int, ended: list[int]) -> bool:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        ended.append(status)
    return bool(ended)


def soak(run: Run, seconds: float) -> int:
    """So many seconds of it; how many requests there were."""
    blocks = live_blocks()
    town = Town(WORKERS, run.seed)
    faults = Faults(run, town)
    threads, descriptors = threading.active_count(), open_descriptors()
    with town.controller:
        with Crew(run) as crew:
            for thread in town.threads:
                crew.start(partial(thread.run, crew.over))
            faults._wait(lambda: all(worker.ended for worker in town.workers), "the traffic begins")
            interrupted = _break_things(run, town, faults, crew, time.monotonic() + seconds)
            heartbeat = town.controller._state.collector.heartbeat
            run.rule(heartbeat is not None and time.monotonic() - heartbeat < PATIENCE, "the collector lives")
        gc.collect()
    for _ in range(2):
        town.controller.collect()
    town.controller._check()
    stats = town.controller.stats()
    _balance(run, town, faults, stats)
    faults._wait(lambda: threading.active_count() <= threads, "threads that were started are gone")
    run.rule(open_descriptors() == descriptors, f"descriptors stay {descriptors}: there are {open_descriptors()}")
    left = live_blocks() - blocks
    most = BLOCKS_OF_THE_TOWN + MOST_BLOCKS * town.requests
    run.rule(left < most, f"requests leave nothing behind: {left:,} blocks of memory are left, beside {most:,.0f}")
    later = faults.memory[len(faults.memory) // 3 :]  # by then everything has been there once
    if len(later) > 10:
        growth, grown = slope(later) * 1e6, slope(later) * (later[-1][0] - later[0][0])
        run.say(
            f"memory: {growth / 1e6:+.3f} MB for each million requests, {grown / 1e6:+.1f} MB in all, {left:+,} blocks"
        )
        sentence = f"memory grows by less than {MOST_GROWTH / 1e6:.0f} MB for each million requests: {growth / 1e6:.2f}"
        run.rule(growth < MOST_GROWTH or grown < WOBBLE, sentence)
    run.say(", ".join(f"{count} x {kind}" for kind, count in sorted(faults.made.items())))
    if interrupted:
        raise KeyboardInterrupt
    return town.requests


def _break_things(run: Run, town: Town, faults: Faults, crew: Crew, until: float) -> bool:
    """A fault every second until then, or until a rule is broken; True if Ctrl-C came first."""
    pause, rules = threading.Event(), len(run.broken)
    try:
        while time.monotonic() < until and not crew.deaths and len(run.broken) == rules:
            pause.wait(FAULT_EVERY)
            faults.next()
            resident = resident_bytes()
            faults.memory.append((town.requests, resident))
            _look(run, town)
            line = f"{town.requests:,} requests, {faults.made.total()} faults, {resident / 1e6:.1f} MB"
            run.progress(line)
    except KeyboardInterrupt:
        faults.interrupts += 1  # it may have cut a request of ours short
        return True
    return False


def _look(run: Run, town: Town) -> None:
    """At what must hold at every moment."""
    stats = town.controller.stats()
    run.rule(0 <= stats.in_flight <= LIMIT, f"in flight is within the limit: {stats.in_flight}")
    run.rule(stats.queued >= 0 and stats.queued_bytes >= 0, f"no count is negative: {stats}")
    queued = sum(band.queued for band in stats.bands.values())
    run.rule(queued <= stats.queued, f"the bands' queues add up to at most all that is queued: {queued}, {stats}")


def _balance(run: Run, town: Town, faults: Faults, stats: Stats) -> None:
    """The books against what was asked, at rest."""
    begun = faults.begun + sum(worker.begun for worker in town.workers)
    ended = faults.ended + sum(worker.ended for worker in town.workers)
    untold = sum(worker.untold for worker in town.workers)
    settled = stats.dispatched + stats.rejected + stats.evicted
    hit, raised = faults.interrupts, len(town.foreign.raised)
    run.say(
        f"{begun:,} asked, {begun - ended} of them cut short by {hit} interrupts; {stats.dispatched:,} dispatched + "
        f"{stats.rejected:,} rejected + {stats.evicted:,} evicted = {settled:,}; "
        f"{stats.abandoned} abandoned, {stats.repairs} repairs, {stats.incidents} incidents"
    )
    run.rule(ended <= settled <= begun, f"in = dispatched + rejected + evicted: {settled}, not in {ended} to {begun}")
    run.rule(
        begun - ended + untold <= hit, f"only an interrupt cuts a request short: {begun - ended} + {untold}, {hit}"
    )
    left = (stats.queued, stats.queued_bytes, stats.in_flight, stats.flows)
    run.rule(left == (0, 0, 0, 0), f"at rest nothing is queued, in flight, or there: {left}")
    most = town.foreign.most_in_flight
    run.rule(most <= LIMIT, f"no grant goes above the limit: {most}")
    run.rule(stats.abandoned >= faults.dropped, f"dropped tickets are found: {stats.abandoned} of {faults.dropped}")
    run.rule(
        abs(stats.incidents - raised) <= hit, f"what foreign code raises is counted: {stats.incidents} of {raised}"
    )
