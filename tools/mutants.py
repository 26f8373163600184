"""``python -m tools.mutants``: break the core in many small ways, one at a time, and see whether the tests notice.

Each mutant (tools/breaking.py) lives in a copy of the sources (tools/workbench.py); the working tree is only read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from tests.proof import Proof
from tools.breaking import ROOT, Mutant, sampled
from tools.workbench import AT_MOST, Verdict, Workbench

CORE: Final = (
    *("lease", "turn", "queue", "keyed", "gate", "registry", "shard", "ticket"),
    *("ledger", "sections", "news", "band", "capacity"),
    *("dispatch", "holders", "revocation", "adaptive", "bands", "topology", "ranking"),
)
AIM: Final = 0.9


def known(path: Path) -> dict[str, Verdict]:
    """What earlier runs saw, kept in this file for as long as neither the core, nor a test, nor the suite changes."""
    own = [Path(__file__).with_name("workbench.py"), Path(__file__).with_name("breaking.py")]
    sources = sorted([*ROOT.glob("flowctl/**/*.py"), *ROOT.glob("tests/**/*.py"), *own])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines or lines[0] != digest:
        path.parent.mkdir(exist_ok=True)
        path.write_text(digest + "\n", encoding="utf-8")
    return dict(json.loads(line) for line in lines[1:]) if lines and lines[0] == digest else {}


def tried(sample: Sequence[Mutant], benches: Sequence[Workbench], results: Path) -> dict[str, Verdict]:
    """Try out what is not known yet, on all benches at once, with a line of progress for each; what is known then."""
    free: queue.SimpleQueue[Workbench] = queue.SimpleQueue()
    for bench in benches:
        free.put(bench)

    def try_out(mutant: Mutant) -> tuple[Mutant, Verdict]:
        bench = free.get()
        try:
            return mutant, bench.try_out(mutant)
        finally:
            free.put(bench)

    verdicts = known(results)
    new = [mutant for mutant in sample if mutant.key not in verdicts]
    began = time.monotonic()
    with results.open("a", encoding="utf-8") as file, ThreadPoolExecutor(len(benches)) as pool:
        trials = [pool.submit(try_out, mutant) for mutant in new]
        try:
            for done, trial in enumerate(as_completed(trials), start=1):
                mutant, verdict = trial.result()
                verdicts[mutant.key] = verdict
                print(json.dumps([mutant.key, verdict]), file=file, flush=True)
                left = (time.monotonic() - began) / done * (len(new) - done)
                print(f"{done}/{len(new)} {mutant.module}:{mutant.line} {verdict}; about {left:.0f} s left", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for bench in benches:
                bench.stop()
            raise
    return verdicts


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
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        benches = [Workbench(Path(temporary) / str(number)) for number in range(options.j)]
        try:
            said = benches[0].run(options.only[0])
            took = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # not by the clock: there may be neighbours
            print(
                f"the fast suite takes {took:.1f} s; {len(sample)} of about {ways} mutants, seed {options.seed}",
                flush=True,
            )
            if said is not None or took > AT_MOST:
                print(said or f"too slow: at most {AT_MOST:.0f} s are allowed; see tools/workbench.py", file=sys.stderr)
                return 1
            verdicts = tried(sample, benches, ROOT / "build" / "mutants.jsonl")
        except KeyboardInterrupt:
            print("interrupted: the next run goes on from here", file=sys.stderr)
            return 130
    survivors = [mutant for mutant in sample if verdicts[mutant.key] == "survived"]
    listed = ROOT / "build" / "mutants.txt"
    listed.write_text("\n\n".join(mutant.shown for mutant in survivors) + "\n", encoding="utf-8")
    share = 1 - len(survivors) / len(sample)
    hung = sum(verdicts[mutant.key] == "hung" for mutant in sample)
    print(f"{share:.1%} of {len(sample)} mutants were killed, {hung} of them by hanging")
    print(f"the other {len(survivors)} are in {listed}")
    if share < AIM:
        print(f"at least {AIM:.0%} are wanted", file=sys.stderr)
        return 1
    proof.shown("all", f"a fault in the core makes a fast test fail: {share:.0%}", "mutants", len(sample), "mutants")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
