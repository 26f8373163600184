"""Bands that come and go at run time; flows and bands that an operator pauses or drains."""

import pytest

from flowctl import (
    BandConfig,
    Config,
    EarliestDeadline,
    FlowController,
    FlowKey,
    GlobalStrict,
    Outcome,
    Rejected,
    Request,
    Saturated,
    Ticket,
    WeightedFair,
)
from flowctl.testing import FakeClock
from tests.faults.moments import Moments
from tests.faults.points import strike_each_point
from tests.support import MakeController, Spawn
from tests.test_free_path import Interrupted, interrupt


def submit(controller: FlowController, flow: str, priority: int = 0, *, ttl: float | None = None) -> Ticket:
    return controller.submit(Request(FlowKey(flow, priority), ttl=ttl), lambda ticket: None)


# --- retire ---------------------------------------------------------------------------------------------------------


def test_a_retired_band_takes_nothing_new_serves_what_is_queued_and_is_collected(
    make_controller: MakeController,
) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=p) for p in (0, 5, 9)]))
    holder = controller.admit("holder", priority=9)
    queued = submit(controller, "a", 5)
    controller.retire_band(5)

    below = submit(controller, "a", 5)
    assert below.key == FlowKey("a", 0)
    assert controller.collect().bands == 0, "somebody waits there"
    holder.release()
    assert (queued.state, queued.key.priority) == ("dispatched", 5)
    assert controller.collect().bands == 0, "somebody is in flight there"
    queued.release()
    report = controller.collect()
    assert (report.flows, report.bands) == (1, 1)
    assert controller.bands() == [9, 0]


def test_without_a_band_below_the_next_above_takes_its_requests_and_without_any_they_are_refused(
    make_controller: MakeController,
) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=p) for p in (5, 7, 9)]), limit=9)
    _holder = controller.admit("holder", priority=5)
    controller.retire_band(5)
    assert controller.admit("a", priority=5).key.priority == 7

    for priority in (7, 9):
        controller.retire_band(priority)
    with pytest.raises(Rejected) as refused:
        controller.admit("a", priority=5)
    assert refused.value.outcome is Outcome.REJECTED_OTHER
    assert "retired" in str(refused.value.__cause__)


def test_once_it_is_collected_its_priority_is_unknown_again(make_controller: MakeController) -> None:
    bands = [BandConfig(priority=5, max_requests=1)]
    controller = make_controller(Config(bands=bands, default_band=BandConfig(max_requests=77)))
    controller.retire_band(5)
    controller.collect()
    assert controller.bands() == []

    controller.admit("a", priority=5).release()
    assert controller.stats().bands[5].max_requests == 77, "from the template"


def test_a_flow_of_a_retired_band_that_is_known_already_is_not_served_there(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=0), BandConfig(priority=5)]), limit=9)
    holder = controller.admit("a", priority=5)
    controller.retire_band(5)

    assert controller.admit("a", priority=5).key.priority == 0
    assert holder.key.priority == 5


def test_a_band_that_nobody_configured_can_be_retired_too(controller: FlowController) -> None:
    controller.admit("a", priority=3).release()
    controller.retire_band(3)

    assert controller.collect().bands == 1
    assert controller.bands() == []


def test_a_band_may_be_retired_twice(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=0), BandConfig(priority=5)]))
    controller.retire_band(5)
    controller.retire_band(5)

    assert controller.collect().bands == 1


def test_a_priority_without_a_band_cannot_be_retired(controller: FlowController) -> None:
    with pytest.raises(ValueError, match=r"priority must be that of a band \(\[\]\), not 3"):
        controller.retire_band(3)


def test_the_last_band_stays_where_no_other_may_be_made(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5)], dynamic_bands=False))

    with pytest.raises(ValueError, match="5 is the last band"):
        controller.retire_band(5)
    assert controller.admit("a", priority=5).key.priority == 5


# --- add ------------------------------------------------------------------------------------------------------------


def test_a_band_that_is_added_is_there_at_once_and_for_good(make_controller: MakeController, clock: FakeClock) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=0)], dynamic_bands=False))
    assert controller.admit("a", priority=5).key.priority == 0
    controller.add_band(BandConfig(priority=5, max_requests=7))

    assert submit(controller, "b", 5).key.priority == 5
    clock.advance(10_000)
    controller.collect()
    clock.advance(10_000)
    controller.collect()
    assert controller.stats().bands[5].max_requests == 7


def test_adding_revives_a_draining_band_with_the_new_limits(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=0), BandConfig(priority=5, max_requests=9)]))
    _holder = controller.admit("holder", priority=9)
    queued = submit(controller, "a", 5)
    controller.retire_band(5)
    controller.add_band(BandConfig(priority=5, max_requests=1))

    assert controller.collect().bands == 0
    assert queued.state == "queued"
    assert submit(controller, "a", 5).outcome is Outcome.REJECTED_CAPACITY
    assert controller.bands() == [9, 5, 0]


def test_adding_makes_a_band_from_a_template_a_configured_one(
    make_controller: MakeController, clock: FakeClock
) -> None:
    controller = make_controller()
    controller.admit("a", priority=5).release()
    controller.add_band(BandConfig(priority=5, max_requests=3))
    for _ in range(3):
        clock.advance(10_000)
        controller.collect()

    assert controller.stats().bands[5].max_requests == 3


@pytest.mark.parametrize(
    "other", [BandConfig(priority=5, ordering=EarliestDeadline()), BandConfig(priority=5, fairness=WeightedFair())]
)
def test_a_band_that_exists_keeps_its_ordering_and_fairness(make_controller: MakeController, other: BandConfig) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5), BandConfig(priority=0)]))
    _holder = controller.admit("holder", priority=5)
    controller.retire_band(5)

    with pytest.raises(ValueError, match="ordering and fairness of band 5 must be what they are"):
        controller.add_band(other)
    assert submit(controller, "a", 5).key.priority == 0, "it is still retired"


def test_a_configured_band_is_not_added_again(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5, max_requests=3)]))

    with pytest.raises(ValueError, match="must not be configured yet, and 5 is"):
        controller.add_band(BandConfig(priority=5, max_requests=4))
    assert controller.stats().bands[5].max_requests == 3


def test_no_band_is_added_beyond_max_bands(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5)], max_bands=1))

    with pytest.raises(ValueError, match=r"one band more than max_bands \(1\)"):
        controller.add_band(BandConfig(priority=6))
    assert controller.bands() == [5]


def test_only_a_band_with_a_priority_is_added(controller: FlowController) -> None:
    with pytest.raises(ValueError, match=r"band\.priority is required"):
        controller.add_band(BandConfig())
    with pytest.raises(TypeError, match="band must be a BandConfig, not 5"):
        controller.add_band(5)  # type: ignore[arg-type]


def test_a_child_has_the_bands_that_there_were(make_controller: MakeController) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=5), BandConfig(priority=6)]))
    controller.add_band(BandConfig(priority=7, fairness=GlobalStrict()))
    controller.retire_band(6)
    controller.after_fork_in_child()

    assert controller.bands() == [7, 5]


def test_bands_come_and_go_under_load(make_controller: MakeController, spawn: Spawn) -> None:
    controller = make_controller(Config(bands=[BandConfig(priority=0), BandConfig(priority=5)]), limit=3)

    def use(number: int) -> int:
        served = 0
        for nth in range(150):
            with controller.admit(f"{number}-{nth % 5}", priority=nth % 7):
                served += 1
        return served

    users = [spawn(use, number) for number in range(6)]
    for _ in range(40):
        controller.retire_band(5)
        controller.collect()
        controller.add_band(BandConfig(priority=5))

    assert sum(user.result() for user in users) == 900
    stats = controller.stats()
    assert (stats.dispatched, stats.rejected, stats.evicted, stats.repairs) == (900, 0, 0, 0)


# --- pause, resume, drain -------------------------------------------------------------------------------------------


def test_a_paused_flow_waits_while_others_go_by(controller: FlowController) -> None:
    controller.pause("a")
    waiting = submit(controller, "a")

    assert waiting.outcome is None
    assert controller.admit("b").release()
    assert controller.admit("a", priority=5).release(), "another flow"
    controller.resume("a")
    assert waiting.state == "dispatched"


def test_a_flow_that_is_paused_while_it_waits_keeps_nobody_out(controller: FlowController) -> None:
    holder = controller.admit("holder")
    paused, other = submit(controller, "a"), submit(controller, "b")
    controller.pause("a")
    holder.release()

    assert (paused.state, other.state) == ("queued", "dispatched")
    other.release()
    controller.resume("a")
    assert paused.state == "dispatched"


def test_a_paused_band_keeps_nobody_out_below(controller: FlowController) -> None:
    controller.pause(priority=5)
    waiting = [submit(controller, flow, 5) for flow in "ab"]
    low = controller.admit("low")

    assert [ticket.state for ticket in waiting] == ["queued", "queued"]
    controller.resume(priority=5)
    low.release()
    assert waiting[0].state == "dispatched"


def test_what_is_paused_refuses_who_may_not_wait(controller: FlowController) -> None:
    controller.admit("a").release()
    controller.pause("a")

    with pytest.raises(Saturated):
        controller.try_admit("a")
    assert controller.try_admit("b").release()


def test_what_is_paused_expires_all_the_same(controller: FlowController, clock: FakeClock) -> None:
    controller.pause("a")
    ticket = submit(controller, "a", ttl=5)
    clock.advance(5)
    controller.collect()

    assert ticket.outcome is Outcome.EVICTED_TTL


def test_what_is_paused_is_settled_by_a_close(controller: FlowController) -> None:
    controller.pause("a")
    ticket = submit(controller, "a")
    controller.close()

    assert ticket.outcome is Outcome.EVICTED_CLOSED


def test_a_pause_outlives_its_flow_and_its_band(controller: FlowController, clock: FakeClock) -> None:
    controller.pause("a", priority=3)
    submit(controller, "a", 3).cancel()
    for _ in range(3):
        clock.advance(10_000)
        controller.collect()
    assert controller.bands() == []

    assert submit(controller, "a", 3).state == "queued"


def test_a_resumed_flow_has_neither_credit_nor_debt(controller: FlowController) -> None:
    holder, order = controller.admit("holder"), list[str]()

    def served(ticket: Ticket) -> None:
        order.append(ticket.key.id)
        ticket.release()

    controller.pause("a")
    for flow in "aaabbb":
        controller.submit(Request(FlowKey(flow)), served)
    holder.release()
    assert order == ["b", "b", "b"]
    holder = controller.admit("holder")
    controller.resume("a")
    for flow in "bbb":
        controller.submit(Request(FlowKey(flow)), served)
    holder.release()

    assert order[3:] == ["a", "b", "a", "b", "a", "b"]


def test_what_is_drained_is_refused_and_what_waits_is_served(controller: FlowController) -> None:
    holder = controller.admit("holder")
    waiting = submit(controller, "a")
    controller.drain("a")

    with pytest.raises(Rejected) as refused:
        controller.admit("a")
    assert (refused.value.outcome, refused.value.http_status) == (Outcome.REJECTED_OTHER, 503)
    holder.release()
    assert waiting.state == "dispatched"
    waiting.release()
    controller.resume("a")
    assert controller.admit("a").release()


def test_a_whole_band_may_be_drained(controller: FlowController) -> None:
    controller.drain(priority=5)

    assert submit(controller, "a", 5).outcome is Outcome.REJECTED_OTHER
    assert controller.admit("a").release()


def test_a_flow_is_named_by_a_key_too(controller: FlowController) -> None:
    controller.pause(FlowKey("a", 5))

    assert submit(controller, "a", 5).state == "queued"
    with pytest.raises(ValueError, match="flow id must have at least 1 byte"):
        controller.pause("")


def test_a_resumed_band_leaves_its_paused_flows_paused(controller: FlowController) -> None:
    controller.pause("a")
    controller.pause()
    controller.resume()

    assert controller.admit("b").release()
    assert submit(controller, "a").state == "queued"


def test_books_that_are_made_anew_know_who_is_paused(controller: FlowController) -> None:
    controller.pause("a")
    ticket = submit(controller, "a")
    controller._state.turn.change(lambda now: controller._state.turn.ledger.rebuild())

    assert ticket.state == "queued"
    assert controller.admit("b").release()


def test_a_child_knows_who_is_paused(controller: FlowController) -> None:
    controller.pause("a")
    controller.after_fork_in_child()

    assert submit(controller, "a").state == "queued"


def test_the_longest_flow_makes_room_although_it_is_paused(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(max_requests=3)))
    _holder = controller.admit("holder")
    controller.pause("a")
    of_a = [submit(controller, "a") for _ in range(3)]

    assert submit(controller, "b").state == "queued"
    assert of_a[-1].outcome is Outcome.EVICTED_DISPLACED


def test_who_waits_goes_by_the_weights_that_hold_when_he_goes(make_controller: MakeController) -> None:
    controller = make_controller(Config(default_band=BandConfig(fairness=WeightedFair())))
    tickets = [controller.admit("a"), submit(controller, "a"), submit(controller, "b")]
    tickets[0].release()  # from here on who comes anew stands behind those who have gone
    heavy = submit(controller, "heavy")

    controller.add_band(BandConfig(priority=0, fairness=WeightedFair(), weights={"heavy": 100.0}))
    for ticket in tickets:
        ticket.release() if ticket.outcome is Outcome.DISPATCHED else ticket.cancel()

    assert heavy.wait is not None
    assert heavy.wait.charged == 0.01
    heavy.release()


def test_a_limit_that_can_be_seen_holds_wherever_an_exception_came(make_controller: MakeController) -> None:
    def tell(at: int) -> int:
        controller = make_controller()
        holder = controller.admit("a")
        moments = Moments(at, interrupt)
        try:
            with moments:
                controller.add_band(BandConfig(priority=0, max_requests=1))
        except Interrupted:
            controller.collect()  # it finds a pin that nobody has
        tickets = [submit(controller, "a"), submit(controller, "a")]
        is_limited = controller.stats().bands[0].max_requests == 1
        assert [ticket.state for ticket in tickets] == ["queued", "refused" if is_limited else "queued"]
        for ticket in tickets:
            ticket.cancel()
        holder.release()
        return moments.passed

    assert strike_each_point(tell) > 10
