"""The public names: exactly these, in order, each with a docstring of its own."""

import tomllib
import types
from pathlib import Path

import pytest

import flowctl

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

PUBLIC = {
    "AdaptiveLimit",
    "Aimd",
    "BandConfig",
    "BandStats",
    "Cancelled",
    "ClosedWhileQueued",
    "CollectReport",
    "ConcurrencyLimit",
    "Config",
    "Contention",
    "ControllerClosed",
    "Displaced",
    "EarliestDeadline",
    "Evicted",
    "Expired",
    "ExpiredOnArrival",
    "Fcfs",
    "FlowControlError",
    "FlowController",
    "FlowKey",
    "Gate",
    "GlobalStrict",
    "Gradient2",
    "Holdback",
    "InFlight",
    "LockUse",
    "LongestFlow",
    "LowerPriority",
    "MaxOf",
    "Never",
    "Outcome",
    "QueueFull",
    "QueueWait",
    "Rejected",
    "Request",
    "Revocation",
    "RevocationStats",
    "Revoked",
    "RoundRobin",
    "Saturated",
    "Saturation",
    "ShardUse",
    "SignalState",
    "SloDeadline",
    "Static",
    "Stats",
    "Ticket",
    "WaitingRoom",
    "WeightedFair",
    "WordUse",
    "__version__",
    "current_ticket",
}


def test_all_holds_the_public_names_sorted() -> None:
    assert list(flowctl.__all__) == sorted(PUBLIC)


def test_nothing_else_is_public_at_the_top_level() -> None:
    assert visible(flowctl) - PUBLIC == set()


def test_a_name_that_leaks_is_found() -> None:
    module = types.ModuleType("flowctl")
    vars(module).update(sync=types.ModuleType("flowctl.sync"), threading=types.ModuleType("threading"), helper=print)

    assert visible(module) == {"threading", "helper"}


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_public_name_has_a_docstring_of_its_own(name: str) -> None:
    doc = getattr(flowctl, name).__doc__ or ""

    assert doc
    assert not doc.startswith(f"{name}("), "that is the signature that Python writes where there is no docstring"


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]

    assert flowctl.__version__ == project["version"]


def visible(module: types.ModuleType) -> set[str]:
    """The names without an underscore, but for the submodules, which any import of them puts there."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        if not (isinstance(value, types.ModuleType) and value.__name__ == f"{module.__name__}.{name}")
    }
