"""A lazy timer wheel: things filed under the moment at which they are worth a look.

Filing and taking are O(1) a thing, and a moment that nobody filed anything under costs nothing (timing wheels;
Varghese and Lauck, SOSP 1987). One thread at a time; that may die anywhere, and another goes on: a thing is taken off
only when the loop over `due` comes back for the next one.

>>> wheel = Wheel[str](spoke=10)
>>> wheel.file("a", at=25)
>>> wheel.file("b", at=99)
>>> list(wheel.due(19)), list(wheel.due(27)), len(wheel)
([], ['a'], 1)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Wheel(Generic[T]):
    """Things by whole milliseconds, in spokes of some width: a thing comes up at most one spoke early."""

    __slots__ = ("_order", "_spoke", "_spokes", "_turning")

    def __init__(self, spoke: int) -> None:
        self._spoke = max(spoke, 1)
        self._spokes: dict[int, list[T]] = {}
        self._order: list[int] = []  # heap of the spokes that there are
        self._turning: list[T] = []  # the spoke that is being looked through

    def __len__(self) -> int:
        return len(self._turning) + sum(len(things) for things in self._spokes.values())

    def file(self, thing: T, at: int) -> None:
        spoke = at // self._spoke
        if spoke not in self._spokes:
            heapq.heappush(self._order, spoke)  # first: a spoke that is in no order would be lost
            self._spokes[spoke] = []
        self._spokes[spoke].append(thing)

    def due(self, now: int) -> Iterator[T]:
        """What is worth a look, each thing once; whoever still has use for it files it again, for the next time."""
        while self._order and self._order[0] * self._spoke <= now:
            self._turning.extend(self._spokes.get(self._order[0], ()))
            self._spokes.pop(self._order[0], None)
            heapq.heappop(self._order)
        while self._turning:
            yield self._turning[-1]
            self._turning.pop()
