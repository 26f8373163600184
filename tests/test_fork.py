"""After a fork: the child is as good as new, and owes the parent nothing."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from flowctl import ConcurrencyLimit, Config, FlowController, FlowKey, Request, Ticket
from tests.support import Spawn

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def true_in_child(story: Callable[[], bool]) -> bool:
    """Fork, and say whether the story came true in the child, within ten seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        came_true = False
        try:
            came_true = story()
        finally:
            os._exit(0 if came_true else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def submit(controller: FlowController, flow: str = "b") -> Ticket:
    return controller.submit(Request(FlowKey(flow)), on_settled=lambda ticket: None)


def test_a_child_begins_empty_with_the_same_configuration(controller: FlowController) -> None:
    _held, _queued = controller.admit("a"), submit(controller)

    def story() -> bool:
        stats = controller.stats()
        empty = (stats.queued, stats.in_flight, stats.flows, stats.dispatched, stats.limit) == (0, 0, 0, 0, 1)
        with controller.admit("a"):
            return empty and controller.stats().in_flight == 1

    assert true_in_child(story)
    assert (controller.stats().in_flight, controller.stats().queued) == (1, 1)


def test_a_ticket_of_the_parent_gives_nothing_back_in_the_child(controller: FlowController) -> None:
    ticket = controller.admit("a")

    def story() -> bool:
        with controller.admit("a"):
            return not ticket.release() and controller.stats().in_flight == 1

    assert true_in_child(story)
    assert ticket.release()


def test_a_request_that_was_queued_in_the_parent_can_be_cancelled_in_the_child(controller: FlowController) -> None:
    _holder, ticket = controller.admit("a"), submit(controller)

    assert true_in_child(lambda: ticket.cancel() and ticket.state == "refused")
    assert ticket.state == "queued"


def test_the_collector_starts_again_in_the_child_on_first_use() -> None:
    controller = FlowController(Config(gc_interval=0.05), gate=ConcurrencyLimit(1))
    controller.admit("a").release()

    def story() -> bool:
        told = threading.Event()
        holder = controller.admit("a")
        controller.submit(Request(FlowKey("b"), ttl=0.05), on_settled=lambda ticket: told.set())
        return told.wait(5) and holder.release() and controller.close(drain=1)

    assert true_in_child(story)
    controller.close()


def test_the_child_of_a_closed_controller_is_closed(controller: FlowController) -> None:
    controller.close()

    assert true_in_child(lambda: submit(controller).state == "refused")


LOCKS: dict[str, Callable[[FlowController], AbstractContextManager[object]]] = {
    "the turn": lambda controller: controller._state.turn.lock,
    "a shard": lambda controller: controller._state.registry.shards[0].lock.write(),
    "a table": lambda controller: controller._state.registry.bands._mutex,
    "a collection": lambda controller: controller._state._mutex,
    "the collector": lambda controller: controller._state.collector._mutex,
    "a founding": lambda controller: controller._state.registry._founding,
    "a report": lambda controller: controller._incidents._mutex,
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_that_another_thread_holds_at_the_fork_is_free_in_the_child(
    controller: FlowController, spawn: Spawn, lock: str
) -> None:
    controller.admit("a").release()
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCKS[lock](controller):
            held.set()
            assert forked.wait(20)

    def story() -> bool:
        for key in (FlowKey("a"), FlowKey("new"), FlowKey("new", 5)):
            controller.admit(key).release()
        controller.collect()
        return controller.close(drain=1)

    holding = spawn(hold)
    assert held.wait(20)
    came_true = true_in_child(story)
    forked.set()
    holding.result()

    assert came_true
