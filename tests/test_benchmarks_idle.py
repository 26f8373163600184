"""What an idle process costs is asked of one; an import is timed where it is the first."""

from pathlib import Path

import pytest

from benchmarks import idle


def test_an_idle_controller_has_one_thread_and_its_flows_stay() -> None:
    found = idle.idle(0.01, every=0.0)

    assert found["threads"] == 1
    assert found["percent"] >= 0


def test_a_fresh_process_tells_what_an_import_cost_it_and_keeps_what_it_compiled(tmp_path: Path) -> None:
    assert idle.imported("flowctl", tmp_path) > 0
    assert list(tmp_path.rglob("controller.*.pyc"))


def test_an_import_that_loads_what_nobody_asked_for_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="import asyncio loads asyncio"):
        idle.imported("asyncio", tmp_path)


def test_the_rows_are_those_of_the_process_with_the_usual_cycle_and_of_the_busier_one() -> None:
    rows = idle.rows({"percent": 0.01, "threads": 1}, {"percent": 0.2, "threads": 2})

    assert [(row.value, row.reached) for row in rows] == [(0.01, True), (0.2, False), (1, True)]
