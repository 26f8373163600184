"""Where a run was made: what its figures depend on, and what else the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, final

from benchmarks.harness import Target
from flowctl.clock import has_gil

ROOT = Path(__file__).parents[1]

SHORT: Final = 0.1
"""Seconds: ten ticks of the system's clocks, by which it counts."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """As it is recorded in the results."""

    python: str
    gil: bool
    switch_interval: float
    system: str
    processor: str
    cores: int
    load_at_start: float | None
    flowctl: str
    commit: str | None


def this_machine() -> Machine:
    """The record of the machine, the interpreter and the version that run now."""
    return Machine(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        gil=has_gil(),
        switch_interval=sys.getswitchinterval(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(),
        cores=cores(),
        load_at_start=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        flowctl=_version(),
        commit=_commit(),
    )


def with_gil(target: Target) -> Target | None:
    """A target that was set for an interpreter with a GIL."""
    return target if has_gil() else None


def cores() -> int:
    """Those that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version() -> str:
    try:
        return version("flowctl")
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    """The commit that is checked out, with a plus if files differ from it; None where there is none."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*args: str) -> str:
        return subprocess.run([git, "-C", ROOT, *args], capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return ask("rev-parse", "--short", "HEAD").strip() + ("+" if ask("status", "--porcelain").strip() else "")
    except (subprocess.SubprocessError, OSError):
        return None


@final
class Neighbours:
    """What other processes, and the host, take of the cores while something is measured.

    Not the load average: this process's own threads are most of that.
    """

    __slots__ = ("_busy", "_mine", "_since")

    def __init__(self) -> None:
        self._busy, self._mine, self._since = _busy_seconds(), _own_seconds(), time.monotonic()

    def share(self) -> float | None:
        """Of all cores, since this was made; None where the system does not tell, or could not in so short a time."""
        busy, took = _busy_seconds(), time.monotonic() - self._since
        if busy is None or self._busy is None or took < SHORT:
            return None
        foreign = busy - self._busy - (_own_seconds() - self._mine)
        return max(foreign, 0.0) / took / cores()


def _own_seconds() -> float:
    """CPU seconds of this process, and of those that it started and has seen the end of."""
    return sum(os.times()[:4])


def _busy_seconds() -> float | None:
    """CPU seconds of all processes, and those that the host kept for itself."""
    try:
        fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _io, irq, soft_irq, steal = map(int, fields)
    return (user + nice + system + irq + soft_irq + steal) / float(os.sysconf("SC_CLK_TCK"))
