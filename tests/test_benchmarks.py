"""The benchmarks' statistics: what a row says of its samples. The measuring itself is left to `make bench`."""

import doctest

import pytest

from benchmarks import harness
from benchmarks.harness import Pairs, Row, Target, against_itself, percentile, spread


def test_the_examples_work() -> None:
    results = doctest.testmod(harness)

    assert results.attempted > 0
    assert results.failed == 0


def test_pairs_are_taken_in_turns_and_stay_pairs() -> None:
    order: list[str] = []
    pairs = Pairs()

    def side(name: str, value: float) -> float:
        order.append(name)
        return value

    pairs.take(3, lambda: side("ours", 2.0), lambda: side("rival", 1.0))

    assert order == ["ours", "rival", "rival", "ours", "ours", "rival"]
    assert (pairs.ours, pairs.rival) == ([2.0] * 3, [1.0] * 3)


def test_a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians() -> None:
    row = row_of([2.0, 20.0, 4.0], rival=[1.0, 10.0, 4.0])

    assert row.ratio == 2.0
    assert row.value == 4.0
    assert row.rival_value == 4.0


def test_what_slows_both_sides_of_a_pair_does_not_change_the_ratio() -> None:
    quiet, slowed = row_of([2.0, 2.0, 2.0], rival=[1.0, 1.0, 1.0]), row_of([2.0, 6.0, 4.0], rival=[1.0, 3.0, 2.0])

    assert quiet.ratio == slowed.ratio
    assert slowed.spread == 0.0


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target("ratio", "at most", 2.0), True),
        (Target("ratio", "at most", 1.9), False),
        (Target("value", "at least", 20.0), True),
        (Target("value", "at least", 20.1), False),
        (None, None),
    ],
)
def test_a_target_is_met_up_to_its_bound(target: Target | None, reached: bool | None) -> None:
    assert row_of([20.0], rival=[10.0], target=target).reached is reached


def test_a_row_without_a_ratio_misses_a_target_of_one() -> None:
    assert row_of([20.0], target=Target("ratio", "at most", 2.0)).reached is False


def test_a_rival_that_may_be_zero_is_shown_and_not_divided_by() -> None:
    row = Row(name="a row", unit="", samples=(0.9,), rival="another", rival_samples=(0.0,), divisible=False)

    assert row.rival_value == 0.0
    assert row.ratio is None


@pytest.mark.parametrize(
    ("others", "rival", "doubts"),
    [
        (0.0, [10.0, 10.0, 10.0, 10.0], ()),
        (None, [10.0, 10.0, 10.0, 10.0], ()),
        (0.5, [10.0, 10.0, 10.0, 10.0], ("busy",)),
        (0.0, [10.0, 20.0, 5.0, 30.0], ("wide",)),
    ],
)
def test_a_row_that_was_measured_badly_says_so(
    others: float | None, rival: list[float], doubts: tuple[str, ...]
) -> None:
    row = Row(name="a row", unit="ns", samples=(1.0,) * 4, rival="another", rival_samples=tuple(rival), others=others)

    assert row.doubts == doubts


def test_few_samples_have_no_spread() -> None:
    assert spread([]) == spread([3.0]) == 0.0
    assert against_itself([3.0]) == ()


def test_percentiles_are_samples() -> None:
    samples = [float(number) for number in range(100, 0, -1)]

    assert [percentile(samples, share) for share in (0.0, 0.5, 0.99, 0.991, 1.0)] == [1.0, 50.0, 99.0, 100.0, 100.0]


def row_of(samples: list[float], rival: list[float] | None = None, target: Target | None = None) -> Row:
    return Row(
        name="a row",
        unit="ns",
        samples=tuple(samples),
        rival=None if rival is None else "another",
        rival_samples=tuple(rival or ()),
        target=target,
    )
