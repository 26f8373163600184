"""What the tests of the policies share: requests that wait for nothing but their turn, and how they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowctl import BandConfig, Config, FlowController, FlowKey, Request, Ticket
from tests.support import MakeController


def queue(
    controller: FlowController,
    flow: str,
    *,
    priority: int = 0,
    cost: int = 1,
    size: int = 0,
    ttl: float | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Ticket:
    """Ask for a seat without a thread that waits for it."""
    request = Request(FlowKey(flow, priority), cost=cost, size=size, ttl=ttl, metadata=metadata)
    return controller.submit(request, on_settled=lambda ticket: None)


@dataclass
class Arrival:
    """A request that another policy may be asked about."""

    arrived: float = 1000.0
    deadline: float = float("inf")
    metadata: Mapping[str, object] | None = None


class OneSeat:
    """A controller whose one seat is taken: what is queued stays so until the seat goes round."""

    def __init__(self, make_controller: MakeController, band: BandConfig) -> None:
        self.controller = make_controller(Config(default_band=band, default_ttl=None))
        self.holder = self.controller.admit("holder")
        self.queued: list[Ticket] = []

    def queue(
        self,
        flow: str,
        *,
        cost: int = 1,
        size: int = 0,
        ttl: float | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Ticket:
        ticket = queue(self.controller, flow, cost=cost, size=size, ttl=ttl, metadata=metadata)
        self.queued.append(ticket)
        return ticket

    def queue_each(self, flows: str, *, cost: int = 1) -> list[Ticket]:
        """One request for each letter, in this order."""
        return [self.queue(flow, cost=cost) for flow in flows]

    def next(self) -> Ticket | None:
        """Who has the seat after it was given back; None if nobody waits."""
        self.holder.release()
        gone = [ticket for ticket in self.queued if ticket.state == "dispatched"]
        assert len(gone) <= 1, "one seat"
        self.queued = [ticket for ticket in self.queued if ticket.state == "queued"]
        self.controller._check()
        if not gone:
            return None
        self.holder = gone[0]
        return self.holder

    def go(self, times: int | None = None) -> list[Ticket]:
        """Who goes, one after the other: so many, or all."""
        went: list[Ticket] = []
        while (times is None or len(went) < times) and (ticket := self.next()) is not None:
            went.append(ticket)
        return went

    def names(self, times: int | None = None) -> str:
        return "".join(ticket.key.id for ticket in self.go(times))
