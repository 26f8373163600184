"""The floors: a module of flowctl imports only from floors below its own, and some doors have one keeper.

Every import statement counts, wherever it stands: within a function, and under `if TYPE_CHECKING:` too, since a module
that names a type of a higher floor knows that floor. What it needs from there, it describes in a Protocol of its own.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "flowctl"

# "name.*" is a package whose files are neighbours: they may import each other. Policies may not.
FLOORS = (
    ("request", "stats"),
    ("snapshot",),
    ("usage",),
    ("sync",),
    ("errors", "clock", "atomic", "incidents", "policies.stateless", "policies.ceiling"),
    (
        "lease",
        "profile",
        "wheel",
        "drain",
        "policies",
        "policies.ordering",
        "policies.fairness",
        "policies.limits",
        "policies.displacement",
        "policies.holdback",
        "policies.revocation",
    ),
    ("config", "ticket"),
    ("current",),
    ("queue", "gate", "news", "job", "awaiting", "limiting"),
    ("ranking", "adaptive", "saturation", "crew", "keyed"),
    ("band",),
    ("flow",),
    ("shard", "ledger"),
    ("capacity", "estimate", "sections", "topology", "bands", "revocation"),
    ("dispatch",),
    ("holders", "registry"),
    ("turn",),
    ("collector",),
    ("state",),
    ("controller",),
    ("executor", "testing", "integrations.*", "coordination.*", "dashboard.*", "demo.*"),
    ("__init__", "cli"),
)

# Who may import what stands on its own floor.
SAME_FLOOR = {
    "demo.*": {"integrations.*", "dashboard.*"},  # it shows them
}

# Modules from outside that have one keeper in here, so that a test can swap the threads and the time.
KEEPERS = {
    "threading": "sync",
    "_thread": "sync",
    "queue": "sync",
    "readerwriterlock": "sync",
    "time": "clock",
    "datetime": "clock",
}

# Who may go past a keeper.
PAST_KEEPERS = {
    "demo.*": {"threading", "time"},  # its clients and its back end are the world around flowctl, in real time
}


class Import(NamedTuple):
    module: str
    line: int
    target: str


def test_every_module_stands_on_a_floor() -> None:
    assert homeless(PACKAGE) == []


def test_a_module_imports_only_from_floors_below_its_own() -> None:
    assert upward(PACKAGE) == []


def test_threads_and_time_come_through_one_door() -> None:
    assert past_keepers(PACKAGE) == []


def test_a_module_on_no_floor_is_found(tmp_path: Path) -> None:
    tree(tmp_path, {"sync": "", "utils": "", "policies.base": "", "demo.anything": ""})

    assert homeless(tmp_path) == ["policies.base", "utils"]


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        pytest.param("lease", "from flowctl.flow import Flow", "flowctl.flow.Flow", id="upward"),
        pytest.param("flow", "import flowctl.shard", "flowctl.shard", id="upward by its full name"),
        pytest.param("lease", "from flowctl import turn", "flowctl.turn", id="upward from the package"),
        pytest.param("lease", "from flowctl import Ticket", "flowctl.Ticket", id="a public name"),
        pytest.param("lease", "from . import sync", ".sync", id="relative, so that no floor can be read off it"),
        pytest.param("holders", "import flowctl.registry", "flowctl.registry", id="the same floor"),
        pytest.param("policies.limits", "import flowctl.policies.holdback", "flowctl.policies.holdback", id="a policy"),
        pytest.param("lease", "def f():\n    import flowctl.flow", "flowctl.flow", id="within a function"),
        pytest.param("lease", "if TYPE_CHECKING:\n    import flowctl.flow", "flowctl.flow", id="for types"),
        pytest.param("executor", "import flowctl.demo.run", "flowctl.demo.run", id="the same floor, not invited"),
    ],
)
def test_an_import_of_its_own_floor_or_above_is_found(tmp_path: Path, module: str, source: str, target: str) -> None:
    tree(tmp_path, {name: "" for row in FLOORS for name in row if not name.endswith("*")})
    tree(tmp_path, {"demo.run": "", module: source})

    assert [(found.module, found.target) for found in upward(tmp_path)] == [(module, target)]


def test_an_import_from_below_or_from_a_neighbour_is_allowed(tmp_path: Path) -> None:
    tree(tmp_path, {"sync": "import heapq", "policies.ordering": "", "integrations.wsgi": "", "demo.load": "name = 1"})
    tree(tmp_path, {"queue": "from flowctl import sync\nfrom flowctl.policies.ordering import Fcfs"})
    tree(tmp_path, {"demo.run": "from flowctl.demo.load import name\nimport flowctl.queue, flowctl.integrations.wsgi"})

    assert upward(tmp_path) == []


@pytest.mark.parametrize("outside", sorted(KEEPERS))
def test_a_module_that_goes_past_a_keeper_is_found(tmp_path: Path, outside: str) -> None:
    tree(tmp_path, {KEEPERS[outside]: f"import {outside}", "demo.run": "import threading, time"})
    tree(tmp_path, {"queue": "", "lease": "from flowctl.queue import time\nfrom flowctl import queue"})
    tree(tmp_path, {"turn": f"def f():\n    from {outside}.part import x"})

    assert past_keepers(tmp_path) == [Import("turn", 2, f"{outside}.part.x")]


# How it is found out.


def homeless(package: Path) -> list[str]:
    """The modules that stand on no floor."""
    return sorted(module for module in modules(package) if place(module) is None)


def upward(package: Path) -> list[Import]:
    """The imports within the package that are not from a floor below."""
    known = modules(package)
    return [found for found in imports(package) if not allowed(found.module, inside(found.target, known))]


def past_keepers(package: Path) -> list[Import]:
    """The imports of a guarded module by another than its keeper."""
    found_past = []
    for found in imports(package):
        outside = found.target.partition(".")[0]
        invited = PAST_KEEPERS.get(place(found.module) or "", set())
        if KEEPERS.get(outside, found.module) != found.module and outside not in invited:
            found_past.append(found)
    return found_past


def allowed(module: str, target: str | None) -> bool:
    if target is None:
        return True
    here, there = place(module), place(target)
    if here is None or there is None:
        return True  # on no floor: found by the other rule
    if here == there and here.endswith("*"):
        return True
    return floor(there) < floor(here) or there in SAME_FLOOR.get(here, set())


def inside(target: str, known: Collection[str]) -> str | None:
    """The module of the package that an import reaches, or None if it lies outside."""
    first, *rest = target.split(".")
    if first not in {"flowctl", ""}:
        return None
    while first and rest and ".".join(rest) not in known:
        rest.pop()
    return ".".join(rest) if first and rest else "__init__"  # relative: as bad as the top


def place(module: str) -> str | None:
    """The entry of FLOORS that a module goes by."""
    entries = {entry for row in FLOORS for entry in row}
    package = module.partition(".")[0]
    return next((entry for entry in (module, f"{package}.*") if entry in entries), None)


def floor(entry: str) -> int:
    return next(number for number, row in enumerate(FLOORS) if entry in row)


def modules(package: Path) -> dict[str, Path]:
    """Each module of the package by its name within it; the package itself is `__init__`."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(package: Path) -> Iterator[Import]:
    for module, path in sorted(modules(package).items()):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (Import(module, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = "." * node.level + (node.module + "." if node.module else "")
                yield from (Import(module, node.lineno, source + alias.name) for alias in node.names)


def tree(package: Path, sources: Mapping[str, str]) -> None:
    """Write a small package: the source of each module by its name."""
    for module, source in sources.items():
        path = package.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, "utf-8")
