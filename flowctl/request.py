"""What is asked: a flow's name, and a request of it, checked before anything is booked."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, final

MAX_ID_BYTES = 256
MIN_PRIORITY, MAX_PRIORITY = -(2**31), 2**31 - 1
MAX_COUNT = 2**53
"""The largest cost and size: sums of them stay exact, and no request can be larger than any back end."""

RESERVED_PREFIX = "\0"
"""Ids that begin so are the library's own (many made-up ids share them)."""


@final
class WaitingRoom:
    """A bound on the requests that wait in one place, such as the threads of one server: in all, and of one flow.

    Two rooms of the same size are two rooms. Raises `TypeError` or `ValueError`, naming the argument and the rule.
    """

    __slots__ = ("limit", "limit_per_flow")

    def __init__(self, limit: int, limit_per_flow: int) -> None:
        # fixed after construction
        self.limit = check_count("limit", limit, at_least=1)
        self.limit_per_flow = check_count("limit_per_flow", limit_per_flow, at_least=1)

    def __repr__(self) -> str:
        return f"WaitingRoom(limit={self.limit}, limit_per_flow={self.limit_per_flow})"


class FlowKey(NamedTuple):
    """The identity of a flow. The same id at two priorities is two flows.

    >>> FlowKey("tenant-a", priority=10)
    FlowKey(id='tenant-a', priority=10)
    """

    id: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, as `FlowController.submit` takes it.

    `cost` is in seats, `size` in bytes, `ttl` in seconds of waiting (None: the band's default, 0: do not wait) and
    `received_at` in seconds of the controller's clock (None: now). `metadata` is for ordering policies;
    `revocable` says whether it may be asked to stop (None: by its priority).
    Raises `TypeError` or `ValueError`, naming the argument, its value and the rule.

    >>> Request(FlowKey("tenant-a"), cost=0)
    Traceback (most recent call last):
    ...
    ValueError: cost must be at least 1, not 0
    """

    flow: FlowKey
    _: KW_ONLY
    cost: int = 1
    size: int = 0
    ttl: float | None = None
    received_at: float | None = None
    metadata: Mapping[str, object] | None = None
    revocable: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowKey):
            raise TypeError(f"flow must be a FlowKey, not {shown(self.flow)}")
        flow_id, priority = check_flow_id(self.flow.id), check_priority(self.flow.priority)
        is_exact = flow_id is self.flow.id and priority is self.flow.priority
        exact: dict[str, object] = {
            "flow": self.flow if is_exact else FlowKey(flow_id, priority),
            "cost": check_count("cost", self.cost, at_least=1),
            "size": check_count("size", self.size, at_least=0),
            "ttl": check_ttl(self.ttl),
            "received_at": None if self.received_at is None else check_seconds("received_at", self.received_at),
        }
        for name, value in exact.items():
            if getattr(self, name) is not value:  # a subclass of int or str is not let into the books
                object.__setattr__(self, name, value)
        if self.metadata is not None and not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, not {shown(self.metadata)}")
        check_revocable(self.revocable)


def check_flow_id(flow_id: object) -> str:
    """The id as an exact `str` of 1 to 256 bytes of UTF-8."""
    if not isinstance(flow_id, str):
        raise TypeError(f"flow id must be a str, not {shown(flow_id)}")
    if not flow_id:
        raise ValueError("flow id must have at least 1 byte, not ''")
    try:
        # a character has at least one byte: a very long id is refused without being encoded
        length = len(flow_id) if len(flow_id) > MAX_ID_BYTES else len(flow_id.encode())
    except UnicodeEncodeError:
        raise ValueError(f"flow id must be valid UTF-8 (no lone surrogates), not {shown(flow_id)}") from None
    if length > MAX_ID_BYTES:
        raise ValueError(f"flow id must have at most {MAX_ID_BYTES} bytes of UTF-8, not {shown(flow_id)}")
    if flow_id.startswith(RESERVED_PREFIX):
        raise ValueError(f"flow id must not begin with NUL (reserved), not {shown(flow_id)}")
    return str.__str__(flow_id)


def check_priority(priority: object) -> int:
    """The priority as an exact `int` in [-2^31, 2^31)."""
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise TypeError(f"priority must be an int, not {shown(priority)}")
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise ValueError(f"priority must be in [-2**31, 2**31), not {shown(priority)}")
    return int(priority)


def check_count(name: str, count: object, *, at_least: int) -> int:
    """A whole number of something, as an exact `int`."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} must be an int, not {shown(count)}")
    if count < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {shown(count)}")
    if count > MAX_COUNT:
        raise ValueError(f"{name} must be at most 2**53, not {shown(count)}")
    return int(count)


def check_seconds(name: str, seconds: object) -> float:
    """A finite number of seconds, as a `float`."""
    return check_number(name, seconds, "a number of seconds")


def check_number(name: str, value: object, what: str = "a number") -> float:
    """A finite number, as an exact `float`."""
    number = to_float(name, value, what)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, not {shown(value)}")
    return number


def to_float(name: str, value: object, what: str = "a number") -> float:
    """A number as an exact `float`, which may be NaN or infinite, as an int beyond every float is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be {what}, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_ttl(ttl: object, name: str = "ttl") -> float | None:
    """A time to wait: None, or finite seconds >= 0."""
    if ttl is None:
        return None
    seconds = check_seconds(name, ttl)
    if seconds < 0:
        raise ValueError(f"{name} must be at least 0, not {shown(ttl)}")
    return seconds


def check_flow_key(flow: object, priority: object) -> FlowKey:
    """A flow, as methods take it: an id and a priority, or a key, beside which the priority need not be said again."""
    exact = check_priority(priority)
    if isinstance(flow, FlowKey):
        of_the_key = check_priority(flow.priority)
        if exact not in (0, of_the_key):
            raise ValueError(f"priority must be that of the FlowKey ({of_the_key}), not {exact}")
        flow, exact = flow.id, of_the_key
    return FlowKey(check_flow_id(flow), exact)


def check_request(request: object) -> None:
    """What is asked for, in one piece."""
    if not isinstance(request, Request):
        raise TypeError(f"request must be a Request, not {shown(request)}")


def check_room(room: object) -> None:
    """A waiting room, or None."""
    if room is not None and not isinstance(room, WaitingRoom):
        raise TypeError(f"room must be a WaitingRoom, not {shown(room)}")


def check_revocable(revocable: object) -> None:
    """True, False, or None."""
    if revocable is not None and not isinstance(revocable, bool):
        raise TypeError(f"revocable must be a bool or None, not {shown(revocable)}")


def shown(value: object) -> str:
    """A value as an error shows it: short, even where it is 10 MB, and never failing."""
    try:
        return f"{reprlib.repr(value)} ({type(value).__name__})" if not isinstance(value, int) else reprlib.repr(value)
    except Exception:  # noqa: BLE001 - a repr of the caller's own that raises, or an int too large to print
        return f"a {type(value).__name__}"
