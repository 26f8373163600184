"""Displacement: who makes room when a queue limit is met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, final


class Queued(Protocol):
    """A queued request, as a displacement policy sees it."""

    @property
    def cost(self) -> int: ...

    @property
    def size(self) -> int: ...


Q_co = TypeVar("Q_co", bound=Queued, covariant=True)
T = TypeVar("T", bound=Queued)


class Backlog(Protocol[Q_co]):
    """What is queued at one priority, as a displacement policy sees it."""

    @property
    def priority(self) -> int: ...

    def newest_first(self) -> Iterable[Q_co]: ...


class Displacement(Protocol):
    """Names those who would have to go, in this order; they go only if the newcomer fits in the end."""

    def victims(self, priority: int, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        """Queued requests that a newcomer of this priority may displace. `backlogs`: lowest priority first."""


@final
@dataclass(frozen=True, slots=True)
class Never:
    """Nobody makes room: who comes to a full queue is refused."""

    def victims(self, priority: int, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        return iter(())


@final
@dataclass(frozen=True, slots=True)
class LowerPriority:
    """The newest of the lowest priority make room for a higher one; equals never do."""

    def victims(self, priority: int, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        for backlog in backlogs:
            if backlog.priority >= priority:
                return
            yield from backlog.newest_first()
