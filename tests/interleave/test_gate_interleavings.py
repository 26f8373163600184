"""Who is asked to stop, ceilings that change, and costs that turn out otherwise: beside everybody else."""

from __future__ import annotations

import pytest

from flowctl import Config, Holdback, Outcome, Revocation
from flowctl.sync import Flag, Parking
from flowctl.turn import Turn
from tests.interleave.claims import Claim
from tests.interleave.explorer import Scenario
from tests.interleave.stage import SHORT, Stage
from tests.proof import Proof

REVOKING = Config(flow_gc_timeout=SHORT, shards=1, revocation=Revocation())
HOLDING_BACK = Config(flow_gc_timeout=SHORT, band_gc_timeout=SHORT, shards=1, ceilings=Holdback(0.4))


def a_flag() -> Scenario:
    flag = Flag()
    seen: list[bool] = []

    def at_end() -> None:
        assert seen == [True] * 2
        assert not flag._waiters

    def wait() -> None:
        seen.append(flag.wait())

    return Scenario([wait, wait, flag.set], at_end=at_end)


def a_revocation_a_release_and_a_look() -> Scenario:
    """The holder is asked, or it was faster; either way who waits goes, and who was asked can see it."""
    stage = Stage(REVOKING)
    victim = stage.admit("batch", priority=-1)
    assert victim is not None
    live = stage.submit("live", priority=5)
    turn = stage.controller._state.turn
    looked: list[bool] = []

    def check() -> None:
        stage.check()
        if looked and looked[-1]:
            assert victim.is_revoked, "set, and not asked"

    def at_end() -> None:
        assert live.outcome is Outcome.DISPATCHED
        assert victim.is_revoked == victim.revoked.is_set(), "asked, and not told"
        turn.revoke()
        revocations = turn.revocations.stats()
        assert revocations.issued == revocations.confirmed == victim.is_revoked
        stage.release(live)
        stage.at_end()

    return Scenario(
        [turn.tick, lambda: stage.release(victim), lambda: looked.append(victim.revoked.is_set())], check, at_end
    )


def two_who_ask_for_seats() -> Scenario:
    """Two collectors look at once: one seat is enough."""
    stage = Stage(REVOKING, limit=2)
    holders = [stage.admit(flow, priority=-1) for flow in "ab"]
    live = stage.submit("live", priority=5)
    turn = stage.controller._state.turn

    def at_end() -> None:
        asked = [holder for holder in holders if holder is not None and holder.is_revoked]
        assert len(asked) == 1
        for holder in holders:
            assert holder is not None
            stage.release(holder)
        stage.release(live)
        stage.at_end()

    return Scenario([turn.revoke, turn.revoke], stage.check, at_end)


def free_beside_a_waiter(stage: Stage) -> bool:
    turn = stage.controller._state.turn
    head = turn._head_locked()
    if head is None:
        return False
    turn._ceilings = {}
    return turn._has_room_locked(head.cost, head.key.priority)


def a_band_comes_another_goes() -> Scenario:
    """Ranks change with the bands that exist: nobody waits beside a seat that is his by now."""
    stage = Stage(HOLDING_BACK, limit=5)
    stage.use("high", priority=10)
    stage.controller.collect()
    middle = [stage.submit("middle") for _ in range(5)]
    assert [ticket.outcome for ticket in middle].count(None) == 2
    stage.clock.advance(SHORT)
    stage.controller.collect()  # the flow of the highest band; the band is due with the next
    stage.clock.advance(SHORT)

    def at_end() -> None:
        stage.check()
        assert not free_beside_a_waiter(stage), "T2: a free seat beside somebody who waits"
        while stage.held:
            stage.release(stage.held[0])
        stage.at_end()

    return Scenario([lambda: stage.submit("low", priority=-5), stage.collect], stage.check, at_end)


def a_cost_and_a_request() -> Scenario:
    """A request that turns out smaller, one that comes, and one that leaves: seats are exact, and nobody sleeps."""
    stage = Stage(limit=4)
    for flow in "bc":
        stage.use(flow)
    holder = stage.submit("a", cost=4)

    def adjust() -> None:
        assert holder.adjust(1)

    def at_end() -> None:
        assert stage.controller.stats().queued == 0
        assert stage.controller.stats().in_flight == 1 + sum(t.cost for t in stage.held if t is not holder)
        while stage.held:
            stage.release(stage.held[0])
        assert stage.controller.stats().in_flight == 0
        stage.controller._check()

    return Scenario([adjust, lambda: stage.submit_and_use("b", cost=3), lambda: stage.use("c")], at_end=at_end)


FLAG = Claim("P4", "a flag and two who wait for it", a_flag)
REVOKED = Claim(
    "P4",
    "a revocation, a release and a look at it: who waits goes, who is asked can see it",
    a_revocation_a_release_and_a_look,
    preemptions=1,
)
ONE_IS_ENOUGH = Claim("P4", "two who ask for seats at once ask for one", two_who_ask_for_seats, preemptions=2)
BAND_COMES = Claim(
    "T2, P4",
    "a band comes, another goes: nobody waits beside a seat that is his by now",
    a_band_comes_another_goes,
    preemptions=1,
)
COST = Claim("P3, P4", "a cost that is corrected, beside who comes", a_cost_and_a_request, preemptions=1)
CLAIMS = [FLAG, REVOKED, ONE_IS_ENOUGH, BAND_COMES, COST]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_it_holds_in_every_interleaving(claim: Claim, proof: Proof) -> None:
    claim.holds(proof)


# --- negative controls ---------------------------------------------------------------------------------------------


def test_control_a_flag_that_wakes_before_it_is_set_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def broken(self: Flag) -> None:
        for parking in self._waiters.copy():
            parking.wake()
        self._is_set = True

    monkeypatch.setattr(Flag, "set", broken)
    FLAG.fails_without("it is set before anybody is woken", proof, "deadlock")


def test_control_a_waiter_that_looks_before_it_queues_up_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def broken(self: Flag, timeout: float | None = None) -> bool:
        from flowctl import sync

        if not self._is_set:
            parking: Parking = sync.Parking()
            self._waiters[parking] = None
            parking.wait(1.0)
            del self._waiters[parking]
        return self._is_set

    monkeypatch.setattr(Flag, "wait", broken)
    FLAG.fails_without("a waiter queues up before it looks", proof, "deadlock")


def test_control_ceilings_that_stay_when_a_band_has_gone_are_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    monkeypatch.setattr(Turn, "see_bands", lambda self: None)
    BAND_COMES.fails_without("the collector has the ceilings asked again", proof)
