"""A lazy timer wheel: things filed under the moment at which they are worth a look.

Filing and taking are O(1) a thing, and a moment that nobody filed anything under costs nothing (timing wheels;
Varghese and Lauck, SOSP 1987). One thread at a time; that may die anywhere, and another goes on: a thing is taken off
only by `drop`, after the look at it.

>>> wheel = Wheel[str](spoke=10)
>>> wheel.file("a", at=25)
>>> wheel.file("b", at=99)
>>> wheel.turn(27)
>>> wheel.up
'a'
>>> wheel.drop()
>>> wheel.up, len(wheel)
(None, 1)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Wheel(Generic[T]):
    """Things by whole milliseconds, in spokes of some width: a thing comes up at most one spoke early."""

    __slots__ = ("_order", "_spoke", "_spokes", "_turned", "_turning")

    def __init__(self, spoke: int) -> None:
        self._spoke = max(spoke, 1)
        self._spokes: dict[int, list[T]] = {}
        self._order: list[int] = []  # heap of the spokes that there are
        self._turning: list[T] = []  # the spoke that is being looked through, and which it is
        self._turned = 0

    def __len__(self) -> int:
        return len(self._turning) + sum(len(things) for things in self._spokes.values())

    def file(self, thing: T, at: int) -> None:
        spoke = at // self._spoke
        if spoke not in self._spokes:
            heapq.heappush(self._order, spoke)  # first: a spoke that is in no order would be lost
            self._spokes[spoke] = []
        self._spokes[spoke].append(thing)

    def turn(self, now: int) -> None:
        """Bring up what is worth a look by now. Whoever still has use for it files it again; then it is dropped."""
        while self._order and self._order[0] * self._spoke <= now:
            self._turn()

    def turn_next(self, key: Callable[[T], int]) -> None:
        """If nothing is up, bring up what is filed for the earliest moments, the smallest key first."""
        if not self._turning and self._order:
            self._turn(key)

    @property
    def up(self) -> T | None:
        """What is to be looked at next; None if nothing is up."""
        return self._turning[-1] if self._turning else None

    def next(self, most: int) -> list[T]:
        """What is to be looked at next, so many at most, in order."""
        return self._turning[: -most - 1 : -1]

    def drop(self) -> None:
        """Take off what is up: it was looked at."""
        self._turning.pop()

    def is_later(self, at: int) -> bool:
        """Does something filed under this moment come up after all that is up?"""
        return at // self._spoke > self._turned

    def _turn(self, key: Callable[[T], int] | None = None) -> None:
        self._turned = self._order[0]
        things = self._spokes.get(self._turned, [])
        self._turning.extend(things if key is None else sorted(things, key=key, reverse=True))
        self._spokes.pop(self._turned, None)
        heapq.heappop(self._order)
