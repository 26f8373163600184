"""The reader-writer lock, and how it heals."""

import threading

import pytest

from flowctl import sync
from tests.support import Spawn


def test_readers_share(spawn: Spawn) -> None:
    lock, all_in = sync.RWLock(), threading.Barrier(5)

    def read() -> None:
        with lock.read():
            all_in.wait(timeout=30)

    for reader in [spawn(read) for _ in range(5)]:
        reader.result()


@pytest.mark.parametrize("side", ["read", "write"])
def test_a_writer_has_it_alone(spawn: Spawn, side: str) -> None:
    lock, inside = sync.RWLock(), threading.Event()

    def enter() -> None:
        with lock.read() if side == "read" else lock.write():
            inside.set()

    with lock.write():
        other = spawn(enter)
        assert not inside.wait(0.05)
    other.result()
    assert inside.is_set()


def test_a_writer_waits_for_the_readers(spawn: Spawn) -> None:
    lock, inside = sync.RWLock(), threading.Event()

    def write() -> None:
        with lock.write():
            inside.set()

    with lock.read():
        writer = spawn(write)
        assert not inside.wait(0.05)
    writer.result()


def test_no_update_of_many_writers_is_lost(spawn: Spawn) -> None:
    lock, total = sync.RWLock(), 0

    def add() -> None:
        nonlocal total
        for _ in range(200):
            with lock.write():
                seen = total
                with sync.Lock():  # a place where another thread may run
                    total = seen + 1

    for writer in [spawn(add) for _ in range(8)]:
        writer.result()
    assert total == 1_600
    assert lock.replaced == 0


@pytest.mark.parametrize("side", ["read", "write"])
def test_an_exception_in_the_section_frees_it(side: str) -> None:
    lock = sync.RWLock()
    with pytest.raises(ZeroDivisionError), lock.read() if side == "read" else lock.write():
        raise ZeroDivisionError

    with lock.write():
        pass
    assert lock.replaced == 0


@pytest.mark.parametrize(("broken", "side"), [("read", "write"), ("write", "read"), ("write", "write")])
def test_a_lock_that_an_exception_broke_is_replaced_and_counted(
    monkeypatch: pytest.MonkeyPatch, spawn: Spawn, broken: str, side: str
) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 0.2)
    lock = sync.RWLock()
    lock.acquire("read" if broken == "read" else "write")  # and the exception lands before anybody could release it

    def enter() -> None:
        with lock.read() if side == "read" else lock.write():
            pass

    for thread in [spawn(enter) for _ in range(4)]:
        thread.result()

    assert lock.replaced == 1


def test_a_lock_on_which_others_move_is_not_taken_for_broken(monkeypatch: pytest.MonkeyPatch, spawn: Spawn) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 1.0)  # a busy machine stops a thread for a quarter of that
    lock, stop = sync.RWLock(), threading.Event()
    outer = lock.acquire("read")

    def move() -> None:
        while not stop.wait(0.02):
            lock._moves += 1  # what any thread's entry does

    mover = spawn(move)
    writer = spawn(lambda: lock.acquire("write"))
    writer.thread.join(1.5)
    assert not writer.done
    assert lock.replaced == 0

    stop.set()
    mover.result()
    outer.release()
    writer.result().release()
