"""What collection costs others: the flows that expire are those that are meant to, and the locks are timed."""

import threading

import pytest

from benchmarks import collection, holding
from flowctl import ConcurrencyLimit, FlowController, sync


def test_locks_are_timed_by_who_made_them_and_the_others_are_left_alone() -> None:
    original = sync.RLock, sync.RWLock
    with holding.timed() as holds:
        controller = FlowController(gate=ConcurrencyLimit(1), background=False)
    with controller:
        controller.admit("before").release()
        unwatched = holds.taken()
        with holds.watched():
            controller.admit("new").release()
        watched = holds.taken()

    assert (sync.RLock, sync.RWLock) == original
    assert unwatched == {}
    assert {"the turn", "a shard, written"} <= watched.keys()
    assert all(seconds >= 0 for seconds in watched.values())


def test_a_lock_that_is_taken_twice_by_its_thread_is_held_once() -> None:
    noted: list[str] = []
    holds = holding.Holds()
    holds.note = lambda name, seconds: noted.append(name)  # type: ignore[method-assign]  # to see each call
    lock = holding._Timed(threading.RLock(), "a lock", holds)

    with holds.watched(), lock, lock:
        assert noted == []

    assert noted == ["a lock"]


def test_a_population_has_another_thousand_for_each_cycle() -> None:
    with pytest.raises(AssertionError):
        collection.Population(1_000, cycles=2)


def test_the_rows_of_a_small_population_are_those_of_a_large_one() -> None:
    many, few = collection.Population(3_000, 2), collection.Population(2_000, 1)
    with many.controller, few.controller:
        cost, scaling = collection.costs(many, few, 1, ("many", "few"))
        late = collection.lateness(many, 1, "many")

        assert cost.value > 0
        assert scaling.rival == "few"
        assert [row.target is not None for row in late] == [False, False, False, True]
        assert many.controller.stats().flows == 3_000


def test_the_longest_hold_of_each_lock_has_a_row() -> None:
    rows = collection.held(1_500, 1, "1,500")

    assert {"the turn", "the order of the idle", "a shard, written", "a table"} <= {row.at["lock"] for row in rows}
    assert [row.value for row in rows] == sorted((row.value for row in rows), reverse=True)
