"""Ways to break a module: each gives a mutant, that is its source with one thing wrong.

They are those of mutmut (an operator turned round, an argument dropped, a value that becomes None, ...), and two that
a core of threads needs besides: a step left out, and a lock not taken. mutmut's own runner is not used: it wraps each
function in a trampoline, which gives exceptions and thread switches places that the code does not have.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """One module with one thing wrong."""

    module: str
    line: int
    original: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.module}-{hashlib.sha256(self.source.encode()).hexdigest()[:16]}"

    @property
    def is_python(self) -> bool:
        try:
            compile(self.source, self.module, "exec")
        except SyntaxError:
            return False
        return self.source != self.original

    @property
    def shown(self) -> str:
        lines = difflib.unified_diff(self.original.splitlines(), self.source.splitlines(), lineterm="", n=2)
        return "\n".join([f"flowctl/{self.module}.py:{self.line}", *list(lines)[2:]])


@final
class _Breaking(cst.CSTVisitor):
    """Collects what can be put in the place of which node.

    Left alone is what no test can be expected to notice: annotations and aliases of types, decorators, `_check` and
    asserts (they are tests themselves), slots (any change of them fails at once), and texts for people (so what is
    raised, too).
    """

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_left_alone(node):
            return False
        line = self.get_metadata(PositionProvider, node).start.line
        for kind, operator in mutation_operators:
            if isinstance(node, kind) and not (isinstance(node, cst.SimpleString) and " " in node.value):
                self.found.extend((line, node, broken) for broken in operator(node))
        self.found.extend((line, node, broken) for broken in _without(node))
        return True


def _is_left_alone(node: cst.CSTNode) -> bool:
    match node:
        case cst.Annotation() | cst.Decorator() | cst.Assert() | cst.Raise() | cst.Import() | cst.ImportFrom():
            return True
        case cst.FunctionDef(name=cst.Name(value="_check")):
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__slots__"))]):
            return True
        case cst.Assign(value=cst.Call(func=cst.Name(value="TypeVar" | "ParamSpec"))):
            return True
        case cst.Assign(value=cst.Subscript(value=cst.Name(value=alias))):
            return alias[0].isupper() or alias == "tuple"
        case _:
            return False


def _without(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The two ways of our own: a call whose result nobody wants, and a deletion, left out; a lock not taken."""
    if isinstance(node, cst.Del) or (isinstance(node, cst.Expr) and isinstance(node.value, cst.Call)):
        yield cst.Pass()
    if isinstance(node, cst.With):
        yield cst.If(test=cst.Name("True"), body=node.body, leading_lines=node.leading_lines)


def sampled(modules: Iterable[str], number: int, seed: int) -> tuple[list[Mutant], int]:
    """So many mutants of these modules, always the same for a seed; and how many ways to break them there are."""
    ways: list[tuple[str, cst.Module, int, cst.CSTNode, cst.CSTNode]] = []
    for module in modules:
        tree = MetadataWrapper(cst.parse_module((ROOT / "flowctl" / f"{module}.py").read_text(encoding="utf-8")))
        breaking = _Breaking()
        tree.visit(breaking)
        ways.extend((module, tree.module, line, node, broken) for line, node, broken in breaking.found)
    random.Random(seed).shuffle(ways)
    made: dict[str, Mutant] = {}
    for module, original, line, node, broken in ways:
        if len(made) == number:
            break
        changed = original.deep_replace(node, broken)
        mutant = Mutant(module, line, original.code, changed.code if isinstance(changed, cst.Module) else original.code)
        if mutant.is_python:  # what mutmut makes of some places is not
            made.setdefault(mutant.source, mutant)
    return list(made.values()), len(ways)
