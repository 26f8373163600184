"""The system's clock, and waiting by it."""

import math
import time

import pytest

from flowctl.clock import SLICE, Clock, MonotonicClock
from flowctl.sync import Parking
from flowctl.testing import FakeClock
from tests.support import Spawn

each_clock = pytest.mark.parametrize("make", [MonotonicClock, FakeClock], ids=["monotonic", "fake"])


def test_it_is_the_systems_monotonic_clock() -> None:
    before = time.monotonic()
    now = MonotonicClock().now()

    assert before <= now <= time.monotonic()


@each_clock
def test_a_wake_up_that_comes_first_is_kept(make: type[MonotonicClock] | type[FakeClock]) -> None:
    clock: Clock = make()
    parking = Parking()
    parking.wake()
    started = time.monotonic()
    clock.park(parking, None)

    assert time.monotonic() - started < SLICE / 2


@each_clock
def test_a_wake_up_ends_a_wait_at_once(make: type[MonotonicClock] | type[FakeClock], spawn: Spawn) -> None:
    clock: Clock = make()
    parking = Parking()
    sleeper = spawn(clock.park, parking, None)
    parking.wake()

    sleeper.result(timeout=SLICE * 5)


@each_clock
@pytest.mark.parametrize("seconds", [0.0, -1.0, -math.inf])
def test_a_moment_that_has_passed_is_not_waited_for(
    make: type[MonotonicClock] | type[FakeClock], seconds: float
) -> None:
    clock: Clock = make()
    started = time.monotonic()
    clock.park(Parking(), clock.now() + seconds)

    assert time.monotonic() - started < SLICE / 2


@each_clock
@pytest.mark.parametrize("until", [None, math.inf])
def test_nobody_sleeps_longer_than_a_slice_in_one_go(
    make: type[MonotonicClock] | type[FakeClock], until: float | None
) -> None:
    started = time.monotonic()
    make().park(Parking(), until)

    assert SLICE * 0.9 <= time.monotonic() - started < SLICE * 5


def test_a_wait_ends_at_its_moment() -> None:
    clock = MonotonicClock()
    until = clock.now() + 0.05
    clock.park(Parking(), until)

    assert until - 0.01 <= clock.now() < until + SLICE / 2
