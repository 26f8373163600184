"""``python -m tools.mutants``: break the core in many small ways, one at a time, and see whether the tests notice.

Each mutant (tools/breaking.py) lives in a copy of the sources, in a temporary directory; the working tree is only read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final, Literal, final

from tests.proof import Proof
from tools.breaking import ROOT, Mutant, sampled

CORE: Final = (
    *("lease", "turn", "queue", "gate", "registry", "shard", "ticket"),
    *("ledger", "sections", "news", "band", "capacity"),
)
FAST: Final = (  # the quickest to fail first; those that are named after the mutated module go before all of these
    *("queue*", "lease*", "band", "gate*", "ticket*", "ledger*", "sections*", "news*", "registry*", "shard*", "turn*"),
    *("capacity*", "races", "outcomes*", "flows*", "bands*", "collector", "interrupts*", "foreign_code", "fork"),
)
ALSO_FAST: Final = (
    *("tests/interleave/test_lease_interleavings.py", "tests/stress/test_close.py", "tests/test_stateful.py"),
)
FEW_EXAMPLES: Final = {"CI": "true", "FLOWCTL_EXAMPLES": "20"}  # for test_stateful, and the same ones each time
TOO_SLOW: Final = (  # fine tests, but each alone takes as long as a hundred others
    "tests/test_bands.py::test_snapshots_while_flows_and_bands_come_and_go_are_consistent_and_sorted",
    "tests/interleave/test_lease_interleavings.py::test_it_holds_in_every_interleaving[a pin and two collectors]",
)
AT_MOST: Final = 10.0  # seconds of a processor, for the fast suite; by the clock, for one test: then it hangs
PATIENCE: Final = 300.0  # seconds for a mutant that is slow in every test and hangs in none
HUNG: Final = "+ Timeout +"  # what pytest says then
AIM: Final = 0.9

Verdict = Literal["killed", "hung", "survived"]


@final
class Bench:
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
        files = [*self._tests([f"{module}*"]), *self._tests(FAST), *ALSO_FAST]
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={AT_MOST}", *(f"--deselect={t}" for t in TOO_SLOW)]
        command = [sys.executable, "-m", "pytest", *options, *dict.fromkeys(files)]
        path = {"PYTHONPATH": str(self._place)}  # before the installed package, also for children
        environment = {**os.environ, **path, **FEW_EXAMPLES}
        self._running = subprocess.Popen(
            command,
            cwd=self._place,
            env=environment,
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

    def _tests(self, names: Iterable[str]) -> list[str]:
        found = (path for name in names for path in sorted(self._place.glob(f"tests/test_{name}.py")))
        return [str(path.relative_to(self._place)) for path in found]

    def stop(self) -> None:
        """End what runs here, with all that it started."""
        if self._running is not None:
            try:
                os.killpg(self._running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._running.wait()


@final
class Results:
    """What is known of each mutant: kept in a file, for as long as neither the core nor a test changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.verdicts: dict[str, Verdict] = {}
        path.parent.mkdir(exist_ok=True)
        sources = sorted([*ROOT.glob("flowctl/**/*.py"), *ROOT.glob("tests/**/*.py"), Path(__file__)])
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] == digest:
            self.verdicts.update(json.loads(line) for line in lines[1:])
        else:
            path.write_text(digest + "\n", encoding="utf-8")

    def note(self, mutant: Mutant, verdict: Verdict) -> None:
        self.verdicts[mutant.key] = verdict
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([mutant.key, verdict]) + "\n")


def tried(sample: Sequence[Mutant], benches: Sequence[Bench], results: Results) -> None:
    """Try out what is not known yet, on all benches at once, with a line of progress for each."""
    free: queue.SimpleQueue[Bench] = queue.SimpleQueue()
    for bench in benches:
        free.put(bench)

    def try_out(mutant: Mutant) -> tuple[Mutant, Verdict]:
        bench = free.get()
        try:
            return mutant, bench.try_out(mutant)
        finally:
            free.put(bench)

    new = [mutant for mutant in sample if mutant.key not in results.verdicts]
    began = time.monotonic()
    with ThreadPoolExecutor(len(benches)) as pool:
        trials = [pool.submit(try_out, mutant) for mutant in new]
        try:
            for done, trial in enumerate(as_completed(trials), start=1):
                mutant, verdict = trial.result()
                results.note(mutant, verdict)
                left = (time.monotonic() - began) / done * (len(new) - done)
                print(f"{done}/{len(new)} {mutant.module}:{mutant.line} {verdict}; about {left:.0f} s left", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for bench in benches:
                bench.stop()
            raise


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants",
        description=f"Break the core in many small ways, one at a time, and see whether a suite of at most "
        f"{AT_MOST:.0f} seconds notices. The exit status is 1 if it notices less than {AIM:.0%} of them.",
        epilog="By way of make: make mutants ARGS='--sample 50'. Ctrl-C ends a run early, and the next one goes on "
        "from there, unless the core or a test has changed. Survivors are listed in build/mutants.txt.",
    )
    parser.add_argument("--sample", type=_count, default=300, metavar="N", help="how many mutants (default: 300)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which ones (default: 0)")
    parser.add_argument("--only", choices=CORE, nargs="+", default=CORE, metavar="MODULE", help=f"of {', '.join(CORE)}")
    parser.add_argument("-j", type=_count, default=os.cpu_count() or 1, metavar="N", help="so many at once")
    parser.add_argument("--proof", type=Path, metavar="FILE", help="append what is shown to this file")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is wanted, not {text!r}")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status: 0, 1 if too few are noticed or the suite is no good, 130 after Ctrl-C."""
    options = parsed(arguments)
    proof = Proof(options.proof)
    sample, ways = sampled(options.only, options.sample, options.seed)
    results = Results(ROOT / "build" / "mutants.jsonl")
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        benches = [Bench(Path(temporary) / str(number)) for number in range(options.j)]
        try:
            said = benches[0].run(options.only[0])
            took = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # not by the clock: there may be neighbours
            print(
                f"the fast suite takes {took:.1f} s; {len(sample)} of about {ways} mutants, seed {options.seed}",
                flush=True,
            )
            if said is not None or took > AT_MOST:
                print(said or f"too slow: at most {AT_MOST:.0f} s are allowed; see FAST", file=sys.stderr)
                return 1
            tried(sample, benches, results)
        except KeyboardInterrupt:
            print("interrupted: the next run goes on from here", file=sys.stderr)
            return 130
    survivors = [mutant for mutant in sample if results.verdicts[mutant.key] == "survived"]
    listed = ROOT / "build" / "mutants.txt"
    listed.write_text("\n\n".join(mutant.shown for mutant in survivors) + "\n", encoding="utf-8")
    share = 1 - len(survivors) / len(sample)
    hung = sum(results.verdicts[mutant.key] == "hung" for mutant in sample)
    print(f"{share:.1%} of {len(sample)} mutants were killed, {hung} of them by hanging")
    print(f"the other {len(survivors)} are in {listed}")
    if share < AIM:
        print(f"at least {AIM:.0%} are wanted", file=sys.stderr)
        return 1
    proof.shown("all", f"a fault in the core makes a fast test fail: {share:.0%}", "mutants", len(sample), "mutants")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
