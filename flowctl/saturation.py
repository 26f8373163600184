"""Saturation signals: a number that somebody else knows, sampled in a thread of its own and never by a request.

G1  No lock is held, and no turn, while the source is asked: what it blocks is its own sampler.
G2  What is no number is never let in: the sample before counts until it is stale, then `on_failure` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, final

from flowctl.gate import Gate, Load
from flowctl.request import check_number, check_seconds, shown
from flowctl.stats import SignalState

Failure = Literal["closed", "open"]


class Sample(NamedTuple):
    """What the source said, and when it was asked."""

    value: float
    asked: float


@final
class Saturation(Gate):
    """A gate by any callable that says how full the back end is: `Saturation(lambda: pool.checkedout() / pool.size())`.

    It is open while the latest sample is below the ceiling. `source` is called every `interval` seconds, in a thread of
    its own: it may block. A sample that raises, or is no finite number, is a failure; one below 0 is 0. A bool is a
    failure too: it does not say whether True is full or healthy. A failure is counted and reported, and the sample
    before counts until it is older than `stale_after`; from then on the gate is `on_failure`: "closed" (nobody goes
    until the signal is back) or "open". `credit`: how much lower one seat that is given back is taken to bring the
    signal, for revocation.
    """

    def __init__(
        self,
        source: Callable[[], float],
        *,
        name: str = "",
        interval: float = 0.05,
        stale_after: float = 2.0,
        on_failure: Failure = "closed",
        credit: float = 0.1,
    ) -> None:
        if not callable(source):
            raise TypeError(f"source must be callable, not {shown(source)}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {shown(name)}")
        if on_failure not in ("closed", "open"):
            raise ValueError(f'on_failure must be "closed" or "open", not {shown(on_failure)}')
        # fixed after construction
        self._source = source
        self.name = name or str(getattr(source, "__name__", type(source).__name__))
        self.interval = check_seconds("interval", interval)
        self._stale_after = check_seconds("stale_after", stale_after)
        self._when_stale = 1.0 if on_failure == "closed" else 0.0
        self._credit = check_number("credit", credit)
        for field, number in (("interval", self.interval), ("credit", self._credit)):
            if number <= 0:
                raise ValueError(f"{field} must be above 0, not {number}")
        if self._stale_after <= self.interval:  # it would be stale between two samples
            raise ValueError(f"stale_after must be above interval ({self.interval}), not {self._stale_after}")
        # written under the turn, read by anyone: the latest good one, in one step
        self._sample: Sample | None = None
        # written by the sampler, read by anyone
        self._error: str | None = None
        self.failures = 0

    def sample(self) -> None:
        """Ask the source, and let go whoever can go then. Blocks for as long as the source does; raises what it raises,
        `TypeError` or `ValueError` for what is no saturation.
        """
        asked = self._time()  # before, not after: nobody knows how long an answer that took its time was on the way
        try:
            value = max(check_number("a saturation", self._source()), 0.0)
        except BaseException as error:
            self.failures += 1
            self._error = _told(error)
            self.change(_nothing)  # it may have become stale, which may be what opens it
            raise

        def store() -> None:
            newest = self._sample
            if newest is None or not asked < newest.asked <= self._time():  # one that came late, or the clock went back
                self._sample = Sample(value, asked)
            self._error = None

        self.change(store)

    def saturation(self, load: Load) -> float:
        sample = self._sample
        return self._when_stale if sample is None or self._is_stale(self._time() - sample.asked) else sample.value

    def excess(self, load: Load, cost: int, ceiling: float) -> float:
        sample = self._sample
        if sample is None or self._is_stale(self._time() - sample.asked) or sample.value < ceiling:
            return 0.0  # a signal that nobody can trust is no reason to stop work that is under way
        return (sample.value - ceiling) / self._credit + cost

    def state(self) -> SignalState:
        """How it stands."""
        sample, error = self._sample, self._error
        age = None if sample is None else self._time() - sample.asked
        return SignalState(
            name=self.name,
            status="stale" if age is None or self._is_stale(age) else "fresh" if error is None else "failing",
            value=None if sample is None else sample.value,
            age=age,
            failures=self.failures,
            error=error,
        )

    def _is_stale(self, age: float) -> bool:
        return not 0 <= age <= self._stale_after

    def _time(self) -> float:
        return 0.0 if self._now is None else self._now()


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except Exception:  # noqa: BLE001 - an exception of the source's own that cannot be printed
        return type(error).__name__


def _nothing() -> None:
    pass
