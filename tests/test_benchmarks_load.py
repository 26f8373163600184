"""What asks for seats in the benchmarks: open and closed loops, and what is read from them."""

import doctest
import threading
from dataclasses import replace
from itertools import islice, repeat

import pytest

from benchmarks import load, tally
from benchmarks.harness import Row
from benchmarks.load import Arrival, BackEnd, Leave, Tenant
from benchmarks.tally import Asked
from flowctl import ConcurrencyLimit, FlowController

TWO = (Tenant(name="a", share=3.0), Tenant(name="b", ttl=0.0))


def asked(tenant: int, intended: float, settled: float, *, refused: str = "") -> Asked:
    return Asked(tenant, intended, intended, settled, settled + 0.001, refused)


def test_the_examples_work() -> None:
    for module in (load, tally):
        results = doctest.testmod(module)

        assert results.attempted > 0
        assert results.failed == 0


def test_arrivals_follow_from_their_seed_and_nothing_else() -> None:
    def made(seed: object) -> list[Arrival]:
        return load.poisson(TWO, 1_000.0, 2.0, load.works(0.01, "exponential", seed), seed)

    found = made(1)

    assert found == made(1) != made(2)
    assert 1_700 < len(found) < 2_300
    assert found == sorted(found)
    assert 0.7 < sum(arrival.tenant == 0 for arrival in found) / len(found) < 0.8
    assert 0.009 < sum(arrival.work for arrival in found) / len(found) < 0.011
    assert list(islice(load.works(0.01, "constant", 1), 3)) == [0.01] * 3


def test_each_arrival_is_asked_for_once_and_not_before_its_moment() -> None:
    arrivals = [Arrival(number * 0.001, number % 2, 0.0) for number in range(50)]

    found = load.open_loop(load.unlimited, BackEnd(1), TWO, arrivals, threads=4)

    assert sorted(each.intended for each in found) == [arrival.at for arrival in arrivals]
    assert all(each.intended <= each.began <= each.settled <= each.ended for each in found)


def test_a_latency_counts_from_the_moment_that_was_meant() -> None:
    overdue = [Arrival(-2.0, 0, 0.0), Arrival(-2.0, 0, 0.0)]

    found = load.open_loop(load.unlimited, BackEnd(1), TWO, overdue, threads=1)

    assert tally.lateness(found) >= 1.0
    assert min(tally.latencies(found, 0)) >= 1_000.0
    assert max(each.began for each in found) >= min(each.ended for each in found)  # one thread: one after the other


def test_requests_that_are_refused_say_why_and_are_no_latency() -> None:
    with FlowController(gate=ConcurrencyLimit(1)) as controller:
        holder = controller.admit("the holder")
        found = load.open_loop(load.by_flowctl(controller), BackEnd(1), TWO, [Arrival(0.0, 1, 0.0)], threads=1)
        holder.release()
    semaphore = load.by_semaphore(1)
    leave = semaphore(TWO[1])

    assert [each.refused for each in found] == ["Saturated"]
    assert tally.latencies(found, 1) == tally.waits(found, 1) == []
    with pytest.raises(TimeoutError):
        semaphore(TWO[1])
    leave()


def test_a_closed_loop_asks_by_threads_and_ends_after_what_runs_beside() -> None:
    came = {tenant.name: threading.Event() for tenant in TWO}
    semaphore = load.by_semaphore(4)

    def ask(tenant: Tenant) -> Leave:
        came[tenant.name].set()
        return semaphore(replace(tenant, ttl=None))

    def both_came(begin: float) -> None:
        assert all(event.wait(20) for event in came.values())

    counts = load.threads_by_share(TWO, 4)
    found = load.closed_loop(
        ask, BackEnd(4), TWO, counts, seconds=0.0, work=lambda number: repeat(0.0001), beside=both_came
    )

    assert counts == [3, 1]
    assert {each.tenant for each in found} == {0, 1}
    assert tally.rate(found) > 0


def test_what_runs_beside_ends_the_loop_if_it_fails() -> None:
    def fail(begin: float) -> None:
        raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"):
        load.closed_loop(
            load.unlimited, BackEnd(2), TWO, [1, 1], seconds=60.0, work=lambda number: repeat(0.0), beside=fail
        )


def test_a_back_end_that_is_overrun_shares_its_speed() -> None:
    back_end = BackEnd(2)
    with back_end._lock:
        back_end._inside = 6

        assert back_end._slowness_locked() == 3.0
        back_end._inside = 1
        assert back_end._slowness_locked() == 1.0
        back_end._inside = 0
    back_end.serve(0.0)
    back_end.serve(0.001, cost=5)
    assert back_end._inside == 0


def test_service_is_counted_where_it_was_granted() -> None:
    found = [asked(0, 0.0, 0.1), asked(0, 0.0, 0.5), asked(1, 0.0, 0.1), asked(0, 0.1, 0.2, refused="Expired")]

    assert tally.served(found, 0, 0.0, 0.5) == 1
    assert tally.served(found, 0, 0.0, 0.6) == 2
    assert tally.waits(found, 0) == [100.0, 500.0]


def test_a_row_whose_load_came_late_is_doubtful() -> None:
    assert Row(name="a row", unit="ms", samples=(1.0,), late=True).doubts == ("late",)
