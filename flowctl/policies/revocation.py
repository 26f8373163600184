"""Revocation: whether work that is under way is asked to stop for what is more important."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flowctl.request import check_count, check_priority, check_seconds


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Ask work that is under way to stop, where somebody of a higher priority waits for its seats.

    Only requests below priority `below` are asked, and those that were asked for with `revocable=True`. At a time, at
    most `most` of them; who has not stopped after `timeout` seconds is given up on. For `grace` seconds after one has
    stopped, a saturation signal is taken not to know it yet.
    """

    below: int = 0
    most: int = 2
    grace: float = 0.5
    timeout: float = 10.0

    def __post_init__(self) -> None:
        check_priority(self.below)
        check_count("most", self.most, at_least=1)
        for name in ("grace", "timeout"):
            if check_seconds(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
