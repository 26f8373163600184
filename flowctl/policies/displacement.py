"""Displacement: who makes room when a queue limit is met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar, final

from flowctl.policies.stateless import Stateless


class Queued(Protocol):
    """A queued request, as a displacement policy sees it."""

    @property
    def cost(self) -> int: ...

    @property
    def size(self) -> int: ...


Q_co = TypeVar("Q_co", bound=Queued, covariant=True)
T = TypeVar("T", bound=Queued)


class Newcomer(NamedTuple):
    """Who needs room: its priority, and the share of its band that its flow would have, were it queued."""

    priority: int
    share: float


class Backlog(Protocol[Q_co]):
    """What is queued at one priority, as a displacement policy sees it."""

    @property
    def priority(self) -> int: ...

    def newest_first(self) -> Iterable[Q_co]:
        """All, the latest arrival first."""

    def longest_first(self) -> Iterable[tuple[float, Q_co]]:
        """All, each time the newest of whichever flow then has the largest share; and its share without it."""


class Displacement(Protocol):
    """Names those who would have to go, in this order; they go only if the newcomer fits in the end."""

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        """Queued requests that this newcomer may displace. `backlogs`: lowest priority first."""


@final
class Never(Stateless):
    """Nobody makes room: who comes to a full queue is refused."""

    __slots__ = ()

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        return iter(())


@final
class LowerPriority(Stateless):
    """The newest of the lowest priority make room for a higher one; equals never do."""

    __slots__ = ()

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        for backlog in backlogs:
            if backlog.priority >= newcomer.priority:
                return
            yield from backlog.newest_first()


@final
class LongestFlow(Stateless):
    """The newest of the flow that holds most of the band make room, for as long as that flow keeps no less than the
    newcomer's would have: the shares only ever become more equal, and no two flows displace each other in turn.
    """

    __slots__ = ()

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        for backlog in backlogs:
            for left, victim in backlog.longest_first():
                if backlog.priority > newcomer.priority or left < newcomer.share:
                    break
                yield victim
