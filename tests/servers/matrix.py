"""``python -m tests.servers.matrix``: ask each server each question, and write the answers into `docs/servers.md`.

A row is a test, its name the rule; a column is a server. Later runs of the tests say it if the table does not.
"""

# ruff: noqa: T201 - it talks to a terminal

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, final

from tests.servers.client import ROOT
from tests.servers.kinds import KINDS

PAGE: Final = ROOT / "docs" / "servers.md"
BEGIN: Final = "<!-- the matrix: make matrix -->\n"
END: Final = "<!-- the end of the matrix -->\n"
TESTS: Final = sorted(Path(__file__).parent.glob("test_matrix_*.py"))

NAMES: Final = {
    "start response": "`start_response`",
    "exc info": "`exc_info`",
    "system exit": "`SystemExit`",
    "head request": "`HEAD` request",
}
"""What is no English in the name of a test."""

Table = Mapping[str, Mapping[str, str]]
"""The words: of a row, of a column."""


class Word(NamedTuple):
    """What a test saw a server do, in a word or a few."""

    row: str
    column: str
    word: str


@final
class Saw:
    """Where a test notes its word: ``saw("served")``. It fails if the table says otherwise."""

    def __init__(self, row: str, column: str, notes: Path | None) -> None:
        self._row = row
        self._column = column
        self._notes = notes

    def __call__(self, word: str) -> None:
        if self._notes is None:
            said = read(PAGE.read_text("utf-8")).get(self._row, {}).get(self._column)
            assert word == said, "docs/servers.md says otherwise: make matrix"
        else:
            with self._notes.open("a", encoding="utf-8") as notes:
                notes.write(json.dumps(Word(self._row, self._column, word)) + "\n")


def row_of(test: str) -> str:
    """The row of a test, by its name."""
    row = test.removeprefix("test_").replace("_", " ")
    for words, name in NAMES.items():
        row = row.replace(words, name)
    return row


def rows() -> list[str]:
    """The rows that there are tests for, in their order."""
    tests = re.compile(r"^def (test_\w+)\(", re.MULTILINE)
    return [row_of(test) for path in TESTS for test in tests.findall(path.read_text("utf-8"))]


def read(page: str) -> Table:
    """The table that stands in the page."""
    head, _, *lines = [cells(line) for line in between(page).splitlines() if line.startswith("|")]
    return {row: dict(zip(head[1:], words, strict=True)) for row, *words in lines}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def between(page: str) -> str:
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)]


def write(page: str, words: Sequence[Word], versions: str) -> str:
    """The page, with this table in it."""
    said = {(word.row, word.column): word.word for word in words}
    columns = [kind.name for kind in KINDS]
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(said[row, column] for column in columns)] for row in rows()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    return f"{before}\n{table}\n{versions}\n\n{after}"


def versions() -> str:
    servers = ", ".join(f"{kind.name} {kind.version}" for kind in KINDS if kind.package is not None)
    return f"{servers}; {platform.python_implementation()} {platform.python_version()}, whose wsgiref it is."


def main() -> int:
    """Run it; the exit status: 0, or 1 and the page as it was."""
    absent = [kind.name for kind in KINDS if kind.version is None]
    if absent:
        print(f"not installed: {', '.join(absent)}; the table is as it was", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        notes = Path(directory) / "words.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "--matrix", str(notes), *map(str, TESTS)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            print("a test failed; the table is as it was", file=sys.stderr)
            return 1
        words = [Word(*json.loads(line)) for line in notes.read_text("utf-8").splitlines()]
    PAGE.write_text(write(PAGE.read_text("utf-8"), words, versions()), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
