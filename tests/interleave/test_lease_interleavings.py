"""L1 and L2 in every interleaving; and each protection of the lease, taken away, is missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import pytest

from flowctl.atomic import CellWord, LockWord
from flowctl.lease import MARKED_FOR_DELETION, ONE_PIN, STAMP_MASK, Lease, LeaseTable, born, marked, to_ms
from tests.interleave.claims import Claim
from tests.interleave.explorer import Scenario
from tests.interleave.scheduled import ScheduledClock, SharedDict
from tests.proof import Proof

KEY = "k"
IDLE, LATER = 5.0, 99.0


@final
class Entry:
    def __init__(self, pins: int) -> None:
        self.lease = Lease(CellWord(born(0.0, pins=pins)))


@final
class Place:
    """A table with one key, one entry that nobody uses any more, and those who come to it."""

    def __init__(self, *, already_marked: bool = False) -> None:
        self.table: LeaseTable[str, Entry] = LeaseTable()
        self.table.entries = SharedDict()
        self.old = Entry(pins=0)
        self.table.publish(KEY, self.old)
        if already_marked:
            assert self.old.lease.try_mark(LATER, IDLE)
        self.known = [self.old]
        self.published = {self.old}
        self.held: list[Entry] = []
        self.removals = 0

    # --- actors

    def use(self) -> None:
        """What `FlowRegistry` does: pin what is there, or publish a new one that is born pinned."""
        while True:
            entry = self.table.pin(KEY)
            if entry is None:
                fresh = Entry(pins=1)
                self.known.append(fresh)
                if self.table.publish(KEY, fresh) is not fresh:
                    continue
                self.published.add(fresh)
                entry = fresh
            self.held.append(entry)
            return

    def collect(self) -> None:
        try:
            entry = self.table.entries[KEY]
        except KeyError:
            return
        if entry.lease.try_mark(LATER, IDLE):
            self.removals += self.table.remove(KEY, entry)

    def remove_old(self) -> None:
        self.removals += self.table.remove(KEY, self.old)

    # --- rules

    def check(self) -> None:
        there = self.table.entries.get(KEY)
        for entry in self.known:
            entry.lease._check()
            assert entry not in self.published or entry is there or entry.lease.is_marked, "L2: out, unmarked"
        for entry in self.held:
            assert entry is there, "somebody uses what is not in the table"
            assert entry.lease.pins, "somebody uses what has no pin"

    def at_end(self) -> None:
        if self.held:
            assert self.table.entries.get(KEY) is self.held[0]
            assert self.held[0].lease.pins == len(self.held), "a pin was lost"
        assert self.removals <= 1, "removed twice"

    def scenario(self, *actors: Callable[[], object]) -> Scenario:
        return Scenario(actors, self.check, self.at_end)


def pin_and_mark(word: Callable[[int], CellWord | LockWord] = CellWord, pinners: int = 1) -> Scenario:
    lease = Lease(word(born(0.0, pins=0)))
    pinned: list[bool] = []
    was_marked: list[bool] = []

    def at_end() -> None:
        assert lease.is_marked == was_marked[0]
        assert pinned.count(True) == lease.pins
        assert pinned.count(True) == (0 if was_marked[0] else pinners)

    return Scenario(
        [lambda: pinned.append(lease.try_pin())] * pinners + [lambda: was_marked.append(lease.try_mark(LATER, IDLE))],
        lease._check,
        at_end,
    )


def unpin_and_mark() -> Scenario:
    lease = Lease(CellWord(born(0.0, pins=1)))

    def at_end() -> None:
        assert not lease.is_marked, "collected though it was used until now"
        assert lease.pins == 0
        assert lease.idle_for(LATER) == 0

    return Scenario([lambda: lease.unpin(lambda: LATER), lambda: lease.try_mark(LATER, IDLE)], lease._check, at_end)


def two_unpins() -> Scenario:
    """One of them after the clock went on."""
    clock = ScheduledClock(0.0)
    lease = Lease(CellWord(born(0.0, pins=2)))

    def unpin_later() -> None:
        clock.advance(LATER)
        lease.unpin(clock.now)

    def at_end() -> None:
        assert not lease.pins
        assert lease.idle_for(LATER) == 0, "a stamp went back"

    return Scenario([lambda: lease.unpin(clock.now), unpin_later], lease._check, at_end)


def use_and_collect() -> Scenario:
    place = Place()
    return place.scenario(place.use, place.collect)


def use_and_two_collectors() -> Scenario:
    place = Place()
    return place.scenario(place.use, place.collect, place.collect)


def two_removers_and_a_publisher() -> Scenario:
    place = Place(already_marked=True)
    return place.scenario(place.remove_old, place.remove_old, place.use)


PIN_AND_MARK = Claim("L1", "a pin and a mark cannot both win", pin_and_mark)
TWO_UNPINS = Claim("L1", "what is idle is so since the last unpin", two_unpins)
USE_AND_COLLECT = Claim(
    "L1, L2, L4, L7", "who pins while it is collected gets an entry that stays, without waiting", use_and_collect
)
TWO_REMOVERS = Claim("L2", "a successor survives two who remove its predecessor", two_removers_and_a_publisher)
CLAIMS = [
    PIN_AND_MARK,
    Claim("L1", "two pins and a mark", lambda: pin_and_mark(pinners=2)),
    Claim("L1", "two pins and a mark, a word under a lock", lambda: pin_and_mark(LockWord, pinners=2)),
    Claim("L1", "what is used until now is not marked", unpin_and_mark),
    TWO_UNPINS,
    USE_AND_COLLECT,
    TWO_REMOVERS,
    Claim("L1, L2, L4", "a pin and two collectors", use_and_two_collectors),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_it_holds_in_every_interleaving(claim: Claim, proof: Proof) -> None:
    claim.holds(proof)


# --- negative controls ---------------------------------------------------------------------------------------------


def test_control_a_mark_without_compare_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def try_mark(lease: Lease, now: float, idle_timeout: float) -> bool:
        if marked(lease.word.load(), to_ms(now), int(idle_timeout * 1000)) is None:
            return False
        lease.word.fetch_add(MARKED_FOR_DELETION)
        return True

    monkeypatch.setattr(Lease, "try_mark", try_mark)

    PIN_AND_MARK.fails_without("the compare of a mark", proof)
    USE_AND_COLLECT.fails_without("the compare of a mark", proof)


def test_control_a_pin_that_ignores_the_mark_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def try_pin(lease: Lease) -> bool:
        lease.word.fetch_add(ONE_PIN)
        return True

    monkeypatch.setattr(Lease, "try_pin", try_pin)

    PIN_AND_MARK.fails_without("the look at the mark of a pin", proof)
    USE_AND_COLLECT.fails_without("the look at the mark of a pin", proof)


def test_control_a_removal_by_key_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def remove(table: LeaseTable[str, Entry], key: str, entry: Entry) -> bool:
        with table._mutex:
            try:
                del table.entries[key]
            except KeyError:
                return False
            return True

    monkeypatch.setattr(LeaseTable, "remove", remove)

    TWO_REMOVERS.fails_without("identity in a removal", proof)
    USE_AND_COLLECT.fails_without("identity in a removal", proof)


def test_control_a_removal_in_two_steps_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def remove(table: LeaseTable[str, Entry], key: str, entry: Entry) -> bool:
        try:
            if table.entries[key] is not entry:
                return False
            del table.entries[key]  # by now it may be the successor
        except KeyError:
            return False
        return True

    monkeypatch.setattr(LeaseTable, "remove", remove)

    TWO_REMOVERS.fails_without("the mutex of a removal", proof)


def test_control_a_collector_that_removes_without_a_mark_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def collect(place: Place) -> None:
        try:
            entry = place.table.entries[KEY]
            if not entry.lease.pins:
                del place.table.entries[KEY]
        except KeyError:
            return

    monkeypatch.setattr(Place, "collect", collect)

    USE_AND_COLLECT.fails_without("the mark before a removal", proof)


def test_control_waiting_for_the_collector_instead_of_helping_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def pin(table: LeaseTable[str, Entry], key: str) -> Entry | None:
        while True:
            try:
                entry = table.entries[key]
            except KeyError:
                return None
            if entry.lease.try_pin():
                return entry

    monkeypatch.setattr(LeaseTable, "pin", pin)

    USE_AND_COLLECT.fails_without("helping", proof, "livelock")


def test_control_a_stamp_that_can_go_back_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def unpin(lease: Lease, now: Callable[[], float]) -> None:
        stamp = to_ms(now())  # before the load, and stored whatever stands there
        while True:
            seen = lease.word.load()
            if lease.word.compare_exchange(seen, (seen - ONE_PIN) & ~STAMP_MASK | stamp):
                return

    monkeypatch.setattr(Lease, "unpin", unpin)

    TWO_UNPINS.fails_without("the clock read after the load: a stamp that can go back", proof)
