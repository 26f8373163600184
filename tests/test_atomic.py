"""One contract over all backends of the atomic word."""

import gc
import signal
import threading
from collections.abc import Callable
from types import FrameType

import pytest

from flowctl import sync
from flowctl.atomic import AtomicWord, CellWord, LockWord
from flowctl.lease import SectionWord
from tests.support import Spawn

MakeWord = Callable[[int], AtomicWord]
LARGEST = 2**63 - 1


def section_word(value: int) -> SectionWord:
    return SectionWord(sync.RLock(), value)


BACKENDS = [CellWord, LockWord, section_word]
each_backend = pytest.mark.parametrize("make_word", BACKENDS, ids=["cells", "lock", "section"])


@each_backend
@pytest.mark.parametrize("value", [0, 1, 2**40, LARGEST])
def test_a_word_holds_what_it_was_made_with(make_word: MakeWord, value: int) -> None:
    assert make_word(value).load() == value


@pytest.mark.parametrize("make_word", [CellWord, LockWord, lambda: SectionWord(sync.RLock())])
def test_a_word_begins_at_0_unless_told_otherwise(make_word: Callable[[], AtomicWord]) -> None:
    assert make_word().load() == 0


@each_backend
def test_an_exchange_that_expects_the_value_stores_the_new_one(make_word: MakeWord) -> None:
    word = make_word(5)

    assert word.compare_exchange(5, LARGEST)
    assert word.load() == LARGEST


@each_backend
def test_an_exchange_that_expects_another_value_changes_nothing(make_word: MakeWord) -> None:
    word = make_word(5)

    assert not word.compare_exchange(6, 7)
    assert word.load() == 5


@each_backend
def test_an_exchange_for_the_same_value_succeeds(make_word: MakeWord) -> None:
    word = make_word(5)

    assert word.compare_exchange(5, 5)
    assert word.compare_exchange(5, 6)
    assert word.load() == 6


@each_backend
def test_a_value_that_came_back_can_be_exchanged_again(make_word: MakeWord) -> None:
    word = make_word(1)

    assert word.compare_exchange(1, 2)
    assert word.compare_exchange(2, 1)
    assert word.compare_exchange(1, 3)
    assert word.load() == 3


@each_backend
def test_adding_returns_the_value_before(make_word: MakeWord) -> None:
    word = make_word(40)

    assert [word.fetch_add(2), word.fetch_add(-10), word.load()] == [40, 42, 32]


@each_backend
def test_words_do_not_share_anything(make_word: MakeWord) -> None:
    one, other = make_word(0), make_word(0)
    one.fetch_add(1)

    assert (one.load(), other.load()) == (1, 0)


@each_backend
def test_no_addition_of_eight_threads_is_lost(make_word: MakeWord, spawn: Spawn) -> None:
    word, start = make_word(0), threading.Barrier(8)

    def add() -> list[int]:
        start.wait()
        return [word.fetch_add(1) for _ in range(2_000)]

    before = [value for adder in [spawn(add) for _ in range(8)] for value in adder.result()]

    assert word.load() == 16_000
    assert sorted(before) == list(range(16_000)), "each addition saw a value of its own"


@each_backend
def test_of_eight_threads_that_exchange_one_value_exactly_one_wins(make_word: MakeWord, spawn: Spawn) -> None:
    word = make_word(0)
    for generation in range(200):
        start = threading.Barrier(8)

        def exchange(expected: int = generation, start: threading.Barrier = start) -> bool:
            start.wait()
            return word.compare_exchange(expected, expected + 1)

        assert sum(winner.result() for winner in [spawn(exchange) for _ in range(8)]) == 1
    assert word.load() == 200


@each_backend
def test_a_word_never_goes_back_for_a_reader(make_word: MakeWord, spawn: Spawn) -> None:
    word = make_word(0)

    def read() -> list[int]:
        seen = [0]
        while seen[-1] < 3_000:
            value = word.load()
            if value != seen[-1]:
                seen.append(value)
        return seen

    readers = [spawn(read) for _ in range(2)]
    writers = [spawn(lambda: [word.fetch_add(1) for _ in range(1_500)]) for _ in range(2)]
    for writer in writers:
        writer.result()

    for reader in readers:
        assert reader.result() == sorted(set(reader.result()))


@each_backend
def test_a_signal_handler_in_the_midst_of_its_own_threads_exchange_neither_gets_stuck_nor_lost(
    make_word: MakeWord,
) -> None:
    word, handled, added = make_word(0), 0, 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal handled
        handled += 1
        word.fetch_add(1)

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while handled < 200:
            word.fetch_add(1)
            added += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

    assert word.load() == added + handled


@each_backend
def test_a_finaliser_in_the_midst_of_its_own_threads_exchange_neither_gets_stuck_nor_lost(
    make_word: MakeWord,
) -> None:
    word, finalised = make_word(0), 0

    class Dropped:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            nonlocal finalised
            finalised += 1
            word.fetch_add(1)

    thresholds = gc.get_threshold()
    gc.set_threshold(3)  # so that almost any allocation, also one in an exchange, may run finalisers
    try:
        for _ in range(500):
            Dropped()
            word.fetch_add(1)
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()

    assert finalised == 500
    assert word.load() == 1_000


def test_of_two_exchanges_of_one_cell_the_later_fails() -> None:
    word = CellWord(0)
    cell = word._newest()  # read, and then a finaliser comes in between
    word.fetch_add(1)

    successor = sync.Cell(9)
    assert cell.setdefault(1, successor) is not successor
    assert word.load() == 1


def test_cells_that_were_exchanged_do_not_pile_up() -> None:
    word = CellWord(0)
    before = cells_alive()
    for _ in range(5_000):
        word.fetch_add(1)

    assert cells_alive() <= before + 1


def test_a_late_hint_costs_a_walk_and_no_value() -> None:
    word = CellWord(0)
    first = word._cell
    for _ in range(100):
        word.fetch_add(1)
    word._cell = first  # a thread that stalled before it stored its hint

    assert word.load() == 100
    word.fetch_add(1)
    assert word.load() == 101
    assert 1 not in word._cell, "the next exchange leaves the newest cell behind"


def test_a_chain_that_a_stalled_thread_kept_alive_can_be_dropped_whatever_its_length() -> None:
    word = CellWord(0)
    stalled = [word._cell]
    for _ in range(200_000):
        word.fetch_add(1)
    stalled.clear()

    assert word.load() == 200_000


def test_an_exchange_under_a_section_takes_the_sections_lock(spawn: Spawn) -> None:
    section = sync.RLock()
    word = SectionWord(section, 0)
    with section:
        other = spawn(word.fetch_add, 1)
        word.since += 0.010  # in place, with nobody between the two
        assert not other.done
    other.result()

    assert word.load() == 11


def cells_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, sync.Cell) for thing in gc.get_objects())
