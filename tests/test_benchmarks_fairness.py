"""Shares, gaps and storms of the question `fairness`, in tiny."""

import doctest

import pytest

from benchmarks import fairness, storm
from benchmarks.load import Tenant
from benchmarks.tally import Asked

TWO = (Tenant(name="one", weight=1.0), Tenant(name="three", weight=3.0))


def granted(tenant: int, *moments: float) -> list[Asked]:
    return [Asked(tenant, moment, moment, moment, moment, "") for moment in moments]


def test_the_examples_work() -> None:
    assert doctest.testmod(fairness).failed == 0


def test_a_share_is_exact_where_service_goes_by_weight() -> None:
    exact = granted(0, 0.5) + granted(1, 0.4, 0.5, 0.6) + granted(1, 1.0)
    turned = granted(1, 0.5) + granted(0, 0.4, 0.5, 0.6) + granted(1, 1.0)

    assert fairness.shares(exact, TWO) == [1.0, 1.0]
    assert fairness.shares(turned, TWO) == [3.0, pytest.approx(1 / 3)]


def test_a_gap_is_one_round_where_flows_take_turns() -> None:
    turns = [asked for number in range(100) for asked in granted(number % 4, number / 100)]

    assert fairness.longest_gap(turns, 4) == pytest.approx(1.0, rel=0.05)


def test_a_flow_that_never_came_waited_for_all_the_time() -> None:
    alone = granted(0, *(number / 100 for number in range(100)))

    assert fairness.longest_gap(alone, 2) == pytest.approx(50.0, rel=0.05)


def test_all_who_ask_are_seen_at_flowctl_and_at_a_semaphore() -> None:
    ours, theirs = fairness.both(1, TWO, [4, 4], 0.1)

    assert {asked.tenant for asked in ours[0]} == {0, 1}
    assert len(theirs[0]) > 0


def test_rows_of_fairness_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "THREADS", 3)
    rows = [
        *fairness.weighted_rows(1, 0.1),
        *fairness.equal_rows(1, 0.1),
        *fairness.starvation_rows(3, 1, 0.1),
    ]

    assert len({row.name for row in rows}) == len(rows)
    assert {row.at["weight"] for row in rows if "weight" in row.at} == {"1", "2", "4"}


def test_a_storm_leaves_nothing() -> None:
    found = storm.one(200, 0.3)

    assert found.back > 0


def test_recovery_is_the_first_slice_that_is_as_full_as_before() -> None:
    before = [number / 1_000 for number in range(100)]
    idle_for_a_slice = [0.1 + storm.SLICE + number / 1_000 for number in range(100)]

    found = storm.recovery(before + idle_for_a_slice, 0.1, 0.1, 0.1)

    assert found.before == pytest.approx(1_000, rel=0.05)
    assert found.after == pytest.approx(800, rel=0.05)
    assert found.back == pytest.approx(2 * storm.SLICE * 1e3)
    assert storm.recovery(before, 0.1, 0.1, 0.1).back == pytest.approx(100.0)
