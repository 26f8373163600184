"""The flows of a band by how much of it they hold: whose newest request makes room.

Guarded by the turn. Nothing is kept until somebody asks; then a heap, of which an entry counts only if it tells what
its flow holds now: who grows is entered anew, who shrinks is found out when his turn comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar, final

from flowctl.queue import FlowQueue
from flowctl.ticket import Ticket


class Ranked(Protocol):
    """A flow, as far as its rank goes."""

    queue: FlowQueue


F = TypeVar("F", bound=Ranked)


@final
class Ranking(Generic[F]):
    """Flows by their share, the largest first, and of equal shares that where the newest came last."""

    __slots__ = ("_heap", "_share")

    def __init__(self, share: Callable[[int, int], float]) -> None:
        self._share = share  # of so many requests, with so many bytes
        self._heap: list[tuple[float, int, F]] | None = None

    def grew(self, flow: F, queued: int) -> None:
        """Something was queued for a flow; `queued`: of all flows. O(log flows)."""
        if self._heap is not None:
            heapq.heappush(self._heap, self._rank(flow))
            if len(self._heap) > 2 * queued + 64:  # mostly of no account
                self._heap = None

    def forget(self) -> None:
        """Until somebody asks again."""
        self._heap = None

    def longest_first(self, waiting: Callable[[], Iterable[F]]) -> Iterator[tuple[float, Ticket]]:
        """All that is queued: each time the newest of whichever flow then has the largest share, were the others gone;
        and its flow's share without it. `waiting`: all flows where something is queued. The queues must not change
        meanwhile. The first is O(log flows).
        """
        if self._heap is None:
            self._heap = [self._rank(flow) for flow in waiting()]
            heapq.heapify(self._heap)
        heap = self._heap
        staying: dict[F, tuple[Iterator[Ticket], int, int]] = {}
        while heap:
            share, number, flow = heap[0]
            queue = flow.queue
            newest, requests, size = staying.get(flow) or (iter(queue.newest_first()), queue.requests, queue.size)
            if not requests:
                heapq.heappop(heap)
            elif -share != self._share(requests, size):
                heapq.heapreplace(heap, (-self._share(requests, size), number, flow))
            else:
                ticket = next(newest)
                requests, size = requests - 1, size - ticket.size
                yield self._share(requests, size), ticket
                if not staying:
                    heap = heap.copy()  # from here on it tells of what would be
                staying[flow] = newest, requests, size

    def _rank(self, flow: F) -> tuple[float, int, F]:
        newest = flow.queue.newest
        return -self._share(flow.queue.requests, flow.queue.size), 0 if newest is None else -newest.serial, flow
