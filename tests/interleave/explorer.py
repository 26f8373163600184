"""Every interleaving of a few actors, on the real code: one greenlet an actor, one shared access a step.

E1  Between two steps only the explorer decides who goes on; the same schedule gives the same run.
E2  Without a preemption bound each state that the actors can reach is seen, and the invariant is asked in it. Of
    schedules that differ only in the order of independent steps one is enough (sleep sets).
E3  A run ends with everybody at their end; else it is a `Violation`: a deadlock, a livelock (more than `max_steps`
    steps), an actor's exception, a broken invariant. Its schedule replays it.

What is shared must be scheduled: `sync`'s primitives and the slots of the words are put in place by `explore`, and a
`SharedDict` or a `SharedValue` by the scenario (`scheduled.py`). All else runs in one go with the step before it.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, final

from greenlet import GreenletExit

from tests.interleave.scheduled import Actor, Step, always, swapped, writes

GARBAGE_AFTER = 500
"""Runs: in between, Python's own collection of cycles is off."""


def _nothing() -> None:
    pass


class Handler(NamedTuple):
    """A signal handler or finaliser: runs once, in the middle of whatever its actor does, or never.

    Those of one actor come in the order in which the scenario lists them.
    """

    actor: int
    act: Callable[[], object]
    raises: bool = False  # then it comes where a call is made, as exceptions do


@dataclass(frozen=True, slots=True)
class Scenario:
    """What runs, made anew for each schedule."""

    actors: Sequence[Callable[[], object]]
    invariant: Callable[[], None] = _nothing  # asked after every step, of any state in between
    at_end: Callable[[], None] = _nothing  # asked once everybody is at their end
    handlers: Sequence[Handler] = ()


@dataclass(frozen=True, slots=True)
class Explored:
    """What an exploration without a violation has seen."""

    schedules: int  # that ran to their end
    pruned: int  # given up on the way: no more than another order of independent steps
    steps: int


@final
class Violation(Exception):  # noqa: N818 - what is looked for, not an error of the explorer's
    """A run that must not be, and the schedule that leads there."""

    def __init__(self, kind: str, schedule: Sequence[int], trace: Sequence[str], tried: int) -> None:
        self.kind, self.schedule, self.tried = kind, tuple(schedule), tried
        steps = "\n".join(trace[-40:])
        super().__init__(f"{kind} in schedule {tried}; replay(program, {self.schedule})\n{steps}")


# --- one run -------------------------------------------------------------------------------------------------------


@final
class _Run:
    """One schedule, step by step."""

    made = itertools.count(1)

    def __init__(self, program: Callable[[], Scenario]) -> None:
        self.scenario = program()
        self.actors = [Actor(number, act) for number, act in enumerate(self.scenario.actors)]
        # by the number that stands for their coming
        self.handlers = dict(enumerate(self.scenario.handlers, start=len(self.actors)))
        for handler in self.scenario.handlers:
            self.actors[handler.actor].has_handlers = True
            self.actors[handler.actor].may_raise |= handler.raises
        self.last = 0
        self.schedule: list[int] = []
        self.trace: list[str] = []

    def ready(self) -> list[int]:
        """Who could go on, and which handlers could come; first of all whoever went last."""
        ready = [actor.number for actor in self.actors if not actor.dead and actor.next.ready()]
        ready.sort(key=lambda number: (number != self.last, number))
        interrupted: set[int] = set()
        for number, handler in self.handlers.items():
            actor = self.actors[handler.actor]  # true once it has begun, until it has ended
            if actor and handler.actor not in interrupted and (actor.next.is_call or not handler.raises):
                ready.append(number)
            interrupted.add(handler.actor)
        return ready

    def choices(self, tried: int) -> list[int]:
        """The same; a deadlock if only a handler could help, since it may never come."""
        ready = self.ready()
        if ready and all(number in self.handlers for number in ready):
            self.end(tried)
        return ready

    def next(self, number: int) -> Step:
        """What this choice would do."""
        if number in self.handlers:
            return Step("a handler comes", [writes(self.actors[self.handlers[number].actor])], always)
        return self.actors[number].next

    def step(self, number: int, tried: int) -> None:
        self.schedule.append(number)
        self.trace.append(f"{number}: {self.next(number).name}")
        if number in self.handlers:
            handler = self.handlers.pop(number)
            actor = self.actors[handler.actor]
            actor.handler = handler.act
        else:
            actor = self.actors[number]
        self.last = actor.number
        actor.switch()
        if actor.raised is not None:
            raise self.violation("exception", tried) from actor.raised
        self.ask(self.scenario.invariant, tried)

    def end(self, tried: int) -> None:
        """Nobody can go on."""
        if not all(actor.dead for actor in self.actors):
            blocked = [f"{actor.number}: waits in {actor.next.name}" for actor in self.actors if not actor.dead]
            self.trace += blocked
            raise self.violation("deadlock", tried)
        self.ask(self.scenario.at_end, tried)

    def ask(self, question: Callable[[], None], tried: int) -> None:
        try:
            question()
        except Exception as error:
            raise self.violation("invariant", tried) from error

    def violation(self, kind: str, tried: int) -> Violation:
        return Violation(kind, self.schedule, self.trace, tried)

    def leave(self) -> None:
        for actor in self.actors:
            actor.leaving = True
            if not actor.dead:
                actor.throw(GreenletExit)
        if not next(_Run.made) % GARBAGE_AFTER:
            gc.collect()


# --- all of them ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    """One place in the tree of schedules."""

    left: list[int]  # to be tried; the last one first
    asleep: set[int]  # whose next step leads to nothing new here
    tried: set[int] = field(default_factory=set)
    chosen: int = -1

    def choose(self) -> None:
        if self.chosen >= 0:
            self.tried.add(self.chosen)
        self.chosen = self.left.pop()


@final
class _Search:
    """Depth first, without keeping any state: each run begins anew and follows the path to where it differs."""

    def __init__(self, program: Callable[[], Scenario], preemptions: int | None, max_steps: int) -> None:
        self.program = program
        self.preemptions = preemptions
        self.max_steps = max_steps
        self.path: list[_Choice] = []
        self.schedules = self.pruned = self.steps = 0

    def run(self) -> None:
        run = _Run(self.program)
        tried = self.schedules + self.pruned + 1
        asleep: set[int] = set()
        preempted = 0
        try:
            while ready := run.choices(tried):
                depth = len(run.schedule)
                if depth >= self.max_steps:
                    raise run.violation("livelock", tried)
                if depth == len(self.path) and not self._branch(run, ready, asleep, preempted):
                    self.pruned += 1
                    return
                choice = self.path[depth]
                preempted += _preempts(run, ready, choice.chosen)
                asleep = self._asleep_after(run, choice)
                self.steps += 1
                run.step(choice.chosen, tried)
            run.end(tried)
            self.schedules += 1
        finally:
            run.leave()

    def _branch(self, run: _Run, ready: list[int], asleep: set[int], preempted: int) -> bool:
        """A new place; False if nobody is left to be tried in it."""
        left = [number for number in reversed(ready) if number not in asleep]
        if self.preemptions is not None and preempted >= self.preemptions:
            left = [number for number in left if not _preempts(run, ready, number)]
        if not left:
            return False
        choice = _Choice(left, asleep)
        choice.choose()
        self.path.append(choice)
        return True

    def _asleep_after(self, run: _Run, choice: _Choice) -> set[int]:
        if self.preemptions is not None:
            return set()  # with a bound, the order that was tried may have cost more than the one left out
        step = run.next(choice.chosen)
        before = choice.asleep | choice.tried
        return {number for number in before if run.next(number).is_independent_of(step)}

    def advance(self) -> bool:
        """To the next path; False if that was the last."""
        while self.path and not self.path[-1].left:
            self.path.pop()
        if self.path:
            self.path[-1].choose()
        return bool(self.path)


def _preempts(run: _Run, ready: list[int], number: int) -> bool:
    return bool(run.schedule) and number != run.last and run.last in ready and number not in run.handlers


def explore(program: Callable[[], Scenario], *, preemptions: int | None = None, max_steps: int = 300) -> Explored:
    """Run every schedule, or every one with at most so many preemptions. Raises the first `Violation`."""
    search = _Search(program, preemptions, max_steps)
    with swapped():
        search.run()
        while search.advance():
            search.run()
    return Explored(search.schedules, search.pruned, search.steps)


def sample(
    program: Callable[[], Scenario], *, runs: int, depth: int = 3, seed: int = 0, max_steps: int = 2000
) -> Explored:
    """Run so many schedules drawn at random, for more actors than can be explored. Raises the first `Violation`.

    Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010): each run goes by random priorities, and at
    `depth - 1` random steps whoever goes falls behind all others. A fault that takes `depth` ordered steps to show is
    hit by a run of n actors and k steps with a probability of at least 1 / (n * k ** (depth - 1)).
    """
    random = Random(seed)
    length, steps = 1, 0
    with swapped():
        for tried in range(1, runs + 1):
            run = _Run(program)
            numbers = [*range(len(run.actors)), *run.handlers]
            rank = {number: depth + place for place, number in enumerate(random.sample(numbers, len(numbers)))}
            falls = {random.randrange(length): depth - 1 - place for place in range(depth - 1)}
            try:
                while ready := run.choices(tried):
                    step = len(run.schedule)
                    if step >= max_steps:
                        raise run.violation("livelock", tried)
                    chosen = max(ready, key=rank.__getitem__)
                    run.step(chosen, tried)
                    rank[chosen] = falls.get(step, rank[chosen])
                run.end(tried)
            finally:
                run.leave()
            length = max(length, len(run.schedule))
            steps += len(run.schedule)
    return Explored(runs, 0, steps)


def replay(program: Callable[[], Scenario], schedule: Sequence[int]) -> None:
    """Run one schedule, and after its end nobody. Raises the `Violation` that it leads to.

    `ValueError` if it is no schedule of this program. A livelock ends without one: it has no last step.
    """
    with swapped():
        run = _Run(program)
        try:
            for number in schedule:
                if number not in run.ready():
                    raise ValueError(f"actor {number} cannot take step {len(run.schedule)}")
                run.step(number, 1)
            if not run.ready():
                run.end(1)
        finally:
            run.leave()
