"""Where mutants are tried: a copy of the sources in a temporary directory, and the fast suite that runs there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal, final

from tools.breaking import ROOT, Mutant

FAST: Final = (  # patterns of tests/: the quickest to fail first, after those that are named after the mutated module
    *("test_queue*", "test_lease*", "test_band.py", "test_gate*", "test_ticket*", "test_ledger*", "test_sections*"),
    *("test_registry*", "test_shard*", "test_turn*", "test_capacity*", "test_races*", "test_outcomes*", "test_flows*"),
    *("test_bands*", "test_collector*", "test_interrupts*", "test_foreign_code*", "test_fork*"),
    *("interleave/test_lease*", "stress/test_close.py"),
    "test_stateful.py",  # notices much, and then spends seconds in search of a smaller example
)
FEW_EXAMPLES: Final = {"CI": "true", "FLOWCTL_EXAMPLES": "20"}  # for test_stateful, and the same ones each time
TOO_SLOW: Final = (  # fine tests, but each alone takes as long as a hundred others
    "tests/test_bands.py::test_snapshots_while_flows_and_bands_come_and_go_are_consistent_and_sorted",
    "tests/interleave/test_lease_interleavings.py::test_it_holds_in_every_interleaving[a pin and two collectors]",
)
AT_MOST: Final = 10.0  # seconds of a processor, for the fast suite; by the clock, for one test: then it hangs
PATIENCE: Final = 300.0  # seconds for a mutant that is slow in every test and hangs in none
HUNG: Final = "+ Timeout +"  # what pytest says then

Verdict = Literal["killed", "hung", "survived"]


@final
class Workbench:
    """A copy of the sources, where one mutant at a time is tried."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._running: subprocess.Popen[str] | None = None
        for name in ("flowctl", "tests"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)

    def try_out(self, mutant: Mutant) -> Verdict:
        """Is it noticed?"""
        path = self._place / "flowctl" / f"{mutant.module}.py"
        try:
            self._store(path, mutant.source)
            said = self.run(mutant.module)
            return "survived" if said is None else "hung" if HUNG in said else "killed"
        finally:
            self._store(path, mutant.original)

    def _store(self, path: Path, source: str) -> None:
        path.write_text(source, encoding="utf-8")
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):  # by its date it may look fresh
            stale.unlink()

    def run(self, module: str) -> str | None:
        """Run the fast suite: None if all is well, else what pytest said."""
        tests = self._place / "tests"
        files = [path for pattern in (f"test_{module}*", *FAST) for path in sorted(tests.glob(pattern))]
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={AT_MOST}", *(f"--deselect={t}" for t in TOO_SLOW)]
        self._running = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *(str(path) for path in dict.fromkeys(files))],
            cwd=self._place,
            env={**os.environ, **FEW_EXAMPLES, "PYTHONPATH": str(self._place)},  # before the installed package
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            said, _ = self._running.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return f"{HUNG} after {PATIENCE:.0f} s"
        finally:
            self.stop()
        return said if self._running.returncode else None

    def stop(self) -> None:
        """End what runs here, with all that it started."""
        if self._running is not None:
            try:
                os.killpg(self._running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._running.wait()
