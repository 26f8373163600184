"""What the documents show works: the Python blocks of README.md and docs/, and the examples in docstrings.

The blocks of one document run in order and share their names, as someone reads them. A block that begins with a prompt
is a doctest, any other is executed. Only a fence of exactly "```python" counts; what cannot run here says
"```python no-run".
"""

import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from benchmarks.markdown import table

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(path for path in (ROOT / "flowctl").rglob("*.py") if ">>> " in path.read_text("utf-8"))


class Block(NamedTuple):
    line: int
    code: str


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_shows_works(document: Path) -> None:
    run(document)


def test_the_readme_shows_some_python() -> None:
    assert blocks(ROOT / "README.md")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_in_docstrings_work(path: Path) -> None:
    module = imported(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    results = doctest.testmod(module)

    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("```python\nassert 1 == 2\n```\n", id="an error"),
        pytest.param("```python\n>>> 1 + 1\n3\n```\n", id="another result"),
        pytest.param("```python\nx = 1\n```\ntext\n```python\n>>> x\n2\n```\n", id="a later block"),
    ],
)
def test_a_block_that_does_not_work_is_found(tmp_path: Path, text: str) -> None:
    document = tmp_path / "README.md"
    document.write_text(text, "utf-8")

    with pytest.raises(AssertionError):
        run(document)


def test_blocks_share_names_and_only_python_runs(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(
        "```python\nx = 1\n```\n```python\n>>> y = x + 1\n```\n```python\nassert y == 2\n```\n", "utf-8"
    )
    run(document)

    document.write_text("```python no-run\nassert False\n```\n```\nnot python\n```\n", "utf-8")
    run(document)


def run(document: Path) -> None:
    """Run the document's blocks; raises what one of them raises, AssertionError where a doctest fails."""
    names: dict[str, object] = {"__name__": document.stem}
    for line, code in blocks(document):
        if code.startswith(">>>"):
            examples = doctest.DocTestParser().get_doctest(code, names, document.name, str(document), line)
            assert doctest.DocTestRunner().run(examples, clear_globs=False).failed == 0
            names.update(examples.globs)
        else:
            # Blank lines in front, so that a traceback names the document's own line.
            exec(compile("\n" * line + code, document, "exec"), names)


def blocks(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(text.count("\n", 0, match.start()) + 1, match[1]) for match in found]


def imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "flowctl":
            raise
        pytest.skip(f"{module} needs {error.name}, of an extra that is not installed")


@pytest.mark.parametrize(("page", "run"), [("README.md", "3.11.json"), ("docs/servers.md", "servers-3.11.json")])
def test_the_figures_of_a_page_are_those_of_its_committed_run(page: str, run: str) -> None:
    assert table(ROOT / "benchmarks" / "results" / run).strip() in (ROOT / page).read_text("utf-8")
