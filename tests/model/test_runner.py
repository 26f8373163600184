"""The runner believes no search that was not complete, and every removal is a switch that the model has."""

from __future__ import annotations

import re

import pytest

from tests.model.__main__ import HERE, Broken, Searched, read_search, transitions
from tests.model.claims import CLAIMS, NEVER_SERVED, PARKED_FOR_EVER, Claim

COMPLETE = """
taken FIND
taken MARK
(Spin Version 6.5.2 -- 6 December 2019)
State-vector 136 byte, depth reached 91, errors: 0
   781427 states, stored
  1562033 states, matched
"""
TRUNCATED = "error: max search depth too small\n\nWarning: Search not completed\n" + COMPLETE
OUT_OF_MEMORY = "pan: reached -DMEMLIM bound\n\nWarning: Search not completed\n" + COMPLETE
FOUND = """
pan:1: assertion violated  !(L1_broken) (at depth 12)
pan: wrote lease.pml.trail

Warning: Search not completed
State-vector 136 byte, depth reached 91, errors: 1
      110 states, stored
"""


def test_a_complete_search_without_an_error_is_believed() -> None:
    assert read_search(COMPLETE) == Searched(781427, None, frozenset({"FIND", "MARK"}))


@pytest.mark.parametrize(
    ("printed", "rule"),
    [
        ("assertion violated  !(L1_broken)", "L1_broken"),
        ("assertion violated (what<=4)", "assertion violated (what<=4)"),
        ("invalid end state", PARKED_FOR_EVER),
        ("acceptance cycle", NEVER_SERVED),
    ],
)
def test_a_broken_rule_is_told_with_the_states_until_then(printed: str, rule: str) -> None:
    found = FOUND.replace("assertion violated  !(L1_broken)", printed)

    assert read_search(found) == Searched(110, rule, frozenset())


@pytest.mark.parametrize("output", [TRUNCATED, OUT_OF_MEMORY, "", "pan: out of memory\n", FOUND.replace("pan:1", "")])
def test_a_search_that_was_not_complete_says_nothing(output: str) -> None:
    with pytest.raises(Broken):
        read_search(output)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim)
def test_every_switch_of_a_claim_is_known_to_its_model(claim: Claim) -> None:
    model = (HERE / f"{claim.model}.pml").read_text("utf-8")

    for switch in (*claim.switches.split(), *(removal.switch for removal in claim.removals)):
        assert re.search(rf"^#if(n?)def {switch.split('=')[0]}$", model, re.MULTILINE)


def test_each_model_is_missed_without_at_least_ten_protections_in_all() -> None:
    assert sum(len(claim.removals) for claim in CLAIMS) >= 10
    assert len({removal.switch for claim in CLAIMS for removal in claim.removals}) >= 10


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.claim)
def test_every_rule_that_a_removal_breaks_is_one_of_the_model(claim: Claim) -> None:
    model = (HERE / f"{claim.model}.pml").read_text("utf-8")
    rules = {PARKED_FOR_EVER, NEVER_SERVED, *re.findall(r"(?:assert\(!|BROKEN\()(\w+)", model)}

    assert {removal.rule for removal in claim.removals} <= rules


@pytest.mark.parametrize("model", ["lease", "ticket"])
def test_what_has_to_be_taken_is_what_the_model_can_take(model: str) -> None:
    text = (HERE / f"{model}.pml").read_text("utf-8")

    for name in transitions(model):
        assert re.search(rf"\b(AT|TAKEN|SECTION)\({name}\)", text), f"{name} says nothing when it is taken"
