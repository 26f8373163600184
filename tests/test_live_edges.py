"""Resumed, retired, displaced: what must not change who goes next, and what one is told."""

import pytest

from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController, FlowKey, Outcome, Request, Ticket
from flowctl.testing import FakeClock
from tests.oracle import NewestOfTheBand


class Served:
    """One seat; who goes is noted, and the next goes by `step`."""

    def __init__(self, config: Config | None = None) -> None:
        self.controller = FlowController(config, gate=ConcurrencyLimit(1), background=False)
        self.order: list[str] = []
        self.seat: list[Ticket] = [self.controller.admit("holder")]

    def ask(self, flows: str) -> None:
        def went(ticket: Ticket) -> None:
            if ticket.outcome is Outcome.DISPATCHED:
                self.order.append(ticket.key.id)
                self.seat.append(ticket)

        for flow in flows:
            self.controller.submit(Request(FlowKey(flow)), went)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.seat.pop(0).release()


def test_who_is_resumed_stands_as_if_it_had_gone_just_now() -> None:
    served = Served()
    served.controller.pause("a")
    served.ask("a" + "bcbc")
    served.step(2)  # b and c have gone once each, and wait for their next turn
    served.controller.resume("a")
    served.step(3)

    assert served.order == ["b", "c", "b", "c", "a"]  # a b c: it goes before all who have gone once


def test_pausing_and_resuming_again_and_again_gains_nothing() -> None:
    """An operator who pauses and resumes newcomers one by one lets each of them go before b."""
    served = Served()
    for flow in "acdef":
        served.controller.pause(flow)
    served.ask("acdef" + "bb")
    served.step(1)
    for flow in "acdef":
        served.controller.resume(flow)
    served.step(6)

    assert served.order.index("b", 1) == 1


def test_who_displaces_the_only_one_of_its_own_flow_is_a_newcomer_like_any_other() -> None:
    served = Served(Config(default_band=BandConfig(max_requests=3, displacement=NewestOfTheBand())))
    served.ask("bbb")
    served.step()
    served.ask("a" + "a")  # the second displaces the first
    served.step()

    assert served.order == ["b", "b"]  # a: its start tag is the virtual time itself


@pytest.mark.parametrize("steps", range(1, 20))
def test_a_band_that_is_resumed_goes_on_in_the_order_in_which_it_was_paused(steps: int) -> None:
    def order_of(*, pause: bool) -> str:
        served = Served()
        served.ask("a" * 5 + "b" * 5 + "c" * 5 + "d" * 5)
        served.step(steps)
        if pause:
            served.controller.pause()
            served.controller.resume()
        served.step(20 - steps)
        return "".join(served.order)

    assert order_of(pause=True) == order_of(pause=False)


def test_a_closed_controller_says_so_although_all_bands_are_retired() -> None:
    controller = FlowController(Config(bands=[BandConfig(priority=0)]), gate=ConcurrencyLimit(1), background=False)
    _holder = controller.admit("holder")
    controller.retire_band(0)
    controller.close()
    ticket = controller.submit(Request(FlowKey("a")), lambda ticket: None)

    assert ticket.outcome is Outcome.REJECTED_CLOSED  # REJECTED_OTHER


def test_flows_that_went_with_their_band_do_not_hide_an_idle_one() -> None:
    bands, clock = [BandConfig(priority=0), BandConfig(priority=5)], FakeClock()
    controller = FlowController(
        Config(bands=bands, max_flows=20), gate=ConcurrencyLimit(1), clock=clock, background=False
    )
    for nth in range(18):
        controller.admit(f"old-{nth}", priority=5).release()
    controller.retire_band(5)
    assert controller.collect().flows == 18
    clock.advance(100)
    for nth in range(21):
        controller.admit(f"new-{nth}").release()  # one at a time: the others are idle

    assert controller.stats().folded == 0  # 1
