"""A limit on its own: before any controller has it, and after its controller is gone."""

import gc

import pytest

from flowctl import ConcurrencyLimit, FlowController
from flowctl.testing import Seats


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
