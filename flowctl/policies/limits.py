"""Adaptive limits: how many seats to try next, from what the last ones told. Pure functions of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

from flowctl.request import check_count, shown, to_float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the releases of a stretch of time told. Times are seconds from grant to release.

    Requests that were granted before the latest decrease are not among them, nor those that tell nothing ("ignored").
    How long a dropped request took says nothing (a refusal is quick): `mean` and `least` are those of the others, and
    NaN if there were none.
    """

    requests: int
    dropped: int  # of them: the back end was overloaded
    mean: float
    least: float
    in_flight: int  # seats, at most


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What an algorithm knows: the limit it holds right, and how long a request takes on a back end at rest."""

    limit: float
    baseline: float = math.nan  # seconds; NaN until it is known
    windows: int = 0  # that were seen


class LimitAlgorithm(Protocol):
    """Says the next estimate. The gate keeps the limit within its bounds."""

    def step(self, estimate: Estimate, window: Window) -> Estimate: ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Aimd:
    """Additive increase, multiplicative decrease: a seat more in each window in which they were needed, a part of them
    fewer after a window with an overload (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for
    Congestion Avoidance in Computer Networks", 1989; AIMDLimit of Netflix' concurrency-limits).

    An overload is a request that was released as "dropped", or, with `latency`, a window whose requests took longer
    than so many seconds in the mean. Without `latency`, only drops end its growth.

    >>> window = Window(requests=10, dropped=0, mean=0.05, least=0.04, in_flight=8)
    >>> Aimd().step(Estimate(8.0), window).limit, Aimd(latency=0.03, backoff=0.5).step(Estimate(8.0), window).limit
    (9.0, 4.0)
    """

    backoff: float = 0.9
    increase: float = 1.0
    latency: float | None = None

    def __post_init__(self) -> None:
        _require("backoff", self.backoff, *_PART)
        _require("increase", self.increase, *_POSITIVE)
        if self.latency is not None:
            _require("latency", self.latency, *_POSITIVE)

    def step(self, estimate: Estimate, window: Window) -> Estimate:
        limit = estimate.limit
        if window.dropped or (self.latency is not None and window.mean > self.latency):
            limit *= self.backoff
        elif _needed(limit, window):
            limit += self.increase
        return Estimate(limit, estimate.baseline, estimate.windows + 1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient2:
    """The limit follows how the latency of now stands to that of a long time: it shrinks in proportion while requests
    take longer than `tolerance` times their long-term mean, and else grows by a small queue (Gradient2Limit of Netflix'
    concurrency-limits, after the idea of TCP Vegas: Brakmo and Peterson, 1995).

    The long-term mean is an exponential one over `long` windows, after a plain mean of the first `warmup` ones; where
    it is more than twice the mean of now, it is drawn down. The queue is `queue` times the root of the limit.
    `smoothing` is the weight of the newest target, `backoff` what is left of the limit after a window with a drop.

    Netflix has a tolerance of 1.5, a queue of 4 and a smoothing of 0.2: on a back end of 4 seats the limit then settles
    far above 4. These defaults stay near the capacity (`docs/gates.md`). What no choice of them cures: under an
    overload that never pauses, the long-term mean learns the queue, and the limit creeps up; one that is there from the
    start is taken for rest, so begin low.

    >>> window = Window(requests=10, dropped=0, mean=0.1, least=0.08, in_flight=16)
    >>> round(Gradient2().step(Estimate(16.0, baseline=0.05, windows=100), window).limit, 1)
    11.2
    """

    tolerance: float = 1.0
    queue: float = 0.3
    smoothing: float = 0.7
    long: int = 600
    warmup: int = 10
    backoff: float = 0.9

    def __post_init__(self) -> None:
        _require("tolerance", self.tolerance, "finite and at least 1", lambda value: 1 <= value < math.inf)
        _require("queue", self.queue, *_POSITIVE)
        _require("smoothing", self.smoothing, *_WEIGHT)
        check_count("long", self.long, at_least=1)
        check_count("warmup", self.warmup, at_least=0)
        _require("backoff", self.backoff, *_PART)

    def step(self, estimate: Estimate, window: Window) -> Estimate:
        limit, baseline, windows = estimate.limit, estimate.baseline, estimate.windows + 1
        if window.dropped:
            return Estimate(limit * self.backoff, baseline, windows)
        baseline = self._follow(baseline, window.mean, windows)
        if _needed(limit, window):
            gradient = self.tolerance * baseline / window.mean if window.mean > 0 else 1.0
            target = limit * min(max(gradient, 0.5), 1.0) + self.queue * math.sqrt(limit)
            limit += self.smoothing * (target - limit)
        return Estimate(limit, baseline, windows)

    def _follow(self, baseline: float, mean: float, windows: int) -> float:
        if math.isnan(baseline):
            return mean
        baseline += (mean - baseline) / (windows if windows <= self.warmup else self.long)
        return 0.95 * baseline if baseline > 2 * mean else baseline


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWait:
    """The limit follows how long requests wait for each other in the back end: how far their mean time stands above
    `baseline`, the one at rest. More than `target` of it is an overload (the standing queue of CoDel, RFC 8289; waiting
    as the signal, whatever the work itself takes, is that of DAGOR: Zhou et al., "Overload Control for Scaling WeChat
    Microservices", SoCC 2018).

    By Little's law, the seats that just fill the back end are the limit times baseline / mean: after an overload the
    limit is `drain` of that, though never less than half, so that the queue empties and rest is seen again. Else it
    grows by a seat, or by `growth` of itself if that is more. `backoff` is what is left after a window with a drop.

    The baseline goes down by `fall` of the difference a window, and up by `rise` of it: a back end that became slower
    is followed. It is at least the mean divided by the requests in flight, as they cannot slow each other down by more:
    with one in flight, what it takes is the baseline. A `rise` that is not far below `fall` learns the queue.

    Why the mean and not the least time: that of ten requests depends on chance once their work differs (with
    log-normal work, it lets through little more than half of what is possible).

    >>> window = Window(requests=10, dropped=0, mean=0.075, least=0.04, in_flight=16)
    >>> round(QueueWait().step(Estimate(16.0, baseline=0.05), window).limit, 1)  # about 0.9 * 16 * 0.05 / 0.075
    9.7
    """

    target: float = 0.2
    drain: float = 0.9
    growth: float = 0.05
    rise: float = 0.02
    fall: float = 0.25
    backoff: float = 0.9

    def __post_init__(self) -> None:
        _require("target", self.target, *_POSITIVE)
        _require("drain", self.drain, *_PART)
        _require("growth", self.growth, *_WEIGHT)
        _require("rise", self.rise, *_WEIGHT)
        _require("fall", self.fall, *_WEIGHT)
        _require("backoff", self.backoff, *_PART)

    def step(self, estimate: Estimate, window: Window) -> Estimate:
        limit, baseline, windows = estimate.limit, estimate.baseline, estimate.windows + 1
        if window.dropped:
            return Estimate(limit * self.backoff, baseline, windows)
        baseline = self._follow(baseline, window)
        if window.mean > (1 + self.target) * baseline:
            limit *= max(self.drain * baseline / window.mean, 0.5)
        elif _needed(limit, window):
            limit += max(1.0, self.growth * limit)
        return Estimate(limit, baseline, windows)

    def _follow(self, baseline: float, window: Window) -> float:
        mean = window.mean
        if math.isnan(baseline):
            return mean
        baseline += (mean - baseline) * (self.rise if mean > baseline else self.fall)
        # n requests that share one back end make each other n times as slow, at most: the rest of it is no wait
        return max(baseline, mean / max(window.in_flight, 1))


def _needed(limit: float, window: Window) -> bool:
    """Were at least half of the seats in use? Else a window tells nothing of what more of them would do."""
    return 2 * window.in_flight >= limit


_Rule = tuple[str, Callable[[float], bool]]
_POSITIVE: _Rule = ("finite and above 0", lambda value: 0 < value < math.inf)
_PART: _Rule = ("above 0 and below 1", lambda value: 0 < value < 1)
_WEIGHT: _Rule = ("above 0 and at most 1", lambda value: 0 < value <= 1)


def _require(name: str, value: object, rule: str, holds: Callable[[float], bool]) -> None:
    if not holds(to_float(name, value)):
        raise ValueError(f"{name} must be {rule}, not {shown(value)}")
