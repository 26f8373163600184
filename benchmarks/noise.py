"""How large is a difference that means nothing? The same code against itself (A/A), measured as everything else is.

Each ratio here would be 1 on a perfect machine. How far it strays is what no other ratio of this run can resolve, and
what `--compare` takes for the noise floor of rows with like numbers of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from benchmarks.crew import Loop, race, race_seconds
from benchmarks.free import Ours, Rival
from benchmarks.harness import Depth, Plot, Question, Row, Step

NAME: Final = "noise"


def flowctl(threads: int, stack: ExitStack) -> Loop:
    """Admit and release at a controller of its own."""
    ours = Ours(["tenant"] * threads)
    stack.enter_context(ours.controller)
    return ours.call


def semaphore(threads: int, stack: ExitStack) -> Loop:
    """Acquire and release a semaphore of its own."""
    return Rival().call


CODES: Final[dict[str, Callable[[int, ExitStack], Loop]]] = {
    "admit().release()": flowctl,
    "BoundedSemaphore": semaphore,
}


def _measure(name: str, code: str, threads: int, depth: Depth) -> Sequence[Row]:
    with ExitStack() as stack:
        one, other = CODES[code](threads, stack), CODES[code](threads, stack)
        pairs = race(one, other, threads, depth)
    return [
        Row(
            name=name,
            unit="ns",
            samples=tuple(pairs.ours),
            rival="the same code",
            rival_samples=tuple(pairs.rival),
            at={"threads": threads, "code": code},
        )
    ]


def steps(depth: Depth) -> list[Step]:
    found = []
    for code in CODES:
        for threads in depth.threads_of(1, 8):
            name = f"{code} against itself, {threads} thread{'s' * (threads > 1)}"
            found.append(Step(name, race_seconds(threads, depth), partial(_measure, name, code, threads, depth)))
    return found


QUESTION: Final = Question(
    NAME,
    "how far the same code strays from itself: what no ratio can resolve",
    steps,
    plots=(Plot(title="The same code against itself", x="threads", by="code", shows="ratio", log_x=True),),
)
