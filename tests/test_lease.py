"""The lease: the step table of the design, on its pure functions, on each backend, and in a table."""

import threading
from collections.abc import Callable

import pytest

from flowctl import sync
from flowctl.atomic import AtomicWord, CellWord, LockWord
from flowctl.lease import (
    MARKED_FOR_DELETION,
    MAX_PINS,
    ONE_PIN,
    STAMP_MASK,
    Lease,
    LeaseTable,
    SectionWord,
    born,
    marked,
    pinned,
    to_ms,
    unpinned,
)
from tests.support import Spawn

MARK = MARKED_FOR_DELETION
HALF = STAMP_MASK // 2


def word_of(pins: int, stamp: int, mark: int = 0) -> int:
    return mark | pins * ONE_PIN | stamp


# --- the word ------------------------------------------------------------------------------------------------------


def test_the_word_is_one_bit_of_mark_22_bits_of_pins_and_40_bits_of_milliseconds() -> None:
    assert MARKED_FOR_DELETION == 1 << 62
    assert MAX_PINS == 2**22 - 1
    assert STAMP_MASK == 2**40 - 1
    assert word_of(MAX_PINS, STAMP_MASK, MARK) == 2**63 - 1, "a signed 64-bit integer holds it"


@pytest.mark.parametrize(("now", "pins"), [(0.0, 0), (0.0, 1), (1000.0, 1), (12.3456, 2)])
def test_a_lease_is_born_with_its_pins_and_the_time(now: float, pins: int) -> None:
    assert born(now, pins=pins) == word_of(pins, to_ms(now))


@pytest.mark.parametrize(("seconds", "ms"), [(0.0, 0), (0.0009, 0), (0.001, 1), (1.9999, 1999), (1000.0, 1_000_000)])
def test_times_are_whole_milliseconds(seconds: float, ms: int) -> None:
    assert to_ms(seconds) == ms


# --- the steps -----------------------------------------------------------------------------------------------------

PINS = [
    pytest.param(word_of(0, 500), word_of(1, 500), id="idle: one pin, the stamp kept"),
    pytest.param(word_of(1, 500), word_of(2, 500), id="pinned: one more, the stamp kept"),
    pytest.param(word_of(MAX_PINS - 1, 5), word_of(MAX_PINS, 5), id="the last pin that there is room for"),
    pytest.param(word_of(MAX_PINS, 0), None, id="at the maximum: refused"),
    pytest.param(word_of(MAX_PINS, STAMP_MASK), None, id="at the maximum: never carried into the mark"),
    pytest.param(word_of(0, 500, MARK), None, id="marked: never again"),
    pytest.param(word_of(0, 0, MARK), None, id="marked at time 0: never again"),
]


@pytest.mark.parametrize(("before", "after"), PINS)
def test_pinning(before: int, after: int | None) -> None:
    assert pinned(before) == after


UNPINS = [
    pytest.param(word_of(1, 500), 700, word_of(0, 700), id="the last pin: idle since now"),
    pytest.param(word_of(2, 500), 700, word_of(1, 700), id="one of two"),
    pytest.param(word_of(1, 500), 500, word_of(0, 500), id="at once"),
    pytest.param(word_of(1, 500), 499, word_of(0, 500), id="a late thread does not turn the stamp back"),
    pytest.param(word_of(1, 500), 0, word_of(0, 500), id="a very late thread neither"),
    pytest.param(word_of(MAX_PINS, 0), HALF, word_of(MAX_PINS - 1, HALF), id="17 years later"),
    pytest.param(word_of(1, STAMP_MASK), 5, word_of(0, 5), id="just after the stamps wrapped"),
    pytest.param(word_of(1, 5), STAMP_MASK, word_of(0, 5), id="a late thread just after the stamps wrapped"),
]


@pytest.mark.parametrize(("before", "now_ms", "after"), UNPINS)
def test_unpinning(before: int, now_ms: int, after: int) -> None:
    assert unpinned(before, now_ms) == after


MARKS = [
    pytest.param(word_of(0, 500), 1500, 1000, word_of(0, 500, MARK), id="idle for the timeout"),
    pytest.param(word_of(0, 500), 1499, 1000, None, id="one tick before: kept"),
    pytest.param(word_of(0, 500), 500, 0, word_of(0, 500, MARK), id="timeout 0: at once"),
    pytest.param(word_of(0, 500), 400, 0, None, id="a clock before its stamp: kept"),
    pytest.param(word_of(0, STAMP_MASK), 999, 1000, word_of(0, STAMP_MASK, MARK), id="the stamps wrapped meanwhile"),
    pytest.param(word_of(0, STAMP_MASK), 998, 1000, None, id="the stamps wrapped, one tick before: kept"),
    pytest.param(word_of(0, 0), 0, 0, word_of(0, 0, MARK), id="at time 0"),
    pytest.param(word_of(0, STAMP_MASK), STAMP_MASK, 0, word_of(0, STAMP_MASK, MARK), id="at the end of time"),
    pytest.param(word_of(1, 0), STAMP_MASK, 0, None, id="pinned: whatever the stamp says"),
    pytest.param(word_of(MAX_PINS, 0), STAMP_MASK, 0, None, id="pinned to the maximum"),
    pytest.param(word_of(0, 0, MARK), STAMP_MASK, 0, None, id="marked: nothing more, it is final"),
]


@pytest.mark.parametrize(("before", "now_ms", "timeout_ms", "after"), MARKS)
def test_marking(before: int, now_ms: int, timeout_ms: int, after: int | None) -> None:
    assert marked(before, now_ms, timeout_ms) == after


# --- on each backend -----------------------------------------------------------------------------------------------

MakeWord = Callable[[int], AtomicWord]


def section_word(value: int) -> SectionWord:
    return SectionWord(sync.RLock(), value)


each_backend = pytest.mark.parametrize(
    "make_word", [CellWord, LockWord, section_word], ids=["cells", "lock", "section"]
)


@each_backend
def test_a_pinned_lease_cannot_be_marked_however_old_it_is(make_word: MakeWord) -> None:
    lease = Lease(make_word(born(0.0, pins=1)))

    assert not lease.try_mark(now=1e6, idle_timeout=0.0)
    assert (lease.pins, lease.is_marked) == (1, False)
    lease._check()


@each_backend
def test_a_marked_lease_can_neither_be_pinned_nor_marked_again(make_word: MakeWord) -> None:
    lease = Lease(make_word(born(0.0, pins=0)))

    assert lease.try_mark(now=5.0, idle_timeout=5.0)
    assert not lease.try_mark(now=9.0, idle_timeout=0.0)
    assert not lease.try_pin()
    assert (lease.pins, lease.is_marked) == (0, True)
    lease._check()


@each_backend
def test_idle_time_starts_at_release_and_not_when_the_pin_was_taken(make_word: MakeWord) -> None:
    lease = Lease(make_word(born(0.0, pins=1)))
    lease.unpin(lambda: 20.0)

    assert lease.idle_for(21.0) == 1.0
    assert not lease.try_mark(now=29.9, idle_timeout=10.0)
    assert lease.try_mark(now=30.0, idle_timeout=10.0)


@each_backend
def test_now_is_read_after_the_load_so_that_a_release_that_loses_its_exchange_is_not_late(
    make_word: MakeWord,
) -> None:
    """Another pin comes between the load and the exchange: the second try reads the clock anew."""
    lease = Lease(make_word(born(0.0, pins=1)))
    times = iter([3.0, 8.0])

    def now() -> float:
        time = next(times)
        if time == 3.0:
            lease.try_pin()
        return time

    lease.unpin(now)

    assert (lease.pins, lease.idle_for(9.0)) == (1, 1.0)


@each_backend
def test_an_unpin_without_a_pin_is_the_callers_misuse(make_word: MakeWord) -> None:
    lease = Lease(make_word(born(7.0, pins=0)))

    with pytest.raises(RuntimeError, match="no pin"):
        lease.unpin(lambda: 9.0)
    assert (lease.pins, lease.idle_for(9.0)) == (0, 2.0)


@each_backend
def test_several_pins_are_given_back_at_once_or_not_at_all(make_word: MakeWord) -> None:
    lease = Lease(make_word(born(7.0, pins=3)))

    lease.unpin(lambda: 8.0, 2)
    with pytest.raises(RuntimeError, match="no pin"):
        lease.unpin(lambda: 9.0, 2)
    assert lease.pins == 1


@each_backend
def test_an_unpin_of_a_marked_lease_is_the_callers_misuse(make_word: MakeWord) -> None:
    lease = Lease(make_word(word_of(0, 5, MARK)))

    with pytest.raises(RuntimeError, match="no pin"):
        lease.unpin(lambda: 9.0)
    assert lease.is_marked


@each_backend
def test_a_lease_at_the_maximum_refuses_a_pin_and_takes_one_again_later(make_word: MakeWord) -> None:
    lease = Lease(make_word(word_of(MAX_PINS, 0)))

    assert not lease.try_pin()
    assert not lease.is_marked
    lease.unpin(lambda: 1.0)
    assert lease.try_pin()


@each_backend
def test_a_mark_that_loses_its_exchange_to_a_pin_is_not_made(make_word: MakeWord) -> None:
    class PinnedMeanwhile:
        """A word of which another thread takes a pin just before each exchange."""

        def __init__(self) -> None:
            self.word = make_word(born(0.0, pins=0))
            self.load = self.word.load
            self.fetch_add = self.word.fetch_add

        def compare_exchange(self, expected: int, new: int) -> bool:
            assert Lease(self.word).try_pin()
            return self.word.compare_exchange(expected, new)

    lease = Lease(PinnedMeanwhile())

    assert not lease.try_mark(now=99.0, idle_timeout=1.0)
    assert (lease.pins, lease.is_marked) == (1, False)


@each_backend
def test_pins_of_many_threads_add_up(make_word: MakeWord, spawn: Spawn) -> None:
    lease = Lease(make_word(born(0.0, pins=0)))

    def pin_and_unpin() -> None:
        for _ in range(500):
            assert lease.try_pin()
            assert lease.try_pin()
            lease.unpin(lambda: 1.0)

    for thread in [spawn(pin_and_unpin) for _ in range(8)]:
        thread.result()

    assert lease.pins == 8 * 500


@each_backend
def test_of_many_collections_one_marks_and_no_pin_is_granted_after_it(make_word: MakeWord, spawn: Spawn) -> None:
    for _ in range(100):
        lease = Lease(make_word(born(0.0, pins=0)))
        start = threading.Barrier(6)

        def mark(lease: Lease = lease, start: threading.Barrier = start) -> bool:
            start.wait()
            return lease.try_mark(now=1.0, idle_timeout=0.0)

        def pin(lease: Lease = lease, start: threading.Barrier = start) -> bool:
            start.wait()
            return lease.try_pin()

        markers, pinners = [spawn(mark) for _ in range(3)], [spawn(pin) for _ in range(3)]
        marks, pins = sum(each.result() for each in markers), sum(each.result() for each in pinners)

        assert marks + bool(pins) == 1, "marked once, or held"
        assert lease.pins == pins
        assert lease.is_marked == bool(marks)


# --- in a table ----------------------------------------------------------------------------------------------------


class Entry:
    def __init__(self, pins: int = 1) -> None:
        self.lease = Lease(CellWord(born(0.0, pins=pins)))


def marked_entry() -> Entry:
    entry = Entry(pins=0)
    assert entry.lease.try_mark(now=1.0, idle_timeout=0.0)
    return entry


def test_what_is_not_there_cannot_be_pinned() -> None:
    assert LeaseTable[str, Entry]().pin("a") is None


def test_what_is_published_first_stays() -> None:
    table, first, second = LeaseTable[str, Entry](), Entry(), Entry()

    assert table.publish("a", first) is first
    assert table.publish("a", second) is first
    assert table.entries == {"a": first}
    assert table.pin("a") is first
    assert (first.lease.pins, second.lease.pins) == (2, 1)


def test_a_marked_entry_is_removed_by_whoever_meets_it() -> None:
    table, entry = LeaseTable[str, Entry](), marked_entry()
    table.publish("a", entry)

    assert table.pin("a") is None
    assert table.entries == {}
    table._check()


def test_a_successor_stays_when_its_predecessor_is_removed_late() -> None:
    table, old, new = LeaseTable[str, Entry](), marked_entry(), Entry()
    table.publish("a", old)

    assert table.remove("a", old)
    table.publish("a", new)
    assert not table.remove("a", old), "by another collection, which comes late"
    assert table.pin("a") is new


def test_a_removal_that_was_done_is_not_done_again() -> None:
    table, entry = LeaseTable[str, Entry](), marked_entry()
    table.publish("a", entry)

    assert [table.remove("a", entry), table.remove("a", entry)] == [True, False]


def test_nothing_leaves_a_table_unmarked() -> None:
    table, entry = LeaseTable[str, Entry](), Entry()
    table.publish("a", entry)

    with pytest.raises(AssertionError, match="L2"):
        table.remove("a", entry)
    assert table.entries == {"a": entry}


def test_an_entry_that_is_pinned_to_the_maximum_says_so() -> None:
    table, entry = LeaseTable[str, Entry](), Entry(pins=MAX_PINS)
    table.publish("a", entry)

    with pytest.raises(OverflowError, match="pins on one lease"):
        table.pin("a")
    assert entry.lease.pins == MAX_PINS


def test_of_50_threads_that_publish_one_key_one_is_seen_by_all(spawn: Spawn) -> None:
    table, start = LeaseTable[str, Entry](), threading.Barrier(50)

    def publish() -> tuple[Entry, Entry]:
        mine = Entry(pins=0)
        start.wait()
        return mine, table.publish("a", mine)

    outcomes = [publisher.result() for publisher in [spawn(publish) for _ in range(50)]]

    winners = {winner for _, winner in outcomes}
    assert len(winners) == 1
    assert sum(mine is winner for mine, winner in outcomes) == 1
    assert set(table.entries.values()) == winners


def test_nobody_who_holds_a_pin_ever_loses_the_entry_to_hostile_collectors(spawn: Spawn) -> None:
    table, stop = LeaseTable[str, Entry](), threading.Event()

    def use() -> None:
        for _ in range(300):
            entry = pin_or_publish(table)
            assert table.entries["a"] is entry, "L4: a held entry is the very one that the table has"
            entry.lease.unpin(lambda: 0.0)

    def collect() -> None:
        while not stop.is_set():
            for key, entry in table.entries.copy().items():
                if entry.lease.try_mark(now=0.0, idle_timeout=0.0):
                    assert entry.lease.pins == 0
                    table.remove(key, entry)

    collectors = [spawn(collect) for _ in range(2)]
    for user in [spawn(use) for _ in range(16)]:
        user.result()
    stop.set()
    for collector in collectors:
        collector.result()
    table._check()


def pin_or_publish(table: LeaseTable[str, Entry]) -> Entry:
    """The optimistic loop."""
    while True:
        entry = table.pin("a")
        if entry is not None:
            return entry
        mine = Entry(pins=1)
        if table.publish("a", mine) is mine:
            return mine
