"""An adaptive limit: seats whose number follows what releases tell of the back end.

A sample is the time from a grant to its release. A window of samples ends once it has lasted for long enough and has
enough of them; then the algorithm says the next limit, and a new window begins. A request that was granted before the
latest decrease tells of the limit before that, and is no sample: one overload is answered once, and not by every
request that was caught in it (as TCP halves its window once a round trip).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, final

from flowctl.gate import SeatLimit
from flowctl.policies.limits import Estimate, LimitAlgorithm, Window
from flowctl.request import check_count, check_seconds, shown
from flowctl.ticket import ReleaseOutcome


class LimitChange(NamedTuple):
    """One step of an adaptive limit: when (seconds of the controller's clock), to what, and because of what."""

    at: float
    limit: int
    window: Window


@final
class AdaptiveLimit(SeatLimit):
    """At most so many seats in flight as the algorithm holds right, from `least` to `most` of them. It begins with
    `initial`: fewer than the back end takes, so that it is first seen at rest.

    `window`: the seconds that a window lasts at least, `samples`: the releases that it has at least. What is released
    as "ignored" is no sample (a health check, a stream whose end says nothing of the back end); "dropped" is an
    overload. `history` keeps so many of the latest steps, for a plot.

    >>> from flowctl import Aimd
    >>> AdaptiveLimit(Aimd(), initial=8, most=64).limit
    8
    """

    # of the window: guarded by the turn once it is bound
    _since: float
    _until: float
    _requests: int
    _dropped: int
    _in_flight: int
    _taken: float
    _shortest: float

    def __init__(
        self,
        algorithm: LimitAlgorithm,
        *,
        initial: int = 4,
        least: int = 1,
        most: int = 1_000,
        window: float = 0.25,
        samples: int = 10,
        history: int = 1_000,
    ) -> None:
        if isinstance(algorithm, type) or not callable(getattr(algorithm, "step", None)):
            raise TypeError(f"algorithm must be a LimitAlgorithm (an object with .step()), not {shown(algorithm)}")
        # fixed after construction
        self._algorithm = algorithm
        self._least = check_count("least", least, at_least=1)
        self._most = check_count("most", most, at_least=self._least)
        self._window = check_seconds("window", window)
        if self._window < 0:
            raise ValueError(f"window must be at least 0, not {window}")
        self._samples = check_count("samples", samples, at_least=1)
        # guarded by the turn once it is bound
        self._limit = check_count("initial", initial, at_least=1)
        if not least <= self._limit <= most:
            raise ValueError(f"initial must be in least to most ({least} to {most}), not {initial}")
        self._estimate = Estimate(float(initial))
        self._history: tuple[LimitChange, ...] = ()  # replaced as a whole, read by anyone
        self._kept = check_count("history", history, at_least=0)
        self._since = -math.inf  # the latest decrease
        self._begin(-math.inf)

    @property
    def history(self) -> Sequence[LimitChange]:
        """The latest steps, the oldest first."""
        return self._history

    @property
    def estimate(self) -> Estimate:
        """What the algorithm knows now."""
        return self._estimate

    def learn(self, granted_at: float, now: float, in_flight: int, outcome: ReleaseOutcome) -> bool:
        """Take in a release, under the turn; True if the limit has moved. `in_flight`: seats, its own among them."""
        if granted_at < self._since:
            return False
        if outcome == "ok":
            taken = now - granted_at
            self._taken += taken
            if taken < self._shortest:  # noqa: PLR1730 - a call to min costs 60 ns on each release
                self._shortest = taken
        elif outcome == "dropped":  # how long it took says nothing: a refusal is quick
            self._dropped += 1
        else:
            return False
        self._requests += 1
        if in_flight > self._in_flight:  # noqa: PLR1730 - likewise
            self._in_flight = in_flight
        if now < self._until or self._requests < self._samples:
            return False
        return self._step(now)

    def _step(self, now: float) -> bool:
        timed = self._requests - self._dropped
        window = Window(
            requests=self._requests,
            dropped=self._dropped,
            mean=self._taken / timed if timed else math.nan,
            least=self._shortest if timed else math.nan,
            in_flight=self._in_flight,
        )
        self._begin(now)
        if window.least < 0:  # a clock that went back
            return False
        estimate = self._algorithm.step(self._estimate, window)
        if not math.isfinite(estimate.limit):
            raise ValueError(f"an algorithm's limit must be finite, not {estimate.limit}")
        self._estimate = replace(estimate, limit=min(max(estimate.limit, self._least), self._most))
        before, self._limit = self._limit, round(self._estimate.limit)
        if self._limit < before:
            self._since = now
        if self._kept:
            self._history = (*self._history, LimitChange(now, self._limit, window))[-self._kept :]
        return self._limit != before

    def _begin(self, now: float) -> None:
        """Begin a window."""
        self._until = now + self._window
        self._requests = self._dropped = self._in_flight = 0
        self._taken, self._shortest = 0.0, math.inf
