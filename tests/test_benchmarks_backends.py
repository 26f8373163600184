"""The backends beside each other: that each does what it is measured for."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks import backends
from benchmarks.backends import SHELVES, MutexShelf, Readers, Shelf
from benchmarks.crew import on_threads
from benchmarks.harness import DEFAULT, FULL, QUICK, Depth
from benchmarks.parking import OURS, SPOTS, Passed, Spot, pass_the_baton
from benchmarks.words import OWN, AtomicsWord, CereggiiWord, MakeWord, foreign_words

TINY = replace(QUICK, name="tiny", pairs=1, sample=0.001)
WORDS = {**OWN, **foreign_words(missing=lambda line: None)}


class FakeInt64:
    """An integer with cereggii's methods."""

    def __init__(self, value: int) -> None:
        self.value, self._mutex = value, threading.Lock()

    def get(self) -> int:
        return self.value

    def compare_and_set(self, expected: int, desired: int) -> bool:
        with self._mutex:
            if self.value != expected:
                return False
            self.value = desired
            return True

    def get_and_increment(self, amount: int) -> int:
        self.value += amount
        return self.value - amount


class Swapped:
    def __init__(self, success: bool) -> None:
        self.success = success


class FakeAtomic:
    """An integer with the methods of atomics."""

    def __init__(self) -> None:
        self._value = FakeInt64(0)
        self.load = self._value.get
        self.fetch_add = self._value.get_and_increment

    def store(self, desired: int) -> None:
        self._value.value = desired

    def cmpxchg_strong(self, expected: int, desired: int) -> Swapped:
        return Swapped(self._value.compare_and_set(expected, desired))


ADAPTERS: dict[str, MakeWord] = {
    "cereggii, made up": lambda value: CereggiiWord(FakeInt64, value),
    "atomics, made up": lambda value: AtomicsWord(FakeAtomic, value),
}


@pytest.mark.parametrize("name", [*WORDS, *ADAPTERS])
def test_a_word_is_exchanged_if_it_is_what_was_expected(name: str) -> None:
    word = {**WORDS, **ADAPTERS}[name](5)

    assert word.compare_exchange(5, 2**62)
    assert not word.compare_exchange(5, 6)
    assert (word.fetch_add(1), word.load()) == (2**62, 2**62 + 1)


def test_a_library_that_cannot_be_used_is_told_of() -> None:
    told: list[str] = []
    found = foreign_words(told.append)

    assert len(found) + len(told) == 2
    assert all(line.startswith("no rows of ") for line in told)


@pytest.mark.parametrize("threads", [1, 8])
def test_a_row_for_each_word_that_came_out_right(threads: int) -> None:
    rows = backends.words(threads, TINY, {**OWN, **ADAPTERS})

    assert [row.at["backend"] for row in rows] == [*OWN, *ADAPTERS]
    assert all(row.rival == backends.PLAIN and row.value > 0 for row in rows)


def test_a_word_that_loses_an_addition_is_found() -> None:
    class Forgetful(FakeInt64):
        def compare_and_set(self, expected: int, desired: int) -> bool:
            return True

    with pytest.raises(AssertionError, match="an addition is lost"):
        backends.words(1, TINY, {"forgetful": lambda value: CereggiiWord(Forgetful, value)})


@pytest.mark.parametrize("make", [*SHELVES.values(), MutexShelf])
def test_no_write_of_many_threads_to_a_shelf_is_lost(make: Callable[[], Shelf]) -> None:
    readers = Readers(make())
    on_threads(8, lambda number: readers.loop(number, 1_050))

    readers.check()


def test_a_shelf_that_loses_a_write_is_found() -> None:
    shelf = MutexShelf()
    readers = Readers(shelf)
    readers.loop(0, 200)
    shelf.add(3)

    with pytest.raises(AssertionError, match="a write is lost"):
        readers.check()


def test_a_row_for_each_shelf() -> None:
    rows = backends.shelves(1, TINY)

    assert [row.at["backend"] for row in rows] == list(SHELVES)


@pytest.mark.parametrize("name", SPOTS)
def test_a_wake_up_that_comes_first_is_kept_once(name: str) -> None:
    spot: Spot = SPOTS[name]()
    spot.wake()

    assert spot.wait(30.0)
    assert not spot.wait(0.001)


@pytest.mark.parametrize("name", SPOTS)
def test_two_threads_wake_each_other(name: str) -> None:
    passed = pass_the_baton(SPOTS[name], 0.02)

    assert passed.trips > 0
    assert passed.one_way > 0


def test_each_spot_stands_beside_ours() -> None:
    rows = backends.spot_rows({name: [Passed(100.0, 5.0)] * 3 for name in SPOTS})

    assert [row.rival for row in rows] == 2 * [None, OURS, OURS, OURS]
    assert [row.value for row in rows] == [5.0] * 4 + [100.0] * 4
    assert len({row.name for row in rows}) == len(rows)


def test_the_profile_is_compared_with_none() -> None:
    (row,) = backends.profile(1, TINY)

    assert row.rival == "profile off"
    assert row.value > 0


@pytest.mark.parametrize(
    ("depth", "budget"), [(QUICK, 5), (DEFAULT, 25), (FULL, 110)], ids=["quick", "default", "full"]
)
def test_a_run_is_within_its_budget(depth: Depth, budget: float) -> None:
    assert sum(step.seconds for step in backends.steps(depth)) <= budget
