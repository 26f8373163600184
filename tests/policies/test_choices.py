"""The tables of docs/policies.md are what the controller does."""

from collections.abc import Callable

import pytest

from tests.policies.choices import DOCUMENT, TABLES, Rows, markdown, written


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_a_table_of_the_document_is_what_comes_out(make: Callable[[], Rows]) -> None:
    document = DOCUMENT.read_text("utf-8")

    assert written(document, make.__name__, markdown(make())) == document, "python -m tests.policies.choices writes it"


def test_a_table_without_a_place_is_found() -> None:
    with pytest.raises(AssertionError, match="no place for table 'nobody'"):
        written(DOCUMENT.read_text("utf-8"), "nobody", "")
