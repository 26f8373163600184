"""What a user holds. Reading `admit` from top to bottom tells the route of a request."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from flowctl import sync
from flowctl.band import Halts
from flowctl.clock import Clock, MonotonicClock
from flowctl.collector import TICK
from flowctl.config import BandConfig, Config
from flowctl.current import passenger_of
from flowctl.errors import Outcome
from flowctl.flow import Flow
from flowctl.gate import Gate
from flowctl.incidents import Incidents
from flowctl.ledger import Ledger
from flowctl.limiting import Limiter, Whose
from flowctl.news import Observer
from flowctl.request import (
    FlowKey,
    Request,
    WaitingRoom,
    check_flow_key,
    check_priority,
    check_request,
    check_room,
    check_ttl,
    shown,
)
from flowctl.state import State
from flowctl.stats import CollectReport
from flowctl.ticket import Ticket, Unborn, Wait
from flowctl.turn import Turn

if TYPE_CHECKING:
    from flowctl.snapshot import Contention, Stats


def _find(state: State, request: Request) -> Flow | None:
    """The flow of a request that may be granted at once; None if there is none, or its deadline is to be looked at."""
    if request.received_at is not None:
        return None
    try:
        return state.bands[request.flow.priority].flow_by_id[request.flow.id]
    except KeyError:
        return None


_ZERO, _ONE = 0, 1  # the interpreter keeps one of each: who passes another goes the longer way round


@final
class FlowController:
    """Decides which request goes next when more work arrives than a back end can take.

    `gate` says how much may be in flight (several: all must agree). `observer` is told what happened. With
    `background=False` there is no collector thread, and `collect()` does its work when it is called. All methods may
    be called from any thread. A forked child finds it empty, with the same configuration. Raises `TypeError` or
    `ValueError` for a bad argument, `RuntimeError` where gevent or eventlet have patched the threads.

    >>> from flowctl import ConcurrencyLimit
    >>> controller = FlowController(gate=ConcurrencyLimit(8))
    >>> with controller.admit("tenant-a", priority=10, ttl=5.0) as ticket:
    ...     ticket.state
    'dispatched'
    >>> controller.close()
    True
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        gate: Gate | Sequence[Gate] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        background: bool = True,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError(f"config must be a Config, not {shown(config)}")
        config = config if config is not None else Config()
        wanted = gate if gate is not None else config.gate
        if wanted is None:
            raise ValueError("gate is required, and says how much may be in flight: gate=ConcurrencyLimit(8)")
        gates: list[Gate] = []
        for each in wanted if isinstance(wanted, Sequence) else (wanted,):
            if not isinstance(each, Gate):
                raise TypeError(f"gate must be a Gate, not {shown(each)}")
            gates.extend(each.parts)
        if not gates or len(set(map(id, gates))) < len(gates):
            raise ValueError(f"gate must be one gate or several different ones, not {shown(wanted)}")
        sync.check_threads_are_real()
        # fixed after construction
        self._config = config
        self._gates = tuple(gates)
        self._clock: Clock = clock if clock is not None else MonotonicClock()
        self._observer = observer
        self._background = background
        self._incidents = Incidents()
        self._closed = False
        self._may_ride = False
        # one change of which bands and shards there are at a time; rank: first of all
        self._changing = sync.RLock()
        self._is_changing = False
        # replaced as a whole in a forked child
        self._enter(self._new_state())
        sync.renew_after_fork(self)

    def _new_state(self) -> State:
        state = State(
            self._config,
            self._gates,
            self._clock,
            observer=self._observer,
            report=self._incidents.report,
            owner=weakref.ref(self),
            background=self._background,
        )
        self._bind_gates(state.turn)
        state.turn.change_gate(lambda now: None)  # the gates may have changed before they were bound
        if self._closed:
            state.turn.close(None)
        return state

    def _enter(self, state: State) -> None:
        self._state = state
        # what `admit` needs if nothing is unusual: empty where it is to look whose code calls it
        self._at_hand = {} if self._may_ride else state.bands
        self._grant = state.turn.grant_on_the_spot

    def _bind_gates(self, turn: Turn) -> None:
        bound: list[Gate] = []
        try:
            for gate in self._gates:
                gate.bind(self, turn.change_gate, self._clock.now)
                bound.append(gate)
        except BaseException:
            for gate in bound:  # whoever keeps the exception keeps us: they are free all the same
                gate.unbind()
            raise

    # --- the route of a request ------------------------------------------------------------------------------------

    def admit(
        self,
        flow: str | FlowKey,
        *,
        priority: int = 0,
        cost: int = _ONE,
        size: int = _ZERO,
        ttl: float | None = None,
        cancel: Callable[[], object] | None = None,
        metadata: Mapping[str, object] | None = None,
        room: WaitingRoom | None = None,
        revocable: bool | None = None,
    ) -> Ticket:
        """Wait for a turn and a seat; the ticket gives them back when its ``with`` block ends, or by `release()`.

        Blocks for at most `ttl` seconds (None: the band's default, 0: not at all); raises a `FlowControlError` if it
        is refused, `ValueError` or `TypeError` for a bad argument, before anything is booked. `cost` is in seats,
        `size` in bytes. `cancel` is asked while it waits, and is true when its client has gone. `room` bounds how
        many wait in the same place. `revocable` says whether it may be asked to stop for more important work (None: by
        its priority; see `Config.revocation`). Within a request that a middleware of this controller serves, it takes
        no seat of its own (see `nested` there).
        """
        if (
            cost is _ONE  # what is usual is known by its identity, and whatever else is checked in full
            and size is _ZERO
            and (priority is _ZERO or type(priority) is int)
            and ttl is None
            and cancel is None
            and metadata is None
            and room is None
            and revocable is None
        ):
            try:
                # what is in the table has passed the checks
                found = self._at_hand[priority].flow_by_id[flow]  # type: ignore[index]
            except (KeyError, TypeError):
                pass
            else:
                ticket = self._grant(found, cost, size, None)
                if ticket is not None:
                    return ticket
                state = self._state
                return self._wait(state, Ticket(state.turn, found, cost, size), Wait(self._clock.now(), None), found)
        key = check_flow_key(flow, priority)
        request = Request(key, cost=cost, size=size, ttl=ttl, metadata=metadata, revocable=revocable)
        return self.admit_request(request, cancel=cancel, room=room)

    def admit_request(
        self, request: Request, *, cancel: Callable[[], object] | None = None, room: WaitingRoom | None = None
    ) -> Ticket:
        """`admit`, where what is asked for stands in one piece. Its wait began at its `received_at`."""
        check_request(request)
        if cancel is not None and not callable(cancel):
            raise TypeError(f"cancel must be callable, not {shown(cancel)}")
        check_room(room)
        passenger = passenger_of(self) if self._may_ride else None
        if passenger is not None:
            return passenger
        state = self._state
        turn, found = state.turn, _find(state, request)
        if found is not None:
            told = None if request.revocable is None else self._wait_of(request)
            ticket = self._grant(found, request.cost, request.size, told)
            if ticket is not None:
                return ticket
        wait = self._wait_of(request, cancel=cancel, room=room)
        return self._wait(state, Ticket(turn, Unborn(request.flow), request.cost, request.size), wait, found)

    def _wait_of(
        self,
        request: Request,
        *,
        on_settled: Callable[[Ticket], None] | None = None,
        cancel: Callable[[], object] | None = None,
        room: WaitingRoom | None = None,
    ) -> Wait:
        now = self._clock.now()
        return Wait(
            now if request.received_at is None else min(request.received_at, now),
            request.ttl,
            on_settled=on_settled,
            cancel=cancel,
            metadata=request.metadata,
            room=room,
            revocable=request.revocable,
        )

    def try_admit(
        self,
        flow: str | FlowKey,
        *,
        priority: int = 0,
        cost: int = 1,
        size: int = 0,
        metadata: Mapping[str, object] | None = None,
    ) -> Ticket:
        """A seat now, or `Saturated`: never waits. Else as `admit`."""
        return self.admit(flow, priority=priority, cost=cost, size=size, ttl=0.0, metadata=metadata)

    async def admit_async(
        self,
        flow: str | FlowKey,
        *,
        priority: int = 0,
        cost: int = 1,
        size: int = 0,
        ttl: float | None = None,
        metadata: Mapping[str, object] | None = None,
        revocable: bool | None = None,
    ) -> Ticket:
        """`admit` for a task of asyncio: it waits on its own loop, and no thread is parked.

        Raises what `admit` raises. A task that is cancelled while it waits has withdrawn its request, or given the
        seat back if dispatch was faster. A seat that is free is taken without suspending. Leaving ``with ticket:``
        never waits, and so needs no ``async with``; any thread or loop may do it.
        """
        key = check_flow_key(flow, priority)
        request = Request(key, cost=cost, size=size, ttl=ttl, metadata=metadata, revocable=revocable)
        return await self.admit_request_async(request)

    async def admit_request_async(self, request: Request) -> Ticket:
        """`admit_async`, where what is asked for stands in one piece."""
        from flowctl.awaiting import Waker  # noqa: PLC0415 - loads asyncio, which who comes here has loaded anyway

        check_request(request)
        passenger = passenger_of(self) if self._may_ride else None
        if passenger is not None:
            return passenger
        waker = Waker()
        return await waker.granted(self.submit(request, waker))

    def submit(
        self, request: Request, on_settled: Callable[[Ticket], None], *, room: WaitingRoom | None = None
    ) -> Ticket:
        """Ask for a seat without waiting: `on_settled(ticket)` is called once it is granted or refused.

        It runs in whichever thread settles the ticket, perhaps in this call, and with no lock held; what it raises is
        logged. Its ticket's `state` and `error` tell how it ended. `room` bounds how many wait in the same place.
        Raises `TypeError` for a bad argument only.
        """
        check_request(request)
        if not callable(on_settled):
            raise TypeError(f"on_settled must be callable, not {shown(on_settled)}")
        check_room(room)
        state = self._state
        turn, found = state.turn, _find(state, request)
        wait = self._wait_of(request, on_settled=on_settled, room=room)
        granted = None if found is None else self._grant(found, request.cost, request.size, wait)
        ticket = Ticket(turn, Unborn(request.flow), request.cost, request.size) if granted is None else granted
        try:
            if granted is not None:
                turn.tell_granted(ticket)
                return ticket
            self._arrive(state, ticket, wait, found)
            if ticket.outcome is None:
                state.look_out(wait.arrived + TICK if state.ticks_while_queued else wait.deadline)
        except BaseException:
            turn.give_up(ticket)
            raise
        return ticket

    def limit(
        self,
        flow: str | FlowKey | Whose,
        *,
        priority: int = 0,
        cost: int = 1,
        size: int = 0,
        ttl: float | None = None,
        metadata: Mapping[str, object] | None = None,
        revocable: bool | None = None,
    ) -> Limiter:
        """A decorator: each call of the function waits for its seats, and gives them back when it ends.

        `flow` may be a function of the call's own arguments; it returns an id, a `FlowKey`, or a `Request`, which says
        all the rest as well. A call raises what `admit` raises. A coroutine function waits on its loop. A generator has
        its seat from the first `next()` until it ends or is closed, is no sample for an adaptive limit, and has
        `Revoked` raised at its `yield` if it is asked to stop (others do not hear of that). What merely returns an
        iterator or an awaitable has its seat until it returns that. Raises `TypeError` or `ValueError` for a bad
        argument, `TypeError` for an async generator function.

        A limited function that calls a limited one asks for a second seat while it holds the first. If none is left it
        waits for itself, until its ttl: limit the outer or the inner one. Within a request that a middleware of this
        controller serves, both ride on that request's seat.

        >>> from flowctl import ConcurrencyLimit
        >>> controller = FlowController(gate=ConcurrencyLimit(8))
        >>> @controller.limit(flow=lambda tenant, text: tenant, ttl=5.0)
        ... def translate(tenant: str, text: str) -> str:
        ...     return text.upper()
        >>> translate("tenant-a", "hello"), controller.stats().dispatched
        ('HELLO', 1)
        >>> controller.close()
        True
        """
        return Limiter(
            self, flow, priority=priority, cost=cost, size=size, ttl=ttl, metadata=metadata, revocable=revocable
        )

    def _wait(self, state: State, ticket: Ticket, wait: Wait, found: Flow | None) -> Ticket:
        """Arrive, and park until the ticket is settled: the ticket if it was granted, else its error is raised."""
        try:
            self._arrive(state, ticket, wait, found)
            if ticket.outcome is None:
                if wait.cancel is not None or state.ticks_while_queued:
                    state.look_out(wait.arrived + TICK)
                self._park(state.turn, ticket, wait)
        except BaseException:
            state.turn.give_up(ticket)
            raise
        if ticket.outcome is not Outcome.DISPATCHED:
            error = ticket.error
            assert error is not None
            try:
                raise error
            finally:
                del error  # it holds its traceback, and that this frame
        return ticket

    def _arrive(self, state: State, ticket: Ticket, wait: Wait, found: Flow | None) -> None:
        """Have the ticket decided or queued, at a flow that is found or created: the optimistic loop."""
        registry, turn = state.registry, state.turn
        ticket.wait = wait
        arrived = False
        while not arrived:
            flow = found
            if flow is None or flow.band.is_retired:
                served = registry.look_up(ticket.key)
                if served is None:
                    self._refuse_for_want_of_a_band(turn, ticket, wait)
                    return
                key, flow = served
                if flow is None:
                    arrived = self._arrive_at_new_flow(state, ticket, wait, key)
                    continue
            # its band says how long to wait
            wait.deadline = self._config.deadline(wait.arrived, wait.ttl, flow.band.config.default_ttl)
            arrived = turn.arrive(ticket, wait, flow)
            if not arrived and flow.lease.is_marked:
                registry.remove(flow)  # help whoever collects it, and go on: it will be a new flow
                found = None
            elif not arrived:
                wait.scope = "flow"  # it has as many pins as a lease can have
                turn.refuse(ticket, Outcome.REJECTED_CAPACITY)
                return

    def _refuse_for_want_of_a_band(self, turn: Turn, ticket: Ticket, wait: Wait) -> None:
        wait.why = LookupError("no band takes requests: all are retired")
        wait.deadline = self._config.deadline(wait.arrived, wait.ttl, None)
        turn.refuse(ticket, turn.refusal(wait, self._clock.now()) or Outcome.REJECTED_OTHER)

    def _arrive_at_new_flow(self, state: State, ticket: Ticket, wait: Wait, key: FlowKey) -> bool:
        """Have it decided or queued at a flow that has to be created; False if that has to be tried again."""
        turn = state.turn
        band = state.bands.get(key.priority)
        limits = state.registry.founded.config_at(key.priority) if band is None else band.config
        wait.deadline = self._config.deadline(wait.arrived, wait.ttl, limits.default_ttl)
        refusal = turn.refusal(wait, self._clock.now())
        if refusal is not None:  # for a request that has no chance nothing is created
            ticket._flow = Unborn(key)
            turn.refuse(ticket, refusal)
            return True
        birth = turn.new_hold(ticket)
        try:
            try:
                flow = state.registry.create(key, partial(turn.adopt, birth))
                state.look_out()
            except Exception as error:  # noqa: BLE001 - from a constructor of the user's own: the caller is told why
                wait.why = error
                turn.refuse(ticket, Outcome.REJECTED_OTHER)
                return True
            if flow.band.config is not limits:
                wait.deadline = self._config.deadline(wait.arrived, wait.ttl, flow.band.config.default_ttl)
            return turn.arrive(ticket, wait, flow, birth)
        finally:
            if birth.serial != ticket.serial:
                turn.disown(birth)  # the ticket did not arrive by it

    def _park(self, turn: Turn, ticket: Ticket, wait: Wait) -> None:
        """Wait until the ticket is settled. Whoever gives up takes it out; if dispatch was faster, it is kept."""
        clock = self._clock
        assert wait.parking is not None
        until = None if wait.deadline == math.inf else wait.deadline
        while ticket.outcome is None:
            clock.park(wait.parking, until)
            if ticket.outcome is not None:
                return
            if clock.now() >= wait.deadline:
                turn.withdraw(ticket, Outcome.EVICTED_TTL)
            elif wait.cancel is not None and turn.news.client_left(wait.cancel):
                turn.withdraw(ticket, Outcome.EVICTED_CANCELLED)
            elif sync.exiting():
                turn.withdraw(ticket, Outcome.EVICTED_CLOSED)
            else:
                turn.help()  # the slice is over: perhaps whoever should have woken us is gone

    # --- looking ---------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A snapshot. Each number is exact; those of flows may be a moment older than those of requests."""
        from flowctl.snapshot import BandStats, Stats  # noqa: PLC0415 - see there

        registry, turn = self._state.registry, self._state.turn
        flows: Counter[int] = Counter()
        for shard in registry.topology.shards:
            flows.update(shard.counts())
        bands = sorted(registry.bands.entries.copy().items(), reverse=True)
        signals = self._state.signals()

        def snapshot(ledger: Ledger) -> Stats:
            in_flight: Counter[int] = Counter()
            for hold in list(ledger.holds.values()):
                in_flight[hold.flow.band.priority] += hold.cost
            return Stats(
                queued=ledger.queued,
                queued_bytes=ledger.queued_bytes,
                in_flight=ledger.in_flight,
                limit=turn.limit_locked(),
                saturation=turn.saturation_locked(),
                flows=flows.total(),
                bands={
                    priority: BandStats(
                        priority=priority,
                        queued=band.queued,
                        queued_bytes=band.queued_bytes,
                        in_flight=in_flight[priority],
                        flows=flows[priority],
                        max_requests=band.config.max_requests,
                        max_bytes=band.config.max_bytes,
                    )
                    for priority, band in bands
                },
                shards=len(registry.topology.live),
                dispatched=ledger.dispatched,
                rejected=ledger.rejected,
                evicted=ledger.evicted,
                folded=registry.folded.load(),
                abandoned=turn.abandoned,
                repairs=turn.repairs,
                incidents=self._incidents.count,
                signals=signals,
                revocations=turn.revocations.stats(),
                overdue=len(self._state.overdue),
            )

        return turn.read(snapshot)

    def contention(self) -> Contention | None:
        """Where threads met since this process began, and how long they waited for each other; None without
        `Config.profile`.
        """
        profile = self._state.profile
        return profile and profile.seen([shard.lock for shard in self._state.registry.topology.live])

    def flows(self) -> list[FlowKey]:
        """The flows that exist, the highest priority first, then by id."""
        keys = [flow.key for flow in self._state.registry.flows()]
        return sorted(keys, key=lambda key: (-key.priority, key.id))

    def bands(self) -> list[int]:
        """The priorities that have a band, the highest first."""
        return sorted(self._state.bands.copy(), reverse=True)

    # --- changing --------------------------------------------------------------------------------------------------

    def resize(self, shards: int) -> None:
        """Change the number of shards. New flows go by the new number, existing ones stay where they are until they are
        collected; no request is lost, refused or reordered by it. Raises `TypeError` or `ValueError`.
        """

        def change() -> None:
            self._config = replace(self._config, shards=shards)
            self._state.registry.topology.resize(self._config.shards)

        self._change_alone(change)

    def add_band(self, band: BandConfig) -> None:
        """Configure one more band, from now on. One that exists at this priority, from a template or because it is
        still draining after `retire_band`, takes its limits and weights, and goes on. Raises `ValueError` if it is
        configured already, or exists with another ordering or fairness, or would be one too many.
        """
        if not isinstance(band, BandConfig):
            raise TypeError(f"band must be a BandConfig, not {shown(band)}")
        if band.priority is None:
            raise ValueError("band.priority is required (only a template has none)")

        def change() -> None:
            state, others = self._state, [other for other in self._config.bands if other.priority != band.priority]
            state.turn.open(state.registry.add_band(band), band)
            self._config = replace(self._config, bands=[*others, band])

        self._change_alone(change)

    def retire_band(self, priority: int) -> None:
        """Let a band go: what is queued in it is served, new requests go to the nearest band below, else above, and the
        collector takes it away once it has drained. Then its priority is unknown again. Raises `ValueError` if there
        is no such band.
        """
        priority = check_priority(priority)

        def change() -> None:
            state, others = self._state, [band for band in self._config.bands if band.priority != priority]
            state.turn.retire(state.registry.retire_band(priority))
            self._config = replace(self._config, bands=others)

        self._change_alone(change)

    def _change_alone(self, change: Callable[[], None]) -> None:
        """Run a change of which bands and shards there are, one at a time. A signal handler or finaliser that came in
        the middle of its own thread's section or change would wait for itself.
        """
        if not self._state.turn.is_interrupted():
            with self._changing:
                if not self._is_changing:
                    self._is_changing = True
                    try:
                        change()
                    finally:
                        self._is_changing = False
                    return
        raise RuntimeError(
            "a signal handler or finaliser that interrupted its own thread cannot change bands and shards"
        )

    def pause(self, flow: str | FlowKey | None = None, *, priority: int = 0) -> None:
        """Let requests of this flow wait, whatever is free; of the whole band, if `flow` is None. Their deadlines stay
        what they are. It holds for what comes too, also for a flow or band that does not exist yet.
        """
        self._halt(flow, priority, lambda halts, who: Halts(halts.paused | who, halts.drained - who))

    def drain(self, flow: str | FlowKey | None = None, *, priority: int = 0) -> None:
        """Refuse new requests of this flow with `Rejected`, and serve those that wait; of the whole band, if `flow` is
        None.
        """
        self._halt(flow, priority, lambda halts, who: Halts(halts.paused - who, halts.drained | who))

    def resume(self, flow: str | FlowKey | None = None, *, priority: int = 0) -> None:
        """Take back what `pause` or `drain` said of this flow, or of the band as a whole."""
        self._halt(flow, priority, lambda halts, who: Halts(halts.paused - who, halts.drained - who))

    def _halt(
        self,
        flow: str | FlowKey | None,
        priority: int,
        change: Callable[[Halts, frozenset[str | None]], Halts],
    ) -> None:
        who: str | None = None
        if flow is None:
            priority = check_priority(priority)
        else:
            who, priority = check_flow_key(flow, priority)
        state = self._state
        state.turn.halt(state.bands, priority, lambda halts: change(halts, frozenset([who])))

    # --- upkeep ----------------------------------------------------------------------------------------------------

    def let_ride(self) -> None:
        """From now on `admit` looks whether the code of a request of this controller calls it. For middlewares."""
        self._may_ride = True
        self._at_hand = {}

    def report(self, what: str, error: BaseException) -> None:
        """Count and log what foreign code raised: in `stats().incidents`, and the 1st, 2nd, 4th, ... of its kind."""
        self._incidents.report(what, error)

    def collect(self) -> CollectReport:
        """Run one whole cycle of the collector, and tell what it took away. Returns at once if one is running."""
        return self._state.collect()

    def close(self, drain: float | None = None) -> bool:
        """Refuse whatever comes, evict whatever is queued, wait `drain` seconds at most for what is in flight (None:
        not at all), stop the collector. True if nothing is left in flight. May be called again.
        """
        seconds = check_ttl(drain, "drain")
        self._closed = True
        empty = self._state.turn.close(None if seconds is None else self._clock.now() + seconds)
        self._state.stop(wait=not self._state.turn.is_interrupted())
        return empty

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def after_fork_in_child(self) -> None:
        """Called in a forked child, where nothing of the parent's is in flight."""
        halts = self._state.turn.ledger.halts  # never changed, only replaced
        self._state.turn.after_fork_in_child()
        self._changing, self._is_changing = sync.RLock(), False
        self._incidents = Incidents()
        self._enter(self._new_state())
        self._state.turn.ledger.halts = halts

    def _check(self) -> None:
        """Assert every invariant. At rest: nothing is being created or collected."""
        self._state._check()
