"""The lazy timer wheel."""

import random

import pytest

from flowctl.wheel import Wheel


def looked_at(wheel: Wheel[str], now: int) -> list[str]:
    """What comes up by now, each looked at and done with."""
    wheel.turn(now)
    seen = []
    while wheel.up is not None:
        seen.append(wheel.up)
        wheel.drop()
    return seen


def test_a_thing_comes_up_at_its_moment_and_at_most_one_spoke_early() -> None:
    wheel = Wheel[str](spoke=10)
    wheel.file("a", at=25)

    assert looked_at(wheel, 19) == []
    assert looked_at(wheel, 20) == ["a"]


def test_what_comes_next_is_told_in_order_and_stays_until_it_is_dropped() -> None:
    wheel = Wheel[str](spoke=10)
    for thing in "abc":
        wheel.file(thing, at=5)
    wheel.turn(9)
    first = wheel.next(2)

    assert first[0] == wheel.up
    assert wheel.next(9)[:2] == first
    assert len(wheel.next(9)) == len(wheel) == 3
    assert looked_at(wheel, 9) == [*first, *({*"abc"} - {*first})]
    assert wheel.next(2) == []


def test_a_thing_comes_up_once() -> None:
    wheel = Wheel[str](spoke=10)
    wheel.file("a", at=25)

    assert looked_at(wheel, 1_000) == ["a"]
    assert looked_at(wheel, 2_000) == []
    assert len(wheel) == 0


def test_what_is_filed_again_while_it_is_looked_at_comes_up_the_next_time_only() -> None:
    wheel = Wheel[str](spoke=10)
    wheel.file("a", at=25)

    wheel.turn(30)
    assert wheel.up == "a"
    wheel.file("a", at=30)
    wheel.drop()
    assert wheel.up is None
    assert looked_at(wheel, 30) == ["a"]


def test_whoever_dies_in_a_look_leaves_the_thing_for_the_next_one() -> None:
    wheel = Wheel[str](spoke=10)
    for name in "abc":
        wheel.file(name, at=5)

    wheel.turn(5)
    done = wheel.up
    wheel.drop()
    died_at = wheel.up
    again = looked_at(wheel, 5)

    assert again[0] == died_at
    assert [done, *again] == ["c", "b", "a"]


def test_len_counts_what_is_filed_also_in_the_midst_of_a_look() -> None:
    wheel = Wheel[str](spoke=10)
    for at in (5, 15, 95):
        wheel.file("a", at=at)
    assert len(wheel) == 3

    wheel.turn(20)
    assert len(wheel) == 3
    assert looked_at(wheel, 20) == ["a", "a"]
    assert len(wheel) == 1


def test_the_next_to_come_up_can_be_had_before_it_is_due_the_smallest_key_first() -> None:
    wheel = Wheel[str](spoke=10)
    for name, at in (("b", 55), ("a", 58), ("later", 90)):
        wheel.file(name, at)

    wheel.turn_next(key=ord)
    assert wheel.up == "a"
    assert [wheel.is_later(at) for at in (40, 59, 60)] == [False, False, True]
    wheel.drop()
    wheel.turn_next(key=ord)
    assert wheel.up == "b", "one spoke at a time"


@pytest.mark.parametrize("spoke", [0, -3])
def test_a_timeout_of_0_makes_spokes_of_a_millisecond(spoke: int) -> None:
    wheel = Wheel[str](spoke)
    wheel.file("a", at=7)

    assert looked_at(wheel, 6) == []
    assert looked_at(wheel, 7) == ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_late_or_seen_twice(seed: int) -> None:
    rng, wheel, now = random.Random(seed), Wheel[int](spoke=32), 0
    filed: dict[int, int] = {}
    seen: dict[int, int] = {}
    for name in range(1_000):
        filed[name] = now + rng.randrange(2_000)
        wheel.file(name, at=filed[name])
        now += rng.randrange(5)
        wheel.turn(now)
        while (thing := wheel.up) is not None:
            assert thing not in seen
            seen[thing] = now
            wheel.drop()
        assert all(thing in seen for thing, at in filed.items() if at <= now), "late"
        assert len(wheel) == len(filed) - len(seen)

    assert all(at - 32 < seen[thing] for thing, at in filed.items() if thing in seen), "more than a spoke early"
