"""flowctl: fair, prioritised, bounded flow control for threaded Python.

See `FlowController`; everything else here is what it takes and what it gives.
"""

import logging as _logging

from flowctl.config import BandConfig, Config
from flowctl.controller import FlowController
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
from flowctl.gate import ConcurrencyLimit
from flowctl.policies.displacement import LongestFlow, LowerPriority, Never
from flowctl.policies.fairness import GlobalStrict, RoundRobin, WeightedFair
from flowctl.policies.ordering import EarliestDeadline, Fcfs, SloDeadline
from flowctl.request import FlowKey, Request, WaitingRoom
from flowctl.stats import BandStats, CollectReport, Stats
from flowctl.ticket import Ticket

__version__ = "0.1.0"

__all__ = [
    "BandConfig",
    "BandStats",
    "Cancelled",
    "ClosedWhileQueued",
    "CollectReport",
    "ConcurrencyLimit",
    "Config",
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
    "GlobalStrict",
    "LongestFlow",
    "LowerPriority",
    "Never",
    "Outcome",
    "QueueFull",
    "Rejected",
    "Request",
    "Revoked",
    "RoundRobin",
    "Saturated",
    "SloDeadline",
    "Stats",
    "Ticket",
    "WaitingRoom",
    "WeightedFair",
    "__version__",
]

_logging.getLogger("flowctl").addHandler(_logging.NullHandler())
