"""What holds in every schedule, and what does not without its protection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from tests.interleave.explorer import Scenario, Violation, explore, replay, sample
from tests.proof import Proof


@dataclass(frozen=True)
class Claim:
    """One sentence about one scenario: explored completely, or within a bound, or sampled where there are too many."""

    promise: str
    text: str
    program: Callable[[], Scenario]
    preemptions: int | None = None
    runs: int = 0  # instead: so many schedules at random
    max_steps: int = 2000

    def __str__(self) -> str:
        return self.text

    @property
    def method(self) -> str:
        if self.runs:
            return "PCT"
        return (
            "explored"
            if self.preemptions is None
            else f"explored, {self.preemptions} preemption{'s' * (self.preemptions > 1)}"
        )

    def holds(self, proof: Proof) -> None:
        """Raises the first `Violation`."""
        seen = self._run()
        assert seen > 1, "nothing was interleaved"
        proof.shown(self.promise, self.text, self.method, seen, "schedules")

    def fails_without(self, removed: str, proof: Proof, *kinds: str) -> None:
        """The same where the test has taken a protection away: that is found, in one of these ways, and replayed.

        Always within a bound: what the test puts in its place may share what is not scheduled, and then steps that
        look independent are not.
        """
        bounded = replace(self, preemptions=2 if self.preemptions is None else self.preemptions)
        with pytest.raises(Violation) as caught:
            bounded._run()
        violation = caught.value
        assert violation.kind in (kinds or ("invariant",)), str(violation)
        if violation.kind != "livelock":
            with pytest.raises(Violation, match=violation.kind):
                replay(self.program, violation.schedule)
        proof.missed(self.text, removed, violation.tried, "schedules")

    def _run(self) -> int:
        if self.runs:
            return sample(self.program, runs=self.runs, max_steps=self.max_steps).schedules
        return explore(self.program, preemptions=self.preemptions, max_steps=self.max_steps).schedules
