"""The fake clock that is shipped to users."""

import threading

import pytest

from flowctl.sync import Parking
from flowctl.testing import FakeClock
from tests.support import Spawn


def test_time_moves_only_when_it_is_told_to() -> None:
    clock = FakeClock(start=7.0)
    assert [clock.now(), clock.now()] == [7.0, 7.0]

    clock.advance(0.5)
    clock.advance(0)
    assert clock.now() == 7.5


def test_it_begins_at_0_unless_told_otherwise() -> None:
    assert FakeClock().now() == 0.0


@pytest.mark.parametrize("start", [3, 3.0])
def test_now_is_a_float_whatever_it_began_with(start: float) -> None:
    assert type(FakeClock(start).now()) is float


def test_waiters_whose_deadline_is_passed_wake_and_no_others() -> None:
    clock = FakeClock()
    due, later, never = Parking(), Parking(), Parking()
    threads = [
        threading.Thread(target=clock.park, args=(parking, until))
        for parking, until in ((due, 5.0), (later, 5.1), (never, None))
    ]
    for thread in threads:
        thread.start()
    clock.wait_for_sleepers(3)
    clock.advance(5)
    threads[0].join(timeout=30)

    assert [thread.is_alive() for thread in threads] == [False, True, True]
    later.wake()
    never.wake()
    for thread in threads:
        thread.join(timeout=30)


def test_a_deadline_that_has_come_is_not_slept_for() -> None:
    clock = FakeClock(start=5.0)
    clock.park(Parking(), 5.0)

    with pytest.raises(TimeoutError, match="0 threads are parked, not 1"):
        clock.wait_for_sleepers(1, timeout=0.01)


def test_waiting_for_sleepers_ends_as_soon_as_so_many_are_parked(spawn: Spawn) -> None:
    clock, parkings = FakeClock(), [Parking() for _ in range(4)]
    sleepers = [spawn(clock.park, parking, 9.0) for parking in parkings]
    clock.wait_for_sleepers(4)
    clock.wait_for_sleepers(0)

    clock.advance(9)
    for sleeper in sleepers:
        sleeper.result()


def test_advances_of_many_threads_add_up(spawn: Spawn) -> None:
    clock = FakeClock()

    def advance() -> None:
        for _ in range(200):
            clock.advance(1)

    for thread in [spawn(advance) for _ in range(8)]:
        thread.result()

    assert clock.now() == 1_600.0
