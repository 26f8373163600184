"""Ceilings: how full the back end may be for each priority, so that the higher ones find room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from flowctl.request import shown, to_float


class Ceilings(Protocol):
    """Says how full the back end may be for each of these priorities, the highest first: numbers in 0 to 1 that never
    rise. Asked again whenever another band is there, or one less.
    """

    def ceilings(self, priorities: Sequence[int]) -> Sequence[float]: ...


@final
@dataclass(frozen=True, slots=True)
class Static:
    """The same for all.

    >>> Static(0.8).ceilings([10, 0])
    [0.8, 0.8]
    """

    ceiling: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ceiling", check_ceiling("ceiling", self.ceiling))

    def ceilings(self, priorities: Sequence[int]) -> Sequence[float]:
        return [self.ceiling] * len(priorities)


def checked_ceilings(policy: Ceilings, priorities: Sequence[int]) -> Sequence[float]:
    """What a policy says for these priorities. Raises `TypeError` or `ValueError` if it must not say that."""
    ceilings = list(policy.ceilings(priorities))
    if len(ceilings) != len(priorities):
        raise ValueError(f"there must be a ceiling for each of {len(priorities)} priorities, not {len(ceilings)}")
    above = 1.0
    for priority, ceiling in zip(priorities, ceilings, strict=True):
        if isinstance(ceiling, bool) or not isinstance(ceiling, int | float):
            raise TypeError(f"the ceiling of priority {priority} must be a number, not {ceiling!r}")
        if not 0 <= ceiling <= above:  # nor NaN
            raise ValueError(f"the ceiling of priority {priority} must be in 0 to {above}, not {ceiling}")
        above = float(ceiling)
    return ceilings


def check_ceiling(name: str, part: object) -> float:
    """The same as a float. Raises `TypeError` or `ValueError` if it is no ceiling."""
    number = to_float(name, part)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must be above 0, and at most 1, not {shown(part)}")
    return number
