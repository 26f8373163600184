"""A limit on its own: before any controller has it, and after its controller is gone."""

import gc

import pytest

from flowctl import ConcurrencyLimit, FlowController, FlowKey, Request
from flowctl.gate import Load, SeatLimit
from flowctl.news import News
from flowctl.testing import Seats
from tests.support import MakeController


def test_a_limit_that_no_controller_has_yet_can_be_changed() -> None:
    gate = ConcurrencyLimit(1)
    gate.set(3)

    assert (gate.limit, gate.sure_seats) == (3, 3)
    assert gate.admits(Seats(2), cost=1, ceiling=1.0)
    assert not gate.admits(Seats(2), cost=2, ceiling=1.0)


def test_a_change_before_it_has_a_controller_counts_in_that_controller() -> None:
    gate = ConcurrencyLimit(1)
    gate.set(2)
    with FlowController(gate=gate, background=False) as controller, controller.admit("a"), controller.admit("a"):
        assert controller.stats().in_flight == 2


def test_a_limit_is_free_again_once_its_controller_is_gone() -> None:
    gate = ConcurrencyLimit(1)
    first = FlowController(gate=gate, background=False)
    with pytest.raises(ValueError, match="another controller"):
        FlowController(gate=gate, background=False)
    del first
    gc.collect()

    with FlowController(gate=gate, background=False) as second, second.admit("a"):
        assert second.stats().limit == 1


def test_how_full_it_is_is_the_share_of_its_seats() -> None:
    gate = ConcurrencyLimit(4)

    assert [gate.saturation(Seats(seats)) for seats in (0, 1, 4, 6)] == [0.0, 0.25, 1.0, 1.5]


def test_a_limit_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match=r"^limit must be at least 1"):
        ConcurrencyLimit(0)


class Flaky(SeatLimit):
    """Two seats, and fails while it is told to."""

    fails = False
    _limit = 2

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        if self.fails:
            raise OSError
        return super().admits(load, cost, ceiling)


def test_a_gate_that_fails_once_keeps_nobody_waiting_also_where_others_report_it(
    make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = News.incident

    def reported_at_once(news: News, what: str, error: BaseException) -> None:
        note(news, what, error)
        news._report(*news.incidents.popleft())  # as a thread that passes may, at that very moment

    monkeypatch.setattr(News, "incident", reported_at_once)
    gate = Flaky()
    controller = make_controller(gate=gate)
    controller.admit("a").release()
    gate.fails = True
    large = controller.submit(Request(FlowKey("a"), cost=3), lambda ticket: None)
    assert large.state == "queued"

    gate.fails = False
    small = controller.submit(Request(FlowKey("a")), lambda ticket: None)

    assert (large.state, small.state) == ("dispatched", "queued"), "nothing is in flight: it may run alone"
    large.release()
    small.release()
