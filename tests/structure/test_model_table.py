"""The table in docs/design.md that maps the models' transitions to the code: complete, and true."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")


class Row(NamedTuple):
    model: str
    transition: str
    file: str
    function: str
    step: str


ROWS = [Row(*found) for found in re.findall(r"^\| " + r" \| ".join([r"`([^`]+)`"] * 5) + r" \|$", DESIGN, re.MULTILINE)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model}:{row.transition}")
def test_a_step_stands_in_the_function_that_the_table_names(row: Row) -> None:
    source = (ROOT / "flowctl" / row.file).read_text("utf-8")
    functions = [
        ast.get_source_segment(source, node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == row.function
    ]

    assert any(row.step in function for function in functions)


@pytest.mark.parametrize("model", ["lease.pml", "ticket.pml"])
def test_the_table_has_every_transition_of_a_model_and_no_other(model: str) -> None:
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "tests" / "model" / model).read_text("utf-8"), flags=re.DOTALL)
    declared = re.search(r"mtype = \{(.*?)\}", text, re.DOTALL)  # the first: others are not of the code
    assert declared is not None
    names = set(re.findall(r"\w+", declared[1]))

    assert {row.transition for row in ROWS if row.model == model} == names
    for name in names:
        assert re.search(rf"\b(AT|TAKEN|SECTION)\({name}\)", text), f"{name} is never taken"
