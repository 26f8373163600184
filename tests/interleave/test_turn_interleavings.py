"""Who goes next: granted, expired, cancelled, displaced and closed in every order; no wake-up is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from flowctl import Config, FlowKey, Outcome, Request, Ticket, dispatch, news
from flowctl.band import NOBODY
from flowctl.flow import Flow
from flowctl.ledger import Ledger
from flowctl.news import News
from flowctl.sections import Sections
from flowctl.ticket import Wait
from flowctl.turn import Turn
from tests.interleave.claims import Claim
from tests.interleave.explorer import Scenario
from tests.interleave.stage import SHORT, Stage
from tests.proof import Proof

pytestmark = pytest.mark.timeout(900)

ONE_PLACE = Config(max_requests=1, shards=1)


def held_by(stage: Stage, flow: str = "holder") -> Ticket:
    """Beforehand: somebody has a seat."""
    ticket = stage.admit(flow)
    assert ticket is not None
    stage.outcomes.clear()
    return ticket


def ending(stage: Stage, at_end: Callable[[], None], *actors: Callable[[], object]) -> Scenario:
    def ask_both() -> None:
        stage.at_end()
        at_end()

    return Scenario(actors, stage.check, ask_both)


# --- scenarios -----------------------------------------------------------------------------------------------------


def two_requests() -> Scenario:
    """For one seat, of a flow that is there: the fast path against itself."""
    stage = Stage()
    stage.use()
    return stage.scenario(stage.use, stage.use)


def a_release_and_a_request() -> Scenario:
    """Nobody but the one who releases will ever wake the other."""
    stage = Stage()
    holder = held_by(stage)
    return stage.scenario(lambda: stage.release(holder), stage.use)


def a_release_and_two_requests() -> Scenario:
    stage = Stage()
    holder = held_by(stage)
    return stage.scenario(lambda: stage.release(holder), stage.use, lambda: stage.use("b"))


def a_ticket_that_everybody_wants_to_settle() -> Scenario:
    """Granted, expired, cancelled and closed at once, beside one that waits in a thread."""
    stage = Stage(time_moves=True)
    holder = held_by(stage)
    ticket = stage.submit(ttl=SHORT)

    def expire() -> None:
        stage.clock.advance(SHORT)
        stage.controller._state.tick()

    def at_end() -> None:
        assert ticket.outcome is not None
        told = "granted" if ticket.error is None else type(ticket.error).__name__
        assert stage.outcomes.count(told) >= 1, "P1: its callback was not told"
        assert len(stage.outcomes) == 2, "P1: told once each"

    return ending(
        stage,
        at_end,
        lambda: stage.release(holder),
        expire,
        ticket.cancel,
        stage.controller.close,
        lambda: stage.use("b", ttl=SHORT),
    )


def a_deadline_and_a_grant() -> Scenario:
    """A waiter whose deadline comes while its seat does: it keeps the seat, or the seat is free for the next."""
    stage = Stage(time_moves=True)
    holder = held_by(stage)

    def at_end() -> None:
        assert stage.outcomes in (["granted"], ["Expired"], ["ExpiredOnArrival"])

    return ending(
        stage,
        at_end,
        lambda: stage.release(holder),
        lambda: stage.use(ttl=SHORT),
        lambda: stage.clock.advance(SHORT),
    )


def a_head_that_leaves_while_a_seat_is_free() -> Scenario:
    """The head needs two seats and one is free, so that the next one waits: it must go when the head has gone."""
    stage = Stage(limit=2)
    held_by(stage)
    large = stage.submit("large", cost=2)

    def at_end() -> None:
        assert large.outcome is Outcome.EVICTED_CANCELLED
        assert stage.outcomes.count("granted") == 1

    return ending(stage, at_end, large.cancel, lambda: stage.use("next"))


def a_displacement_and_a_grant() -> Scenario:
    """The only place: its ticket is granted, or makes room for one that is more important."""
    stage = Stage(ONE_PLACE)
    holder = held_by(stage)
    low = stage.submit_and_use("low", priority=0)

    def at_end() -> None:
        assert low.outcome in (Outcome.DISPATCHED, Outcome.EVICTED_DISPLACED)
        assert sorted(stage.outcomes) in (["Displaced", "granted"], ["granted", "granted"])

    return ending(stage, at_end, lambda: stage.release(holder), lambda: stage.submit_and_use("high", priority=1))


def a_place_that_is_free_at_once() -> Scenario:
    """Whoever is told that it was evicted can ask again: its place was given back before that."""
    stage = Stage(ONE_PLACE, time_moves=True)
    held_by(stage)

    def ask_again(ticket: Ticket) -> None:
        stage.settled(ticket)
        stage.submit("b")

    ticket = stage.controller.submit(Request(FlowKey("a", 0), ttl=SHORT), ask_again)

    def expire() -> None:
        stage.clock.advance(SHORT)
        stage.controller._state.tick()

    def at_end() -> None:
        assert stage.outcomes in (["Expired"], ["Cancelled"]), "the second was refused: the place was not free"
        stage.controller.close()

    return Scenario([expire, ticket.cancel], stage.check, at_end)


def a_close_and_a_request(flow: str) -> Scenario:
    stage = Stage()
    held_by(stage)

    def at_end() -> None:
        assert stage.outcomes[0] in ("ClosedWhileQueued", "ControllerClosed")

    return ending(stage, at_end, stage.controller.close, lambda: stage.use(flow))


def a_release_a_waiter_and_an_overtaker() -> Scenario:
    """A seat is free, but the head needs two: who comes by the fast path goes after it."""
    stage = Stage(limit=2)
    holder = held_by(stage)
    waiter = stage.submit_and_use("waiter", cost=2)

    def come_later() -> None:
        assert stage.admit("holder") is not None
        assert waiter.outcome is Outcome.DISPATCHED, "overtaken"
        stage.release(stage.held[-1])

    return stage.scenario(lambda: stage.release(holder), come_later)


def a_close_that_drains_and_a_release() -> Scenario:
    stage = Stage()
    holder = held_by(stage)
    closed: list[bool] = []

    def at_end() -> None:
        assert closed == [True]

    return ending(
        stage, at_end, lambda: closed.append(stage.controller.close(drain=99.0)), lambda: stage.release(holder)
    )


def a_higher_limit_and_more_than_a_section_can_settle() -> Scenario:
    """With `SETTLED_A_SECTION` at 1."""
    stage = Stage(limit=4)
    stage.gate.set(1)
    held_by(stage)
    for flow in "ab":
        stage.submit(flow)

    def at_end() -> None:
        assert stage.outcomes == ["granted"] * 3

    return ending(stage, at_end, lambda: stage.gate.set(4), lambda: stage.use("c"))


LONG_ROUND = Claim(
    "P4",
    "a round that is longer than a section is finished",
    a_higher_limit_and_more_than_a_section_can_settle,
    preemptions=1,
)
FAST_PATH = Claim("P3, P4", "two requests for one seat", two_requests)
RELEASE_AND_REQUEST = Claim("P4", "a release and a request: nobody sleeps beside a free seat", a_release_and_a_request)
EVERYBODY = Claim(
    "P1, P3, P4",
    "a ticket is granted, expired, cancelled and closed at once: once",
    a_ticket_that_everybody_wants_to_settle,
    runs=4000,
)
DEADLINE = Claim(
    "P1, P4, P6", "a deadline and a grant: the seat is kept, or goes to the next", a_deadline_and_a_grant, preemptions=1
)
HEAD_LEAVES = Claim(
    "P4",
    "a head leaves while a seat is free: the next one goes",
    a_head_that_leaves_while_a_seat_is_free,
    preemptions=2,
)
DISPLACEMENT = Claim(
    "P1, P3", "a ticket is displaced and granted at once: one of the two", a_displacement_and_a_grant, preemptions=2
)
PLACE = Claim("P1, P3", "a place is free before its ticket is told", a_place_that_is_free_at_once, preemptions=2)
OVERTAKER = Claim(
    "P5", "nobody on the fast path overtakes who waits", a_release_a_waiter_and_an_overtaker, preemptions=2
)
CLOSE = Claim(
    "P1, P10", "a close and a request: nobody is forgotten", lambda: a_close_and_a_request("new"), preemptions=2
)
DRAIN = Claim("P10", "a close that drains and the last release", a_close_that_drains_and_a_release, preemptions=2)
CLAIMS = [
    FAST_PATH,
    RELEASE_AND_REQUEST,
    Claim("P4", "a release and two requests", a_release_and_two_requests, preemptions=1),
    EVERYBODY,
    DEADLINE,
    HEAD_LEAVES,
    DISPLACEMENT,
    PLACE,
    OVERTAKER,
    CLOSE,
    Claim(
        "P1, P10",
        "a close and a request of a flow that exists: nobody is forgotten",
        lambda: a_close_and_a_request("holder"),
        preemptions=2,
    ),
    DRAIN,
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_it_holds_in_every_interleaving(claim: Claim, proof: Proof) -> None:
    claim.holds(proof)


def test_the_rest_of_a_round_is_done_by_whoever_passes(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    monkeypatch.setattr(dispatch, "SETTLED_A_SECTION", 1)

    LONG_ROUND.holds(proof)


# --- negative controls ---------------------------------------------------------------------------------------------


def test_control_a_withdrawal_without_a_round_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def withdraw(turn: Turn, ticket: Ticket, outcome: Outcome) -> bool:
        with turn.lock:
            withdrawn = turn._evict_locked(ticket, outcome, turn._now())
        turn.help()
        return withdrawn

    monkeypatch.setattr(Turn, "withdraw", withdraw)

    HEAD_LEAVES.fails_without("the round of a withdrawal", proof, "deadlock")


def test_control_a_fast_path_that_is_checked_outside_the_turn_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def grant(turn: Turn, flow: Flow, cost: int, size: int, wait: Wait | None) -> Ticket | None:
        if turn.ledger.top != NOBODY or not turn._has_room_locked(cost, flow.band.priority):
            return None
        ticket = Ticket(turn, flow, cost, size)
        hold = turn.new_hold(ticket)
        with turn.lock:
            turn.ledger.enter(ticket, hold, flow)
            turn._grant_locked(ticket, hold, Wait(0.0, None), 0.0)
        return ticket

    monkeypatch.setattr(Turn, "_grant", grant)

    FAST_PATH.fails_without("the section around the fast path's look and its grant", proof)


def test_control_a_place_that_only_a_sweep_gives_back_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    dequeue = Ledger.dequeue

    def dequeue_and_keep_the_place(ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> None:
        dequeue(ledger, ticket, wait, flow)
        ledger.queued += 1

    monkeypatch.setattr(Ledger, "dequeue", dequeue_and_keep_the_place)

    PLACE.fails_without("the place given back with its ticket, and not by a sweep", proof)


def test_control_a_close_that_forgets_who_is_parked_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def close(turn: Turn, until: float | None) -> bool:
        with turn.lock:
            turn.ledger.close()
        return True

    monkeypatch.setattr(Turn, "close", close)

    CLOSE.fails_without("the round of a close: parked tickets are forgotten", proof, "deadlock")


def test_control_a_fast_path_that_minds_nobody_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    grant = Turn._grant

    def overtake(turn: Turn, flow: Flow, cost: int, size: int, wait: Wait | None) -> Ticket | None:
        with turn.lock:
            bar, turn.bar = turn.bar, NOBODY
            try:
                return grant(turn, flow, cost, size, wait)
            finally:
                turn.bar = bar

    monkeypatch.setattr(Turn, "_grant", overtake)

    OVERTAKER.fails_without("the look at who waits", proof, "exception")


def test_control_a_settlement_without_a_look_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    evict = Turn._evict_locked

    def evict_whatever_became_of_it(turn: Turn, ticket: Ticket, outcome: Outcome, now: float) -> bool:
        ticket.outcome = None
        return evict(turn, ticket, outcome, now)

    monkeypatch.setattr(Turn, "_evict_locked", evict_whatever_became_of_it)

    EVERYBODY.fails_without("the look at the outcome before a settlement", proof, "exception", "invariant")


def test_control_a_rest_of_a_round_that_nobody_does_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def help_only_to_tell(sections: Sections) -> None:
        sections.news.tell(sections.ledger.holds)

    monkeypatch.setattr(dispatch, "SETTLED_A_SECTION", 1)
    monkeypatch.setattr(Sections, "help", help_only_to_tell)

    LONG_ROUND.fails_without("the rest of a round, owed by whoever passes", proof, "invariant", "deadlock")


def test_control_a_grant_that_nobody_tells_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    monkeypatch.setattr(News, "wake", lambda news: news.waking.clear())

    RELEASE_AND_REQUEST.fails_without("the wake-up after the section", proof, "deadlock")


def test_control_news_taken_in_two_steps_are_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def move_first(source: deque[Ticket], target: list[Ticket]) -> bool:
        if not source:
            return False
        target.append(source[0])
        source.popleft()
        return True

    monkeypatch.setattr(news, "_move_first", move_first)

    EVERYBODY.fails_without("the single step in which news are taken", proof, "exception", "invariant", "deadlock")
