"""After a fork: the child is as good as new, and owes the parent nothing."""

import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FunctionType, MethodType

import pytest

from flowctl import ConcurrencyLimit, Config, FlowController, FlowKey, Request, Ticket, sync
from tests.proof import Proof
from tests.support import Spawn, true_in_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


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


# --- with each lock held ------------------------------------------------------------------------------------------

Held = Callable[[], AbstractContextManager[object]]

_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, sync._BoundedLock)


def locks_of(thing: object, path: str, seen: dict[int, object]) -> Iterator[tuple[str, Held]]:
    """Every lock that can be reached from a thing of the library: where it is, and how one holds it."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, _LOCKS):
        yield path, lambda: thing
    if isinstance(thing, sync.RWLock):
        yield f"{path}.read()", thing.read
        yield f"{path}.write()", thing.write
    for name, part in parts_of(thing):
        yield from locks_of(part, f"{path}{name}", seen)


def parts_of(thing: object) -> Iterator[tuple[str, object]]:
    if isinstance(thing, MethodType):
        yield ".__self__", thing.__self__
    elif isinstance(thing, FunctionType):
        yield from ((f".{nth}", cell.cell_contents) for nth, cell in enumerate(thing.__closure__ or ()))
    elif isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
        yield from ((f"[key {key!r}]", key) for key in thing)
    elif isinstance(thing, list | tuple | set | deque):
        yield from ((f"[{nth}]", part) for nth, part in enumerate(thing))
    if type(thing).__module__.partition(".")[0] in {"flowctl", "readerwriterlock"}:
        slots = [slot for cls in type(thing).__mro__ for slot in getattr(cls, "__slots__", ())]
        for name in (*slots, *getattr(thing, "__dict__", ())):
            if not name.startswith("__") and hasattr(thing, name):
                yield f".{name}", getattr(thing, name)


@pytest.fixture
def used() -> Iterator[FlowController]:
    """A controller with all that comes into being by use: flows, bands, tickets, a collector."""
    controller = FlowController(gate=ConcurrencyLimit(1))
    controller.admit("a").release()
    holder = controller.admit("a", priority=1)
    submit(controller)
    yield controller
    holder.release()
    controller.close()


def test_a_lock_that_another_thread_holds_at_the_fork_is_free_in_the_child(
    used: FlowController, spawn: Spawn, proof: Proof
) -> None:
    def story() -> bool:
        for key in (FlowKey("a"), FlowKey("new"), FlowKey("new", 5)):
            used.admit(key).release()
        used.submit(Request(FlowKey("a")), complain)
        used.collect()
        used.stats()
        return used.close(drain=1)

    def complain(ticket: Ticket) -> None:
        ticket.release()
        raise LookupError("to be reported")

    locks = dict(locks_of(used, "controller", {}))
    locks["sync"] = lambda: sync._forked_mutex["mutex"]
    stuck = [path for path, held in locks.items() if not true_in_child_while(held, story, spawn)]

    assert stuck == []
    proof.shown("P9", "a lock that is held at the fork is free in the child", "faults", len(locks), "points")


def true_in_child_while(held: Held, story: Callable[[], bool], spawn: Spawn) -> bool:
    """Fork while another thread holds a lock."""
    holding, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with held():
            holding.set()
            assert forked.wait(30)

    holder = spawn(hold)
    assert holding.wait(30)
    try:
        return true_in_child(story)
    finally:
        forked.set()
        holder.result()


def test_every_lock_that_is_made_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []

    def noting(make: Callable[[], object]) -> Callable[[], object]:
        def make_and_note() -> object:
            lock = make()
            made.append(weakref.ref(lock))
            return lock

        return make_and_note

    for name in ("Lock", "RLock", "Condition"):
        monkeypatch.setattr(sync, name, noting(getattr(sync, name)))
    controller = FlowController(gate=ConcurrencyLimit(1), background=False)
    holder = controller.admit("a", priority=1)
    submit(controller)
    seen: dict[int, object] = {}
    paths = [path for path, _ in locks_of(controller, "controller", seen)]

    alive = [lock for ref in made if (lock := ref()) is not None and lock is not sync._forked_mutex["mutex"]]
    assert [lock for lock in alive if id(lock) not in seen] == []
    assert len(alive) >= 8
    assert {path.rpartition(".")[2] for path in paths} >= {"read()", "write()"}
    holder.release()
    controller.close()


def test_a_lock_that_the_child_inherits_is_found(used: FlowController, spawn: Spawn, proof: Proof) -> None:
    state = used._state

    def story() -> bool:
        used._state = state  # as if it had not been renewed
        signal.alarm(1)
        used.collect()
        return True

    assert not true_in_child_while(lambda: state._mutex, story, spawn)
    claim = "a lock that is held at the fork is free in the child"
    proof.missed(claim, "the child's own state", 1, "points")
