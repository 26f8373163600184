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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

from greenlet import GreenletExit

from tests.interleave.scheduled import Actor, swapped


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Scenario:
    """What runs, made anew for each schedule."""

    actors: Sequence[Callable[[], object]]
    invariant: Callable[[], None] = _nothing  # asked after every step, of any state in between
    at_end: Callable[[], None] = _nothing  # asked once everybody is at their end


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

    def __init__(self, program: Callable[[], Scenario]) -> None:
        self.scenario = program()
        self.actors = [Actor(number, act) for number, act in enumerate(self.scenario.actors)]
        self.schedule: list[int] = []
        self.trace: list[str] = []

    def ready(self) -> list[int]:
        """Who could go on; first of all whoever went last."""
        last = self.schedule[-1] if self.schedule else 0
        ready = [actor.number for actor in self.actors if not actor.dead and actor.next.ready()]
        return sorted(ready, key=lambda number: (number != last, number))

    def step(self, number: int, tried: int) -> None:
        actor = self.actors[number]
        self.schedule.append(number)
        self.trace.append(f"{number}: {actor.next.name}")
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
            while ready := run.ready():
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
        step = run.actors[choice.chosen].next
        before = choice.asleep | choice.tried
        return {number for number in before if run.actors[number].next.is_independent_of(step)}

    def advance(self) -> bool:
        """To the next path; False if that was the last."""
        while self.path and not self.path[-1].left:
            self.path.pop()
        if self.path:
            self.path[-1].choose()
        return bool(self.path)


def _preempts(run: _Run, ready: list[int], number: int) -> bool:
    return bool(run.schedule) and number != run.schedule[-1] and run.schedule[-1] in ready


def explore(program: Callable[[], Scenario], *, preemptions: int | None = None, max_steps: int = 300) -> Explored:
    """Run every schedule, or every one with at most so many preemptions. Raises the first `Violation`."""
    search = _Search(program, preemptions, max_steps)
    with swapped():
        search.run()
        while search.advance():
            search.run()
    return Explored(search.schedules, search.pruned, search.steps)


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
