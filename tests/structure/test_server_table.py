"""The table of servers in `docs/servers.md` has a row for each test, and a word for each server."""

from tests.servers.kinds import KINDS
from tests.servers.matrix import BEGIN, END, PAGE, Word, read, row_of, rows, write


def test_the_table_has_a_row_for_each_test_and_a_column_for_each_server() -> None:
    table = read(PAGE.read_text("utf-8"))

    assert list(table) == rows(), "make matrix"
    assert [list(words) for words in table.values()] == [[kind.name for kind in KINDS]] * len(table)
    assert all(word for words in table.values() for word in words.values())


def test_what_is_written_is_read_again() -> None:
    words = [Word(row, kind.name, f"{row} by {kind.name}") for row in rows() for kind in KINDS]

    page = write(f"before\n{BEGIN}old\n{END}after\n", words, "some versions")

    assert read(page) == {row: {kind.name: f"{row} by {kind.name}" for kind in KINDS} for row in rows()}
    assert (page.startswith(f"before\n{BEGIN}"), page.endswith(f"{END}after\n")) == (True, True)
    assert "\nsome versions\n" in page


def test_the_row_of_a_test_is_its_name() -> None:
    assert row_of("test_a_rule") == "a rule"
    assert row_of("test_start_response_comes_late") == "`start_response` comes late"
