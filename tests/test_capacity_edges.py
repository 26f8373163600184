"""A waiting room that is full: who has to leave it for whom."""

import pytest

from flowctl import Displaced, FlowController, QueueFull, WaitingRoom
from flowctl.testing import FakeClock
from tests.support import Spawn


def test_in_a_full_waiting_room_a_higher_priority_takes_the_place_of_a_lower_one(
    controller: FlowController, clock: FakeClock, spawn: Spawn
) -> None:
    room = WaitingRoom(limit=1, limit_per_flow=1)
    holder = controller.admit("holder")
    outside = spawn(controller.admit, "outside")  # waits at the lowest priority, but takes no place there
    clock.wait_for_sleepers(1)
    below = spawn(controller.admit, "below", room=room)
    clock.wait_for_sleepers(2)

    above = spawn(controller.admit, "above", priority=1, room=room)
    with pytest.raises(Displaced):
        below.result()

    holder.release()
    above.result().release()
    outside.result().release()
    assert controller.stats().incidents == 0


def test_in_a_full_waiting_room_an_equal_priority_displaces_nobody_and_nothing_is_wrong_with_that(
    controller: FlowController, clock: FakeClock, spawn: Spawn
) -> None:
    room = WaitingRoom(limit=1, limit_per_flow=1)
    holder = controller.admit("holder")
    waiting = spawn(controller.admit, "a", room=room)
    clock.wait_for_sleepers(1)

    with pytest.raises(QueueFull):
        controller.admit("b", room=room)

    assert controller.stats().incidents == 0
    holder.release()
    waiting.result().release()
