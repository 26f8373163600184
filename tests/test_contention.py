"""Where threads meet, counted."""

import threading

import pytest

from flowctl import Config, FlowController, sync
from flowctl.atomic import CellWord, CountedWord
from flowctl.stats import LockUse
from flowctl.sync import CountedRLock, RWLock, Usage
from flowctl.testing import FakeClock
from tests.faults.moments import Moments
from tests.faults.points import strike_each_point
from tests.support import PATIENCE, MakeController, Spawn


def test_without_a_profile_nothing_is_counted(controller: FlowController) -> None:
    assert controller.contention() is None


def test_each_section_and_each_creation_is_counted(make_controller: MakeController) -> None:
    controller = make_controller(Config(profile=True, shards=2))
    controller.admit("a").release()
    before = controller.contention()
    for _ in range(10):
        controller.admit("a").release()
    after = controller.contention()

    assert before is not None
    assert after is not None
    assert after.turn.acquisitions - before.turn.acquisitions == 20
    assert (after.turn.waits, after.turn.waited) == (0, 0)
    assert sum(shard.write.acquisitions for shard in after.shards) == 1
    assert len(after.shards) == 2
    controller.resize(3)
    assert after.exchanges >= before.exchanges


def test_a_child_counts_anew(make_controller: MakeController) -> None:
    controller = make_controller(Config(profile=True))
    controller.admit("a").release()
    controller.after_fork_in_child()

    counted = controller.contention()
    assert counted is not None
    assert counted.turn.acquisitions < 5


def test_who_waits_for_a_lock_is_counted_with_the_time_it_took(spawn: Spawn) -> None:
    waits, times = threading.Event(), iter([1.0, 4.0])

    def now() -> float:
        waits.set()
        return next(times)

    lock = CountedRLock(now)

    def use() -> None:
        with lock:
            pass

    with lock:
        waiter = spawn(use)
        assert waits.wait(PATIENCE)
    waiter.result()

    assert lock.usage.seen() == LockUse(2, 1, 3.0)


def test_a_reader_writer_lock_counts_its_two_sides() -> None:
    lock = RWLock(FakeClock().now)
    with lock.read():
        pass
    with lock.write():
        pass
    with lock.write():
        pass

    assert (lock.reads.acquisitions, lock.writes.acquisitions) == (1, 2)


def test_only_what_takes_longer_than_the_lock_itself_is_a_wait() -> None:
    usage = Usage()
    usage.count(sync.UNCONTENDED)
    usage.count(0.5)

    assert usage.seen() == LockUse(2, 1, 0.5)


def test_a_word_counts_the_exchanges_that_another_thread_made_needless() -> None:
    word = CountedWord(CellWord(5))

    assert word.compare_exchange(5, 6)
    assert not word.compare_exchange(5, 7)
    assert word.fetch_add(1) == 6
    assert (word.load(), word.attempts, word.lost) == (7, 2, 1)


class Interrupted(BaseException):
    """Comes anywhere."""


def strike_a_counted_lock(at: int) -> int:
    """An exception at this moment of a lock's nested use; how many moments were passed until then."""
    lock = CountedRLock(FakeClock().now)

    def strike() -> None:
        raise Interrupted

    with Moments(at, strike) as moments:
        try:
            with lock, lock:
                pass
        except Interrupted:
            pass
    assert lock._recursion_count() == 0  # type: ignore[attr-defined]  # not in the stubs
    return moments.passed


def test_an_exception_at_any_moment_leaves_a_counted_lock_free() -> None:
    strike_a_counted_lock(0)  # since 3.12 the first run of a function is not seen in full

    assert strike_each_point(strike_a_counted_lock) >= 4


@pytest.mark.parametrize("name", ["profile", "refuse_doomed"])
def test_a_switch_is_a_bool(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a bool, not 1"):
        Config(**{name: 1})  # type: ignore[arg-type]
