"""An executor whose work waits in a controller's queue: the contract of `concurrent.futures`, and that of the queue."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import random
import subprocess
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path

import pytest

from flowctl import (
    AdaptiveLimit,
    Aimd,
    BandConfig,
    ClosedWhileQueued,
    ConcurrencyLimit,
    Config,
    ControllerClosed,
    Displaced,
    Expired,
    FlowController,
    FlowKey,
    QueueFull,
    Revoked,
    Saturated,
    Ticket,
    sync,
)
from flowctl import crew as crew_module
from flowctl.executor import FlowExecutor
from flowctl.news import Observer
from flowctl.testing import FakeClock
from flowctl.ticket import ReleaseOutcome
from tests.faults.moments import Moments
from tests.faults.points import strike_each_point
from tests.support import PATIENCE, MakeController, Spawn, true_in_child, wait_for, without_cycle_collector

ROOT = Path(__file__).parents[1]
EXECUTOR_THREADS = "FlowExecutor"


class Task:
    """A call that says when it runs, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(PATIENCE)
        return "done"

    def run_by(self, executor: Executor) -> Future[str]:
        """Submit it, and wait until it runs."""
        future = executor.submit(self)
        assert self.begun.wait(PATIENCE)
        return future


@pytest.fixture
def executor(controller: FlowController) -> Iterator[FlowExecutor]:
    """On one seat."""
    with FlowExecutor(controller) as executor:
        yield executor


@pytest.fixture
def task() -> Iterator[Task]:
    """Ends with its test at the latest."""
    task = Task()
    yield task
    task.may_end.set()


def workers(prefix: str = EXECUTOR_THREADS) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def raises(error: BaseException) -> None:
    raise error


# --- submit and map ---------------------------------------------------------------------------------------------------


def test_a_call_gets_all_its_arguments_also_those_with_the_names_of_terms(executor: FlowExecutor) -> None:
    def call(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        return args, kwargs

    assert executor.submit(call, 1, priority=2, ttl=3, flow=4).result(PATIENCE) == (
        (1,),
        {"priority": 2, "ttl": 3, "flow": 4},
    )


def test_what_is_no_call_is_refused_at_once(executor: FlowExecutor, controller: FlowController) -> None:
    with pytest.raises(TypeError):
        executor.submit(3)  # type: ignore[arg-type]
    assert controller.stats().dispatched == 0


def test_work_runs_under_the_flow_of_its_executor_or_view(make_controller: MakeController) -> None:
    seen: list[tuple[FlowKey, int, int]] = []

    class Watch(Observer):
        def settled(self, ticket: Ticket) -> None:
            seen.append((ticket.key, ticket.cost, ticket.size))

        def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
            pass

    controller = make_controller(observer=Watch(), limit=8)
    with FlowExecutor(controller, flow="own", priority=1, cost=2) as executor:
        executor.submit(abs, 1).result(PATIENCE)
        executor.of("a", priority=5, cost=3, size=7).submit(abs, 1).result(PATIENCE)
        executor.of(FlowKey("b", -1)).submit(abs, 1).result(PATIENCE)

    assert seen == [(FlowKey("own", 1), 2, 0), (FlowKey("a", 5), 3, 7), (FlowKey("b", -1), 1, 0)]


def test_a_bad_term_is_refused_where_it_is_said(executor: FlowExecutor, controller: FlowController) -> None:
    with pytest.raises(ValueError, match="cost must be at least 1"):
        executor.of("a", cost=0)
    with pytest.raises(ValueError, match="ttl must be at least 0"):
        FlowExecutor(controller, ttl=-1)
    with pytest.raises(TypeError, match="controller must be a FlowController"):
        FlowExecutor("controller")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_workers must be at least 1"):
        FlowExecutor(controller, 0)
    with pytest.raises(TypeError, match="initializer must be callable"):
        FlowExecutor(controller, initializer=3)  # type: ignore[arg-type]


def test_queued_work_takes_no_thread(executor: FlowExecutor, controller: FlowController, task: Task) -> None:
    running = task.run_by(executor)
    before = threading.active_count()
    queued = [executor.of(f"flow-{nth % 7}").submit(abs, nth) for nth in range(200)]

    assert controller.stats().queued == 200
    assert threading.active_count() == before

    task.may_end.set()
    assert [future.result(PATIENCE) for future in queued] == list(range(200))
    assert running.result(PATIENCE) == "done"


def test_the_controller_says_who_goes_next(executor: FlowExecutor, task: Task) -> None:
    ran: list[str] = []
    task.run_by(executor)
    a, b, urgent = executor.of("a"), executor.of("b"), executor.of("c", priority=9)
    futures = [a.submit(ran.append, f"a{nth}") for nth in range(3)]
    futures += [b.submit(ran.append, f"b{nth}") for nth in range(2)]
    futures += [urgent.submit(ran.append, "urgent")]
    task.may_end.set()
    concurrent.futures.wait(futures, PATIENCE)

    assert ran == ["urgent", "a0", "b0", "a1", "b1", "a2"]


def test_map_yields_results_in_order_and_ignores_chunks(executor: FlowExecutor) -> None:
    assert list(executor.map(pow, [1, 2, 3], [2, 2, 2], chunksize=2)) == [1, 4, 9]
    assert list(executor.of("a").map(abs, [])) == []


def test_map_raises_what_a_call_raised_and_cancels_the_rest(
    executor: FlowExecutor, controller: FlowController, task: Task
) -> None:
    first, ran = threading.Event(), list[int]()

    def call(nth: int) -> None:
        if nth == 0:
            assert first.wait(PATIENCE)
            raise LookupError(nth)
        task()  # one more may have been granted before the rest is cancelled
        ran.append(nth)

    results = executor.map(call, range(5))
    first.set()
    with pytest.raises(LookupError):
        next(results)

    assert controller.stats().queued == 0
    task.may_end.set()
    executor.shutdown()
    assert ran in ([], [1])


def test_map_gives_up_at_its_timeout_and_cancels_the_rest(
    executor: FlowExecutor, controller: FlowController, task: Task
) -> None:
    task.run_by(executor)
    results = executor.map(abs, range(3), timeout=0)

    with pytest.raises(TimeoutError):
        next(results)
    assert controller.stats().queued == 0


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_queued_work_withdraws_its_request_at_once(
    executor: FlowExecutor, controller: FlowController, task: Task
) -> None:
    task.run_by(executor)
    queued = executor.submit(abs, 1)
    place_was_free: list[bool] = []
    queued.add_done_callback(lambda future: place_was_free.append(controller.stats().queued == 0))

    assert queued.cancel()
    assert queued.cancel()
    assert place_was_free == [True]
    assert queued.cancelled()
    with pytest.raises(CancelledError):
        queued.result(0)


def test_who_waits_for_cancelled_work_is_told_at_once(executor: FlowExecutor, task: Task, spawn: Spawn) -> None:
    task.run_by(executor)
    queued = executor.submit(abs, 1)
    waiting = spawn(lambda: concurrent.futures.wait([queued], PATIENCE).done)
    queued.cancel()

    assert waiting.result() == {queued}


def test_running_and_finished_work_cannot_be_cancelled(executor: FlowExecutor, task: Task) -> None:
    running = task.run_by(executor)
    assert not running.cancel()
    assert running.running()

    task.may_end.set()
    assert running.result(PATIENCE) == "done"
    assert not running.cancel()


def test_work_that_is_granted_and_has_no_worker_gives_its_seat_back_when_it_is_cancelled(
    make_controller: MakeController, task: Task
) -> None:
    controller = make_controller(limit=2)
    with FlowExecutor(controller, max_workers=1) as executor:
        task.run_by(executor)
        granted, ran = executor.submit(raises, LookupError()), threading.Event()
        assert controller.stats().in_flight == 2

        assert granted.cancel()
        assert controller.stats().in_flight == 1
        assert concurrent.futures.wait([granted], 0).done == {granted}, "it is told, too"
        task.may_end.set()
        executor.submit(ran.set).result(PATIENCE)


# --- how work ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, BaseException])
def test_an_exception_of_the_call_is_in_the_future_with_its_traceback(
    executor: FlowExecutor, kind: type[BaseException]
) -> None:
    future = executor.submit(raises, kind("why"))

    with pytest.raises(kind, match="why") as raised:
        future.result(PATIENCE)
    assert "raise error" in "".join(traceback.format_tb(raised.value.__traceback__))
    assert executor.submit(abs, -1).result(PATIENCE) == 1, "the worker lives"


@pytest.mark.parametrize("call", [abs, raises])
def test_the_seat_is_back_before_the_future_is_done(
    executor: FlowExecutor, controller: FlowController, task: Task, call: Callable[[object], object]
) -> None:
    in_flight: list[int] = []
    task.run_by(executor)
    queued = executor.submit(call, LookupError() if call is raises else 1)
    queued.add_done_callback(lambda future: in_flight.append(controller.stats().in_flight))
    task.may_end.set()
    wait_for(lambda: in_flight == [0])


@pytest.mark.parametrize(("error", "told"), [(None, "ok"), (LookupError(), "ok"), (Revoked(), "ignored")])
def test_an_exception_of_the_call_is_no_overload(
    make_controller: MakeController, error: Exception | None, told: ReleaseOutcome
) -> None:
    outcomes: list[ReleaseOutcome] = []

    class Watch(Observer):
        def settled(self, ticket: Ticket) -> None:
            pass

        def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
            outcomes.append(outcome)

    gate = AdaptiveLimit(Aimd(), initial=4)
    with FlowExecutor(make_controller(gate=gate, observer=Watch())) as executor:
        executor.submit(abs if error is None else raises, error or 1).exception(PATIENCE)  # type: ignore[arg-type]

    assert outcomes == [told]


def test_a_callback_that_ends_its_thread_does_not_end_the_worker(
    executor: FlowExecutor, caplog: pytest.LogCaptureFixture, task: Task
) -> None:
    future = task.run_by(executor)
    future.add_done_callback(lambda future: raises(SystemExit("callback")))
    task.may_end.set()
    future.result(PATIENCE)

    assert executor.submit(abs, -1).result(PATIENCE) == 1
    assert "worker of an executor" in caplog.text


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_the_futures_exception(make_controller: MakeController, task: Task) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=1)))
    with FlowExecutor(controller) as executor:
        task.run_by(executor)
        executor.submit(abs, 1)
        refused = executor.submit(abs, 2)

        assert isinstance(refused.exception(0), QueueFull)
        task.may_end.set()


def test_work_whose_ttl_is_over_is_never_called(
    executor: FlowExecutor, controller: FlowController, clock: FakeClock, task: Task
) -> None:
    task.run_by(executor)
    late = executor.of("a", ttl=5).submit(raises, AssertionError())
    clock.advance(5)
    controller.collect()

    with pytest.raises(Expired) as expired:
        late.result(0)
    assert expired.value.key == FlowKey("a", 0)


def test_work_that_may_not_wait_is_saturated(executor: FlowExecutor, task: Task) -> None:
    task.run_by(executor)

    assert isinstance(executor.of("a", ttl=0).submit(abs, 1).exception(0), Saturated)


def test_displaced_work_is_told(make_controller: MakeController, task: Task) -> None:
    controller = make_controller(Config(max_requests=1))
    with FlowExecutor(controller) as executor:
        task.run_by(executor)
        displaced = executor.submit(abs, 1)
        executor.of("a", priority=1).submit(abs, 2)

        assert isinstance(displaced.exception(0), Displaced)
        task.may_end.set()


def test_closing_the_controller_refuses_what_waits_and_what_comes(
    executor: FlowExecutor, controller: FlowController, task: Task
) -> None:
    running, queued = task.run_by(executor), executor.submit(abs, 1)
    controller.close()

    assert isinstance(queued.exception(0), ClosedWhileQueued)
    assert isinstance(executor.submit(abs, 2).exception(0), ControllerClosed)
    task.may_end.set()
    assert running.result(PATIENCE) == "done"


# --- workers ----------------------------------------------------------------------------------------------------------


def test_no_thread_starts_before_its_first_use_and_each_has_a_name(controller: FlowController) -> None:
    with FlowExecutor(controller, thread_name_prefix="back-end") as executor:
        assert workers("back-end") == []
        assert executor.submit(lambda: threading.current_thread().name).result(PATIENCE) == "back-end_0"
    assert workers("back-end") == []


def test_a_worker_is_no_daemon_whoever_started_it(executor: FlowExecutor, spawn: Spawn) -> None:
    in_daemon = spawn(lambda: executor.submit(lambda: threading.current_thread().daemon).result(PATIENCE))

    assert not in_daemon.result()


def test_a_spare_worker_is_used_again(make_controller: MakeController) -> None:
    with FlowExecutor(make_controller(limit=8)) as executor:
        names = set()
        for _ in range(20):
            names.add(executor.submit(lambda: threading.current_thread().name).result(PATIENCE))
            wait_for(executor._crew.is_resting)
        assert len(names) == 1


def test_each_grant_has_a_worker_of_its_own(make_controller: MakeController) -> None:
    together = threading.Barrier(6)
    with FlowExecutor(make_controller(limit=6)) as executor:
        results = list(executor.map(lambda nth: together.wait(PATIENCE), range(12)))

        assert sorted(results) == sorted([*range(6), *range(6)])
        assert len(executor._crew._threads) == 6


def test_a_chain_of_work_needs_no_second_worker(executor: FlowExecutor, caplog: pytest.LogCaptureFixture) -> None:
    assert list(executor.map(abs, range(50))) == list(range(50))
    assert len(executor._crew._threads) == 1


def test_max_workers_at_the_limit_is_enough(make_controller: MakeController, caplog: pytest.LogCaptureFixture) -> None:
    with FlowExecutor(make_controller(limit=3), max_workers=3) as executor:
        assert list(executor.map(abs, range(50))) == list(range(50))
    assert caplog.text == ""


def test_a_callback_that_waits_for_more_work_does_not_hold_that_up(make_controller: MakeController, task: Task) -> None:
    told: list[int] = []
    with FlowExecutor(make_controller()) as executor:
        future = task.run_by(executor)
        queued = executor.submit(abs, -2)  # is granted to the very worker that runs the callback
        future.add_done_callback(lambda future: told.append(queued.result(PATIENCE)))
        future.add_done_callback(lambda future: told.append(executor.submit(abs, -3).result(PATIENCE)))
        task.may_end.set()
        wait_for(lambda: told == [2, 3])


def test_no_more_threads_than_max_workers_and_that_is_said_once(
    make_controller: MakeController, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task()
    with FlowExecutor(make_controller(limit=50), max_workers=3, thread_name_prefix="few") as executor:
        futures = [executor.submit(task) for _ in range(3)] + [executor.submit(abs, nth) for nth in range(40)]
        assert len(workers("few")) == 3
        task.may_end.set()
        assert [future.result(PATIENCE) for future in futures] == ["done"] * 3 + [*range(40)]
        assert len(workers("few")) == 3

    assert caplog.text.count("raise max_workers") == 1


def test_where_no_thread_is_to_be_had_the_future_says_so(
    executor: FlowExecutor, controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_thread(run: Callable[[], None], name: str, *, daemon: bool = True) -> sync.Thread:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(sync, "start_thread", start_thread)
        future = executor.submit(abs, 1)
        assert isinstance(future.exception(PATIENCE), RuntimeError)
        assert controller.stats().in_flight == 0

    assert executor.submit(abs, -1).result(PATIENCE) == 1


def test_an_initializer_runs_once_in_each_worker(controller: FlowController) -> None:
    local = threading.local()

    def initialize(value: int) -> None:
        local.value = value

    with FlowExecutor(controller, 1, "init", initialize, (7,)) as executor:
        assert list(executor.map(lambda nth: int(local.value) + nth, range(3))) == [7, 8, 9]


def test_an_initializer_that_fails_breaks_the_executor(
    make_controller: MakeController, caplog: pytest.LogCaptureFixture
) -> None:
    controller = make_controller()
    with controller.admit("a"):
        executor = FlowExecutor(controller, 1, initializer=raises, initargs=(LookupError("bad"),))
        futures = [executor.submit(abs, 1) for _ in range(3)]

    for future in futures:
        assert isinstance(future.exception(PATIENCE), BrokenExecutor)
    wait_for(lambda: controller.stats().in_flight == 0)
    with pytest.raises(BrokenExecutor):
        executor.submit(abs, 1)
    executor.shutdown()
    assert "initializer" in caplog.text


# --- shutdown ---------------------------------------------------------------------------------------------------------


def test_after_shutdown_nothing_can_be_submitted(executor: FlowExecutor, controller: FlowController) -> None:
    view = executor.of("a")
    executor.shutdown()
    executor.shutdown()

    for door in (executor, view, executor.of("b")):
        with pytest.raises(RuntimeError, match="after shutdown"):
            door.submit(abs, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(abs, [1])
    assert controller.stats().dispatched == 0


def test_leaving_the_block_waits_for_all_that_was_submitted(controller: FlowController, spawn: Spawn) -> None:
    executor, task = FlowExecutor(controller, thread_name_prefix="block"), Task()
    running, queued = task.run_by(executor), executor.of("a").submit(abs, -1)
    leaving = spawn(executor.__exit__, None, None, None)
    wait_for(lambda: executor._crew._is_ending)
    assert not leaving.done
    task.may_end.set()
    leaving.result()

    assert running.done()
    assert queued.result(0) == 1
    assert workers("block") == []


def test_shutdown_without_waiting_still_does_what_was_submitted(controller: FlowController) -> None:
    executor, task = FlowExecutor(controller, thread_name_prefix="later"), Task()
    task.run_by(executor)
    queued = executor.submit(abs, -1)
    executor.shutdown(wait=False)

    task.may_end.set()
    assert queued.result(PATIENCE) == 1
    wait_for(lambda: workers("later") == [])


def test_shutdown_that_cancels_leaves_what_runs(executor: FlowExecutor, controller: FlowController, task: Task) -> None:
    running, queued = task.run_by(executor), [executor.of(f"flow-{nth}").submit(abs, nth) for nth in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)

    assert all(future.cancelled() for future in queued)
    assert controller.stats().queued == 0
    task.may_end.set()
    assert running.result(PATIENCE) == "done"


def test_a_view_that_is_shut_down_waits_for_its_own_work_and_leaves_others_alone(
    make_controller: MakeController, task: Task
) -> None:
    with FlowExecutor(make_controller(limit=2)) as executor:
        task.run_by(executor)
        with executor.of("a") as view:
            own = view.submit(abs, -1)
        assert own.done()
        with pytest.raises(RuntimeError, match="after shutdown"):
            view.submit(abs, 1)
        assert executor.of("a").submit(abs, -2).result(PATIENCE) == 2
        task.may_end.set()


def test_a_view_cancels_its_own_futures_only(executor: FlowExecutor, task: Task) -> None:
    task.run_by(executor)
    view, other = executor.of("a"), executor.of("a").submit(abs, -1)
    own = view.submit(abs, -1)
    view.shutdown(cancel_futures=True)

    assert own.cancelled()
    assert not other.cancelled()


def test_work_that_shuts_its_own_executor_down_does_not_wait_for_itself(executor: FlowExecutor) -> None:
    with pytest.raises(RuntimeError, match="itself"):
        executor.submit(executor.shutdown).result(PATIENCE)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_a_callback_that_shuts_the_executor_down_does_not_wait_for_its_own_worker(
    executor: FlowExecutor, task: Task
) -> None:
    told: list[str] = []

    def shut_down(future: Future[str]) -> None:
        with pytest.raises(RuntimeError, match="itself"):
            executor.shutdown()
        told.append(future.result())

    task.run_by(executor).add_done_callback(shut_down)
    task.may_end.set()
    wait_for(lambda: told == ["done"])


def test_work_of_a_view_that_shuts_the_view_down_does_not_wait_for_itself(executor: FlowExecutor) -> None:
    view = executor.of("a")

    with pytest.raises(RuntimeError, match="itself"):
        view.submit(view.shutdown).result(PATIENCE)


# --- interrupts -------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What a signal handler may raise anywhere."""


def interrupt() -> None:
    raise Interrupted


def submit_and_shut_down(spawn: Spawn, at: int, max_workers: int | None) -> int:
    """Submit with an exception at this moment (0: none); how many moments were passed until then."""
    controller = FlowController(Config(default_ttl=None), gate=ConcurrencyLimit(1), background=False)
    executor = FlowExecutor(controller, max_workers)
    moments = Moments(at, interrupt)
    try:
        with moments:
            executor.submit(abs, -1)
    except Interrupted:
        pass
    assert executor.submit(abs, -2).result(PATIENCE) == 2
    spawn(executor.shutdown).result()
    assert executor._crew.is_resting(), "or at exit nobody would be refused"
    controller.collect()
    assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)
    return moments.passed


@pytest.mark.parametrize("max_workers", [None, 1])
def test_an_exception_at_any_moment_of_submit_leaves_an_executor_that_works_and_ends(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, max_workers: int | None
) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 0.002)  # broken reader-writer locks are replaced at once
    submit_and_shut_down(spawn, 0, max_workers)
    assert strike_each_point(lambda at: submit_and_shut_down(spawn, at, max_workers)) > 100


def cancel_and_shut_down(spawn: Spawn, at: int) -> int:
    """The same where queued work is cancelled."""
    controller = FlowController(Config(default_ttl=None), gate=ConcurrencyLimit(1), background=False)
    executor = FlowExecutor(controller)
    with controller.admit("a"):
        queued, moments = executor.submit(abs, -1), Moments(at, interrupt)
        try:
            with moments:
                queued.cancel()
        except Interrupted:
            pass
    assert executor.submit(abs, -2).result(PATIENCE) == 2
    spawn(executor.shutdown).result()
    assert queued.done()
    assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)
    return moments.passed


def test_an_exception_at_any_moment_of_cancel_leaves_an_executor_that_works_and_ends(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "SLICE", 0.01)  # after which it is looked at again
    cancel_and_shut_down(spawn, 0)
    assert strike_each_point(lambda at: cancel_and_shut_down(spawn, at)) > 50


# --- garbage ----------------------------------------------------------------------------------------------------------


def test_an_executor_that_is_dropped_does_its_work_and_ends_its_threads(controller: FlowController) -> None:
    task = Task()
    with without_cycle_collector():
        executor = FlowExecutor(controller, thread_name_prefix="dropped")
        task.run_by(executor)
        queued, gone = executor.submit(abs, -1), weakref.ref(executor)
        del executor

        assert gone() is None
        task.may_end.set()
        assert queued.result(PATIENCE) == 1
        wait_for(lambda: workers("dropped") == [])
    wait_for(lambda: not any(crew._prefix == "dropped" for crew in crew_module._crews))


def test_a_view_keeps_its_executor(controller: FlowController) -> None:
    view = FlowExecutor(controller).of("a")
    gc.collect()

    assert view.submit(abs, -1).result(PATIENCE) == 1


class Thing:
    """Something that can be seen to go."""


def test_nothing_of_a_call_is_kept_once_it_is_done(executor: FlowExecutor, task: Task) -> None:
    def call(thing: Thing, how: str) -> Thing:
        if how == "raises":
            raise LookupError(thing)
        return thing

    def gone(how: str) -> Callable[[], bool]:
        thing = Thing()
        future = executor.submit(call, thing, how)
        if how == "cancelled":
            assert future.cancel()
        else:
            future.exception(PATIENCE)
        refs = weakref.ref(thing), weakref.ref(future)
        return lambda: not any(ref() for ref in refs)

    def wakes_the_worker() -> bool:
        """Without a GIL, a thread that waits drops what is its own when it wakes."""
        return executor.submit(abs, -1).result(PATIENCE) == 1

    with without_cycle_collector():
        for how in ("returns", "raises"):
            is_gone = gone(how)
            wait_for(lambda is_gone=is_gone: wakes_the_worker() and is_gone())  # type: ignore[misc]  # a lambda's default
        task.run_by(executor)
        wait_for(gone("cancelled"))


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_with_no_work_and_no_workers(executor: FlowExecutor, task: Task, spawn: Spawn) -> None:
    running, queued, view = task.run_by(executor), executor.submit(abs, 1), executor.of("a")

    def story() -> bool:
        works = executor.submit(abs, -3).result(5) == 3 and view.submit(abs, -4).result(5) == 4
        executor.shutdown()
        return works and not queued.done() and queued.cancel()

    held, may_let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with executor._crew._mutex:
            held.set()
            may_let_go.wait(PATIENCE)

    holding = spawn(hold)
    held.wait(PATIENCE)
    try:
        assert true_in_child(story)
    finally:
        may_let_go.set()
    holding.result()
    assert not queued.done()
    task.may_end.set()
    assert running.result(PATIENCE) == "done"
    assert queued.result(PATIENCE) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_was_shut_down_stays_so_in_a_forked_child(executor: FlowExecutor) -> None:
    doors = executor, executor.of("a")
    executor.shutdown()

    def story() -> bool:
        for door in doors:
            with pytest.raises(RuntimeError, match="after shutdown"):
                door.submit(abs, 1)
        return True

    assert true_in_child(story)


PREAMBLE = """
import atexit, logging, threading
from flowctl import ConcurrencyLimit, Config, FlowController, crew
from flowctl.executor import FlowExecutor

begun, may_end = threading.Event(), threading.Event()

def work():
    begun.set()
    assert may_end.wait(20)
    print("ran")

controller = FlowController(Config(default_ttl=None), gate=ConcurrencyLimit(1))
executor = FlowExecutor(controller)
"""


@pytest.mark.parametrize(
    ("story", "printed"),
    [
        pytest.param("executor.submit(abs, 1).result()", [], id="idle workers"),
        pytest.param(
            "executor.submit(work); begun.wait(); executor.of('a').submit(print, 'queued'); may_end.set()",
            ["ran", "queued"],
            id="queued work is done",
        ),
        pytest.param(
            "executor.submit(work); begun.wait(); executor.submit(print, 'queued'); del executor; may_end.set()",
            ["ran", "queued"],
            id="of an executor that was dropped",
        ),
        pytest.param(
            "holder = controller.admit('a')\n"
            "future = executor.submit(print, 'never')\n"
            "future.add_done_callback(lambda future: print(type(future.exception()).__name__))",
            ["ClosedWhileQueued"],
            id="queued work whose seat nobody gives back",
        ),
        pytest.param(
            "logging.disable()\n"
            "def bad(): raise LookupError\n"
            "broken = FlowExecutor(controller, initializer=bad)\n"
            "broken.submit(abs, 1).exception()\n"
            "holder = controller.admit('a')\n"
            "future = executor.submit(print, 'never')\n"
            "future.add_done_callback(lambda future: print(type(future.exception()).__name__))",
            ["ClosedWhileQueued"],
            id="the same beside an executor whose initializer failed",
        ),
        pytest.param(
            "few = FlowExecutor(FlowController(gate=ConcurrencyLimit(2)), max_workers=1)\n"
            "logging.disable()\n"
            "few.submit(work); begun.wait()\n"
            "granted = few.submit(abs, 1)\n"
            "holder = controller.admit('a')\n"
            "future = executor.submit(print, 'never')\n"
            "future.add_done_callback(lambda future: print(type(future.exception()).__name__))\n"
            "def cancel():\n"
            "    while not crew._exit: may_end.wait(0.01)\n"
            "    granted.cancel(); may_end.set()\n"
            "threading.Thread(target=cancel).start()",
            ["ran", "ClosedWhileQueued"],
            id="the same beside one whose granted work was cancelled",
        ),
        pytest.param(
            "def more():\n"
            "    threading.main_thread().join()\n"
            "    for make in (executor.submit, FlowExecutor(controller).submit):\n"
            "        try: make(print, 'more')\n"
            "        except RuntimeError as error: print(error)\n"
            "executor.submit(abs, 1).result()\n"
            "threading.Thread(target=more).start()",
            ["cannot schedule new futures after interpreter shutdown"] * 2,
            id="submit while the interpreter exits",
        ),
    ],
)
def test_at_exit_work_is_done_and_the_interpreter_ends(story: str, printed: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PREAMBLE + story],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (run.returncode, run.stdout.splitlines(), run.stderr) == (0, printed, "")


# --- many threads -----------------------------------------------------------------------------------------------------


class Crowd:
    """32 threads on one executor, with seeded choices."""

    def __init__(self, seed: int, max_workers: int | None) -> None:
        self.controller = FlowController(Config(default_band=BandConfig(max_requests=40)), gate=ConcurrencyLimit(4))
        self.executor = FlowExecutor(self.controller, max_workers, thread_name_prefix="crowd")
        self.ran: deque[int] = deque()
        self._seed = seed
        self._begun = threading.Barrier(32)

    def act(self, nth: int) -> list[Future[None]]:
        """Submit, cancel, shut views down; one thread shuts all down. What was submitted."""
        chance, futures = random.Random(self._seed * 100 + nth), list[Future[None]]()
        self._begun.wait()
        for _ in range(40):
            door = self.executor.of(f"flow-{chance.randrange(5)}", priority=chance.randrange(2))
            try:
                futures.append(door.submit(self.ran.append, nth))
            except RuntimeError:
                break
            if chance.random() < 0.4:
                chance.choice(futures).cancel()
            if chance.random() < 0.02:
                door.shutdown(cancel_futures=chance.random() < 0.5)
            if nth == 0 and len(futures) == 30:
                self.executor.shutdown(wait=self._seed % 2 == 0, cancel_futures=self._seed % 3 == 0)
        return futures


@pytest.mark.parametrize("max_workers", [None, 3])
@pytest.mark.parametrize("seed", range(6))
def test_32_threads_submit_cancel_and_shut_down_and_every_future_settles(
    spawn: Spawn, seed: int, max_workers: int | None
) -> None:
    crowd = Crowd(seed, max_workers)
    submitted = [future for thread in [spawn(crowd.act, nth) for nth in range(32)] for future in thread.result()]
    crowd.executor.shutdown()

    assert all(future.done() for future in submitted)
    assert workers("crowd") == []
    errors = [future.exception() for future in submitted if not future.cancelled()]
    assert {type(error) for error in errors} <= {type(None), QueueFull, Displaced}
    assert len(crowd.ran) == errors.count(None)
    stats = crowd.controller.stats()
    assert (stats.queued, stats.in_flight) == (0, 0)
    assert stats.dispatched + stats.rejected + stats.evicted == len(submitted)
    crowd.controller.close()
    crowd.controller._check()
