"""The peers do the same work as flowctl, and what is seen of them is true."""

import threading
import time

import pytest

from benchmarks import peers, rivals
from benchmarks.harness import Row, Target
from benchmarks.peers import Competition
from benchmarks.rivals import OURS, PEERS, SEMAPHORE

SEATS = 2
THREADS = 5


@pytest.mark.parametrize("name", PEERS)
def test_no_peer_has_more_at_work_than_it_has_seats(name: str) -> None:
    at_work, most = set[object](), 0
    turn = threading.Lock()

    def work() -> float:
        nonlocal most
        me = object()
        at_work.add(me)
        with turn:
            most = max(most, len(at_work))
        at_work.discard(me)
        return time.perf_counter()

    with peers.opened(SEATS, THREADS, [name]) as opened:
        line = threading.Barrier(THREADS)

        def call(number: int) -> None:
            line.wait()
            for _ in range(20):
                opened[name].serve(number, work)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        opened[name].loop(0, 5)

    assert 1 <= most <= SEATS


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_returns_or_raises_what_the_work_does_and_has_its_seat_back(name: str) -> None:
    def fail() -> None:
        raise KeyError(name)

    with peers.opened(1, 1, [name]) as opened:
        with pytest.raises(KeyError):
            opened[name].serve(0, fail)
        assert opened[name].serve(0, lambda: "done") == "done"


def test_a_line_is_served_in_the_order_in_which_it_came() -> None:
    line, order = rivals.Line(1), list[int]()
    line.acquire()

    def wait(number: int) -> None:
        line.acquire()
        order.append(number)
        line.release()

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while len(line._line) <= number:
            threading.Event().wait(0.001)
    line.release()
    for thread in threads:
        thread.join()

    assert order == [0, 1, 2, 3]


def test_what_one_competition_shows_fits_together() -> None:
    competition = Competition(threads=3, seats=1, hold=0.001)

    with peers.opened(1, 3, [OURS]) as opened:
        seen = peers.competed(opened[OURS], competition, 0.1)

    assert 0 < seen.rate < 1_100
    assert 0 < seen.least_to_most <= 1
    assert seen.p99 > 0
    assert seen.rounds == pytest.approx(seen.p99 / 1e3 * seen.rate / 3)


def test_who_is_left_out_is_named() -> None:
    found = {OURS: [0.99], SEMAPHORE: [0.001], rivals.DISPATCHER: [0.98]}
    at: dict[str, str | float] = {"threads": 64, "seats": 8, "figure": "share"}
    rows = peers.beside("least/most", "least/most", found, at=at, divisible=False)

    assert peers.concludes(rows) == [
        "BoundedSemaphore starves: of 64 threads for 8 seats the least-served got 0.001 of what the most-served got."
    ]


def test_each_work_has_a_row_a_peer_and_ours_stands_beside_the_dispatcher_thread() -> None:
    target = Target("ratio", "at least", 0.0)
    competition = Competition(threads=3, seats=1, hold=0.0)
    free = peers.free(2, 1, 0.005)
    saturated = peers.saturated(competition, list(PEERS), 1, 0.02, rate=target, share=target)
    crowded = peers.crowded((4, 2), [OURS, SEMAPHORE], 1, 0.02, target)

    assert [row.at["peer"] for row in free] == list(PEERS)
    assert [(row.rival, row.target is None) for row in free] == [
        (rivals.DISPATCHER if peer == OURS else OURS, peer != OURS) for peer in PEERS
    ]
    for figure in ("rate", "share", "p99"):
        assert [row.at["peer"] for row in saturated if row.at.get("figure") == figure] == list(PEERS)
    assert [(row.at["peer"], row.rival) for row in crowded] == [
        (OURS, "the same with 2"),
        (SEMAPHORE, "the same with 2"),
    ]
    assert len({row.name for row in names_of(free, saturated, crowded)}) == len(free) + len(saturated) + len(crowded)


def names_of(*groups: list[Row]) -> list[Row]:
    return [row for group in groups for row in group]
