"""A seat is passed on to those who wait, whichever way, and each time is one of a thread that waited."""

import pytest

from benchmarks import wake


@pytest.mark.parametrize("waiting", [1, 3])
@pytest.mark.parametrize("way", wake.WAYS)
def test_a_seat_is_passed_on_again_and_again(way: str, waiting: int) -> None:
    relay = wake.Relay(wake.WAYS[way](waiting), waiting)

    taken = [relay.passed() for _ in range(2 * waiting + 1)]
    relay.close()

    assert min(taken) > 0
    assert not any(thread.is_alive() for thread in relay._threads)


def test_a_callback_is_called_for_each_who_waits_in_turn() -> None:
    callbacks = wake.Callbacks(3)

    tickets = []
    for _ in range(6):
        assert callbacks.passed() > 0
        tickets.append(callbacks._ticket.key.id)
    callbacks.close()

    assert tickets == ["tenant-0", "tenant-1", "tenant-2"] * 2


def test_each_way_stands_beside_the_bare_queue_and_ours_alone_has_a_target() -> None:
    rows = wake.measure(1, 2, 3)
    ways = [*wake.WAYS, wake.CALLBACK]

    assert [(row.at["way"], row.at["figure"]) for row in rows] == [
        (way, figure) for figure in ("median", "p99") for way in ways
    ]
    assert [row.name for row in rows if row.target is not None] == ["release to wake, 1 waiting: flowctl"]
    assert all(row.rival == (None if row.at["way"] == wake.QUEUE else wake.QUEUE) for row in rows)
