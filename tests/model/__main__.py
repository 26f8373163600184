"""Check the models with spin: every claim holds, and each protection that is taken away is missed.

`python -m tests.model [-k WORD] [--proof FILE]`. Ends with 1 if a claim fails, a removal does not break its rule, a
search was not complete, or a transition was taken in none; with 2 if spin or a C compiler is missing.
"""

# ruff: noqa: T201 - it talks to a terminal

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.model.claims import CLAIMS, Claim
from tests.proof import Proof

HERE = Path(__file__).parent
MEGABYTES = 3000
SECONDS = 60
"""Of processor time, for one search."""
DEPTH = 500_000


class Broken(Exception):  # noqa: N818 - it tells of a search, not of an error found
    """A search that says nothing: it did not compile, or was not complete."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search has found, and the transitions that it took."""

    states: int
    broken: str | None
    taken: frozenset[str]


def read_search(output: str) -> Searched:
    """What pan printed; `Broken` if it neither found an error nor looked everywhere."""
    states = re.search(r"^\s*(\d+) states, stored", output, re.MULTILINE)
    errors = re.search(r"errors: (\d+)$", output, re.MULTILINE)
    if states is None or errors is None:
        raise Broken("the search ended without a count of states")
    taken = frozenset(re.findall(r"^taken (\w+)$", output, re.MULTILINE))
    found = re.search(r"^pan:\d+: (.*?)(?: \(at depth \d+\))?$", output, re.MULTILINE)
    if errors[1] != "0":
        if found is None or "VECTORSZ" in found[1]:
            raise Broken("the search stopped, and does not say at what")
        rule = re.fullmatch(r"assertion violated\s+!\((\w+)\)", found[1])
        return Searched(int(states[1]), rule[1] if rule else found[1], taken)
    for sign in ("too small", "not completed", "out of memory", "truncated"):
        if sign in output:
            raise Broken(f"the search was not complete: {sign}")
    return Searched(int(states[1]), None, taken)


def transitions(model: str) -> frozenset[str]:
    """All that a model's searches have to take: but for its last `mtype`, of ends and what belongs to removals."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / f"{model}.pml").read_text("utf-8"), flags=re.DOTALL)
    *lists, _ = re.findall(r"^mtype = \{(.*?)\}", text, re.DOTALL | re.MULTILINE)
    return frozenset(re.findall(r"\w+", " ".join(lists)))


def search(claim: Claim, switch: str | None = None) -> Searched:
    """Search the whole model; or, with a protection taken away, until the first error."""
    switches = [f"-D{name}" for name in (*claim.switches.split(), *([switch] if switch else []))]
    # a broken rule or a parked thread is a state; a wait without end is a cycle
    options = ["-DNFAIR=3"] if claim.is_liveness else ["-DSAFETY"]
    options += ["-O0" if switch else "-O1", "-w", "-DPRINTF", f"-DMEMLIM={MEGABYTES}"]
    looks = ["-a", "-f"] if claim.is_liveness else []
    with tempfile.TemporaryDirectory() as folder:
        run(["spin", "-a", *switches, str(HERE / f"{claim.model}.pml")], folder)
        run([compiler_name(), *options, "-o", "pan", "pan.c"], folder)
        return read_search(run(["./pan", f"-m{DEPTH}", *looks], folder))


def run(command: list[str], folder: str) -> str:
    """What the command prints. What it leaves behind stays in the folder."""
    limited = ["sh", "-c", f'ulimit -t {SECONDS}; exec "$@"', "sh", *command]
    environment = {**os.environ, "TMPDIR": folder}
    done = subprocess.run(limited, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or "Error:" in done.stdout:
        raise Broken(f"{command[0]} failed: {done.returncode} {(done.stdout + done.stderr).strip()[-500:]}")
    return done.stdout


def compiler_name() -> str:
    return shutil.which("gcc") or shutil.which("cc") or "cc"


def check(claim: Claim, proof: Path | None) -> tuple[int, frozenset[str]]:
    """Check one claim and its removals: how many of them failed, and the transitions taken."""
    notes, begun, failures = Proof(proof), time.perf_counter(), 0
    searched = search(claim)
    seconds = time.perf_counter() - begun
    verdict = "ok" if searched.broken is None else f"FAILED: {searched.broken}"
    print(f"{claim.model:6}  {claim.claim}: {searched.states:,} states, {seconds:.1f} s, {verdict}", flush=True)
    if searched.broken is None:
        notes.shown(claim.promise, claim.claim, "spin", searched.states, "states")
    else:
        failures += 1
    for removal in claim.removals:
        missed = search(claim, removal.switch)
        is_missed = missed.broken == removal.rule
        verdict = f"{'breaks' if is_missed else 'FAILED: not ' + removal.rule + ' but'} {missed.broken}"
        print(f"        without: {removal.what}: {verdict}, after {missed.states:,} states", flush=True)
        if is_missed:
            notes.missed(claim.claim, removal.what, missed.states, "states")
        else:
            failures += 1
    return failures, searched.taken


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="Check the models of flowctl with spin.")
    parser.add_argument("--proof", type=Path, metavar="FILE", help="append what is shown to this file")
    parser.add_argument("-k", default="", metavar="WORD", help="only claims whose model, promise or text contains it")
    options = parser.parse_args(arguments)
    missing = [name for name in ("spin", compiler_name()) if shutil.which(name) is None]
    if missing:
        print(f"{' and '.join(missing)} missing: apt-get install spin gcc", file=sys.stderr)
        return 2
    claims = [claim for claim in CLAIMS if options.k in f"{claim.model} {claim.promise} {claim.claim}"]
    failures, untaken = 0, {model: transitions(model) for model in ("lease", "ticket")}
    for claim in claims:
        try:
            failed, taken = check(claim, options.proof)
        except Broken as error:
            print(f"{claim.model:6}  {claim.claim}: FAILED: {error}", flush=True)
            failures += 1
        else:
            failures += failed
            untaken[claim.model] -= taken
    for model, names in untaken.items():
        if names and all(claim in claims for claim in CLAIMS if claim.model == model):
            print(f"{model:6}  FAILED: no search ever took {', '.join(sorted(names))}")
            failures += 1
    print(f"{len(claims)} claims, {sum(len(claim.removals) for claim in claims)} removals, {failures} failures")
    return 1 if failures or not claims else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
