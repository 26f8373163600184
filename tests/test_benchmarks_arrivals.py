"""The question `arrivals`, in tiny."""

from collections.abc import Sequence

from benchmarks import arrivals, load
from benchmarks.harness import QUICK
from benchmarks.load import Arrival
from benchmarks.tally import Asked


def granted(tenant: int, *moments: float) -> list[Asked]:
    return [Asked(tenant, 0.0, 0.0, moment, moment, "") for moment in moments]


def test_the_same_arrivals_come_to_all_that_are_compared() -> None:
    found: list[Sequence[Asked]] = [
        arrivals.opened(system, arrivals.MIX, 0.5, 0.1, "the seed") for system in arrivals.SYSTEMS
    ]
    intended = [sorted((each.intended, each.tenant) for each in asked) for asked in found]

    assert intended[0] == intended[1] == intended[2]
    rows = arrivals.rows(0.5, [[asked] for asked in found])
    assert len({row.name for row in rows}) == len(rows)
    assert sum(row.rival is not None for row in rows) == 6
    assert all(row.value >= arrivals.WORK * 1e3 for row in rows if "tenant" in row.at)


def test_a_closed_loop_of_the_same_mix_stands_beside() -> None:
    rows = arrivals.closed_rows([[arrivals.closed(system, 10, 0.05)] for system in arrivals.SYSTEMS[:2]])

    assert len(rows) == 1 + len(arrivals.MIX)
    assert all(row.value > 0 for row in rows)


def test_evenness_is_told_on_the_whole_and_over_time() -> None:
    even = [each for tenant in range(4) for each in granted(tenant, 0.1, 0.6)]
    greedy = granted(0, 0.1, 0.6)

    rows = arrivals.hungry_rows([[even], [greedy]], 1.0, 2)

    assert [row.value for row in rows] == [1.0, 1.0, 1.0, 0.25, 0.25]
    assert [row.at["second"] for row in rows[1:]] == [0.0, 0.5, 0.0, 0.5]


def test_enough_threads_wait_for_an_overload_and_never_too_many() -> None:
    few, many = [Arrival(0.0, 0, 0.0)] * 100, [Arrival(0.0, 0, 0.0)] * 10_000

    assert 100 < arrivals.threads_for(few, 1.0) < 200
    assert arrivals.threads_for(many, 1.0) == load.MOST_THREADS


def test_the_closed_loop_has_a_step_and_each_load_has_one() -> None:
    assert [step.name for step in arrivals.steps(QUICK)] == ["closed loop, 40 threads", "open loop, 110%"]


def test_who_waits_in_an_overload_is_said_in_words() -> None:
    found = [[[*granted(0, 0.1), *granted(1, 0.02), *granted(2, 0.01)]] for _ in arrivals.SYSTEMS]
    said = arrivals.concludes(arrivals.rows(1.1, found))

    assert len(said) == len(arrivals.MIX)
    assert said[1] == (
        "At 110 % of the capacity, 99 % of polite are answered within 20 ms; beside a BoundedSemaphore, within 20 ms."
    )
    assert arrivals.concludes(arrivals.rows(0.5, found)) == []
