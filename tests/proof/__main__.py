"""``python -m tests.proof``: run all that proves something, and write `docs/proof.md` of it.

Each part leaves its notes in `build/proof/`, so that one can be run again without the others.
"""

# ruff: noqa: T201 - it talks to a terminal

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.proof import Missed, Shown, read
from tests.proof.page import page

ROOT: Final = Path(__file__).parents[2]
NOTES: Final = ROOT / "build" / "proof"
PAGE: Final = ROOT / "docs" / "proof.md"
TESTS: Final = (
    "tests/interleave",
    "tests/faults",
    "tests/test_fork.py",
    "tests/test_stateful.py",
    "tests/test_stateful_controls.py",
)


def parts(*, quick: bool) -> Mapping[str, Sequence[str]]:
    """What is run, as arguments of this interpreter."""
    soak = ["-m", "tests.soak", *(["--quick"] if quick else [])]
    return {
        "tests": ["-m", "pytest", "-q", *TESTS],
        "model": ["-m", "tests.model"],
        "soak": soak,
        **({} if quick else {"mutants": ["-m", "tools.mutants"]}),
    }


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof",
        description="Run all that proves something, and write docs/proof.md. Takes more than an hour on two cores. The "
        "exit status is 1, and the page stays as it was, if anything fails.",
        epilog="By way of make: make proof ARGS='--only model'. Needs spin and a C compiler, as make model does.",
    )
    parser.add_argument("--quick", action="store_true", help="a soak of 2 minutes, and no mutants: about 10 minutes")
    names = list(parts(quick=False))
    parser.add_argument(
        "--only", choices=names, nargs="*", default=names, metavar="PART", help=f"of {', '.join(names)}; else old notes"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status: 0, 1 if a part failed, 130 after Ctrl-C."""
    options = parsed(arguments)
    NOTES.mkdir(parents=True, exist_ok=True)
    for name, command in parts(quick=options.quick).items():
        if name not in options.only:
            continue
        fresh = NOTES / f"{name}.running"
        fresh.unlink(missing_ok=True)
        began = time.monotonic()
        print(f"== {name}: {' '.join(command)}", flush=True)
        environment = {**os.environ, "CI": "true"}  # the number of examples, and the same ones each time
        try:
            done = subprocess.run(
                [sys.executable, *command, "--proof", str(fresh)], cwd=ROOT, env=environment, check=False
            )
        except KeyboardInterrupt:
            print(f"{name}: interrupted; {PAGE.relative_to(ROOT)} is as it was", file=sys.stderr)
            return 130
        if done.returncode:
            print(f"{name}: failed; {PAGE.relative_to(ROOT)} is as it was", file=sys.stderr)
            return 1
        fresh.replace(NOTES / f"{name}.jsonl")
        print(f"== {name}: done in {time.monotonic() - began:.0f} s", flush=True)
    missing = [name for name in parts(quick=options.quick) if not (NOTES / f"{name}.jsonl").exists()]
    if missing:
        print(f"no notes yet of {', '.join(missing)}; {PAGE.relative_to(ROOT)} is as it was", file=sys.stderr)
        return 1
    shown: list[Shown] = []
    missed: list[Missed] = []
    for name in parts(quick=False):
        notes = NOTES / f"{name}.jsonl"
        if notes.exists():
            of_part = read(notes)
            shown += of_part[0]
            missed += of_part[1]
    PAGE.write_text(page(shown, missed, _machine()), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(shown)} notes of what holds, {len(missed)} of what was missed")
    return 0


def _machine() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
