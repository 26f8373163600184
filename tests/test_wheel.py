"""The lazy timer wheel."""

import random

import pytest

from flowctl.wheel import Wheel


def test_a_thing_comes_up_at_its_moment_and_at_most_one_spoke_early() -> None:
    wheel = Wheel[str](spoke=10)
    wheel.file("a", at=25)

    assert list(wheel.due(19)) == []
    assert list(wheel.due(20)) == ["a"]


def test_a_thing_comes_up_once() -> None:
    wheel = Wheel[str](spoke=10)
    wheel.file("a", at=25)

    assert list(wheel.due(1_000)) == ["a"]
    assert list(wheel.due(2_000)) == []
    assert len(wheel) == 0


def test_what_is_filed_again_while_it_is_looked_at_comes_up_the_next_time_only() -> None:
    wheel = Wheel[str](spoke=10)
    wheel.file("a", at=25)

    looks = 0
    for thing in wheel.due(30):
        wheel.file(thing, at=30)
        looks += 1

    assert looks == 1
    assert list(wheel.due(30)) == ["a"]


def test_whoever_dies_in_a_look_leaves_the_thing_for_the_next_one() -> None:
    wheel = Wheel[str](spoke=10)
    for name in "abc":
        wheel.file(name, at=5)

    seen: list[str] = []

    def look_and_die() -> None:
        for thing in wheel.due(5):
            seen.append(thing)
            if len(seen) == 2:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look_and_die()
    again = list(wheel.due(5))

    assert len(again) == 2, "the one that was looked at wholly is done, the one of the death comes again"
    assert {*seen, *again} == {"a", "b", "c"}


def test_len_counts_what_is_filed_also_in_the_midst_of_a_look() -> None:
    wheel = Wheel[str](spoke=10)
    for at in (5, 15, 95):
        wheel.file("a", at=at)
    assert len(wheel) == 3

    look = wheel.due(20)
    next(look)
    assert len(wheel) == 3
    assert list(look) == ["a"]
    assert len(wheel) == 1


@pytest.mark.parametrize("spoke", [0, -3])
def test_a_timeout_of_0_makes_spokes_of_a_millisecond(spoke: int) -> None:
    wheel = Wheel[str](spoke)
    wheel.file("a", at=7)

    assert list(wheel.due(6)) == []
    assert list(wheel.due(7)) == ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_late_or_seen_twice(seed: int) -> None:
    rng, wheel, now = random.Random(seed), Wheel[int](spoke=32), 0
    filed: dict[int, int] = {}
    seen: dict[int, int] = {}
    for name in range(1_000):
        filed[name] = now + rng.randrange(2_000)
        wheel.file(name, at=filed[name])
        now += rng.randrange(5)
        for thing in wheel.due(now):
            assert thing not in seen
            seen[thing] = now
        assert all(thing in seen for thing, at in filed.items() if at <= now), "late"
        assert len(wheel) == len(filed) - len(seen)

    assert all(at - 32 < seen[thing] for thing, at in filed.items() if thing in seen), "more than a spoke early"
