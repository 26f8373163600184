"""Ordering: which request of a flow goes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Fcfs:
    """First come, first served: a flow's requests go in the order in which they arrived."""
