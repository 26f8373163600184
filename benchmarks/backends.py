"""What would another way cost? The parts that flowctl is built of, each beside others that could stand there.

The atomic word under the leases, the lock over who exists, the spot where a waiter is parked; and what it costs to have
the locks count (`Config.profile`). Each word and each lock has to come out at the right total.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import repeat
from typing import Final, Protocol, final

from benchmarks.crew import Loop, per_operation
from benchmarks.harness import Depth, Plot, Question, Row, Step, in_turns
from benchmarks.parking import OURS, SPOTS, Passed, pass_the_baton
from benchmarks.words import OWN, MakeWord, foreign_words
from flowctl import ConcurrencyLimit, Config, FlowController, sync
from flowctl.atomic import AtomicWord

THREADS: Final = (1, 8)
READS: Final = 99
"""For each write."""

SIZE: Final = 16
PLAIN: Final = "int under a Lock"
MUTEX: Final = "Lock"


class Side(Protocol):
    """Something that is measured, and knows whether it came out right."""

    def loop(self, number: int, count: int) -> None: ...

    def check(self) -> None: ...


# --- words ---------------------------------------------------------------------------------------------------------


@final
class Counter:
    """Adds 1 by compare-and-swap, again and again until it wins."""

    def __init__(self, word: AtomicWord) -> None:
        self._word = word
        self._done = [0] * max(THREADS)  # by thread

    def loop(self, number: int, count: int) -> None:
        load, compare_exchange = self._word.load, self._word.compare_exchange
        for _ in repeat(None, count):
            seen = load()
            while not compare_exchange(seen, seen + 1):
                seen = load()
        self._done[number] += count

    def check(self) -> None:
        assert self._word.load() == sum(self._done), "an addition is lost"


@final
class PlainCounter:
    """Adds 1 under a lock."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._value = 0
        self._done = [0] * max(THREADS)

    def loop(self, number: int, count: int) -> None:
        for _ in repeat(None, count):
            with self._mutex:
                self._value += 1
        self._done[number] += count

    def check(self) -> None:
        assert self._value == sum(self._done), "an addition is lost"


# --- what is mostly read -------------------------------------------------------------------------------------------


class Shelf(Protocol):
    """Numbers that are mostly read."""

    def read(self, place: int) -> int: ...

    def add(self, place: int) -> None: ...

    def total(self) -> int: ...


@final
class MutexShelf:
    """Behind a plain lock."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._numbers = [0] * SIZE

    def read(self, place: int) -> int:
        with self._mutex:
            return self._numbers[place]

    def add(self, place: int) -> None:
        with self._mutex:
            self._numbers[place] += 1

    def total(self) -> int:
        return sum(self._numbers)


@final
class RWShelf:
    """Behind a reader-writer lock: what the shards have."""

    def __init__(self) -> None:
        self._lock = sync.RWLock()
        self._numbers = [0] * SIZE

    def read(self, place: int) -> int:
        with self._lock.read():
            return self._numbers[place]

    def add(self, place: int) -> None:
        with self._lock.write():
            self._numbers[place] += 1

    def total(self) -> int:
        return sum(self._numbers)


@final
class SnapshotShelf:
    """A tuple that is replaced, never changed: a reader takes no lock, a writer copies all of it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._numbers: tuple[int, ...] = (0,) * SIZE

    def read(self, place: int) -> int:
        return self._numbers[place]

    def add(self, place: int) -> None:
        with self._mutex:
            numbers = list(self._numbers)
            numbers[place] += 1
            self._numbers = tuple(numbers)

    def total(self) -> int:
        return sum(self._numbers)


SHELVES: Final[dict[str, Callable[[], Shelf]]] = {
    "RWLock": RWShelf,
    "snapshot": SnapshotShelf,
}


@final
class Readers:
    """Read 99 times, write once, and so on."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._turns = [0] * max(THREADS)  # by thread

    def loop(self, number: int, count: int) -> None:
        read, add, turn = self._shelf.read, self._shelf.add, self._turns[number]
        for _ in repeat(None, count):
            turn += 1
            if turn % (READS + 1):
                read(number)
            else:
                add(turn % SIZE)
        self._turns[number] = turn

    def check(self) -> None:
        assert self._shelf.total() == sum(turn // (READS + 1) for turn in self._turns), "a write is lost"


# --- the profile ---------------------------------------------------------------------------------------------------


@final
class Asker:
    """Asks a free controller, and gives back at once."""

    def __init__(self, controller: FlowController) -> None:
        self._controller = controller
        self._done = [0] * max(THREADS)

    def loop(self, number: int, count: int) -> None:
        controller, flow = self._controller, f"tenant-{number}"
        for _ in repeat(None, count):
            controller.admit(flow).release()
        self._done[number] += count

    def check(self) -> None:
        assert self._controller.stats().dispatched == sum(self._done), "a request is lost"


# --- measuring -----------------------------------------------------------------------------------------------------


def times(sides: Mapping[str, Side], threads: int, depth: Depth) -> dict[str, tuple[float, ...]]:
    """Nanoseconds an operation of each, in turns."""
    seconds = _sample(threads, depth)

    def timed(loop: Loop) -> float:
        return per_operation(loop, threads, seconds) * 1e9

    found = in_turns(_rounds(depth), [partial(timed, side.loop) for side in sides.values()])
    for side in sides.values():
        side.check()
    return {name: tuple(samples) for name, samples in zip(sides, found, strict=True)}


def _rounds(depth: Depth) -> int:
    return depth.pick(3, 4, 11) if depth.pairs > 1 else 1


def _sample(threads: int, depth: Depth) -> float:
    """Seconds: several threads need as long as it takes to give each a turn."""
    return min(depth.sample, depth.pick(0.02, 0.1, 0.15)) if threads == 1 else depth.pick(0.055, 0.2, 0.3)


def _seconds(sides: int, threads: int, depth: Depth) -> float:
    return _rounds(depth) * sides * (1.2 * _sample(threads, depth) + 0.005)


def _rows(what: str, kind: str, threads: int, found: Mapping[str, tuple[float, ...]], rival: str) -> list[Row]:
    many = f"{threads} thread{'s' * (threads > 1)}"
    return [
        Row(
            name=f"{what} by {name}, {many}",
            unit="ns",
            samples=samples,
            rival=rival,
            rival_samples=found[rival],
            at={"kind": kind, "backend": name, "threads": threads},
        )
        for name, samples in found.items()
        if name != rival
    ]


def words(threads: int, depth: Depth, kinds: Mapping[str, MakeWord]) -> list[Row]:
    sides: dict[str, Side] = {name: Counter(make(0)) for name, make in kinds.items()}
    found = times({**sides, PLAIN: PlainCounter()}, threads, depth)
    return _rows("+1", "word", threads, found, PLAIN)


@cache
def _foreign() -> Mapping[str, MakeWord]:
    """Looked for once, so that what is missing is told once."""
    return foreign_words()


def _all_words(threads: int, depth: Depth) -> list[Row]:
    return words(threads, depth, {**OWN, **_foreign()})


def shelves(threads: int, depth: Depth) -> list[Row]:
    sides: dict[str, Side] = {name: Readers(make()) for name, make in SHELVES.items()}
    found = times({**sides, MUTEX: Readers(MutexShelf())}, threads, depth)
    return _rows("99 reads to a write, each", "shelf", threads, found, MUTEX)


def parking(depth: Depth) -> list[Row]:
    seconds = 2 * _sample(2, depth)
    found = in_turns(_rounds(depth), [partial(pass_the_baton, make, seconds) for make in SPOTS.values()])
    return spot_rows(dict(zip(SPOTS, found, strict=True)))


def spot_rows(found: Mapping[str, Sequence[Passed]]) -> list[Row]:
    rows = []
    for figure, unit in (("one_way", "us"), ("trips", "/s")):
        samples = {name: tuple(getattr(passed, figure) for passed in all_of_it) for name, all_of_it in found.items()}
        what = "wake to awake" if figure == "one_way" else "round trips"
        for name, mine in samples.items():
            rivals = () if name == OURS else samples[OURS]
            at = {"kind": figure, "backend": name}
            rival = None if name == OURS else OURS
            rows.append(Row(name=f"{what}, {name}", unit=unit, samples=mine, rival=rival, rival_samples=rivals, at=at))
    return rows


def profile(threads: int, depth: Depth) -> list[Row]:
    with ExitStack() as stack:
        sides: dict[str, Side] = {
            name: Asker(stack.enter_context(FlowController(Config(profile=is_on), gate=ConcurrencyLimit(64))))
            for name, is_on in (("profile on", True), ("profile off", False))
        }
        found = times(sides, threads, depth)
    return _rows("admit().release()", "profile", threads, found, "profile off")


def steps(depth: Depth) -> list[Step]:
    found = []
    for threads in THREADS:
        many = f"{threads} thread{'s' * (threads > 1)}"
        found += [
            Step(f"words, {many}", _seconds(6, threads, depth), partial(_all_words, threads, depth)),
            Step(f"mostly read, {many}", _seconds(3, threads, depth), partial(shelves, threads, depth)),
            Step(f"profile, {many}", _seconds(2, threads, depth), partial(profile, threads, depth)),
        ]
    seconds = _rounds(depth) * len(SPOTS) * (2 * _sample(2, depth) + 0.01)
    return [*found, Step("parking", seconds, partial(parking, depth))]


QUESTION: Final = Question(
    "backends",
    "what the words, locks and parking spots cost beside others that could stand there, and the profile",
    steps,
    plots=(
        Plot(title="+1 by compare-and-swap, ns", x="backend", by="threads", where={"kind": "word"}, log_y=True),
        Plot(title="99 reads and 1 write, ns each", x="backend", by="threads", where={"kind": "shelf"}, log_y=True),
        Plot(title="From wake to awake, us", x="backend", where={"kind": "one_way"}),
    ),
)
