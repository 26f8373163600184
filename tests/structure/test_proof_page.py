"""`docs/proof.md` tells of every claim that the explorer and the models make, and of every promise."""

import re

import pytest

from tests.interleave import (
    test_lease_interleavings,
    test_nested_interleavings,
    test_registry_interleavings,
    test_turn_interleavings,
)
from tests.model.claims import CLAIMS
from tests.proof import Missed, Shown
from tests.proof.__main__ import PAGE
from tests.proof.page import PROMISED, page

EXPLORED = [
    claim.text
    for module in (
        test_lease_interleavings,
        test_nested_interleavings,
        test_registry_interleavings,
        test_turn_interleavings,
    )
    for claim in module.CLAIMS
]
CELLS = {cell.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() for cell in line.split("|")}


@pytest.mark.parametrize("claim", [*EXPLORED, *(claim.claim for claim in CLAIMS)])
def test_the_page_has_each_claim(claim: str) -> None:
    assert claim in CELLS, "make proof"


@pytest.mark.parametrize("promise", PROMISED)
def test_the_page_shows_each_promise(promise: str) -> None:
    assert any(re.match(rf"(.*, )?{promise}\b", cell) for cell in CELLS), "make proof"


def test_no_claim_is_made_twice() -> None:
    assert len(set(EXPLORED)) == len(EXPLORED)


def test_a_row_sums_what_was_noted_of_its_claim_and_names_what_it_missed() -> None:
    shown = [Shown("P7", "nothing leaks", "faults", 20, "points", 1.5) for _ in range(2)]
    shown += [Shown("L1", "a mark is final", "explored", 1000, "schedules", 2.0)]
    missed = [Missed("nothing leaks", "the audit", found, "points") for found in (7, 3)]

    text = page(shown, missed, "somewhere")

    assert text.index("| L1 | a mark is final | explored | 1,000 schedules | 2.0 | - |") < text.index(
        "| P7 | nothing leaks | faults | 40 points | 3.0 | the audit (3) |"
    )
    assert "2 claims; 1 negative controls" in text
