"""A function whose calls take seats: what `FlowController.limit` puts around it.

M1  A call has one ticket, and gives it back once, however it ends.
M2  A function keeps its kind: one with `async` waits on its loop, and a generator has its seat while it is open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping
from functools import wraps
from types import TracebackType
from typing import Final, ParamSpec, Protocol, TypeVar, final

from flowctl.errors import Revoked
from flowctl.request import FlowKey, Request, check_flow_key, shown
from flowctl.ticket import Ticket

P = ParamSpec("P")
T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")
R = TypeVar("R")

Whose = Callable[..., str | FlowKey | Request]
"""Says whose call this is. It is given the call's own arguments."""

_UNSAID: Final = Request(FlowKey("whoever calls"))
"""What is asked for where nothing is said."""


class Door(Protocol):
    """Where seats are asked for, as far as a limited function cares."""

    def admit_request(self, request: Request) -> Ticket: ...

    async def admit_request_async(self, request: Request) -> Ticket: ...


@final
class Limiter:
    """A decorator: each call of what it decorates waits for its seats. Made by `FlowController.limit`."""

    __slots__ = ("_door", "_said", "_terms", "_whose")

    def __init__(
        self,
        door: Door,
        flow: str | FlowKey | Whose,
        *,
        priority: int,
        cost: int,
        size: int,
        ttl: float | None,
        metadata: Mapping[str, object] | None,
        revocable: bool | None,
    ) -> None:
        whose = None if isinstance(flow, str | FlowKey) else flow
        if whose is not None and (not callable(whose) or inspect.iscoroutinefunction(whose)):
            raise TypeError(
                f"flow must be a str, a FlowKey, or a plain function that returns one or a Request, not {shown(flow)}"
            )
        key = check_flow_key(flow if whose is None else _UNSAID.flow.id, priority)
        # fixed after construction
        self._door = door
        self._whose = whose
        self._terms = Request(key, cost=cost, size=size, ttl=ttl, metadata=metadata, revocable=revocable)
        self._said = _said(self._terms)

    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]:
        """The function, limited. Raises `TypeError` for what cannot be."""
        if not callable(function) or isinstance(function, type | staticmethod):
            raise TypeError(
                f"limit must decorate a function, not {shown(function)} (below @classmethod and @staticmethod)"
            )
        if _is(inspect.isasyncgenfunction, function):
            raise TypeError(
                f"limit cannot decorate an async generator function, as {shown(function)} is: nobody tells when one is"
                " dropped; write 'with await controller.admit_async(...)' around what uses it"
            )
        if _is(inspect.iscoroutinefunction, function):
            return self._coroutine(function)  # type: ignore[arg-type, return-value]  # T is a coroutine
        if _is(inspect.isgeneratorfunction, function):
            return self._generator(function)  # type: ignore[arg-type, return-value]  # T is a generator
        return self._plain(function)

    def _plain(self, function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._door.admit_request(self._asked(args, kwargs)):
                return function(*args, **kwargs)

        return limited

    def _coroutine(self, function: Callable[P, Coroutine[Y, S, R]]) -> Callable[P, Coroutine[Y, S, R]]:
        @wraps(function)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            with await self._door.admit_request_async(self._asked(args, kwargs)):
                return await function(*args, **kwargs)

        return limited

    def _generator(self, function: Callable[P, Generator[Y, S, R]]) -> Callable[P, Generator[Y, S, R]]:
        @wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, S, R]:
            with self._door.admit_request(self._asked(args, kwargs)) as ticket:
                try:
                    result = yield from _Watched(function(*args, **kwargs), ticket)
                except GeneratorExit:
                    ticket.release("ignored")  # whoever leaves early tells nothing of the back end,
                    raise
                ticket.release("ignored")  # and how long it took is as much its reader's doing
            return result

        return limited

    def _asked(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Request:
        """Whose call it is, and on which terms."""
        terms = self._terms
        if self._whose is None:
            return terms
        named = self._whose(*args, **kwargs)
        if isinstance(named, str | FlowKey):
            return Request(  # `replace` takes a microsecond more
                check_flow_key(named, terms.flow.priority),
                cost=terms.cost,
                size=terms.size,
                ttl=terms.ttl,
                metadata=terms.metadata,
                revocable=terms.revocable,
            )
        if not isinstance(named, Request):
            raise TypeError(f"flow must return a str, a FlowKey or a Request, not {shown(named)}")
        if named.received_at is not None:
            raise ValueError(f"flow must return a Request whose received_at is None, not {shown(named.received_at)}")
        if self._said:
            raise ValueError(
                f"{', '.join(self._said)} must not be said to limit() where flow returns a Request, which says it"
            )
        return named


@final
class _Watched(Generator[Y, S, R]):
    """A generator that is told where it stands, by `Revoked`, once its ticket is asked to stop."""

    __slots__ = ("_inner", "_is_told", "_ticket")

    def __init__(self, inner: Generator[Y, S, R], ticket: Ticket) -> None:
        self._inner = inner
        self._ticket = ticket
        self._is_told = False

    def send(self, value: S, /) -> Y:
        revoked = None if self._is_told else self._reason()
        if revoked is None:
            return self._inner.send(value)
        self._is_told = True
        return self._inner.throw(revoked)

    def throw(
        self, kind: type[BaseException] | BaseException, value: object = None, trace: TracebackType | None = None, /
    ) -> Y:
        if value is None and trace is None:
            return self._inner.throw(kind)
        return self._inner.throw(kind, value, trace)  # type: ignore[arg-type]  # the old way, as it came

    def _reason(self) -> Revoked | None:
        try:
            self._ticket.check()
        except Revoked as revoked:
            return revoked
        return None


def _is(kind: Callable[[object], bool], function: Callable[..., object]) -> bool:
    """Is it of this kind, or an object whose `__call__` is?"""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004 - the method is what is asked about


def _said(asked: Request) -> tuple[str, ...]:
    """The names of what differs from what is asked for anyway."""
    said = {
        "priority": asked.flow.priority != _UNSAID.flow.priority,
        "cost": asked.cost != _UNSAID.cost,
        "size": asked.size != _UNSAID.size,
        "ttl": asked.ttl is not None,
        "metadata": asked.metadata is not None,
        "revocable": asked.revocable is not None,
    }
    return tuple(name for name, is_said in said.items() if is_said)
