"""Queue limits: which of them keeps a request out, and who makes room for it.

Under the turn. Nothing is changed here: evicting and booking are the caller's, in the same section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, final

from flowctl.band import PriorityBand
from flowctl.config import Config
from flowctl.errors import Scope
from flowctl.flow import Flow
from flowctl.ledger import Ledger
from flowctl.policies.displacement import Displacement, Never, Newcomer
from flowctl.ticket import Ticket, Wait

LOOKED_AT: Final = 256
"""Of so many at most whom a policy names it is seen whether their leaving helps: the turn is held meanwhile."""


@final
class Room:
    """The limit that keeps a request out, or None and those who have to leave for it."""

    __slots__ = ("error", "full", "tripped", "victims")

    def __init__(
        self,
        full: Scope | None = None,
        victims: Sequence[Ticket] = (),
        *,
        tripped: Sequence[Scope] = (),
        error: Exception | None = None,
    ) -> None:
        self.full = full
        self.victims = victims
        self.tripped = tripped  # all limits that it would exceed, if one keeps it out
        self.error = error  # what a displacement policy raised: then nobody leaves


ROOMY: Final = Room()
"""No limit keeps it out, and nobody has to leave."""


def make_room(config: Config, ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> Room:
    """See whether a request can be queued. Nobody is named in vain: all limits hold without the victims, and some
    limit would not without any one of them.
    """
    if (
        ledger.queued < flow.band.roomy_requests
        and ledger.queued_bytes + ticket.size <= flow.band.roomy_bytes
        and wait.room is None
        and config.max_requests is None
        and config.max_bytes is None
    ):
        return ROOMY
    exceeded = list(_exceeded(config, ledger, ticket, wait, flow))
    if not exceeded:
        return ROOMY
    tripped = [excess.scope for excess in exceeded]
    queue, band = flow.queue, flow.band
    newcomer = Newcomer(band.priority, band.share(queue.requests + 1, queue.size + ticket.size))
    victims: dict[int, Ticket] = {}
    for excess in exceeded:
        try:
            _choose(victims, excess, ledger, newcomer)
        except Exception as error:  # noqa: BLE001 - a policy of the user's own; the caller reports it
            return Room(excess.scope, tripped=tripped, error=error)
        if not excess.is_met(victims.values()):
            return Room(excess.scope, tripped=tripped)
    for serial in tuple(victims):  # a large one may have made the smaller ones before it needless
        victim = victims.pop(serial)
        if not all(excess.is_met(victims.values()) for excess in exceeded):
            victims[serial] = victim
    return Room(victims=list(victims.values()))


def _choose(victims: dict[int, Ticket], excess: _Excess, ledger: Ledger, newcomer: Newcomer) -> None:
    """Add whom the policy names, until the limit would hold."""
    for victim in islice(excess.policy.victims(newcomer, excess.among), LOOKED_AT):
        if excess.is_met(victims.values()):
            return
        helps = excess.relieved_by(victim) and (excess.requests > 0 or victim.size)
        if helps and ledger.queued_ticket(victim.serial) is victim:
            victims[victim.serial] = victim


def _nobody(victim: Ticket) -> bool:
    return False


def _anybody(victim: Ticket) -> bool:
    return True


@final
class _Excess:
    """A limit, by how much a request would exceed it, who says who may have to leave, and whose leaving helps."""

    __slots__ = ("among", "bytes", "policy", "relieved_by", "requests", "scope")

    def __init__(
        self,
        scope: Scope,
        requests: int,
        bytes_: int,
        *,
        policy: Displacement = Never(),
        among: Sequence[PriorityBand[Flow]] = (),
        relieved_by: Callable[[Ticket], bool] = _nobody,
    ) -> None:
        self.scope = scope
        self.requests = requests
        self.bytes = bytes_
        self.policy = policy
        self.among = among
        self.relieved_by = relieved_by

    def is_met(self, leaving: Iterable[Ticket]) -> bool:
        """Would the limit hold without these?"""
        relief = [victim.size for victim in leaving if self.relieved_by(victim)]
        return len(relief) >= self.requests and sum(relief) >= self.bytes


def _exceeded(config: Config, ledger: Ledger, ticket: Ticket, wait: Wait, flow: Flow) -> Iterator[_Excess]:
    """The limits that this request would exceed, the narrowest first."""
    band, room, size = flow.band, wait.room, ticket.size
    limits = band.config
    over = _over(flow.queue.requests, limits.max_requests_per_flow, flow.queue.size + size, limits.max_bytes_per_flow)
    if over is not None:
        yield _Excess("flow", *over)
    over = _over(band.queued, limits.max_requests, band.queued_bytes + size, limits.max_bytes)
    if over is not None:
        yield _Excess(
            "band",
            *over,
            policy=limits.displacement,
            among=[band],
            relieved_by=lambda victim: victim.serial in band.backlog,
        )
    over = _over(ledger.queued, config.max_requests, ledger.queued_bytes + size, config.max_bytes)
    if over is not None:
        yield _Excess("global", *over, policy=config.displacement, among=ledger.waiting, relieved_by=_anybody)
    if room is None:
        return
    if ledger.waiting_of[room, flow] >= room.limit_per_flow:
        yield _Excess("threads per flow", 1, 0)
    if ledger.waiting_in[room] >= room.limit:

        def waits_there(victim: Ticket) -> bool:
            return victim.wait is not None and victim.wait.room is room

        yield _Excess("threads", 1, 0, policy=config.displacement, among=ledger.waiting, relieved_by=waits_there)


def _over(queued: int, max_requests: int | None, total_bytes: int, max_bytes: int | None) -> tuple[int, int] | None:
    """By how many requests and bytes one more is too much, if it is; exactly at a limit is allowed."""
    if (max_requests is None or queued < max_requests) and (max_bytes is None or total_bytes <= max_bytes):
        return None
    requests = 0 if max_requests is None else max(queued + 1 - max_requests, 0)
    return requests, 0 if max_bytes is None else max(total_bytes - max_bytes, 0)
