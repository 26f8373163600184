"""P10: however a process ends, the interpreter exits, and what was promised to settle is settled."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import pytest

from tests.faults import shutdown_child as ways
from tests.proof import Proof
from tests.support import PATIENCE

CLAIM = "the interpreter exits, and who was promised an answer has one"

ALL = {"thread 1", "thread 2", "no thread"}

# who is promised an answer, with which exit status
PROMISED: dict[str, tuple[set[str], int]] = {
    # nobody settles what has no thread, and daemons may end with the interpreter
    "never_closed": ({"thread 1", "thread 2"}, 0),
    "never_closed_with_daemons": (set(), 0),
    "closed_at_the_end": (ALL, 0),
    "closed_with_daemons": (ALL, 0),
    "closed_in_atexit": (ALL, 0),
    "drained": (ALL, 0),
    "drained_in_vain": (ALL, 0),
    "drained_twice_at_once": (ALL, 0),
    "the_block_ends_in_an_exception": (ALL, 1),
    "sigterm_closes": (ALL, 0),
    "sigterm_closes_while_the_main_thread_waits": (ALL | {"main"}, 0),
    "sigterm_exits_while_the_main_thread_waits": ({"thread 1", "thread 2", "main"}, 7),
    "sigterm_exits_and_atexit_closes": (ALL | {"main"}, 7),
    "sigint_while_the_main_thread_waits": ({"thread 1", "thread 2", "main"}, -signal.SIGINT),
    "exit_in_a_thread_that_holds_the_seat": (ALL, 0),
    "exit_in_a_callback": (ALL, 3),
}

SERVED = {"exit_in_a_thread_that_holds_the_seat", "exit_in_a_callback"}
"""There the seat comes free, and all are served."""


CLOSED = {
    "drained": [True],
    "drained_in_vain": [False],
    "drained_twice_at_once": [False, False],
    "closed_at_the_end": [False],
    "closed_in_atexit": [False],
    "never_closed": [],
}
"""What `close` said: is nothing left in flight?"""


class Told(TypedDict):
    """What the child prints at its end."""

    outcomes: dict[str, str]
    closed: list[bool]
    queued: int


Child = subprocess.Popen[str]


def start(way: str) -> Child:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.shutdown_child", way],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, Child]]:
    """All at once: most of the time they wait."""
    started = {way.__name__: start(way.__name__) for way in (*ways.WAYS, ways.without_looking_whether_it_exits)}
    yield started
    for child in started.values():
        child.kill()
        child.communicate()


@pytest.mark.parametrize("way", PROMISED)
def test_the_interpreter_exits_and_settles_what_it_promised(children: dict[str, Child], way: str, proof: Proof) -> None:
    printed, errors = children[way].communicate(timeout=PATIENCE)
    promised, status = PROMISED[way]

    assert children[way].returncode == status, errors
    assert "Fatal Python error" not in errors
    told: Told = json.loads(printed)
    assert promised <= set(told["outcomes"])
    answers = {told["outcomes"][name] for name in promised - {"main"}}
    assert answers <= ({"served"} if way in SERVED else {"evicted_closed"})
    if promised >= ALL:
        assert told["queued"] == 0
    assert told["closed"] == CLOSED.get(way, told["closed"])
    proof.shown("P10", CLAIM, "faults", 1, "runs")


def test_a_signal_that_nobody_handles_ends_it_at_once(children: dict[str, Child]) -> None:
    children["sigterm_with_no_handler"].communicate(timeout=PATIENCE)

    assert children["sigterm_with_no_handler"].returncode == -signal.SIGTERM


def test_an_interpreter_whose_waiters_do_not_look_whether_it_exits_stays(
    children: dict[str, Child], proof: Proof
) -> None:
    children["never_closed"].wait(timeout=PATIENCE)  # it began at the same time
    with pytest.raises(subprocess.TimeoutExpired):
        children["without_looking_whether_it_exits"].wait(timeout=2)
    proof.missed(CLAIM, "each slice looks whether the interpreter exits", 1, "runs")


def test_every_way_to_end_is_looked_at() -> None:
    assert {way.__name__ for way in ways.WAYS} == {*PROMISED, "sigterm_with_no_handler"}
