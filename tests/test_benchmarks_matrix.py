"""The cells of the question `matrix`, and what is asserted after each, in tiny."""

from collections import Counter

import pytest

from benchmarks import churn, expiring, matrix
from benchmarks.harness import DEFAULT, FULL, QUICK, Depth, Row
from benchmarks.matrix import Cell, Topology
from benchmarks.waiting import THREADS

SMALL = Topology(limit=1, shards=2, priorities=2, flows=10)


def test_the_matrix_has_all_cells_and_each_once() -> None:
    assert len(set(matrix.ALL)) == len(matrix.ALL) == 3 * 2 * 2 * 3 * 3
    assert set(matrix.FEW) | set(matrix.SOME) <= set(matrix.ALL)
    assert len(set(matrix.SOME)) == len(matrix.SOME)


@pytest.mark.parametrize(("depth", "most"), [(QUICK, 5), (DEFAULT, 30), (FULL, 320)], ids=["quick", "default", "full"])
def test_the_matrix_keeps_to_its_time(depth: Depth, most: float) -> None:
    assert sum(step.seconds for step in matrix.steps(depth)) <= most


def test_flows_are_chosen_by_zipfs_law() -> None:
    drawn = Counter(matrix.drawn(10))

    assert sorted(drawn, key=drawn.__getitem__, reverse=True)[:3] == [0, 1, 2]
    assert drawn[0] / drawn[1] == pytest.approx(2**matrix.EXPONENT, rel=0.05)


def test_a_choice_has_the_size_and_priority_of_its_number() -> None:
    choices = matrix.choices(1_000, 8)

    assert {choice.priority for choice in choices} == set(range(8))
    assert all(100 <= choice.size < 9_100 for choice in choices)
    assert len({choice.size for choice in choices}) > 900


def test_each_worker_has_a_table_of_its_own_and_in_each_run_the_same() -> None:
    tables = [matrix.table(SMALL, worker) for worker in range(20)]

    assert tables == [matrix.table(SMALL, worker) for worker in range(20)]
    assert all(len(table) == matrix.TABLE for table in tables)
    assert all(table != tables[0] for table in tables[1:])


@pytest.mark.parametrize("limit", [0, 1])
def test_all_that_is_asked_for_in_a_cell_is_dispatched_and_given_back(limit: int) -> None:
    cell = Cell(SMALL._replace(limit=limit), workers=4)
    with matrix.prepared(cell.topology) as controller:
        found = matrix.measured(controller, cell, 0.05)
        again = matrix.measured(controller, cell, 0.05)

    assert len(found.rates) == matrix.SLICES
    assert found.waits
    dispatches, wait = matrix.rows(cell, again)
    assert dispatches.at["workers"] == 4
    assert wait.at["p50 ms"] <= wait.value <= wait.at["p99.9 ms"]  # type: ignore[operator]


def test_a_seat_that_is_not_given_back_is_noticed() -> None:
    with matrix.prepared(SMALL) as controller:
        dispatched = controller.stats().dispatched
        ticket = controller.admit("somebody")
        with pytest.raises(AssertionError, match="something is left"):
            matrix.check(controller, dispatched + 1)
        ticket.release()
        with pytest.raises(AssertionError, match="asked for"):
            matrix.check(controller, dispatched)


def test_all_flows_exist_before_a_cell_is_measured() -> None:
    with matrix.prepared(SMALL) as controller:
        assert controller.stats().flows == SMALL.flows
        assert controller.stats().shards == SMALL.shards
        assert len(controller.bands()) == SMALL.priorities


def test_keys_that_come_and_go_are_all_gone_in_the_end() -> None:
    churned = churn.Churn(50)
    with churned.controller:
        found = churned.measured()

    assert found.keys > 0
    assert min(found.p99, found.quiet) > 0


def test_a_key_that_is_left_is_noticed() -> None:
    churned = churn.Churn(5)
    with churned.controller as controller:
        for number in range(THREADS + 1):
            controller.admit(f"left-{number}").release()
        with pytest.raises(AssertionError, match="flows are left"):
            churned.check()


def test_at_a_closed_gate_everybody_is_refused_and_nobody_too_early() -> None:
    ours, theirs = expiring.expired_by_flowctl(4, 0.06), expiring.expired_by_semaphore(4, 0.06)

    for found in (ours, theirs):
        assert len(found.late) >= 4
        assert min(found.late) > -1.0  # milliseconds: clocks are read apart
        assert found.rate > 0


def test_what_more_of_one_thing_costs_is_said_of_cells_that_differ_in_nothing_else() -> None:
    def dispatches(limit: int, workers: int, rate: float) -> Row:
        cell = Cell(SMALL._replace(limit=limit), workers)
        return matrix.rows(cell, matrix.Found([rate], [1.0]))[0]

    rows = [dispatches(1, 10, 400.0), dispatches(1, 1_000, 100.0), dispatches(100, 100, 700.0)]

    assert matrix.concludes(rows) == ["workers: 0.25x the dispatches with 1,000 as with 10."]
    assert matrix.concludes([dispatches(0, 10, 800.0), *rows])[0] == "limit: 2.00x the dispatches with none as with 1."
    assert matrix.concludes([]) == []
