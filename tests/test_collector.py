"""The one background thread: lazily started, woken in time, and not to be killed by what goes wrong in a cycle."""

from __future__ import annotations

import gc
import logging
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from flowctl import CollectReport, ConcurrencyLimit, Config, Expired, FlowController, FlowKey, Request, sync
from flowctl.collector import TICK, Collector
from flowctl.shard import Shard
from flowctl.testing import FakeClock
from flowctl.ticket import Ticket
from tests.support import PATIENCE, MakeController, Spawn, wait_for
from tests.test_flows import TIMEOUT, BoomError, raise_boom

INTERVAL = 30.0


class Work:
    """What there is to do, and a way to wait until it was done."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.collected = 0
        self.ticked = 0
        self.ticks_needed = False
        self.deadline = math.inf
        self.used = True
        self.failing: list[BaseException] = []

    def _count(self, what: str) -> None:
        with self.changed:
            setattr(self, what, getattr(self, what) + 1)
            self.changed.notify_all()
        if self.failing:
            raise self.failing.pop(0)

    def collect(self) -> CollectReport:
        self._count("collected")
        return CollectReport()

    def tick(self) -> None:
        self._count("ticked")

    def needs_ticks(self) -> bool:
        return self.ticks_needed

    def next_deadline(self) -> float:
        return self.deadline

    def in_use(self) -> bool:
        return self.used

    def wait_until(self, reached: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(reached, PATIENCE)


class Story:
    """A collector on a fake clock, and what it reported."""

    def __init__(self, clock: FakeClock) -> None:
        self.work, self.reports = Work(), list[tuple[str, BaseException]]()
        self.collector = Collector(self.work, clock, INTERVAL, lambda what, error: self.reports.append((what, error)))


@pytest.fixture
def story(clock: FakeClock) -> Iterator[Story]:
    story = Story(clock)
    yield story
    story.collector.stop()


def collector_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flowctl-collector"]


# --- when it looks round -------------------------------------------------------------------------------------------


def test_there_is_no_thread_before_its_first_use(story: Story) -> None:
    assert story.collector._thread is None
    assert story.collector.heartbeat is None


def test_it_starts_on_first_use_as_a_named_daemon_and_once(story: Story) -> None:
    story.collector.ensure()
    thread = story.collector._thread
    story.collector.ensure()

    assert thread is story.collector._thread
    assert thread is not None
    assert (thread.name, thread.daemon) == ("flowctl-collector", True)


def test_of_many_first_uses_at_once_one_starts_it(story: Story, spawn: Spawn) -> None:
    before, start = len(collector_threads()), threading.Barrier(16)

    def use() -> None:
        start.wait()
        story.collector.ensure()

    for user in [spawn(use) for _ in range(16)]:
        user.result()
    assert len(collector_threads()) == before + 1


def test_a_cycle_runs_once_in_each_interval(clock: FakeClock, story: Story) -> None:
    story.collector.ensure()
    for nth in range(1, 4):
        clock.wait_for_sleepers(1)
        clock.advance(INTERVAL)
        story.work.wait_until(lambda nth=nth: story.work.collected == nth)  # type: ignore[misc]


def test_before_the_interval_is_over_there_is_no_cycle(clock: FakeClock, story: Story) -> None:
    story.collector.ensure()
    clock.wait_for_sleepers(1)
    clock.advance(INTERVAL - 0.001)
    story.collector.ensure(awake_by=clock.now())  # so that it looks round
    story.work.wait_until(lambda: story.work.ticked >= 2)

    assert story.work.collected == 0


def test_it_is_awake_at_the_next_deadline(clock: FakeClock, story: Story) -> None:
    story.work.deadline = clock.now() + 5
    story.collector.ensure()
    clock.wait_for_sleepers(1)
    ticked = story.work.ticked
    story.work.deadline = math.inf
    clock.advance(5)

    story.work.wait_until(lambda: story.work.ticked > ticked)
    assert story.work.collected == 0


def test_an_earlier_deadline_wakes_it(clock: FakeClock, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowctl.testing.SLICE", 2 * PATIENCE)  # it does not look round by itself
    story.collector.ensure()
    clock.wait_for_sleepers(1)
    ticked = story.work.ticked
    story.work.deadline = clock.now() + 2
    story.collector.ensure(awake_by=story.work.deadline)
    story.work.wait_until(lambda: story.work.ticked > ticked)

    wait_for(lambda: story.collector._awake_by == clock.now() + 2)


def test_a_later_deadline_does_not_wake_it(clock: FakeClock, story: Story) -> None:
    story.collector.ensure()
    wait_for(lambda: story.collector._awake_by == clock.now() + INTERVAL)

    story.collector.ensure(awake_by=clock.now() + INTERVAL + 1)
    assert not story.collector._parking.wait(0)


def test_a_burst_of_earlier_deadlines_wakes_it_a_few_times_and_not_once_for_each(
    clock: FakeClock, story: Story
) -> None:
    story.collector.ensure()
    wait_for(lambda: story.collector._awake_by == clock.now() + INTERVAL)
    inside, go_on = threading.Event(), threading.Event()

    def look_slowly() -> bool:
        inside.set()
        assert go_on.wait(PATIENCE)
        return False

    story.work.needs_ticks = look_slowly  # type: ignore[method-assign]
    story.work.deadline = clock.now() + 5
    story.collector.ensure(awake_by=clock.now() + 5)
    assert inside.wait(PATIENCE)
    ticked = story.work.ticked
    for _ in range(1_000):
        story.collector.ensure(awake_by=clock.now() + 5)
    go_on.set()
    wait_for(story.collector._parking.empty)

    assert story.work.ticked - ticked < 50


def test_it_ticks_only_while_something_needs_it(clock: FakeClock, story: Story) -> None:
    story.work.ticks_needed = True
    story.collector.ensure()
    for _ in range(3):
        wait_for(lambda: story.collector._awake_by == pytest.approx(clock.now() + TICK))
        ticked = story.work.ticked
        clock.advance(TICK)
        story.work.wait_until(lambda ticked=ticked: story.work.ticked > ticked)  # type: ignore[misc]

    story.work.ticks_needed = False
    clock.advance(TICK)
    wait_for(lambda: story.collector._awake_by > clock.now() + 2 * TICK)


def test_its_heartbeat_is_when_it_last_looked_round(clock: FakeClock, story: Story) -> None:
    story.collector.ensure()
    wait_for(lambda: story.collector.heartbeat == 1000.0)
    clock.wait_for_sleepers(1)
    clock.advance(INTERVAL)

    wait_for(lambda: story.collector.heartbeat == 1000.0 + INTERVAL)


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BoomError(), KeyboardInterrupt(), SystemExit(), MemoryError(), GeneratorExit()])
def test_it_survives_whatever_a_cycle_raises_counts_it_and_says_so(
    clock: FakeClock, story: Story, error: BaseException
) -> None:
    story.work.failing = [error]
    story.collector.ensure()
    story.work.wait_until(lambda: story.work.ticked >= 2)
    thread = story.collector._thread

    assert thread is not None
    assert thread.is_alive()
    assert story.collector.failures == 1
    assert story.reports == [("collector", error)]
    clock.advance(INTERVAL)
    story.work.wait_until(lambda: story.work.collected == 1)


def test_a_cycle_that_raised_is_due_again_after_the_interval_and_not_at_once(clock: FakeClock, story: Story) -> None:
    story.collector.ensure()
    clock.wait_for_sleepers(1)
    story.work.failing = [BoomError()]
    clock.advance(INTERVAL)
    story.work.wait_until(lambda: story.work.collected == 1)
    wait_for(lambda: story.collector._awake_by == clock.now() + INTERVAL)

    assert story.work.collected == 1


def test_failures_are_logged_the_1st_2nd_4th_and_8th_time(
    make_controller: MakeController, caplog: pytest.LogCaptureFixture
) -> None:
    controller = make_controller()
    with caplog.at_level(logging.ERROR, logger="flowctl"):
        for _ in range(9):
            controller._incidents.report("collector", BoomError())

    numbers = [re.findall(r"collector .*no\. (\d+)", record.getMessage()) for record in caplog.records]
    assert numbers == [["1"], ["2"], ["4"], ["8"]]
    assert all("BoomError" in record.getMessage() for record in caplog.records), "with its traceback"
    assert not any(record.exc_info for record in caplog.records), "in words: a record that is kept keeps no frame"
    assert controller.stats().incidents == 9


def test_a_start_for_which_there_is_no_thread_is_reported_and_tried_again(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(run: Callable[[], None], name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(sync, "start_thread", no_thread)
        story.collector.ensure()
        story.collector.ensure()
    assert [what for what, _ in story.reports] == ["start of the collector"] * 2
    assert story.collector._thread is None

    story.collector.ensure()
    story.work.wait_until(lambda: story.work.ticked == 1)


def test_requests_go_on_where_there_is_no_thread_to_be_had(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(run: Callable[[], None], name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(sync, "start_thread", no_thread)
    controller = make_controller(background=True)

    controller.admit("a").release()
    controller.admit("b").release()
    assert controller.stats().incidents >= 1


def test_a_thread_that_died_is_started_again(story: Story) -> None:
    story.collector.ensure()
    story.work.wait_until(lambda: story.work.ticked == 1)
    thread = story.collector._thread
    assert thread is not None
    story.work.used = False
    story.collector._parking.wake()
    thread.join(PATIENCE)
    assert not thread.is_alive()

    story.work.used = True
    story.collector.ensure()
    assert story.collector._thread is not thread


# --- the end -------------------------------------------------------------------------------------------------------


def test_stopping_waits_for_the_thread(story: Story) -> None:
    story.collector.ensure()
    thread = story.collector._thread
    story.collector.stop()

    assert thread is not None
    assert not thread.is_alive()


def test_it_cannot_be_started_again_once_it_was_stopped(story: Story) -> None:
    story.collector.stop()
    story.collector.ensure()

    assert story.collector._thread is None
    assert story.work.ticked == 0


def test_stopping_twice_or_before_its_first_use_does_nothing(story: Story) -> None:
    story.collector.stop()
    story.collector.stop()


def test_its_own_thread_may_stop_it(story: Story, clock: FakeClock) -> None:
    def stop() -> None:
        story.collector.stop()

    story.work.tick = stop  # type: ignore[method-assign]
    story.collector.ensure()
    wait_for(lambda: not any(thread is story.collector._thread for thread in threading.enumerate()))


def test_it_ends_once_nobody_can_ask_for_anything_any_more(clock: FakeClock, story: Story) -> None:
    story.collector.ensure()
    clock.wait_for_sleepers(1)
    story.work.used = False
    clock.advance(INTERVAL)
    assert story.collector._thread is not None

    story.collector._thread.join(PATIENCE)
    assert not story.collector._thread.is_alive()


# --- with a controller ---------------------------------------------------------------------------------------------


def test_a_controller_without_requests_has_no_thread(make_controller: MakeController) -> None:
    controller = make_controller(background=True)

    assert controller._state.collector._thread is None
    controller.close()


def test_the_thread_collects_what_is_idle(clock: FakeClock, make_controller: MakeController) -> None:
    controller = make_controller(Config(gc_interval=30.0), background=True)
    controller.admit("a").release()
    clock.wait_for_sleepers(1)
    clock.advance(TIMEOUT + 30)

    wait_for(lambda: controller.flows() == [])


def test_the_thread_expires_requests_that_no_other_thread_waits_for(
    clock: FakeClock, make_controller: MakeController
) -> None:
    controller = make_controller(background=True)
    holder = controller.admit("holder")
    told = threading.Event()
    settled: list[Ticket] = []

    def on_settled(ticket: Ticket) -> None:
        settled.append(ticket)
        told.set()

    controller.submit(Request(FlowKey("a"), ttl=5), on_settled)
    wait_for(lambda: controller._state.collector._awake_by == clock.now() + 5)
    clock.advance(4.9)
    assert not told.is_set()
    clock.advance(0.1)

    assert told.wait(PATIENCE)
    assert isinstance(settled[0].error, Expired)
    holder.release()


def test_the_thread_finds_out_that_a_client_left(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn
) -> None:
    controller, gone = make_controller(background=True), threading.Event()
    holder = controller.admit("holder")
    waiter = spawn(controller.admit, "a", cancel=gone.is_set)
    clock.wait_for_sleepers(2)
    gone.set()

    def left() -> bool:
        clock.advance(TICK)
        return waiter.done

    wait_for(left)
    assert controller.stats().evicted == 1
    holder.release()


def test_a_cycle_that_fails_for_ever_does_not_stop_expiry(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(Config(flow_gc_timeout=1.0), background=True)
    controller.admit("idle").release()
    holder, settled = controller.admit("holder"), list[Ticket]()
    controller.submit(Request(FlowKey("a"), ttl=60), settled.append)
    monkeypatch.setattr(Shard, "detach", raise_boom)

    def expired() -> bool:
        clock.advance(5)
        return bool(settled)

    wait_for(expired)
    assert controller._state.collector.failures > 0
    monkeypatch.undo()
    holder.release()


def test_a_controller_that_nobody_has_any_more_takes_its_thread_with_it(clock: FakeClock) -> None:
    controller = FlowController(gate=ConcurrencyLimit(1), clock=clock)
    controller.admit("a").release()
    thread, gone = controller._state.collector._thread, weakref.ref(controller)
    del controller
    gc.collect()

    assert gone() is None
    assert thread is not None
    clock.advance(1_000)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_closing_stops_the_thread(make_controller: MakeController) -> None:
    controller = make_controller(background=True)
    controller.admit("a").release()
    thread = controller._state.collector._thread
    controller.close()

    assert thread is not None
    assert not thread.is_alive()
