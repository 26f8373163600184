"""flowctl: fair, prioritised, bounded flow control for threaded Python.

See `FlowController`; everything else here is what it takes and what it gives.
"""

import logging as _logging
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from flowctl.config import BandConfig, Config
from flowctl.controller import FlowController
from flowctl.current import current_ticket
from flowctl.errors import (
    Cancelled,
    ClosedWhileQueued,
    ControllerClosed,
    Displaced,
    Evicted,
    Expired,
    ExpiredOnArrival,
    FlowControlError,
    Outcome,
    QueueFull,
    Rejected,
    Revoked,
    Saturated,
)
from flowctl.gate import ConcurrencyLimit, Gate, InFlight, MaxOf
from flowctl.policies.ceiling import Static
from flowctl.policies.displacement import LongestFlow, LowerPriority, Never
from flowctl.policies.fairness import GlobalStrict, RoundRobin, WeightedFair
from flowctl.policies.ordering import EarliestDeadline, Fcfs, SloDeadline
from flowctl.policies.revocation import Revocation
from flowctl.request import FlowKey, Request, WaitingRoom
from flowctl.stats import CollectReport, RevocationStats, SignalState
from flowctl.ticket import Ticket

if TYPE_CHECKING:
    from flowctl.adaptive import AdaptiveLimit
    from flowctl.policies.holdback import Holdback
    from flowctl.policies.limits import Aimd, Gradient2, QueueWait
    from flowctl.saturation import Saturation
    from flowctl.snapshot import BandStats, Contention, LockUse, ShardUse, Stats, WordUse

del TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLimit",
    "Aimd",
    "BandConfig",
    "BandStats",
    "Cancelled",
    "ClosedWhileQueued",
    "CollectReport",
    "ConcurrencyLimit",
    "Config",
    "Contention",
    "ControllerClosed",
    "Displaced",
    "EarliestDeadline",
    "Evicted",
    "Expired",
    "ExpiredOnArrival",
    "Fcfs",
    "FlowControlError",
    "FlowController",
    "FlowKey",
    "Gate",
    "GlobalStrict",
    "Gradient2",
    "Holdback",
    "InFlight",
    "LockUse",
    "LongestFlow",
    "LowerPriority",
    "MaxOf",
    "Never",
    "Outcome",
    "QueueFull",
    "QueueWait",
    "Rejected",
    "Request",
    "Revocation",
    "RevocationStats",
    "Revoked",
    "RoundRobin",
    "Saturated",
    "Saturation",
    "ShardUse",
    "SignalState",
    "SloDeadline",
    "Static",
    "Stats",
    "Ticket",
    "WaitingRoom",
    "WeightedFair",
    "WordUse",
    "__version__",
    "current_ticket",
]

_logging.getLogger("flowctl").addHandler(_logging.NullHandler())

# Not everybody has a limit that adapts, a signal, or a part held back, or looks at once: these are loaded by whoever
# names one first.
_LATER = {
    "AdaptiveLimit": "flowctl.adaptive",
    "Aimd": "flowctl.policies.limits",
    "BandStats": "flowctl.snapshot",
    "Contention": "flowctl.snapshot",
    "Gradient2": "flowctl.policies.limits",
    "Holdback": "flowctl.policies.holdback",
    "LockUse": "flowctl.snapshot",
    "QueueWait": "flowctl.policies.limits",
    "Saturation": "flowctl.saturation",
    "ShardUse": "flowctl.snapshot",
    "Stats": "flowctl.snapshot",
    "WordUse": "flowctl.snapshot",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(_import_module(_LATER[name]), name)
    globals()[name] = found  # from here on it is there
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
