"""A fault at one point of a story after the other, until the story has no more points.

Where `FLOWCTL_SPARSE` is a number, the longest of these tests strike at each of so many points only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from tests.proof import Proof

SPARSE: Final = int(os.environ.get("FLOWCTL_SPARSE") or 1)

Tell = Callable[[int], int]
"""Tells a story with a fault at this point (0: none), and says how many points were passed until then."""


def strike_each_point(tell: Tell, every: int = 1) -> int:
    """Tell the story once with a fault at each point, or at each of so many; how often it was told."""
    told = 0
    while tell(1 + told * every) > told * every:
        told += 1
    return told


def assert_found(tell: Tell, proof: Proof, claim: str, removed: str) -> None:
    """See that a fault at some point shows that this protection was taken away."""
    struck = 0

    def strike(at: int) -> int:
        nonlocal struck
        struck = at
        return tell(at)

    try:
        strike_each_point(strike)
    except Exception:  # noqa: BLE001 - whatever it is that fails
        proof.missed(claim, removed, struck, "points")
    else:
        pytest.fail("nothing has shown that it was gone")
