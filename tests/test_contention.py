"""Where threads meet, counted."""

import doctest
import threading
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest

from flowctl import ConcurrencyLimit, Config, FlowController, LockUse, WordUse, snapshot
from flowctl.atomic import AtomicWord, CellWord, CountedWord, WordUsage
from flowctl.lease import SectionWord
from flowctl.sync import CountedRLock, RLock, RWLock, SharedUsage
from flowctl.testing import FakeClock
from flowctl.usage import Usage
from tests.faults.moments import Moments
from tests.faults.points import Tell, strike_each_point
from tests.support import PATIENCE, MakeController, Spawn


def test_the_examples_work() -> None:
    results = doctest.testmod(snapshot)

    assert results.attempted > 0
    assert results.failed == 0


# --- a controller --------------------------------------------------------------------------------------------------


def test_without_a_profile_nothing_is_counted(controller: FlowController) -> None:
    controller.admit("a").release()
    state = controller._state
    (flow,) = state.registry.flows()

    assert controller.contention() is None
    assert state.profile is None
    assert type(state.turn.lock) is type(flow.band.flows._mutex) is type(state.registry._idle) is type(RLock())
    assert type(flow.band.lease.word) is CellWord
    assert [(shard.lock.reads, shard.lock.writes) for shard in state.registry.topology.shards] == [(None, None)] * 4


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
    assert (after.turn.waits, after.turn.waited, after.turn.p99, after.turn.handoffs) == (0, 0, 0, 0)
    assert sum(shard.write.acquisitions for shard in after.shards) == 1
    assert len(after.shards) == 2
    assert after.bands == before.bands


def test_what_a_collection_takes_is_counted_and_stays_counted(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller(Config(profile=True, shards=1, flow_gc_timeout=1.0, band_gc_timeout=2.0))
    for number in range(5):
        controller.admit(f"flow-{number}").release()
    clock.advance(10)
    report = controller.collect()
    clock.advance(10)
    bands = report.bands + controller.collect().bands
    counted = controller.contention()

    assert (report.flows, bands) == (5, 1)
    assert counted is not None
    assert counted.tables.acquisitions == 6  # five flows, one band
    assert counted.bands.attempts == 6  # 4 pins, all back at once, one mark: it was born with a pin
    assert counted.idle.acquisitions >= 2
    assert [shard.write.acquisitions for shard in counted.shards] == [6]  # five came, and left together


def test_a_look_round_reads_each_shard(make_controller: MakeController) -> None:
    controller = make_controller(Config(profile=True, shards=3))
    controller.stats()
    counted = controller.contention()

    assert counted is not None
    assert [shard.read.acquisitions for shard in counted.shards] == [1, 1, 1]


def test_a_child_counts_anew(make_controller: MakeController) -> None:
    controller = make_controller(Config(profile=True))
    controller.admit("a").release()
    controller.after_fork_in_child()

    counted = controller.contention()
    assert counted is not None
    assert counted.turn.acquisitions < 5


def test_no_count_of_eight_threads_is_lost(spawn: Spawn) -> None:
    start = threading.Barrier(8)
    with FlowController(Config(profile=True), gate=ConcurrencyLimit(2), background=False) as controller:

        def use(number: int) -> None:
            start.wait(PATIENCE)
            for turn in range(50):
                controller.admit(f"{number}-{turn}").release()

        for thread in [spawn(partial(use, number)) for number in range(8)]:
            thread.result()
        counted = controller.contention()

    assert counted is not None
    assert sum(shard.write.acquisitions for shard in counted.shards) == 400
    assert counted.turn.acquisitions >= 1_200
    for use_of in (counted.turn, *(shard.write for shard in counted.shards)):
        assert sum(use_of.histogram) == use_of.waits <= use_of.acquisitions
        assert use_of.longest <= use_of.waited


# --- one lock ------------------------------------------------------------------------------------------------------


def test_a_wait_is_counted_with_the_time_it_took_and_a_change_of_threads_as_a_hand_off(spawn: Spawn) -> None:
    waits, times, usage = threading.Event(), iter([1.0, 4.0]), Usage()

    def now() -> float:
        waits.set()
        return next(times)

    lock = CountedRLock(now, usage)

    def use() -> None:
        with lock:
            pass

    with lock:
        waiter = spawn(use)
        assert waits.wait(PATIENCE)
    waiter.result()
    use()

    seen = usage.seen()
    assert (seen.acquisitions, seen.waits, seen.waited, seen.longest, seen.handoffs) == (3, 1, 3.0, 3.0, 2)


def test_a_lock_counts_whichever_way_it_is_taken(spawn: Spawn) -> None:
    usage = Usage()
    lock = CountedRLock(FakeClock().now, usage)
    lock.acquire()
    with lock:
        assert lock.acquire(blocking=False)
        assert not spawn(lambda: lock.acquire(blocking=False)).result(), "not taken, hence not counted"
        assert not spawn(lambda: lock.acquire(timeout=0.001)).result()
        lock.release()
    assert lock._is_owned()  # type: ignore[attr-defined]  # not in the stubs
    lock.release()

    assert not lock._is_owned()  # type: ignore[attr-defined]
    assert (usage.acquisitions, usage.waits, usage.handoffs) == (3, 0, 0)


def test_a_reader_writer_lock_counts_its_two_sides() -> None:
    lock = RWLock(FakeClock().now)
    with lock.read():
        pass
    with lock.write():
        pass
    with lock.write():
        pass

    assert lock.reads is not None
    assert lock.writes is not None
    assert [(side.seen().acquisitions, side.seen().waits) for side in (lock.reads, lock.writes)] == [(1, 0), (2, 0)]


@pytest.mark.parametrize("side", ["read", "write"])
def test_who_waits_for_a_writer_is_counted_on_its_own_side(spawn: Spawn, side: Literal["read", "write"]) -> None:
    waits, times = threading.Event(), iter([1.0, 4.0])

    def now() -> float:
        waits.set()
        return next(times)

    lock = RWLock(now)
    with lock.write():
        waiter = spawn(lambda: lock.acquire(side))
        assert waits.wait(PATIENCE)
    waiter.result().release()

    usage = lock.reads if side == "read" else lock.writes
    assert usage is not None
    seen = usage.seen()
    assert (seen.waits, seen.waited, seen.handoffs) == (1, 3.0, side == "write")


def test_waits_go_by_powers_of_two_of_microseconds() -> None:
    usage = Usage()
    for microseconds in (0.5, 1, 1.9, 2, 3, 1_000, 1e15):
        usage.count(microseconds / 1e6, thread=1)
    usage.count(None, thread=1)
    usage.count(-1.0, thread=1)  # a clock that goes back

    seen = usage.seen()
    assert {power: count for power, count in enumerate(seen.histogram) if count} == {0: 2, 1: 2, 2: 2, 10: 1, 35: 1}
    assert (seen.acquisitions, seen.waits, seen.longest) == (9, 8, 1e9)


@pytest.mark.parametrize(
    ("waits", "free", "p99"),
    [
        ([], 0, 0.0),
        ([], 1_000, 0.0),
        ([3e-3], 99, 0.0),
        ([3e-3], 98, 3e-3),
        ([3e-3, 3e-6], 198, 0.0),
        ([3e-3, 3e-3, 3e-6], 197, 4e-6),
        ([3e-3, 3e-3, 3e-3], 197, 3e-3),
    ],
)
def test_99_of_100_had_the_lock_within_the_p99(waits: list[float], free: int, p99: float) -> None:
    usage = Usage()
    for waited in waits:
        usage.count(waited, thread=1)
    for _ in range(free):
        usage.count(None, thread=1)

    assert usage.seen().p99 == p99


def test_locks_that_share_a_usage_are_counted_together() -> None:
    usage, clock = SharedUsage(), FakeClock()
    for _ in range(3):
        with CountedRLock(clock.now, usage), CountedRLock(clock.now, usage):
            pass

    assert usage.seen() == LockUse(acquisitions=6, histogram=(0,) * 36)


# --- one word ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_word", [CellWord, lambda value: SectionWord(RLock(), value)])
def test_a_word_counts_the_exchanges_that_another_thread_made_needless(
    spawn: Spawn, make_word: Callable[[int], AtomicWord]
) -> None:
    usage = WordUsage()
    word = CountedWord(make_word(5), usage)

    assert word.compare_exchange(5, 6)
    assert not word.compare_exchange(5, 7)
    assert spawn(lambda: word.compare_exchange(6, 8)).result()
    assert word.compare_exchange(8, 6)
    assert word.compare_exchange(6, 6)
    assert word.fetch_add(1) == 6
    assert (word.load(), usage.seen()) == (7, WordUse(attempts=5, lost=1, handoffs=2))


# --- exceptions ----------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Comes anywhere."""


def strike_a_counted_lock(at: int) -> int:
    """An exception at this moment of a lock's nested use; how many moments were passed until then."""
    usage = SharedUsage()
    lock = CountedRLock(FakeClock().now, usage)

    with Moments(at, strike) as moments:
        try:
            with lock, lock:
                pass
        except Interrupted:
            pass
    assert lock._recursion_count() == 0  # type: ignore[attr-defined]  # not in the stubs
    assert_that_it_is_free(usage)
    return moments.passed


def strike_a_counted_acquire(at: int) -> int:
    """The same where it is taken without `with`, by who asks in the end whether it is held."""
    usage = SharedUsage()
    lock = CountedRLock(FakeClock().now, usage)
    with Moments(at, strike) as moments:
        try:
            lock.acquire()
            lock.release()
        except Interrupted:
            if lock._is_owned():  # type: ignore[attr-defined]  # not in the stubs
                lock.release()
    assert lock._recursion_count() == 0  # type: ignore[attr-defined]
    assert_that_it_is_free(usage)
    return moments.passed


def strike_a_counted_word(at: int) -> int:
    """The same of an exchange: it is made, or it is not."""
    usage, section = WordUsage(), RLock()
    word = CountedWord(SectionWord(section, 5), usage)
    with Moments(at, strike) as moments:
        try:
            word.compare_exchange(5, 6)
        except Interrupted:
            pass
    assert word.load() in (5, 6)
    assert not section._is_owned()  # type: ignore[attr-defined]
    assert not usage._mutex._is_owned()  # type: ignore[attr-defined]
    return moments.passed


def strike() -> None:
    raise Interrupted


def assert_that_it_is_free(usage: SharedUsage) -> None:
    assert not usage._mutex._is_owned()  # type: ignore[attr-defined]  # not in the stubs
    seen = usage.seen()
    assert seen.acquisitions <= 2
    assert seen.waits == sum(seen.histogram) == 0


@pytest.mark.parametrize("tell", [strike_a_counted_lock, strike_a_counted_acquire, strike_a_counted_word])
def test_an_exception_at_any_moment_leaves_what_is_counted_free(tell: Tell) -> None:
    tell(0)  # since 3.12 the first run of a function is not seen in full

    assert strike_each_point(tell) >= 4


@pytest.mark.parametrize("name", ["profile", "refuse_doomed"])
def test_a_switch_is_a_bool(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a bool, not 1"):
        Config(**{name: 1})  # type: ignore[arg-type]
