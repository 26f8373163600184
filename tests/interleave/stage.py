"""A whole controller on a stage: its real code, on scheduled primitives, with one invariant for every scenario."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final

from flowctl import ConcurrencyLimit, Config, FlowControlError, FlowController, FlowKey, Request, Ticket
from flowctl.flow import Flow
from flowctl.shard import Shard
from tests.interleave.explorer import Handler, Scenario
from tests.interleave.scheduled import ScheduledClock, pause, reads

SHORT: Final = 5.0
"""Seconds that a request with a deadline waits; a flow is idle for as long before it is collected."""


@final
class Stage:
    """One controller, what its users hold, and what became of everybody."""

    def __init__(self, config: Config | None = None, *, limit: int = 1, time_moves: bool = False) -> None:
        self.clock = ScheduledClock(moves=time_moves)
        self.gate = ConcurrencyLimit(limit)
        self.limit = limit
        self.controller = FlowController(
            config or Config(flow_gc_timeout=SHORT, shards=1), gate=self.gate, clock=self.clock, background=False
        )
        self.registry = self.controller._state.registry
        self.held: list[Ticket] = []
        self.outcomes: list[str] = []

    # --- what actors do

    def admit(self, flow: str = "a", *, priority: int = 0, ttl: float | None = None) -> Ticket | None:
        """Ask, and hold the ticket."""
        try:
            ticket = self.controller.admit(flow, priority=priority, ttl=ttl)
        except FlowControlError as error:
            self.outcomes.append(type(error).__name__)
            return None
        self.held.append(ticket)
        self.outcomes.append("granted")
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Give back what is held; afterwards it is not."""
        self.held.remove(ticket)
        assert ticket.release()

    def use(self, flow: str = "a", *, priority: int = 0, ttl: float | None = None) -> None:
        """Ask, hold, give back."""
        ticket = self.admit(flow, priority=priority, ttl=ttl)
        if ticket is not None:
            pause("work", reads(self), is_call=False)
            self.release(ticket)

    def submit(self, flow: str = "a", *, priority: int = 0, cost: int = 1, ttl: float | None = None) -> Ticket:
        """Ask without waiting; what is granted is held."""
        return self.controller.submit(Request(FlowKey(flow, priority), cost=cost, ttl=ttl), self.settled)

    def submit_and_use(self, flow: str = "a", *, priority: int = 0, cost: int = 1) -> Ticket:
        """Ask without waiting; what is granted is given back at once."""

        def use(ticket: Ticket) -> None:
            self.settled(ticket)
            if ticket.error is None:
                self.release(ticket)

        return self.controller.submit(Request(FlowKey(flow, priority), cost=cost), use)

    def settled(self, ticket: Ticket) -> None:
        error = ticket.error
        self.outcomes.append("granted" if error is None else type(error).__name__)
        if error is None:
            self.held.append(ticket)

    def idle_flow(self, flow: str = "a", *, priority: int = 0) -> None:
        """Beforehand: a flow that was idle for long enough to be collected."""
        self.use(flow, priority=priority)
        self.outcomes.clear()
        self.controller._state.registry.sweep_flows(lambda flow: None)  # it is on the wheel now
        self.clock.advance(2 * SHORT)

    def collect(self) -> None:
        self.controller.collect()

    def sweep(self) -> None:
        """A collection on its own, beside any other: the registry must bear what `collect` never does."""
        self.registry.sweep_flows(lambda flow: None)

    # --- rules

    def check(self) -> None:
        """What holds after every step, whoever stands in the middle of what."""
        assert sum(ticket.cost for ticket in self.held) <= self.limit, "P3: more in flight than there is room for"
        ledger = self.controller._state.turn.ledger
        for ticket in self.held:
            assert ledger.is_held(ticket.serial), "somebody holds a ticket that is in no book"
            assert isinstance(ticket._flow, Flow)
            self.check_used(ticket._flow)
        if self.controller._state.turn.bar != ledger.top:
            return  # the books are being changed
        for band in ledger.waiting:
            for serial in band.backlog:
                self.check_used(ledger.holds[serial].flow)

    def check_used(self, flow: Flow) -> None:
        """A flow of which something is queued or in flight."""
        lease = flow.lease
        assert lease.pins, "L3: used and not pinned"
        assert not lease.is_marked, "L1: used and marked"
        assert self.registry.find(flow.key) is flow, "L4: used, and not the one in the table"
        assert not flow.detached, "L5: used and finalised"
        assert not flow.band.lease.is_marked, "L6: used, and its band is marked"
        assert isinstance(flow.shard, Shard)
        assert flow in flow.shard._flows.get(flow.band.priority, {}), "used, and in no shard"

    def at_end(self) -> None:
        """At rest everything is exact."""
        self.check()
        stats = self.controller.stats()
        assert stats.in_flight == sum(ticket.cost for ticket in self.held), "P3: seats"
        assert stats.queued == 0, "P4: somebody still waits"
        assert stats.abandoned == 0, "a ticket was lost"
        ledger = self.controller._state.turn.ledger
        assert {*ledger.young, *ledger.holds} == {ticket.serial for ticket in self.held}, "a hold that nobody has"
        self.controller._check()
        self.controller.collect()
        assert self.controller.stats().repairs == 0, "the audit found something to mend"
        self.controller._check()

    def at_end_after_a_fault(self) -> None:
        """The next collections put everything right, and in the end take everything away."""
        self.controller.collect()
        stats = self.controller.stats()
        assert stats.in_flight == 0, "P8: a seat was lost"
        assert stats.queued == 0, "P4: somebody still waits"
        self.controller._check()
        for _ in range(2):
            self.clock.advance(99.0)
            self.controller.collect()
        assert not self.registry.flows(), "L5: a flow that is never finalised"
        assert not len(self.registry._wheel), "R3: a flow on the wheel for ever"
        assert not self.controller.bands(), "L6: a band with a pin of nobody's"
        self.controller._check()

    def scenario(self, *actors: Callable[[], object], handlers: Sequence[Handler] = ()) -> Scenario:
        faults = any(handler.raises for handler in handlers)
        return Scenario(actors, self.check, self.at_end_after_a_fault if faults else self.at_end, handlers)
