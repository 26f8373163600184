"""Tickets and news: what an error says, and who is told in a forked child."""

import logging

import pytest

from flowctl import BandConfig, Config, FlowController, FlowKey, QueueFull, Request, Saturated, Ticket
from flowctl.news import News
from tests.support import MakeController
from tests.test_turn_edges import Diary


@pytest.mark.parametrize(
    ("config", "scope"),
    [
        (Config(default_band=BandConfig(max_requests=1)), "band"),
        (Config(max_requests=1), "global"),
        (Config(default_band=BandConfig(max_requests_per_flow=1)), "flow"),
    ],
)
def test_who_finds_a_queue_full_reads_which_limit_it_met(
    make_controller: MakeController, config: Config, scope: str
) -> None:
    controller = make_controller(config)
    holder = controller.admit("a")
    queued = controller.submit(Request(FlowKey("a")), on_settled=lambda ticket: None)

    with pytest.raises(QueueFull, match=f"the queue is full \\({scope} limit\\)"):
        controller.admit("a")
    queued.cancel()
    holder.release()


def test_a_refusal_for_another_reason_names_no_limit(controller: FlowController) -> None:
    with controller.admit("a"), pytest.raises(Saturated) as refusal:
        controller.try_admit("a")

    assert refusal.value.scope is None
    assert "limit)" not in str(refusal.value)


def test_the_news_of_a_forked_child_go_to_the_same_observer() -> None:
    diary = Diary()
    anew = News(diary, lambda what, error: None).anew()

    assert anew.observer is diary
    assert not anew.settled


def fail(ticket: Ticket) -> None:
    raise ZeroDivisionError


class Failing(Diary):
    def settled(self, ticket: Ticket) -> None:
        fail(ticket)


def test_a_report_of_what_raised_names_it(make_controller: MakeController, caplog: pytest.LogCaptureFixture) -> None:
    controller = make_controller(observer=Failing())
    with caplog.at_level(logging.ERROR, logger="flowctl"):
        controller.submit(Request(FlowKey("a")), on_settled=fail).release()

    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == ["on_settled", "observer"]
