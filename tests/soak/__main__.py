"""``python -m tests.soak``: what only hours show. Faults under load, and whether anything is lost or grows."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.proof import Proof, Unit
from tests.soak import crowd, faults, leases
from tests.soak.run import Run

EXAMPLES: Final = 50_000


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the soak, and what it shows if no rule is broken."""

    name: str
    run: Callable[[Run], int]
    promise: str
    claim: str
    unit: Unit


def phases(minutes: float, *, quick: bool) -> list[Phase]:
    """All there are; the quick ones take about 2 minutes together."""
    operations, visits = (10**6, 5) if quick else (10**7, 50)
    seconds = 75.0 if quick else minutes * 60
    attack = Phase(
        "leases",
        lambda run: leases.soak(run, operations),
        "L1, L2, L4",
        f"{leases.THREADS} threads that pin always hold what the table holds, beside {leases.COLLECTORS} collectors",
        "operations",
    )
    thousand = Phase(
        "crowd",
        lambda run: crowd.soak(run, visits),
        "P3",
        f"{crowd.THREADS:,} threads at {crowd.SEATS} seats: asked = dispatched + rejected + evicted",
        "operations",
    )
    mixed = Phase(
        "faults",
        lambda run: faults.soak(run, seconds),
        "P3",
        "mixed traffic with a fault every second: the books are exact afterwards, and nothing has grown",
        "operations",
    )
    return [attack, thousand, mixed] + ([] if quick else [Phase("examples", _examples, "P3", _CLAIM, "examples")])


_CLAIM: Final = "whatever is asked of a controller, in any order: it does what a simple model of it does"


def _examples(run: Run) -> int:
    """The stateful property test, with far more examples than a test run has."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0"]
    environment = {**os.environ, "FLOWCTL_EXAMPLES": str(EXAMPLES)}
    pause = threading.Event()
    with subprocess.Popen([*command, "tests/test_stateful.py"], env=environment, start_new_session=True) as tests:
        try:
            while tests.poll() is None:
                run.progress(f"{EXAMPLES:,} examples: at work")
                pause.wait(0.5)
        finally:
            tests.terminate()
    run.rule(tests.returncode == 0, f"{EXAMPLES:,} examples of tests/test_stateful.py hold: pytest says which does not")
    return EXAMPLES


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Load a controller for long, break something every second, and see that nothing is lost and that "
        "nothing grows. The exit status is 1 if a rule was broken, and each such rule is one sentence.",
        epilog="By way of make: make soak ARGS='--minutes 60'. Ctrl-C ends a run early, and says what was seen.",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_minutes, default=10.0, metavar="M", help="of faults (default: 10)")
    length.add_argument("--quick", action="store_true", help="2 minutes for everything, without the examples")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all choices (default: 0)")
    names = [phase.name for phase in phases(1, quick=False)]
    parser.add_argument("--only", choices=names, nargs="+", metavar="PHASE", help=f"of {', '.join(names)}")
    parser.add_argument("--proof", type=Path, metavar="FILE", help="append what is shown to this file")
    return parser.parse_args(arguments)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0.1 <= minutes < 1e5:
        raise argparse.ArgumentTypeError(f"a number from 0.1 up is wanted, not {text!r}")
    return minutes


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status: 0, 1 if a rule was broken, 130 after Ctrl-C."""
    options = parsed(arguments)
    logging.getLogger("flowctl").setLevel(logging.CRITICAL)  # what is thrown at it is counted here, not read
    threading.excepthook = _heard
    run, status = Run(options.seed), 0
    for phase in phases(options.minutes, quick=options.quick):
        if options.only and phase.name not in options.only:
            continue
        run.say(f"{phase.name}: begins")
        proof, rules = Proof(options.proof), len(run.broken)
        try:
            done = phase.run(run)
        except KeyboardInterrupt:
            run.say(f"{phase.name}: interrupted")
            status = 130
            break
        if len(run.broken) == rules:
            proof.shown(phase.promise, phase.claim, "soak", done, phase.unit)
    took = time.monotonic() - run.began
    for sentence in run.broken:
        print(f"BROKEN: {sentence}", file=sys.stderr)
    run.say(f"{len(run.broken)} rules were broken; {took:.0f} s, seed {options.seed}")
    return 1 if run.broken else status


def _heard(death: threading.ExceptHookArgs) -> None:
    """A thread of the library died of what was thrown into it, outside of all its work: that is seen elsewhere."""
    if death.exc_type is not KeyboardInterrupt:
        threading.__excepthook__(death)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
