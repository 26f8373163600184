"""P7: signal handlers and finalisers that use the library in the middle of their own thread's calls."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable

import pytest

from flowctl import ConcurrencyLimit, FlowControlError, FlowController, FlowKey, Request, Ticket, sync
from flowctl.sections import Act, Sections
from tests.faults.moments import Moments
from tests.faults.points import SPARSE, assert_found, strike_each_point
from tests.faults.stories import STORIES, Story, a_wait_that_is_granted
from tests.faults.world import World
from tests.proof import Proof
from tests.support import MakeController, Spawned

CLAIM = "a handler may release, cancel, ask, look, collect and close at any moment of its own thread's calls"

EVERY = 3 * SPARSE
"""Of so many moments one is struck, each time by another handler."""


def cancel(world: World) -> None:
    for asked in world.asked:
        if asked.ticket is not None:
            asked.ticket.cancel()


HANDLERS: tuple[Callable[[World], object], ...] = (
    World.let_go,
    lambda world: world.ask("handler", 9),
    cancel,
    lambda world: world.use("handler", 9, ttl=0),
    lambda world: world.controller.collect(),
    lambda world: world.limit.set(2),
    lambda world: world.controller.stats(),
    lambda world: world.held.clear(),
    lambda world: world.controller.flows(),
    lambda world: world.controller.close(drain=1),
)


@pytest.fixture(autouse=True)
def _a_reader_writer_lock_that_does_not_move_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 0.002)


def tell(story: Story, at: int, handler: Callable[[World], object]) -> int:
    """Tell a story with a handler at this moment; how many moments were passed until then."""
    telling = story()
    world = next(telling)
    with Moments(at, lambda: world.step(lambda: handler(world))) as moments:
        next(telling, None)
    world.assert_nothing_is_left()
    return moments.passed


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_handler_at_any_moment_gets_nobody_stuck_and_loses_nothing(story: Story, proof: Proof) -> None:
    tell(story, 0, World.let_go)
    struck = strike_each_point(lambda at: tell(story, at, HANDLERS[at // EVERY % len(HANDLERS)]), EVERY)
    proof.shown("P7", CLAIM, "faults", struck, "points")
    gc.collect()


def test_a_section_that_does_not_know_its_own_thread_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def always_go_in(self: Sections, act: Act) -> None:
        with self.lock:
            self._section_locked(act)
        self.help()

    monkeypatch.setattr(World, "patience", 0.5)
    monkeypatch.setattr(Sections, "change", always_go_in)
    removed = "what a handler changes waits for the section's end"
    assert_found(lambda at: tell(a_wait_that_is_granted, at, HANDLERS[at % len(HANDLERS)]), proof, CLAIM, removed)


# --- real ones: signals, and finalisers wherever something is allocated -------------------------------------------


class Intruder:
    """Uses a controller in whatever thread it is called, each time in another way."""

    def __init__(self, controller: FlowController, limit: ConcurrencyLimit) -> None:
        self.controller = controller
        self.limit = limit
        self.kept: list[Ticket] = []
        self.asked = self.told = self.times = 0

    def __call__(self) -> None:
        acts = (self.take, self.ask, self.release, self.cancel, self.look, self.controller.collect, self.change)
        self.times += 1
        acts[self.times % len(acts)]()

    def take(self) -> None:
        try:
            self.kept.append(self.controller.try_admit("intruder", priority=9))
        except FlowControlError:
            pass

    def ask(self) -> None:
        self.asked += 1
        self.kept.append(self.controller.submit(Request(FlowKey("intruder", 8)), self.settled))

    def settled(self, ticket: Ticket) -> None:
        self.told += 1
        ticket.release()

    def release(self) -> None:
        while self.kept and self.kept[0].state != "queued":
            self.kept.pop(0).release()

    def cancel(self) -> None:
        for ticket in self.kept:
            ticket.cancel()

    def look(self) -> None:
        self.controller.stats()
        self.controller.flows()

    def change(self) -> None:
        self.limit.set(1 + self.times % 3)


@pytest.fixture
def limit() -> ConcurrencyLimit:
    return ConcurrencyLimit(2)


@pytest.fixture
def intruder(make_controller: MakeController, limit: ConcurrencyLimit) -> Intruder:
    return Intruder(make_controller(gate=limit), limit)


def release(ticket: Ticket) -> None:
    ticket.release()


def use(controller: FlowController) -> None:
    """What is done in the foreground."""
    try:
        controller.try_admit("a").release()
        with controller.try_admit("b", priority=5):
            controller.submit(Request(FlowKey("c")), release)
    except FlowControlError:
        pass  # a handler holds the seats, or asks in the middle


def assert_at_rest(intruder: Intruder) -> None:
    intruder.release()
    intruder.cancel()
    intruder.release()
    intruder.controller.collect()
    stats = intruder.controller.stats()
    assert (stats.queued, stats.in_flight, stats.incidents) == (0, 0, 0)
    assert intruder.asked == intruder.told
    intruder.controller._check()
    Spawned(lambda: intruder.controller.try_admit("a").release()).result()


def test_alarms_in_the_middle_of_anything(intruder: Intruder, proof: Proof) -> None:
    def on_alarm(number: int, frame: object) -> None:
        intruder()
        if intruder.times < 500:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)  # anew each time: one must not interrupt the last one for ever

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    try:
        while intruder.times < 500:
            use(intruder.controller)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert_at_rest(intruder)
    proof.shown("P7", "signal handlers use the library in the middle of its calls", "faults", 500, "runs")


def test_finalisers_in_the_middle_of_anything(intruder: Intruder, proof: Proof) -> None:
    class Garbage:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            intruder()

    thresholds = gc.get_threshold()
    gc.set_threshold(7)
    try:
        while intruder.times < 500:
            Garbage()
            use(intruder.controller)
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()

    assert_at_rest(intruder)
    proof.shown("P7", "finalisers use the library in the middle of its calls", "faults", 500, "runs")


def test_an_alarm_that_closes_while_others_wait(limit: ConcurrencyLimit) -> None:
    controller = FlowController(gate=limit)
    holders = [controller.admit("holder"), controller.admit("holder")]
    closed = threading.Event()

    def close() -> None:
        controller.close(drain=5)
        closed.set()

    def wait() -> str:
        try:
            controller.admit("a").release()
        except FlowControlError as error:
            return error.outcome.value
        return "served"

    def on_alarm(number: int, frame: object) -> None:
        holders.clear()
        close()

    waiting = [Spawned(wait) for _ in range(4)]
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not closed.is_set():
            try:
                controller.submit(Request(FlowKey("b"), ttl=1), release)
                controller.try_admit("b").release()
            except FlowControlError:
                continue
    finally:
        signal.signal(signal.SIGALRM, before)

    assert {each.result() for each in waiting} <= {"served", "evicted_closed", "rejected_closed"}
    controller.close(drain=5)
    controller._check()
