"""Ceilings: never above 1, never at 0 or below, never higher for a lower priority; and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.policies.ceiling import Ceilings, Static
from flowctl.policies.holdback import Holdback
from flowctl.request import MAX_PRIORITY, MIN_PRIORITY

HUGE = 10**400
UNPRINTABLE = 10**5000

any_priority = st.integers(MIN_PRIORITY, MAX_PRIORITY)
any_ceiling = st.floats(0, 1, exclude_min=True)
any_reserve = st.floats(0, 1, exclude_max=True)
any_bands = st.lists(any_priority, unique=True, min_size=1, max_size=64).map(lambda each: sorted(each, reverse=True))


@st.composite
def falling_maps(draw: st.DrawFn) -> dict[int, float]:
    priorities = draw(st.lists(any_priority, unique=True, min_size=1, max_size=8))
    ceilings = draw(st.lists(any_ceiling, min_size=len(priorities), max_size=len(priorities)))
    return dict(zip(sorted(priorities), sorted(ceilings), strict=True))


any_ceilings: st.SearchStrategy[Ceilings] = st.one_of(
    st.builds(Static, any_ceiling),
    st.builds(Holdback, any_reserve, st.sampled_from(["rank", "value"])),
    st.builds(Holdback, falling_maps()),
)


# --- what holds for all --------------------------------------------------------------------------------------------


@given(any_ceilings, any_bands)
def test_there_is_one_for_each_priority_in_0_to_1_and_none_rises_as_priority_falls(
    policy: Ceilings, bands: list[int]
) -> None:
    found = list(policy.ceilings(bands))

    assert len(found) == len(bands)
    assert all(0 < each <= 1 for each in found)
    assert found == sorted(found, reverse=True)


@given(any_ceilings, any_bands)
def test_they_are_exact_floats_and_the_same_each_time(policy: Ceilings, bands: list[int]) -> None:
    assert {type(each) for each in policy.ceilings(bands)} == {float}
    assert policy.ceilings(bands) == policy.ceilings(tuple(bands))


@given(any_ceilings)
def test_where_there_are_no_bands_there_are_no_ceilings(policy: Ceilings) -> None:
    assert list(policy.ceilings([])) == []


@given(any_ceilings)
def test_a_copy_is_equal_and_has_the_same_hash(policy: Ceilings) -> None:
    for again in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert again == policy
        assert hash(again) == hash(policy)


# --- a number that is held back -----------------------------------------------------------------------------------


@given(any_reserve, st.sampled_from(["rank", "value"]), any_bands.filter(lambda bands: len(bands) > 1))
def test_the_highest_has_all_and_the_lowest_all_but_the_reserve(
    reserve: float, by: Literal["rank", "value"], bands: list[int]
) -> None:
    found = Holdback(reserve, by).ceilings(bands)

    assert (found[0], found[-1]) == (1.0, 1 - reserve), "exactly"


@given(any_reserve, st.sampled_from(["rank", "value"]), any_priority)
def test_a_single_band_has_all_of_it(reserve: float, by: Literal["rank", "value"], priority: int) -> None:
    assert Holdback(reserve, by).ceilings([priority]) == [1.0]


def test_by_rank_the_steps_are_even_whatever_the_numbers_are() -> None:
    assert Holdback(0.5).ceilings([1_000, 1, 0]) == [1.0, 0.75, 0.5]


def test_by_value_a_priority_is_as_far_down_as_its_number_is() -> None:
    assert Holdback(0.5, by="value").ceilings([100, 75, 0]) == [1.0, 0.875, 0.5]
    assert Holdback(0.5, by="value").ceilings([MAX_PRIORITY, 0, MIN_PRIORITY]) == pytest.approx([1.0, 0.75, 0.5])


def test_to_hold_back_nothing_is_to_have_one_ceiling_for_all() -> None:
    assert Holdback(0).ceilings([2, 1, 0]) == Static().ceilings([2, 1, 0]) == [1.0, 1.0, 1.0]


# --- a map ---------------------------------------------------------------------------------------------------------


def test_who_is_not_named_has_the_ceiling_of_the_nearest_one_below_or_of_the_lowest() -> None:
    policy = Holdback({10: 1.0, 0: 0.75, -10: 0.5})

    assert policy.ceilings([11, 10, 9, 0, -1, -10, -11]) == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.5]


@given(falling_maps(), any_bands)
def test_who_is_named_has_the_ceiling_that_was_said(ceilings: dict[int, float], bands: list[int]) -> None:
    both = sorted({*bands, *ceilings}, reverse=True)
    found = dict(zip(both, Holdback(ceilings).ceilings(both), strict=True))

    assert {priority: found[priority] for priority in ceilings} == ceilings


@given(falling_maps(), any_priority, any_ceiling)
def test_a_map_that_rises_as_priority_falls_is_refused(
    ceilings: dict[int, float], priority: int, ceiling: float
) -> None:
    changed = {**ceilings, priority: ceiling}
    falling = [changed[each] for each in sorted(changed, reverse=True)]

    if falling == sorted(falling, reverse=True):
        assert Holdback(changed).reserve == changed
    else:
        with pytest.raises(ValueError, match=r"^reserve\[-?\d+\] must be at most that of the priority above"):
            Holdback(changed)


def test_the_error_of_a_rising_map_names_both_values() -> None:
    with pytest.raises(
        ValueError, match=r"^reserve\[0\] must be at most that of the priority above \(0\.5\), not 0\.75$"
    ):
        Holdback({10: 0.5, 0: 0.75})


def test_a_map_is_copied_so_that_a_later_change_of_the_callers_does_not_count() -> None:
    ceilings = {10: 1.0, 0: 0.5}
    policy = Holdback(ceilings)
    ceilings[0] = 7.0

    assert policy.ceilings([10, 0]) == [1.0, 0.5]


# --- equality ------------------------------------------------------------------------------------------------------


@given(falling_maps())
def test_maps_in_any_order_and_of_any_kind_are_equal_and_have_the_same_hash(ceilings: dict[int, float]) -> None:
    backwards: Mapping[int, float] = MappingProxyType(dict(reversed(ceilings.items())))

    assert Holdback(ceilings) == Holdback(backwards)
    assert hash(Holdback(ceilings)) == hash(Holdback(backwards))


def test_equal_ones_are_one_in_a_set() -> None:
    assert {Static(1), Static(1.0), Static()} == {Static()}
    assert len({Holdback(0.2), Holdback(0.2, by="rank"), Holdback({1: 1.0, 0: 0.5}), Holdback({0: 0.5, 1: 1})}) == 2


def test_different_ones_are_not_equal() -> None:
    different: list[object] = [Static(), Static(0.5), Holdback(0.2), Holdback(0.2, by="value"), Holdback({0: 0.2})]

    assert all(one != other for nth, one in enumerate(different) for other in different[:nth])


# --- what is refused -----------------------------------------------------------------------------------------------

NO_CEILINGS: list[tuple[object, type[Exception]]] = [
    (0, ValueError),
    (0.0, ValueError),
    (-0.1, ValueError),
    (1.0000001, ValueError),
    (2, ValueError),
    (math.nan, ValueError),
    (math.inf, ValueError),
    (HUGE, ValueError),
    (UNPRINTABLE, ValueError),
    (True, TypeError),
    ("0.5", TypeError),
    (None, TypeError),
    (Decimal("0.5"), TypeError),
    (0.5j, TypeError),
]


def named(value: object) -> str:
    return type(value).__name__ if value in (HUGE, UNPRINTABLE) else repr(value)


@pytest.mark.parametrize(("value", "error"), NO_CEILINGS, ids=[named(value) for value, _ in NO_CEILINGS])
def test_what_is_no_ceiling_is_refused_by_name(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^ceiling must be"):
        Static(value)  # type: ignore[arg-type]
    with pytest.raises(error, match=r"^reserve\[5\] must be"):
        Holdback({6: 1.0, 5: value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1, ValueError),
        (1.0, ValueError),
        (-0.1, ValueError),
        (-5e-324, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (HUGE, ValueError),
        (-HUGE, ValueError),
        (UNPRINTABLE, ValueError),
        ({}, ValueError),
        (False, TypeError),
        ("0.2", TypeError),
        (None, TypeError),
        ([(0, 1.0)], TypeError),
        (Decimal("0.2"), TypeError),
    ],
    ids=range(15),
)
def test_what_cannot_be_held_back_is_refused_by_name(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^reserve must"):
        Holdback(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("priority", "error"),
    [("high", TypeError), (1.0, TypeError), (True, TypeError), (None, TypeError), (2**31, ValueError)],
)
def test_what_is_no_priority_is_refused_by_name(priority: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^reserve\[.*priority must be"):
        Holdback({priority: 1.0, 0: 0.5})  # type: ignore[dict-item]


@pytest.mark.parametrize("by", ["ranks", "", None, 0, ["rank"]])
def test_how_to_step_is_one_of_two_words(by: object) -> None:
    with pytest.raises(ValueError, match=r'^by must be "rank" or "value", not '):
        Holdback(0.2, by)  # type: ignore[arg-type]


def test_a_map_says_all_so_that_how_to_step_beside_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^by must not be said beside a mapping"):
        Holdback({0: 1.0}, by="value")
