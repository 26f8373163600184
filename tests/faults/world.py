"""A small world of one thread: a controller, the clock that moves it, and whoever asks it for seats."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

from flowctl import ConcurrencyLimit, Config, FlowControlError, FlowController, FlowKey, Request, Ticket
from flowctl.gate import Gate
from flowctl.news import Observer
from flowctl.request import RESERVED_PREFIX
from flowctl.sync import Parking
from tests.support import PATIENCE, Spawned


@final
class ScriptedClock:
    """Time that passes while somebody is parked, which is also when the others act: all in one thread."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.called: Callable[[str], object] = str
        self.meanwhile: deque[Callable[[], object]] = deque()

    def now(self) -> float:
        self.called("clock.now")
        return self.time

    def park(self, parking: Parking, until: float | None) -> None:
        self.called("clock.park")
        if self.meanwhile:
            self.meanwhile.popleft()()
        elif not parking.wait(0):
            assert until is not None, "nobody will ever wake it"
            self.time = max(self.time, until)


class Asked:
    """One request without a thread: it gives its seat back as soon as it is told of it."""

    def __init__(self) -> None:
        self.told = 0
        self.ticket: Ticket | None = None  # what `submit` returned, if it did

    def __call__(self, ticket: Ticket) -> None:
        self.told += 1
        ticket.release()

    def look_after(self) -> None:
        """Its owner gives the seat back, should the fault have kept `__call__` from it."""
        if self.ticket is not None and self.ticket.state == "dispatched":
            self.ticket.release()

    def assert_settled(self) -> None:
        """Told of once. Its owner has not got it if `submit` raised: then perhaps it never was asked for."""
        assert self.told <= 1, "told twice"
        if self.ticket is not None:
            assert self.ticket.state in {"released", "refused"}, "never settled"
            assert self.told == 1, "never told"


class World:
    """What acts here is one thread each, that may be struck by the `fault`: all others go on."""

    patience = PATIENCE

    def __init__(
        self,
        config: Config | None = None,
        *,
        seats: int = 1,
        gate: Callable[[ConcurrencyLimit], Gate] | None = None,
        observer: Observer | None = None,
        fault: BaseException | None = None,
    ) -> None:
        self.script = ScriptedClock()
        self.limit = ConcurrencyLimit(seats)
        self.controller = FlowController(
            config,
            gate=self.limit if gate is None else gate(self.limit),
            clock=self.script,
            observer=observer,
            background=False,
        )
        self.fault = fault
        self.struck = False
        self.idle = 0.0  # how long it takes until what is left is collected
        self.asked: list[Asked] = []
        self.held: list[Ticket] = []

    def step(self, act: Callable[[], object]) -> None:
        """One thread's part: a refusal is an end as good as any, and the fault is the end of this thread only."""
        try:
            act()
        except FlowControlError as error:
            self.struck |= self.fault is not None and error.__cause__ is self.fault
        except BaseException as error:
            if error is not self.fault:
                raise
            self.struck = True

    def hold(self, flow: str, priority: int = 0) -> None:
        """Admit, and keep the ticket until the end."""
        self.held.append(self.controller.admit(flow, priority=priority))

    def let_go(self) -> None:
        """Release the ticket that was held for longest."""
        if self.held:
            self.held.pop(0).release()

    def ask(self, flow: str, priority: int = 0, *, ttl: float | None = None, size: int = 0) -> None:
        """Submit."""
        asked = Asked()
        self.asked.append(asked)
        asked.ticket = self.controller.submit(Request(FlowKey(flow, priority), ttl=ttl, size=size), asked)

    def use(self, flow: str, priority: int = 0, *, ttl: float | None = None) -> None:
        """Admit and release."""
        with self.controller.admit(flow, priority=priority, ttl=ttl):
            pass

    def meanwhile(self, *acts: Callable[[], object]) -> None:
        """What others do while somebody is parked, one at a time."""
        for act in acts:
            self.script.meanwhile.append(lambda act=act: self.step(act))  # type: ignore[misc]

    def assert_nothing_is_left(self) -> None:
        """Everybody gives back what he has, one audit; then nothing is leaked, stuck or owed."""
        if self.fault is not None:
            self.fault.__traceback__ = self.fault.__context__ = None  # it holds frames, and they hold tickets
        controller = self.controller
        while self.script.meanwhile:
            self.script.meanwhile.popleft()()
        while self.held:
            self.let_go()
        for asked in self.asked:
            asked.look_after()
        self.script.time += self.idle
        controller.collect()
        for asked in self.asked:
            asked.assert_settled()
        state = controller._state
        turn = state.turn
        stats = controller.stats()
        assert (stats.queued, stats.queued_bytes, stats.in_flight) == (0, 0, 0), "a seat or a place is leaked"
        assert not turn.ledger.has_claims, "a hold is leaked"
        assert not any((turn._torn, turn._owed, turn._returns)), "something is still to be done"
        assert not any((turn.news.settled, turn.news.incidents, turn.news._tellers)), "something is still to be told"
        assert not any(move() for move in state.registry._moves.values()), "a creation never ended"
        controller._check()
        Spawned(self._pass_by).result(self.patience)

    def _pass_by(self) -> None:
        """Another thread finds every lock free and every seat, at flows and bands both old and new."""
        controller = self.controller
        known = [flow for flow in controller.flows() if not flow.id.startswith(RESERVED_PREFIX)]
        for flow in (*known, FlowKey("passer-by", 0), FlowKey("passer-by", 77)):
            try:
                controller.try_admit(flow).release()
            except FlowControlError:
                assert controller._closed
        controller.collect()
        controller.stats()
        controller._check()
