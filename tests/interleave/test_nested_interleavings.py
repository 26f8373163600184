"""Signal handlers and finalisers that come in the middle of their own thread's change, at every point, also nested."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from flowctl import Ticket
from flowctl.turn import Turn
from tests.interleave.claims import Claim
from tests.interleave.explorer import Handler, Scenario
from tests.interleave.scheduled import ScheduledRLock
from tests.interleave.stage import Stage
from tests.proof import Proof

pytestmark = pytest.mark.timeout(900)

Change = Callable[[Stage], object]


def release(stage: Stage) -> None:
    stage.release(stage.held[0])


def new_limit(stage: Stage) -> None:
    stage.gate.set(9)


def request(stage: Stage) -> None:
    stage.use("own")


def submission(stage: Stage) -> None:
    stage.submit_and_use("own")


def first_request(stage: Stage) -> None:
    stage.use("new")


def collection(stage: Stage) -> None:
    stage.collect()


def nested(change: Change, handlers: int) -> Scenario:
    """So many tickets, each given back by a handler; whom no handler comes for is given back at the end."""
    stage = Stage(limit=2 + handlers)
    own = stage.admit("own")
    assert own is not None
    others = [stage.admit(f"handler's {number}") for number in range(handlers)]  # kept, so that none gives itself back
    left = set(range(handlers))

    def give_back(number: int) -> None:
        ticket = others[number]
        assert ticket is not None
        if number in left:
            left.remove(number)
            stage.release(ticket)

    def at_end() -> None:
        for number in range(handlers):
            give_back(number)
        if own in stage.held:
            stage.release(own)
        stage.at_end()
        assert not stage.controller.stats().in_flight, "a seat did not come back"

    comes = [Handler(0, partial(give_back, number)) for number in range(handlers)]
    return Scenario([lambda: change(stage)], stage.check, at_end, comes)


def in_the_middle(change: Change, handlers: int) -> Claim:
    what = change.__name__.replace("_", " ")
    return Claim(
        "P1, P3, P8",
        f"{handlers} nested handler(s) that release in the middle of a {what}",
        partial(nested, change, handlers),
    )


RELEASE = in_the_middle(release, 1)
REQUEST = in_the_middle(request, 1)
CLAIMS = [
    RELEASE,
    in_the_middle(release, 2),
    in_the_middle(release, 3),
    in_the_middle(new_limit, 2),
    in_the_middle(new_limit, 3),
    REQUEST,
    in_the_middle(request, 2),
    in_the_middle(submission, 1),
    in_the_middle(first_request, 1),
    in_the_middle(collection, 2),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_it_holds_at_every_point(claim: Claim, proof: Proof) -> None:
    claim.holds(proof)


# --- negative controls ---------------------------------------------------------------------------------------------


def test_control_a_turn_that_its_own_thread_cannot_enter_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    monkeypatch.setattr(ScheduledRLock, "reentrant", False)

    REQUEST.fails_without("the re-entrant lock: a handler waits for its own thread", proof, "deadlock")


def test_control_what_is_handed_in_and_forgotten_is_found(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    def release_and_forget(turn: Turn, ticket: Ticket) -> bool:
        ticket.serial = 0
        return True

    monkeypatch.setattr(Turn, "_release_interrupted_locked", release_and_forget)

    RELEASE.fails_without("the return of what a handler handed in", proof)
