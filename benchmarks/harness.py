"""What every benchmark is made of: rows, the samples behind them, and how much of a difference is noise.

H1  A row keeps its raw samples; its value, ratio, spread and verdict are worked out from them, and from nothing else.
H2  A ratio is the median over pairs that were measured one after the other, in alternating order: what slows the
    machine for longer than one sample slows both sides of a pair.
H3  The rival is also compared with itself (A/A). How far that strays from 1 is what no ratio of the row can resolve.

Statistics only: no threads, no clock, nothing that has to be installed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, TypeVar, final

BUSY: Final = 0.25
"""Other processes took more than this share of all cores: the row is marked "busy"."""

WIDE: Final = 0.35
"""The quartiles of the rival against itself lie further apart than this: the row is marked "wide"."""

Doubt = Literal["busy", "wide", "late"]
Side = Literal["less", "more"]

LESS: Final = frozenset({"ns", "us", "ms", "s", "bytes", "KB", "MB", "lost"})
MORE: Final = frozenset({"least/most", "Jain"})
"""The first word of a unit that says which of two figures is the better one."""

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How long to measure. Times are seconds."""

    name: str
    level: Literal[0, 1, 2]
    pairs: int  # for each ratio of two loops
    sample: float  # of a loop on one thread
    contended: float  # of a loop on several, unless `turns` makes it longer
    turns: int  # how often each of several threads gets the GIL in a sample, at least: else they never meet
    windows: int  # pairs of windows in which threads compete for seats
    window: float
    cycles: int  # collections
    ids: int  # that are made up
    sizes: tuple[int, ...]  # of queues
    # asked for in place of the usual numbers of threads, by those questions that have such numbers
    threads: tuple[int, ...] | None = None
    # of everything that a question makes up at random
    seed: int = 7

    def pick(self, quick: T, default: T, full: T) -> T:
        """What goes with this depth."""
        return (quick, default, full)[self.level]

    def threads_of(self, *usual: int) -> tuple[int, ...]:
        """The numbers of threads to measure with: those that were asked for, or else the usual ones."""
        return usual if self.threads is None else self.threads


QUICK: Final = Depth(
    name="quick",
    level=0,
    pairs=5,
    sample=0.05,
    contended=0.1,
    turns=2,
    windows=3,
    window=0.5,
    cycles=5,
    ids=100_000,
    sizes=(10, 1_000, 10_000),
)
DEFAULT: Final = Depth(
    name="default",
    level=1,
    pairs=7,
    sample=0.1,
    contended=0.2,
    turns=2,
    windows=3,
    window=1.0,
    cycles=10,
    ids=100_000,
    sizes=(10, 1_000, 10_000),
)
FULL: Final = Depth(
    name="full",
    level=2,
    pairs=15,
    sample=0.15,
    contended=0.3,
    turns=2,
    windows=7,
    window=2.0,
    cycles=10,
    ids=1_000_000,
    sizes=(10, 100, 1_000, 10_000, 100_000),
)


@final
@dataclass(frozen=True, slots=True)
class Target:
    """What a row's value, or its ratio to the rival, is to reach."""

    of: Literal["value", "ratio"]
    side: Literal["at most", "at least"]
    bound: float

    def met_by(self, figure: float) -> bool:
        return figure <= self.bound if self.side == "at most" else figure >= self.bound


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, beside its rival's in the same run."""

    name: str
    unit: str
    samples: tuple[float, ...]
    rival: str | None = None
    rival_samples: tuple[float, ...] = ()
    # whether ours / rival says anything; where the rival may be 0 it does not
    divisible: bool = True
    target: Target | None = None
    # of all cores, what other processes took meanwhile; None: unknown
    others: float | None = None
    # the load came later than it was meant to: the machine, or the interpreter, could not keep up
    late: bool = False
    question: str = ""
    # where it stands in its question's plots: {"threads": 8, "lock": "turn"}
    at: Mapping[str, str | float] = field(default_factory=dict)
    # which is the better figure, where neither the target nor the unit says it
    better: Side | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def rival_value(self) -> float | None:
        return statistics.median(self.rival_samples) if self.rival_samples else None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours / the rival's, pair by pair; without those whose rival had nothing."""
        if not self.divisible:
            return ()
        return tuple(ours / rival for ours, rival in zip(self.samples, self.rival_samples, strict=False) if rival)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> float:
        """Of the ratios, or of the samples where there is no ratio."""
        return spread(self.ratios or self.samples)

    @property
    def noise(self) -> float | None:
        """The spread of the rival against itself (A/A); None without one."""
        return spread(against_itself(self.rival_samples)) if self.divisible and len(self.rival_samples) > 2 else None

    @property
    def reached(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        figure = self.value if self.target.of == "value" else self.ratio
        return figure is not None and self.target.met_by(figure)

    @property
    def prefers(self) -> Side | None:
        """Is less better, or more? None where nothing says it: such a row can change, but not get worse."""
        if self.better is not None:
            return self.better
        if self.target is not None:
            return "less" if self.target.side == "at most" else "more"
        if self.unit.endswith("/s"):
            return "more"
        word = self.unit.partition(" ")[0]
        return "less" if word in LESS else "more" if word in MORE else None

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Why not to trust this row."""
        doubts: list[Doubt] = []
        if self.others is not None and self.others > BUSY:
            doubts.append("busy")
        if self.noise is not None and self.noise > WIDE:
            doubts.append("wide")
        if self.late:
            doubts.append("late")
        return tuple(doubts)


@final
@dataclass(frozen=True, slots=True)
class Step:
    """Measures some rows, in about so many seconds."""

    name: str
    seconds: float
    run: Callable[[], Sequence[Row]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture of those rows of a question whose `at` has `x`, has `by`, and has all of `where`.

    It shows each row's value, with the quartiles as error bars, and beside it the rival's; or the ratio of the two; or
    how all of the row's samples are distributed.
    """

    title: str
    x: str  # the key of `at` along the axis: numbers are drawn as lines, words as bars
    by: str | None = None  # the key of `at` that tells lines or groups of bars apart
    where: Mapping[str, str | float] = field(default_factory=dict)
    shows: Literal["value", "ratio", "samples"] = "value"
    log_x: bool = False
    log_y: bool = False


@final
@dataclass(frozen=True, slots=True)
class Question:
    """What one file of benchmarks asks."""

    name: str
    asks: str
    steps: Callable[[Depth], Sequence[Step]]
    plots: Sequence[Plot] = ()
    concludes: Callable[[Sequence[Row]], Sequence[str]] | None = None  # sentences, from its rows


# --- statistics ----------------------------------------------------------------------------------------------------


def spread(samples: Sequence[float]) -> float:
    """How far the quartiles lie apart, as a share of the median; 0.0 for fewer than two samples.

    >>> spread([9.0, 10.0, 11.0])
    0.1
    """
    if len(samples) < 2:
        return 0.0
    low, high = quartiles(samples)
    middle = statistics.median(samples)
    return (high - low) / abs(middle) if middle else 0.0


def against_itself(samples: Sequence[float]) -> tuple[float, ...]:
    """Each sample over the one before it: what a ratio looks like if both sides are the same.

    >>> against_itself([2.0, 4.0, 4.0])
    (2.0, 1.0)
    """
    return tuple(later / earlier for earlier, later in pairwise(samples) if earlier)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper one; of a single sample, that one twice.

    >>> quartiles([9.0, 10.0, 11.0])
    (9.5, 10.5)
    """
    if len(samples) < 2:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that is at least as large as this share of all.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5), percentile([1.0, 2.0, 3.0, 4.0], 0.99)
    (2.0, 4.0)
    """
    ordered = sorted(samples)
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]


@final
@dataclass(slots=True)
class Pairs:
    """Samples of two sides, taken in turns: A B, B A, A B, ..."""

    ours: list[float] = field(default_factory=list)
    rival: list[float] = field(default_factory=list)

    def take(self, count: int, ours: Callable[[], float], rival: Callable[[], float]) -> None:
        for number in range(count):
            if number % 2:
                self.rival.append(rival())
                self.ours.append(ours())
            else:
                self.ours.append(ours())
                self.rival.append(rival())


def in_turns(rounds: int, sides: Sequence[Callable[[], T]]) -> list[list[T]]:
    """What each side returned in so many rounds: A B C, C B A, A B C, ..."""
    found: list[list[T]] = [[] for _ in sides]
    for number in range(rounds):
        line = list(zip(sides, found, strict=True))
        for side, results in reversed(line) if number % 2 else line:
            results.append(side())
    return found
