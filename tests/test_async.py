"""`admit_async`: a task waits for its turn on its own loop, and nothing is lost when it or its loop ends first."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import pytest

from flowctl import (
    BandConfig,
    ClosedWhileQueued,
    ConcurrencyLimit,
    Config,
    ControllerClosed,
    Displaced,
    Expired,
    FlowControlError,
    FlowController,
    FlowKey,
    LowerPriority,
    Outcome,
    QueueFull,
    Request,
    Revocation,
    Saturated,
    Ticket,
    awaiting,
)
from flowctl.awaiting import Waker
from flowctl.testing import FakeClock
from tests.support import PATIENCE, MakeController, Spawn

T = TypeVar("T")


def run(story: Callable[[], Coroutine[None, None, T]]) -> T:
    """Run a story on a loop of its own, for as long as patience lasts; nothing on it fails unheard."""
    unheard: list[object] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        async with asyncio.timeout(PATIENCE):
            return await story()

    result = asyncio.run(bounded())
    assert not unheard
    return result


async def until(reached: Callable[[], bool]) -> None:
    """Let the others run until it is so."""
    while not reached():  # noqa: ASYNC110 - what it waits for is the controller's, which has no event for it
        await asyncio.sleep(0)


async def waiting(controller: FlowController, flow: str = "b", **asked: float) -> asyncio.Task[Ticket]:
    """A task that asked, and has to wait."""
    before = controller.stats().queued
    ttl = asked.get("ttl")
    task = asyncio.create_task(controller.admit_async(flow, priority=int(asked.get("priority", 0)), ttl=ttl))
    await until(lambda: controller.stats().queued == before + 1)
    return task


# --- granted ----------------------------------------------------------------------------------------------------------


def test_a_seat_that_is_free_is_taken_without_suspending(controller: FlowController) -> None:
    async def story() -> None:
        asking = controller.admit_async("a")
        with pytest.raises(StopIteration) as ended:
            asking.send(None)
        with ended.value.value as ticket:
            assert ticket.state == "dispatched"

    run(story)
    assert controller.stats().in_flight == 0


def test_a_task_that_waits_is_woken_by_a_release_in_its_own_thread(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("a"):
            task = await waiting(controller)
        with await task as ticket:
            assert (ticket.state, ticket.key) == ("dispatched", FlowKey("b"))

    run(story)


def test_a_task_that_waits_is_woken_by_a_release_in_another_thread(controller: FlowController, spawn: Spawn) -> None:
    async def story() -> None:
        holder = controller.admit("a")
        task = await waiting(controller)
        released = spawn(holder.release)
        (await task).release()
        assert released.result()

    run(story)


def test_an_exception_in_its_block_gives_the_seat_back(controller: FlowController) -> None:
    async def held() -> None:
        with await controller.admit_async("a"):
            await asyncio.Event().wait()

    async def story() -> None:
        task = asyncio.create_task(held())
        await until(lambda: controller.stats().in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(story)
    assert controller.stats().in_flight == 0


def test_tasks_are_served_fairly_between_flows_and_in_order_within_one(controller: FlowController) -> None:
    served: list[str] = []

    async def ask(flow: str, number: int) -> None:
        with await controller.admit_async(flow):
            served.append(f"{flow}{number}")
            await asyncio.sleep(0)

    async def story() -> None:
        with controller.admit("busy"):
            tasks = [asyncio.create_task(ask(flow, number)) for flow in ("a", "b") for number in range(3)]
            await until(lambda: controller.stats().queued == 6)
        await asyncio.gather(*tasks)

    run(story)
    assert served == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_the_higher_priority_goes_first(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("busy"):
            low, high = await waiting(controller, "low"), await waiting(controller, "high", priority=1)
        with await high:
            assert not low.done()
        (await low).release()

    run(story)


def test_thousands_of_tasks_wait_without_a_thread(make_controller: MakeController) -> None:
    controller = make_controller(limit=3)
    most = 0

    async def ask(number: int) -> None:
        nonlocal most
        with await controller.admit_async(f"flow-{number % 50}"):
            most = max(most, controller.stats().in_flight)
            await asyncio.sleep(0)

    async def story() -> int:
        before = threading.active_count()
        tasks = [asyncio.create_task(ask(number)) for number in range(2000)]
        await until(lambda: controller.stats().queued > 1000)
        threads = threading.active_count() - before
        await asyncio.gather(*tasks)
        return threads

    assert run(story) == 0
    assert most == 3
    assert controller.stats().dispatched == 2000


def test_loops_of_several_threads_share_the_seats(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(limit=2)
    over: list[int] = []

    async def ask(flow: str) -> None:
        with await controller.admit_async(flow):
            in_flight = controller.stats().in_flight
            if in_flight > 2:
                over.append(in_flight)
            await asyncio.sleep(0)

    async def story() -> None:
        await asyncio.gather(*(ask(f"flow-{number % 5}") for number in range(200)))

    loops = [spawn(run, story) for _ in range(4)]
    for loop in loops:
        loop.result()

    assert not over
    assert (controller.stats().dispatched, controller.stats().in_flight) == (800, 0)


def test_threads_and_tasks_wait_in_one_queue(controller: FlowController, clock: FakeClock, spawn: Spawn) -> None:
    async def story() -> None:
        holder = controller.admit("a")
        thread = spawn(controller.admit, "b")
        await asyncio.to_thread(clock.wait_for_sleepers, 1)
        task = await waiting(controller, "b")
        holder.release()
        ticket = await asyncio.to_thread(thread.result)
        assert not task.done()
        ticket.release()
        (await task).release()

    run(story)


def test_it_may_be_asked_to_stop_if_it_was_asked_for_so(make_controller: MakeController) -> None:
    controller = make_controller(Config(revocation=Revocation()))

    async def story() -> None:
        with await controller.admit_async("a", revocable=True) as ticket:
            urgent = await waiting(controller, "urgent", priority=1)
            controller.collect()
            assert ticket.is_revoked
        (await urgent).release()

    run(story)


# --- refused ----------------------------------------------------------------------------------------------------------


async def refused(asking: Awaitable[Ticket]) -> FlowControlError:
    with pytest.raises(FlowControlError) as refusal:
        await asking
    return refusal.value


def test_who_may_not_wait_is_refused_at_once(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("a"):
            assert type(await refused(controller.admit_async("b", ttl=0))) is Saturated

    run(story)


def test_a_full_queue_is_told_with_the_limit_that_was_met(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_bytes_per_flow=10)))

    async def story() -> FlowControlError:
        with controller.admit("a"):
            return await refused(controller.admit_async("b", size=11))

    error = run(story)
    assert (type(error), error.scope, error.key) == (QueueFull, "flow", FlowKey("b"))


def test_a_task_whose_ttl_is_over_is_told_so(controller: FlowController, clock: FakeClock) -> None:
    async def story() -> FlowControlError:
        with controller.admit("a"):
            task = await waiting(controller, ttl=5)
            clock.advance(4.5)
            controller.collect()
            assert controller.stats().queued == 1
            clock.advance(0.5)
            controller.collect()
            return await refused(task)

    error = run(story)
    assert (type(error), error.waited) == (Expired, 5.0)
    assert controller.stats().queued == 0


def test_the_collectors_thread_ends_a_wait_in_real_time() -> None:
    async def story() -> None:
        with FlowController(gate=ConcurrencyLimit(1)) as controller, controller.admit("a"):
            assert type(await refused(controller.admit_async("b", ttl=0.01))) is Expired

    run(story)


def test_a_displaced_task_is_told_so(make_controller: MakeController) -> None:
    controller = make_controller(Config(max_requests=1, displacement=LowerPriority()))

    async def story() -> None:
        with controller.admit("a"):
            low = await waiting(controller, "low")
            high = asyncio.create_task(controller.admit_async("high", priority=1))
            assert type(await refused(low)) is Displaced
        (await high).release()

    run(story)


def test_close_refuses_who_waits_and_who_comes(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("a"):
            task = await waiting(controller)
            controller.close()
            assert type(await refused(task)) is ClosedWhileQueued
            assert type(await refused(controller.admit_async("c"))) is ControllerClosed

    run(story)


@pytest.mark.parametrize(
    "asked",
    [
        {"flow": ""},
        {"flow": 1},
        {"priority": True},
        {"priority": 2**31},
        {"flow": FlowKey("a", 2), "priority": 1},
        {"cost": 0},
        {"cost": 1.0},
        {"size": -1},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"metadata": 1},
        {"revocable": 1},
    ],
    ids=repr,
)
def test_a_bad_argument_is_told_as_admit_tells_it_and_nothing_is_booked(
    controller: FlowController, asked: dict[str, object]
) -> None:
    arguments = {"flow": "a", **asked}

    async def story() -> BaseException:
        with pytest.raises((TypeError, ValueError)) as error:
            await controller.admit_async(**arguments)  # type: ignore[arg-type]  # that is what is tested
        return error.value

    with pytest.raises((TypeError, ValueError)) as expected:
        controller.admit(**arguments)  # type: ignore[arg-type]  # likewise
    told = run(story)
    assert (type(told), str(told)) == (expected.type, str(expected.value))
    assert (controller.flows(), controller.stats().rejected) == ([], 0)


def test_where_no_loop_runs_it_raises_before_anything_is_booked(controller: FlowController) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        controller.admit_async("a").send(None)

    assert controller.flows() == []


# --- cancelled --------------------------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_before_it_asks_books_nothing(controller: FlowController) -> None:
    async def story() -> None:
        task = asyncio.create_task(controller.admit_async("a"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(story)
    assert controller.flows() == []


def test_a_task_that_is_cancelled_while_it_waits_has_withdrawn_its_request(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("a"):
            task = await waiting(controller)
            behind = await waiting(controller, "c")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert controller.stats().queued == 1
        (await behind).release()

    run(story)
    assert (controller.stats().evicted, controller.stats().in_flight) == (1, 0)


def test_a_timeout_around_it_withdraws_the_request(controller: FlowController) -> None:
    async def story() -> None:
        with controller.admit("a"), pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await controller.admit_async("b")

    run(story)
    assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)


@pytest.mark.parametrize("turns", range(4))
def test_a_task_that_is_cancelled_after_its_grant_gives_the_seat_back_or_has_it(
    controller: FlowController, turns: int
) -> None:
    """The loop takes `turns` turns between the grant and the cancellation: each is another moment of the wake-up."""

    async def story() -> bool:
        holder = controller.admit("a")
        task = await waiting(controller)
        holder.release()
        assert controller.stats().in_flight == 1, "it is granted, whatever its task knows"
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            (await task).release()
        except asyncio.CancelledError:
            return False
        return True

    assert run(story) == (turns > 1)
    assert controller.stats().in_flight == 0


def test_a_cancellation_races_with_a_grant_from_another_thread(controller: FlowController, spawn: Spawn) -> None:
    served = 0

    async def one() -> None:
        nonlocal served
        holder = controller.admit("a")
        task = await waiting(controller)
        both = threading.Barrier(2)
        releaser = spawn(lambda: (both.wait(PATIENCE), holder.release()))
        both.wait(PATIENCE)
        task.cancel()
        try:
            (await task).release()
            served += 1
        except asyncio.CancelledError:
            pass
        await asyncio.to_thread(releaser.result)
        assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)

    async def story() -> None:
        for _ in range(100):
            await one()

    run(story)
    assert controller.stats().dispatched + controller.stats().evicted == 200
    assert controller.stats().abandoned == controller.stats().repairs == 0


def test_many_tasks_that_are_cancelled_amid_grants_from_other_threads_lose_nothing(
    make_controller: MakeController, spawn: Spawn
) -> None:
    controller = make_controller(limit=2)
    ended = threading.Event()

    def elsewhere() -> None:
        while not ended.is_set():
            controller.admit("thread").release()

    async def ask(number: int) -> None:
        with await controller.admit_async(f"flow-{number % 3}"):
            await asyncio.sleep(0)

    async def story() -> int:
        tasks = [asyncio.create_task(ask(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 2:
                task.cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(result is None for result in results)

    threads = [spawn(elsewhere) for _ in range(2)]
    try:
        assert run(story) >= 150
    finally:
        ended.set()
        for thread in threads:
            thread.result()
    assert (controller.stats().queued, controller.stats().in_flight, controller.stats().abandoned) == (0, 0, 0)


# --- the loop is gone -------------------------------------------------------------------------------------------------


class Abandoned:
    """A loop that is closed while a task of its own waits for the one seat."""

    def __init__(self, controller: FlowController) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: None)  # it would tell of the task, rightly
        self.task: asyncio.Task[Ticket] | None = self.loop.create_task(controller.admit_async("b"))
        self.loop.run_until_complete(until(lambda: controller.stats().queued == 1))


def test_a_grant_for_a_loop_that_is_closed_goes_to_the_next(controller: FlowController) -> None:
    holder = controller.admit("a")
    abandoned = Abandoned(controller)
    abandoned.loop.close()
    behind = controller.submit(Request(FlowKey("c")), lambda ticket: None)

    holder.release()

    assert behind.state == "dispatched"
    assert abandoned.task is not None, "nobody had to drop it for that"
    behind.release()


def test_a_grant_in_another_thread_for_a_loop_that_is_closed_goes_to_the_next(
    controller: FlowController, spawn: Spawn
) -> None:
    holder = controller.admit("a")
    abandoned = Abandoned(controller)
    abandoned.loop.close()

    assert spawn(holder.release).result()
    assert controller.stats().in_flight == 0


def test_a_loop_that_is_closed_before_it_came_to_the_wake_up_loses_no_seat(controller: FlowController) -> None:
    holder = controller.admit("a")
    abandoned = Abandoned(controller)
    holder.release()
    abandoned.loop.close()

    abandoned.task = None
    gc.collect()
    controller.collect()

    assert controller.stats().in_flight == 0


def test_asyncio_run_cancels_who_still_waits_at_its_end(controller: FlowController) -> None:
    async def story() -> asyncio.Task[Ticket]:
        return await waiting(controller)

    with controller.admit("a"):
        assert run(story).cancelled()
        assert controller.stats().queued == 0


def test_a_ticket_that_was_taken_outlives_its_loop_whoever_tells_of_it_late(controller: FlowController) -> None:
    async def story() -> tuple[Waker, Ticket]:
        waker = Waker()
        return waker, await waker.granted(controller.submit(Request(FlowKey("a")), waker))

    waker, ticket = run(story)
    waker(ticket)  # as by a thread that was slow to tell

    assert ticket.state == "dispatched"
    ticket.release()


def test_a_task_whose_wake_up_was_lost_looks_by_itself(
    controller: FlowController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "SLICE", 0.001)

    async def story() -> None:
        holder = controller.admit("a")
        ticket = controller.submit(Request(FlowKey("b")), lambda ticket: None)
        task = asyncio.create_task(Waker().granted(ticket))
        await asyncio.sleep(0)
        holder.release()
        (await task).release()
        assert ticket.outcome is Outcome.DISPATCHED

    run(story)
