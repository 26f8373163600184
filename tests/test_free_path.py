"""The free path takes no section of its own: what a handler, an exception and whoever looks find of it all the same."""

from __future__ import annotations

from collections.abc import Callable, ItemsView

import pytest

from flowctl import Config, FlowControlError, FlowController, FlowKey, Request, Saturated, Ticket, sync
from flowctl.lease import SectionWord
from flowctl.testing import FakeClock
from flowctl.turn import Turn
from tests.faults.moments import Moments
from tests.faults.points import strike_each_point
from tests.support import MakeController


class Interrupted(BaseException):
    """What a signal handler may raise anywhere."""


def interrupt() -> None:
    raise Interrupted


def turn_of(controller: FlowController) -> Turn:
    return controller._state.turn


def is_mine(lock: sync.Mutex) -> bool:
    owned = lock._is_owned()  # type: ignore[attr-defined]  # not in the stubs
    assert isinstance(owned, bool)
    return owned


def in_a_section(controller: FlowController, act: Callable[[], object]) -> None:
    """What a handler does that comes in the middle of a section of its own thread."""

    def run(now: float) -> None:
        act()

    turn_of(controller).change(run)


def assert_every_seat_is_free(controller: FlowController) -> None:
    controller.collect()
    assert controller.stats().in_flight == 0
    controller._check()


def test_a_release_by_a_handler_is_not_lost_to_the_exception_that_comes_as_it_is_done(
    make_controller: MakeController,
) -> None:
    controller = make_controller(limit=2)
    controller.admit("a").release()

    def tell(at: int) -> int:
        ticket = controller.admit("a")
        moments = Moments(at, interrupt)
        try:
            with moments:
                in_a_section(controller, ticket.release)
        except Interrupted:
            pass
        ticket.release()  # its owner, who was told of the exception, does it again
        assert_every_seat_is_free(controller)
        return moments.passed

    assert strike_each_point(tell) > 20


@pytest.mark.parametrize("profile", [False, True])
@pytest.mark.parametrize(
    "act", [Ticket.release, lambda ticket: ticket._desk.grant_on_the_spot(ticket._flow, 1, 0, None)]
)
def test_an_exception_in_a_handler_does_not_let_go_of_the_lock_of_the_section_that_it_interrupted(
    act: Callable[[Ticket], object], make_controller: MakeController, *, profile: bool
) -> None:
    controller = make_controller(Config(profile=profile), limit=3)
    controller.admit("a").release()
    lock = turn_of(controller).lock

    def tell(at: int) -> int:
        tickets = controller.admit("a"), controller.admit("a")
        passed = 0

        def handle() -> None:
            nonlocal passed
            moments = Moments(at, interrupt)
            try:
                with moments:
                    act(tickets[0])
            except Interrupted:
                pass
            passed = moments.passed
            assert is_mine(lock), "its section goes on without it"

        in_a_section(controller, handle)
        for ticket in tickets:
            ticket.release()
        return passed

    assert strike_each_point(tell) > 1


def test_a_close_in_the_middle_of_a_section_counts_a_ticket_that_nobody_looked_at(
    make_controller: MakeController,
) -> None:
    def tell(at: int) -> int:
        controller = make_controller(limit=2)
        controller.admit("a").release()
        ticket = controller.admit("a")
        said: list[bool] = []
        with Moments(at, lambda: said.append(controller.close())) as moments:
            controller.stats()
        assert not any(said), "it said that nothing is in flight"
        ticket.release()
        return moments.passed

    assert strike_each_point(tell, every=3) > 50


def test_who_looks_goes_through_the_young_tickets_once(make_controller: MakeController) -> None:
    class Counted(dict[int, Ticket]):
        times = 0

        def items(self) -> ItemsView[int, Ticket]:  # type: ignore[override]  # the same
            self.times += 1
            return super().items()

    controller = make_controller(limit=8)
    tickets = [controller.admit("a") for _ in range(8)]
    ledger = turn_of(controller).ledger
    ledger.young = young = Counted(ledger.young)
    assert len(young) > 1

    ledger.age(turn_of(controller).hand_in)

    assert young.times <= 1, "each look for the first one passes by all who were deleted before it"
    assert not young
    ledger.young = turn_of(controller)._to_grant[3]
    ledger.young.clear()
    assert [ticket.release() for ticket in tickets] == [True] * 8


def test_a_handler_never_comes_in_the_section_of_an_exchange() -> None:
    section = sync.RLock()
    word = SectionWord(section, 0)
    inside: list[bool] = []

    def tell(at: int) -> int:
        with Moments(at, lambda: inside.append(is_mine(section))) as moments:
            word.fetch_add(1)
        return moments.passed

    assert strike_each_point(tell) > 5
    assert not any(inside), "what it asks of the turn there, it may wait for with the turn held"


@pytest.mark.parametrize(
    "act", [Ticket.release, lambda ticket: ticket._desk.grant_on_the_spot(ticket._flow, 1, 0, None)]
)
def test_a_handler_that_finds_its_own_thread_with_the_turn_neither_waits_nor_tells_anybody_there(
    act: Callable[[Ticket], object], make_controller: MakeController
) -> None:
    clock = FakeClock()
    controller = make_controller(limit=3, clock=clock)
    controller.admit("a").release()
    turn = turn_of(controller)
    parked: list[bool] = []
    told: list[bool] = []
    waiting: list[Ticket] = []

    def park(parking: sync.Parking, until: float | None) -> None:
        parked.append(is_mine(turn.lock))
        clock.advance(5)

    def handle() -> None:
        assert turn.is_interrupted() == is_mine(turn.lock)
        waiting.append(controller.submit(Request(FlowKey("a")), lambda ticket: told.append(is_mine(turn.lock))))
        try:
            controller.admit("a", ttl=5).release()
        except FlowControlError:
            pass

    def tell(at: int) -> int:
        holding = controller.admit("a"), controller.admit("a")
        third = controller.admit("a") if act is Ticket.release else None
        with Moments(at, handle) as moments:
            kept = act(holding[0])
        del kept
        for ticket in (*holding, third, *waiting):
            if ticket is not None:
                ticket.release()
        assert len(told) == len(waiting) == bool(0 < at <= moments.passed), "it was not told"
        told.clear()
        waiting.clear()
        assert_every_seat_is_free(controller)
        return moments.passed

    clock.park = park  # type: ignore[method-assign]
    assert strike_each_point(tell) > 1
    assert parked
    assert not any(parked), "nobody can give it a seat there"


@pytest.mark.parametrize(
    "act", [FlowController.stats, FlowController.collect, lambda controller: controller.admit("a")]
)
def test_what_a_handler_asked_for_is_told_by_whatever_it_interrupted(
    act: Callable[[FlowController], object], make_controller: MakeController
) -> None:
    def tell(at: int) -> int:
        controller = make_controller(limit=3)
        controller.admit("a").release()
        asked: list[Ticket] = []
        told: list[Ticket] = []
        with Moments(at, lambda: asked.append(controller.submit(Request(FlowKey("a")), told.append))) as moments:
            kept = act(controller)
        assert told == asked
        del kept
        for ticket in asked:
            ticket.release()
        assert_every_seat_is_free(controller)
        return moments.passed

    assert strike_each_point(tell) > 1


class LateError(Exception):
    """What a watchdog raises in another thread, and whoever catches exceptions takes for its own."""


def late() -> None:
    raise LateError


@pytest.mark.parametrize("wants", ["a cancel", "a submission", "a release"])
def test_what_a_handler_wanted_may_be_torn_too_and_settles_nobody_twice(
    wants: str, make_controller: MakeController
) -> None:
    def tell(at: int) -> int:
        controller = make_controller(limit=2)
        held = [controller.admit("a"), controller.admit("a")]
        told: list[Ticket] = []
        waiting = [controller.submit(Request(FlowKey(flow)), told.append) for flow in "ab"]

        def handle() -> None:
            if wants == "a cancel":
                waiting[0].cancel()
            elif wants == "a submission":
                waiting.append(controller.submit(Request(FlowKey("a")), told.append))
            held[0].release()

        moments = Moments(at, late)
        try:
            with moments:
                in_a_section(controller, handle)
        except LateError:
            pass
        controller.stats()
        assert len(told) == len(set(map(id, told))), "told twice"
        assert all(ticket.outcome is not None for ticket in told)
        controller._check()
        for ticket in (*held, *waiting):
            if not ticket.cancel():
                ticket.release()
        assert_every_seat_is_free(controller)
        return moments.passed

    assert strike_each_point(tell) > 50


class Listener:
    """An observer."""

    def settled(self, ticket: Ticket) -> None:
        """Hears it."""

    def released(self, ticket: Ticket, outcome: str) -> None:
        """Hears it."""


@pytest.mark.parametrize("observer", [None, Listener()])
def test_whoever_has_an_exception_for_a_ticket_has_no_seat(
    observer: Listener | None, make_controller: MakeController
) -> None:
    def tell(at: int) -> int:
        controller = make_controller(limit=3, observer=observer)
        controller.admit("a").release()
        moments = Moments(at, interrupt)
        told: list[Ticket] = []
        tickets: list[Ticket] = []
        try:
            with moments:
                tickets.append(controller.submit(Request(FlowKey("a")), told.append))
        except Interrupted:
            controller.stats()  # whoever passes tells what is left
            assert all(ticket.state in {"refused", "released"} for ticket in told)
        for ticket in tickets:
            ticket.release()
        told.clear()
        tickets.clear()
        assert_every_seat_is_free(controller)
        return moments.passed

    assert strike_each_point(tell) > 10


def test_nobody_goes_on_the_spot_by_books_that_an_exception_tore(make_controller: MakeController) -> None:
    controller = make_controller(limit=1)
    with controller.admit("a"):

        def tear(now: float) -> None:
            turn_of(controller).ledger.in_flight -= 1
            raise Interrupted

        with pytest.raises(Interrupted):
            turn_of(controller).change(tear)
        with pytest.raises(Saturated):
            controller.try_admit("a")
    assert controller.stats().repairs == 1
