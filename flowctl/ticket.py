"""A request's life: queued, then dispatched and released, or refused. It settles exactly once."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Generic, Literal, Protocol, Self, TypeVar, final

from flowctl.errors import FlowControlError, Outcome, Revoked, Scope, error_for
from flowctl.request import FlowKey, WaitingRoom, check_count
from flowctl.sync import Flag, Parking

_WHY_ITS_TTL: Final = "the queue is too long for its ttl"

ReleaseOutcome = Literal["ok", "dropped", "ignored"]
State = Literal["queued", "dispatched", "released", "refused"]


class Desk(Protocol):
    """Where a ticket is decided and given back."""

    def release(self, ticket: Ticket, outcome: ReleaseOutcome) -> bool: ...

    def withdraw(self, ticket: Ticket, outcome: Outcome) -> bool: ...

    def give_up(self, ticket: Ticket) -> None: ...

    def adjust(self, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool: ...

    def is_held(self, ticket: Ticket) -> bool: ...

    def notice(self, ticket: Ticket) -> Notice: ...

    def ahead(self, ticket: Ticket) -> int | None: ...

    def estimated_wait(self, ticket: Ticket) -> float | None: ...


class Keyed(Protocol):
    """A ticket's flow, as far as the ticket cares."""

    @property
    def key(self) -> FlowKey: ...


@final
class Unborn:
    """Stands for a flow that does not exist yet, or could not be created."""

    __slots__ = ("key",)

    def __init__(self, key: FlowKey) -> None:
        self.key = key


@final
class Notice:
    """Tells a ticket's holder that it is to stop, once there is a reason."""

    __slots__ = ("event", "reason")

    def __init__(self) -> None:
        self.event = Flag()  # set after the reason is there
        self.reason: str | None = None


@final
class Wait:
    """What a ticket has only if it may have to wait."""

    __slots__ = (
        "activation",
        "arrived",
        "cancel",
        "charged",
        "deadline",
        "metadata",
        "on_settled",
        "order",
        "parking",
        "price",
        "retry_after",
        "revocable",
        "room",
        "scope",
        "settled_at",
        "ttl",
        "why",
    )

    def __init__(
        self,
        arrived: float,
        ttl: float | None,
        *,
        on_settled: Callable[[Ticket], None] | None = None,
        cancel: Callable[[], object] | None = None,
        metadata: Mapping[str, object] | None = None,
        room: WaitingRoom | None = None,
        revocable: bool | None = None,
    ) -> None:
        # fixed after construction; seconds of the clock
        self.arrived = arrived
        self.ttl = ttl  # as it was asked for
        self.deadline = math.inf  # known once the band is
        self.on_settled = on_settled
        self.cancel = cancel
        self.metadata = metadata
        self.room = room
        self.revocable = revocable
        # written under the turn before the outcome is, read by anyone after
        self.parking: Parking | None = None  # its thread's, once it is queued
        self.settled_at = arrived
        self.scope: Scope | None = None
        self.retry_after: float | None = None  # seconds
        self.order = 0.0  # its key by the band's ordering policy
        self.price: float | None = None  # what its flow will be charged for it, where that is known already
        self.charged: float | None = None  # to its flow, if others had to wait for it
        self.activation = 0  # of its flow, in which it was
        self.why: BaseException | None = None


@final
class Ticket:
    """One request's place in the queue, and then its seat. Leaving its ``with`` block gives the seat back.

    A ticket may be released by any thread, also by a signal handler. One that is dropped without a release is found
    and given back, and counted.

    >>> from flowctl import ConcurrencyLimit, FlowController
    >>> with FlowController(gate=ConcurrencyLimit(1)) as controller:
    ...     with controller.admit("tenant-a") as ticket:
    ...         state = ticket.state
    >>> state, ticket.state, ticket.outcome
    ('dispatched', 'released', <Outcome.DISPATCHED: 'dispatched'>)
    """

    __slots__ = ("__weakref__", "_desk", "_flow", "cost", "notice", "outcome", "serial", "size", "wait")

    def __init__(self, desk: Desk, flow: Keyed, cost: int, size: int) -> None:
        # fixed after construction
        self._desk = desk
        self.cost = cost
        self.size = size
        # written under the turn, read by anyone; the outcome last
        self._flow = flow
        self.serial = 0
        self.wait: Wait | None = None
        self.notice: Notice | None = None
        self.outcome: Outcome | None = None

    @property
    def key(self) -> FlowKey:
        """The flow that it counts for."""
        return self._flow.key

    @property
    def state(self) -> State:
        if self.outcome is None:
            return "queued"
        if self.outcome is not Outcome.DISPATCHED:
            return "refused"
        return "dispatched" if self._desk.is_held(self) else "released"

    @property
    def waited(self) -> float:
        """Seconds from its arrival until it was settled; 0.0 while it is queued."""
        return 0.0 if self.wait is None else self.wait.settled_at - self.wait.arrived

    @property
    def position(self) -> int | None:
        """Its place in its flow's queue, 1 being the next; None unless it is queued. O(position)."""
        ahead = self._desk.ahead(self)
        return None if ahead is None else ahead + 1

    @property
    def estimated_wait(self) -> float | None:
        """Seconds that it will still be queued, if all goes on as it did; None unless it is queued, and as long as
        nothing is known (the first second in which anybody waits).
        """
        return self._desk.estimated_wait(self)

    @property
    def revoked(self) -> Flag:
        """An event that is set once the holder is asked to stop, and to give the seat back soon: to wait for, or to
        look at. `check` looks more cheaply.
        """
        notice = self.notice
        return (self._desk.notice(self) if notice is None else notice).event

    @property
    def is_revoked(self) -> bool:
        """Is the holder asked to stop?"""
        return self.notice is not None and self.notice.reason is not None

    def check(self) -> None:
        """Raise `Revoked` if the holder is asked to stop: to be called between two steps of long work. Never blocks."""
        notice = self.notice
        if notice is not None and notice.reason is not None:
            raise Revoked(notice.reason, key=self.key, waited=self.waited)

    @property
    def error(self) -> FlowControlError | None:
        """Why it was refused, as a new exception to raise; None if it was not."""
        outcome = self.outcome
        if outcome is None or outcome is Outcome.DISPATCHED:
            return None
        wait = self.wait
        scope = None if wait is None else wait.scope
        error = error_for(outcome)(
            "" if scope is None else _WHY_ITS_TTL if scope == "ttl" else f"the queue is full ({scope} limit)",
            key=self.key,
            waited=self.waited,
            retry_after=None if wait is None else wait.retry_after,
            scope=scope,
        )
        error.__cause__ = None if wait is None else wait.why
        return error

    def release(self, outcome: ReleaseOutcome | None = None) -> bool:
        """Give the seat back and let the next one go; True if this call did, False if it was done, or never granted.

        `outcome` says how the work went, for adaptive limits: "ok" (what None means), "dropped" (the back end was
        overloaded), or "ignored" (tells nothing). Never waits for another request. Raises `RuntimeError` while the
        ticket is queued (that is `cancel`), `ValueError` for another outcome.
        """
        if outcome is None:
            outcome = "ok"
        elif outcome not in ("ok", "dropped", "ignored"):
            raise ValueError(f'outcome must be "ok", "dropped" or "ignored", not {outcome!r}')
        return self._desk.release(self, outcome)

    def adjust(self, cost: int | None = None, **usage: object) -> bool:
        """Say what the work really costs, once that is known. False if the seats were given back before, or never
        granted. Never blocks.

        It holds `cost` seats from now on, and one at least (None: as many as before): fewer let others go, more are
        taken even above the limit. Its flow is charged anew by the fairness policy, with that cost and with `usage`
        added to the request's metadata.
        """
        if cost is not None:
            cost = check_count("cost", cost, at_least=0)
        return self._desk.adjust(self, cost, usage)

    def cancel(self) -> bool:
        """Take it out of its queue; False if it was decided already. A seat is given back by `release`, not by this."""
        return self._desk.withdraw(self, Outcome.EVICTED_CANCELLED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.release("ok" if kind is None else "ignored" if issubclass(kind, Revoked) else "dropped")

    def __repr__(self) -> str:
        return f"<Ticket {self.key.id!r} at {self.key.priority}: {self.state}>"


F = TypeVar("F")


class Hold(weakref.ref[Ticket], Generic[F]):
    """A ticket's claim: on a pin of its flow, and, once it is granted, on `cost` seats.

    The holds are the truth from which every other book of the turn can be made anew. A hold outlives its ticket: when
    that is dropped, its callback (a C function, which no interrupt can split) hands the hold in to be given back.
    """

    __slots__ = ("cost", "flow", "serial", "since", "thread")

    flow: F
    cost: int  # 0 until granted
    since: float  # when it was granted, in seconds of the clock; 0.0 where nobody wants to know
    thread: int  # that asked for it and will hold it; 0 where nobody wants to know, or it is another one
    serial: int  # 0 until it is in the books
