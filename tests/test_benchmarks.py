"""The benchmarks' statistics, and that each question still finds what it measures.

A small part of every workload runs here, with what it asserts on the way. The measuring itself is left to `make bench`.
"""

import doctest
import random
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import (
    cancel,
    collection,
    crowd,
    dispatch,
    flood,
    gates,
    harness,
    hello,
    identities,
    machine,
    noise,
    queues,
    resize,
    servers,
    serving,
    waiting,
    watch,
    wording,
)
from benchmarks.__main__ import QUESTIONS
from benchmarks.harness import (
    DEFAULT,
    FULL,
    QUICK,
    Depth,
    Pairs,
    Row,
    Step,
    Target,
    against_itself,
    in_turns,
    percentile,
    spread,
)
from benchmarks.queues import QUEUES, Crowd
from flowctl import ConcurrencyLimit, Config, EarliestDeadline, FlowController
from flowctl.demo.server import WORK

TINY = replace(DEFAULT, name="tiny", pairs=1, sample=0.001, windows=1, window=0.1, cycles=1, ids=200, sizes=(10,))


@pytest.mark.parametrize("module", [harness, watch, wording], ids=lambda module: module.__name__)
def test_the_examples_work(module: ModuleType) -> None:
    results = doctest.testmod(module)

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


def test_many_sides_are_taken_in_turns_too() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    found = in_turns(2, [lambda: side("a"), lambda: side("b"), lambda: side("c")])

    assert order == ["a", "b", "c", "c", "b", "a"]
    assert found == [[1, 6], [2, 5], [3, 4]]


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


def test_a_pair_whose_rival_had_nothing_is_no_ratio() -> None:
    row = row_of([1.0, 4.0, 3.0], rival=[0.0, 2.0, 1.0])

    assert row.ratios == (2.0, 3.0)
    assert row_of([1.0], rival=[0.0]).ratio is None


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


# --- the questions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [QUICK, DEFAULT, FULL], ids=lambda depth: depth.name)
def test_each_question_has_steps_with_names_of_their_own_and_is_explained(depth: Depth) -> None:
    readme = (Path(harness.__file__).parent / "README.md").read_text("utf-8")
    names = [question.name for question in QUESTIONS]

    assert len(set(names)) == len(names)
    for question in QUESTIONS:
        steps = question.steps(depth)
        assert steps or depth is QUICK
        assert len({step.name for step in steps}) == len(steps)
        assert all(step.seconds > 0 for step in steps)
        assert f"| `{question.name}` |" in readme


@pytest.mark.parametrize(
    ("depth", "seconds"), [(QUICK, 60), (DEFAULT, 330), (FULL, 2400)], ids=lambda value: getattr(value, "name", "")
)
def test_a_run_of_all_questions_expects_to_keep_to_its_budget(depth: Depth, seconds: float) -> None:
    assert sum(step.seconds for question in QUESTIONS for step in question.steps(depth)) < seconds


@pytest.mark.parametrize("name", ["noise", "free", "contention", "lease"])
def test_questions_by_number_of_threads_ask_for_those_that_were_wanted(name: str) -> None:
    (question,) = (question for question in QUESTIONS if question.name == name)
    steps = question.steps(replace(DEFAULT, threads=(3,)))

    assert any("3 threads" in step.name for step in steps)
    assert not any("1 thread" in step.name or "64 threads" in step.name for step in steps)


def test_the_same_code_against_itself_is_two_of_it_side_by_side() -> None:
    rows = [row for step in noise.steps(replace(TINY, contended=0.001)) for row in step.run()]

    assert [(row.at["code"], row.at["threads"]) for row in rows] == [(code, n) for code in noise.CODES for n in (1, 8)]
    assert all(row.ratio is not None and row.ratio > 0 for row in rows)


@pytest.mark.parametrize("step", gates.steps(TINY), ids=lambda step: step.name)
def test_a_free_gate_of_each_kind_lets_everybody_go(step: Step) -> None:
    (row,) = step.run()

    assert row.value > 0


@pytest.mark.parametrize("ordering", [None, EarliestDeadline()])
def test_a_backlog_stays_as_long_as_it_was(ordering: EarliestDeadline | None) -> None:
    backlog = dispatch.Backlog(10, 6, idle=5, ordering=ordering)
    with backlog.controller as controller:
        before = controller.stats()
        costs = backlog.costs(0.0001)
        backlog.batch()
        after = controller.stats()
        controller._check()

        assert costs.grant > 0
        assert costs.queueing > 0
        assert (after.queued, after.in_flight, after.flows) == (before.queued, before.in_flight, before.flows)
        assert (after.queued, after.in_flight) == (60, 1)
        assert after.dispatched >= before.dispatched + 2 * dispatch.BATCH


def test_a_row_of_dispatch_is_that_of_two_backlogs() -> None:
    def make(seed: int) -> tuple[dispatch.Backlog, dispatch.Backlog]:
        return dispatch.Backlog(30, 2, seed=seed), dispatch.Backlog(3, 20, seed=seed)

    grants, queueing = dispatch.measure("many", "few", make, dispatch.SCALING, TINY)

    assert (grants.name, grants.rival, grants.target) == ("a grant, many", "few", dispatch.SCALING)
    assert (queueing.name, queueing.target) == ("queueing, many", None)
    assert len(grants.samples) == len(grants.rival_samples) == dispatch.FINER


@pytest.mark.parametrize("threads", [1, 3])
def test_cancelled_tickets_leave_everything_behind(threads: int) -> None:
    parked = cancel.Parked(50)
    with parked.controller as controller:
        assert cancel.rate(parked, threads) > 0
        assert cancel.rate(parked, threads) > 0  # fills the band to its limits once more
        controller._check()


def test_a_ticket_that_nobody_cancelled_is_noticed() -> None:
    parked = cancel.Parked(50)
    with parked.controller:
        parked.fill()
        parked.cancel(2, 0)

        with pytest.raises(AssertionError, match="capacity is not back"):
            parked.check()


def test_a_window_of_resizes_has_admissions_of_old_and_new_flows() -> None:
    load = resize.Load(seats=4)

    def resize_until_one_is_new() -> None:
        while controller.stats().flows <= waiting.THREADS:
            load.resize(0.1)

    with load.controller as controller:
        waits = load.window(resize_until_one_is_new)
        stats = controller.stats()

    assert waits
    assert min(waits) >= 0
    assert load.resized >= 2
    assert len(load.controller._state.registry.topology.live) == 1
    assert stats.flows > waiting.THREADS
    assert stats.in_flight == stats.queued == 0


@pytest.mark.skipif(not flood.MEMORY.exists(), reason="memory is read from /proc")
def test_a_flood_in_a_process_of_its_own_tells_memory_and_flows() -> None:
    found = identities.flooded(200)

    assert 0 <= found["idle"] <= found["used"] < 64
    assert found["flows"] >= 200


def test_a_stranger_is_new_each_time_and_stays_within_the_bound() -> None:
    with FlowController(Config(max_flows=8), gate=ConcurrencyLimit(1)) as controller:
        stranger = identities.Stranger(controller)

        assert stranger.visit(20) > 0
        stranger.attack(0.01, pace=1000.0)
        stranger.attack(0.001, pace=0.0)
        stats = controller.stats()

    assert stats.flows == 8
    assert stats.folded == 0
    assert stats.dispatched > 22


@pytest.mark.parametrize("name", QUEUES)
def test_every_queue_has_the_same_head_as_a_plain_search(name: str) -> None:
    crowd = Crowd(QUEUES[name](), 20)
    keyed = name in {"KeyedQueue", "lazy heap", "sorted list"}
    numbers = random.Random(1)

    for _ in range(3):
        crowd.batch()
        waiting = {ticket.serial: ticket for ticket in crowd.queued}
        assert crowd.queue.size == sum(ticket.size for ticket in crowd.queued)
        while waiting:
            expected = min(waiting.values(), key=queues.order if keyed else queues.serial)
            assert crowd.queue.head is expected
            leaver = expected if numbers.random() < 0.5 else numbers.choice(list(waiting.values()))
            crowd.queue.withdraw(leaver)
            del waiting[leaver.serial]
        assert crowd.queue.head is None
        for ticket in sorted(crowd.queued, key=queues.serial):
            crowd.queue.push(ticket)


def test_rows_of_queues_stand_beside_each_other() -> None:
    (step,) = queues.steps(TINY)

    assert [(row.name, row.rival) for row in step.run()] == [
        (f"10 queued: {ours} to {rival}", rival) for ours, rival in queues.PAIRS
    ]


def test_a_polite_tenant_alone_is_answered_by_a_server_of_its_own() -> None:
    found = servers.seen(servers.ALONE, 0.5)

    assert WORK * 1e3 <= found.p50 <= found.p99
    assert found.refused == 0


def test_a_refusal_of_one_round_is_seen_in_its_row() -> None:
    fine, refusing = servers.Seen(10.0, 20.0, 0.0), servers.Seen(10.0, 20.0, 0.5)
    found = {kind: [fine, fine, fine] for kind in servers.KINDS}

    assert servers.rows(found)[-1].reached
    assert not servers.rows({**found, servers.QUEUE: [fine, refusing, fine]})[-1].reached


def test_a_polite_tenant_is_compared_with_itself_alone_and_behind_stock_waitress() -> None:
    milliseconds = {servers.QUEUE: 70.0, servers.MIDDLEWARE: 130.0, servers.STOCK: 1000.0, servers.ALONE: 50.0}
    found = {kind: [servers.Seen(p50, 2 * p50, 0.0)] * 3 for kind, p50 in milliseconds.items()}
    rows = [row for row in servers.rows(found) if row.target is not None]

    assert [(row.ratio, row.reached) for row in rows[:-1]] == [(1.4, True), (2.6, False), (0.07, True), (0.13, False)]
    assert len({row.name for row in servers.rows(found)}) == len(servers.rows(found))


def test_each_server_tells_what_its_requests_cost() -> None:
    found = hello.costs(2, 5)

    assert set(found) == set(hello.KINDS)
    assert all(len(samples) == 2 and min(samples) > 0 for samples in found.values())


def test_what_is_added_is_the_difference_of_the_runs_of_one_round() -> None:
    found = {kind: [100.0, 300.0, 100.0] for kind in (hello.WAITRESS, hello.GUNICORN)}
    found |= {kind: [110.0, 310.0, 120.0] for kind in hello.RIVALS}
    added = hello.rows(found)[: len(hello.RIVALS)]

    assert [row.samples for row in added] == [(10.0, 10.0, 20.0)] * len(hello.RIVALS)
    assert len({row.name for row in hello.rows(found)}) == len(hello.rows(found))


def test_an_answer_that_is_no_200_or_breaks_off_is_no_sample() -> None:
    for answer, error in ((b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n", "500"), (b"HTTP/1.1 200", "no more")):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(OSError, match=error):
                hello.body_of_answer(ours)


def test_of_a_crowd_all_are_queued_and_each_is_answered_or_expires() -> None:
    patient = crowd.ask(crowd.Crowd(connections=30, ttl=60.0, work=0.001))
    hasty = crowd.ask(crowd.Crowd(connections=20, ttl=0.05, work=0.2))

    assert (patient.statuses, patient.queued) == ({200: 30}, 30 - crowd.SEATS)
    assert hasty.statuses == {200: crowd.SEATS, 503: 20 - crowd.SEATS}
    assert patient.memory is None or 0 < patient.memory < 200


def test_at_shutdown_everybody_who_was_queued_is_answered() -> None:
    found = crowd.ask(crowd.Crowd(connections=20, ttl=60.0, work=0.2), lambda server: server.process.terminate())

    assert found.statuses[200] + found.statuses[503] == 20
    assert found.statuses[503] > 0


def test_a_server_that_ends_is_not_waited_for() -> None:
    with serving.started("benchmarks.servers", "two", "arguments") as server, pytest.raises(EOFError):
        server.line()


def test_what_a_server_of_ours_takes_of_the_cores_is_not_taken_by_others() -> None:
    before, mine = machine._own_seconds(), time.process_time()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)

    assert machine._own_seconds() - before > time.process_time() - mine


def test_what_others_took_of_a_moment_is_not_known() -> None:
    assert machine.Neighbours().share() is None


def test_as_many_flows_expire_as_are_meant_to() -> None:
    population = collection.Population(3_000, cycles=1)
    with population.controller as controller:
        assert controller.stats().flows == 3_000 > 2 * collection.EXPIRED
        population.age()
        population.collect()
        population.renew()

        assert controller.stats().flows == 3_000


def row_of(samples: list[float], rival: list[float] | None = None, target: Target | None = None) -> Row:
    return Row(
        name="a row",
        unit="ns",
        samples=tuple(samples),
        rival=None if rival is None else "another",
        rival_samples=tuple(rival or ()),
        target=target,
    )
