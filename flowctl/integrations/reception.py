"""What a middleware does with a request before it has a seat: who needs none, whose it is, who is only watched.

P1  A path that is exempt asks for nothing: no classifier, no queue, no seat. It is counted.
P2  What a classifier raises, or returns by mistake, is counted and logged, and ends as the operator says.
P3  A request that is only watched never waits and is never refused; what would have become of it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Generic, Literal, TypeVar, final, get_args

from flowctl.atomic import CellWord
from flowctl.controller import FlowController
from flowctl.errors import Outcome, Rejected
from flowctl.integrations.asked import as_request, check_choice
from flowctl.request import FlowKey, Request, WaitingRoom, shown
from flowctl.ticket import ReleaseOutcome, Ticket

OnClassifyError = Literal["default", "refuse"]
"""A request whose classifier failed is one of the flow `DEFAULT_FLOW`, or is refused with 503."""

DEFAULT_FLOW: Final = "default"
"""Whose requests those are that cannot be told apart: they share what one flow gets."""

REMEMBERED: Final = 1024
"""So many flows' requests are kept, each of some hundred bytes."""

QUEUED: Final = "queued"

_EVICTED: Final = frozenset(outcome for outcome in Outcome if outcome.value.startswith("evicted"))

E = TypeVar("E")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptionStats:
    """What a middleware has counted since it was made.

    `shadow` counts what only watched requests met: "dispatched" at once, "queued", or the outcome by which they would
    have been refused; of those that were queued also how they were evicted, "evicted_cancelled" being the ones whose
    work was done before their turn would have come.
    """

    exempt: int
    classify_errors: int
    shadow: Mapping[str, int]


@final
class Reception(Generic[E]):
    """Of one middleware. `E` is what its classifier is given."""

    __slots__ = (
        "_below",
        "_classify",
        "_controller",
        "_errors",
        "_exempt",
        "_known",
        "_paths",
        "_refuses",
        "_shadow",
        "exempts",
        "watches",
    )

    def __init__(
        self,
        controller: FlowController,
        classify: Callable[[E], object],
        *,
        exempt: Iterable[str],
        shadow: bool,
        on_classify_error: OnClassifyError,
    ) -> None:
        paths = _checked_paths(exempt)
        check_choice("on_classify_error", on_classify_error, get_args(OnClassifyError))
        if not isinstance(shadow, bool):
            raise TypeError(f"shadow must be a bool, not {shown(shadow)}")
        # fixed after construction
        self._controller = controller
        self._classify = classify
        self._paths = frozenset(path for path in paths if not path.endswith("*"))
        self._below = tuple(path[:-1] for path in paths if path.endswith("*"))
        self.exempts = bool(paths)
        self._refuses = on_classify_error == "refuse"
        self.watches = shadow
        # changed in single steps by anyone
        self._known: dict[str, Request] = {}
        # counted by anyone
        self._exempt = CellWord()
        self._errors = CellWord()
        self._shadow = {word: CellWord() for word in (QUEUED, *(outcome.value for outcome in Outcome))}

    def is_exempt(self, path: str) -> bool:
        """Needs a request of this path no seat?"""
        if path not in self._paths and not path.startswith(self._below):
            return False
        self._exempt.fetch_add(1)
        return True

    def asked(self, environ: E) -> Request:
        """What the classifier asks for. If it fails, and that is to be refused, `Rejected` with the reason."""
        try:
            named = self._classify(environ)
            if type(named) is not str:
                return as_request(named)
            try:
                return self._known[named]
            except KeyError:
                return self._remembered(named)
        except Exception as error:
            self._errors.fetch_add(1)
            self._controller.report("classify", error)
            if self._refuses:
                raise Rejected("its classifier failed") from error
            return Request(FlowKey(DEFAULT_FLOW))

    def _remembered(self, flow_id: str) -> Request:
        """The request of a flow that was not seen lately. To make one takes longer than to grant it."""
        request = as_request(flow_id)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[flow_id] = request
        return request

    def watch(self, environ: E, room: WaitingRoom | None = None) -> Ticket | None:
        """See what becomes of a request that is served all the same; None if it would not have been asked for. Whoever
        serves it takes the ticket out of the queue, or off its seats, when that is done.
        """
        try:
            request = self.asked(environ)
        except Rejected as refusal:
            self._count(refusal.outcome.value)
            return None
        ticket = self._controller.submit(replace(request, revocable=False), self._settled, room=room)
        outcome = ticket.outcome
        self._count(QUEUED if outcome is None or outcome in _EVICTED else outcome.value)
        return ticket

    def _settled(self, ticket: Ticket) -> None:
        if ticket.outcome in _EVICTED:
            self._count(ticket.outcome.value)

    def _count(self, word: str) -> None:
        self._shadow[word].fetch_add(1)

    def stats(self) -> ReceptionStats:
        """A snapshot."""
        shadow = {word: count.load() for word, count in self._shadow.items()}
        return ReceptionStats(
            exempt=self._exempt.load(), classify_errors=self._errors.load(), shadow=MappingProxyType(shadow)
        )


def _checked_paths(exempt: Iterable[str]) -> list[str]:
    if isinstance(exempt, str) or not isinstance(exempt, Iterable):
        raise TypeError(f"exempt must be paths, such as ['/health', '/static/*'], not {shown(exempt)}")
    paths = list(exempt)
    for path in paths:
        if not isinstance(path, str):
            raise TypeError(f"exempt must be paths, such as ['/health', '/static/*'], not {shown(path)}")
        if not path.startswith("/") or "*" in path[:-1] or (path.endswith("*") and not path.endswith("/*")):
            raise ValueError(f"exempt must be paths that begin with / and may end with /*, not {shown(path)}")
    return paths


def leave(ticket: Ticket, outcome: ReleaseOutcome) -> None:
    """Give back what a ticket has: its seat, or, if it only watches, perhaps still its place in the queue."""
    if ticket.outcome is None:
        ticket.cancel()
    if ticket.outcome is not None:
        ticket.release(outcome)
