"""Leases under attack: users pin and unpin, and two collectors take away whatever is idle for a moment."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final, final

from flowctl import sync
from flowctl.atomic import AtomicWord, CellWord, LockWord
from flowctl.lease import MAX_PINS, Lease, LeaseTable, SectionWord, born
from tests.soak.run import Crew, Run

THREADS: Final = 8
COLLECTORS: Final = 2
KEYS: Final = 16
SWITCH_INTERVALS: Final = (1e-6, 5e-3, 0.1)


@final
class Entry:
    """Something that a lease keeps."""

    __slots__ = ("lease",)

    def __init__(self, word: AtomicWord) -> None:
        self.lease = Lease(word)


@final
class Arena:
    """One table, with what its users and its collectors did to it."""

    def __init__(self, new_word: Callable[[int], AtomicWord], section: sync.Mutex, rounds: int, seed: int) -> None:
        self._new_word = new_word
        self._section = section
        self._rounds = rounds
        self._seed = seed
        self.table: LeaseTable[int, Entry] = LeaseTable()
        self.done = [0] * THREADS
        self.created = [0] * THREADS
        self.marked = [0] * COLLECTORS

    def use(self, me: int) -> None:
        """Pin, look, unpin: what I hold is in the table, unmarked, and the very object that I looked up."""
        keys = random.Random(self._seed + me).choices(range(KEYS), k=1000)
        entries, now = self.table.entries, time.monotonic
        for turn in range(self._rounds):
            key = keys[turn % 1000]
            entry = self._pinned(key, me)
            assert entries[key] is entry, "L4: what is held is not what the table holds"
            assert not entry.lease.is_marked, "L1: a marked lease has a pin"
            assert entry.lease.pins > 0, "L1: a pin is lost"
            entry.lease.unpin(now)
            self.done[me] = turn + 1

    def _pinned(self, key: int, me: int) -> Entry:
        while True:
            entry = self._pinned_in_place(key) if me % 2 else self.table.pin(key)
            if entry is not None:
                return entry
            entry = Entry(self._new_word(born(time.monotonic(), pins=1)))
            if self.table.publish(key, entry) is entry:
                self.created[me] += 1
                return entry

    def _pinned_in_place(self, key: int) -> Entry | None:
        """As the turn pins: in the section that the word lives under, without an exchange."""
        try:
            entry = self.table.entries[key]
        except KeyError:
            return None
        word = entry.lease.word
        if not isinstance(word, SectionWord):
            return self.table.pin(key)
        with self._section:
            if word.pins < MAX_PINS:
                word.pins += 1
                return entry
        self.table.remove(key, entry)
        return None

    def collect(self, me: int, over: Callable[[], bool]) -> None:
        """Mark and remove whatever has no pin at this very moment."""
        while not over():
            for key, entry in self.table.entries.copy().items():
                if entry.lease.try_mark(time.monotonic(), 0.0):
                    self.marked[me] += 1
                if entry.lease.is_marked:
                    self.table.remove(key, entry)


def soak(run: Run, operations: int) -> int:
    """So many pins and unpins, over all words and switch intervals; how many were made."""
    before, done = sys.getswitchinterval(), 0
    section = sync.RLock()
    words: dict[str, Callable[[int], AtomicWord]] = {
        "CellWord": CellWord,
        "LockWord": LockWord,
        "SectionWord": lambda value: SectionWord(section, value),
    }
    rounds = operations // (2 * THREADS * len(words) * len(SWITCH_INTERVALS)) + 1
    try:
        for interval in SWITCH_INTERVALS:
            sys.setswitchinterval(interval)
            for name, new_word in words.items():
                done += _attack(run, f"{name}, switched every {interval} s", Arena(new_word, section, rounds, run.seed))
    finally:
        sys.setswitchinterval(before)
    run.rule(done >= operations, f"all lease operations are done: {done:,} of {operations:,} were")
    return done


def _attack(run: Run, name: str, arena: Arena) -> int:
    with Crew(run) as collectors:
        for number in range(COLLECTORS):
            collectors.start(partial(arena.collect, number, collectors.over.is_set))
        with Crew(run) as users:
            for number in range(THREADS):
                users.start(partial(arena.use, number))
            users.wait()
    left = list(arena.table.entries.values())
    arena.table._check()
    run.rule(not any(entry.lease.pins for entry in left), f"at rest nothing is pinned ({name})")
    created, marked = sum(arena.created), sum(arena.marked)
    unmarked = sum(not entry.lease.is_marked for entry in left)
    run.rule(
        created == marked + unmarked,
        f"what was created was marked once, or is still there: {created} = {marked} + {unmarked} ({name})",
    )
    operations = 2 * sum(arena.done)
    run.say(f"{operations:,} lease operations, {created:,} entries came and went: {name}")
    return operations
