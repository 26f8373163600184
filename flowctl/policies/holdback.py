"""Holdback: ceilings that keep a part of the back end from all but the highest priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from flowctl.policies.ceiling import check_ceiling
from flowctl.request import check_priority, shown, to_float


@final
@dataclass(frozen=True, slots=True)
class Holdback:
    """Hold back a part of the back end from all but the highest priority: `reserve` of it from the lowest band, and
    from those between in even steps (`by="rank"`) or as far down as their numbers are (`by="value"`). A single band
    has all of it.

    Or say the ceilings yourself, by priority: one that is not named has that of the nearest one below, or of the
    lowest.

    >>> Holdback(0.2).ceilings([10, 0, -1])
    [1.0, 0.9, 0.8]
    >>> Holdback({10: 1.0, 0: 0.75}).ceilings([20, 10, 5, 0, -1])
    [1.0, 1.0, 0.75, 0.75, 0.75]
    """

    reserve: float | Mapping[int, float]
    by: Literal["rank", "value"] = "rank"

    def __post_init__(self) -> None:
        if self.by not in ("rank", "value"):
            raise ValueError(f'by must be "rank" or "value", not {shown(self.by)}')
        if isinstance(self.reserve, Mapping):
            object.__setattr__(self, "reserve", _check_map(self.reserve))
            if self.by != "rank":
                raise ValueError("by must not be said beside a mapping, which says all")
            return
        reserve = to_float("reserve", self.reserve, "a number or a mapping of priority to ceiling")
        if not 0 <= reserve < 1:
            raise ValueError(f"reserve must be at least 0, and below 1, not {shown(self.reserve)}")
        object.__setattr__(self, "reserve", reserve)

    def ceilings(self, priorities: Sequence[int]) -> Sequence[float]:
        reserve = self.reserve
        if isinstance(reserve, Mapping):
            return [_nearest(reserve, priority) for priority in priorities]
        depths = range(len(priorities)) if self.by == "rank" else [priorities[0] - each for each in priorities]
        deepest = depths[-1] if depths else 0
        # the quotient first: it is 1.0 exactly for the lowest, and rounding keeps its order
        return [1 - reserve * (depth / deepest) if deepest else 1.0 for depth in depths]

    def __hash__(self) -> int:
        return hash((self.by, tuple(self.reserve.items()) if isinstance(self.reserve, Mapping) else self.reserve))


def _nearest(ceilings: Mapping[int, float], priority: int) -> float:
    below = [named for named in ceilings if named <= priority]
    return ceilings[max(below) if below else min(ceilings)]


def _check_map(ceilings: Mapping[int, float]) -> dict[int, float]:
    """The highest first, so that equal ones are equally hashed."""
    if not ceilings:
        raise ValueError("reserve must name at least one ceiling, not none")
    exact: dict[int, float] = {}
    for priority, ceiling in ceilings.items():
        name = f"reserve[{shown(priority)}]"
        try:
            number = check_priority(priority)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        exact[number] = check_ceiling(name, ceiling)
    falling = dict(sorted(exact.items(), reverse=True))
    above = 1.0
    for priority, ceiling in falling.items():
        if ceiling > above:
            raise ValueError(f"reserve[{priority}] must be at most that of the priority above ({above}), not {ceiling}")
        above = ceiling
    return falling
