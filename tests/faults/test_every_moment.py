"""P7: an exception at every moment of every story. Afterwards, one audit, and nothing is leaked, stuck or doubled."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sized

import pytest

from flowctl import sync
from flowctl.ledger import Ledger
from flowctl.news import News
from flowctl.registry import FlowRegistry
from flowctl.sections import Act, Sections
from tests.faults.moments import Moments
from tests.faults.points import SPARSE, assert_found, strike_each_point
from tests.faults.stories import (
    STORIES,
    Story,
    a_displacement,
    a_larger_limit,
    a_new_flow,
    a_wait_that_is_granted,
    requests_without_threads,
)
from tests.faults.world import World
from tests.proof import Proof
from tests.support import without_cycle_collector

CLAIM = "an exception at any moment of any call leaks nothing and leaves no lock held"


class Interrupted(BaseException):
    """What a signal handler or another thread may raise anywhere."""


@pytest.fixture(autouse=True)
def _broken_reader_writer_locks_are_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 0.002)


@pytest.fixture(autouse=True)
def _no_garbage_is_collected_while_a_story_is_told() -> Iterator[None]:
    with without_cycle_collector():
        yield


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What was raised where the interpreter lets nothing out: in a finaliser, in a generator that is closed."""
    raised: list[BaseException] = []

    def keep(what: sys.UnraisableHookArgs) -> None:
        assert what.exc_value is not None
        raised.append(what.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", keep)
    return raised


def tell(story: Story, at: int, unraisable: list[BaseException]) -> int:
    """Tell a story with an exception at this moment (0: none); how many moments were passed until then."""
    fault = Interrupted()

    def strike() -> None:
        raise fault

    if at % 100 == 0:
        gc.collect()
    telling = story()
    world = next(telling)
    world.fault = fault
    with Moments(at, strike) as moments:
        next(telling, None)
    assert world.struck or fault in unraisable or not 0 < at <= moments.passed, "the exception was swallowed"
    unraisable.clear()
    world.assert_nothing_is_left()
    return moments.passed


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_an_exception_at_every_moment_leaks_nothing(
    story: Story, unraisable: list[BaseException], proof: Proof
) -> None:
    tell(story, 0, unraisable)  # since 3.12 the first run of a function is not seen in full
    points = strike_each_point(lambda at: tell(story, at, unraisable), SPARSE)
    proof.shown("P7", CLAIM, "faults", points, "points")


# --- each protection, taken away, is missed -----------------------------------------------------------------------


run_section = Sections._section_locked


def stay_inside(self: Sections, act: Act) -> None:
    try:
        run_section(self, act)
    except BaseException:
        self.lock.acquire()
        raise


def say_nothing(self: Sections, act: Act) -> None:
    try:
        run_section(self, act)
    except BaseException:
        self._torn = False
        raise


def forget_whom_it_was_telling(self: News, holds: Sized) -> None:
    while self.settled:
        self._tell([self.settled.popleft()])


def nothing(*args: object, **kwargs: object) -> int:
    return 0


@pytest.mark.parametrize(
    ("removed", "owner", "name", "without", "story"),
    [
        ("a section that an exception ends is over", Sections, "_section_locked", stay_inside, a_wait_that_is_granted),
        ("a section that an exception ends is torn", Sections, "_section_locked", say_nothing, a_displacement),
        ("torn books are made anew", Ledger, "rebuild", nothing, requests_without_threads),
        ("the next one tells whom the last one had not", News, "tell", forget_whom_it_was_telling, a_larger_limit),
        ("the audit of bands", FlowRegistry, "audit_bands", nothing, a_new_flow),
    ],
    ids=str,
)
def test_a_protection_that_is_taken_away_is_missed(
    *,
    removed: str,
    owner: type,
    name: str,
    without: Callable[..., object],
    story: Story,
    unraisable: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    proof: Proof,
) -> None:
    monkeypatch.setattr(World, "patience", 0.5)
    tell(story, 0, unraisable)
    monkeypatch.setattr(owner, name, without)
    assert_found(lambda at: tell(story, at, unraisable), proof, CLAIM, removed)
