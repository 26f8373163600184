"""What a scenario's file may say, and what is wrong with one.

S1  Whatever is wrong is said before anything runs, in one line: the field, its value, and the rule.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, final

from benchmarks.load import MOST_THREADS, Holds, Tenant
from flowctl import BandConfig, EarliestDeadline, Fcfs, GlobalStrict, RoundRobin, WeightedFair
from flowctl.policies.fairness import Fairness
from flowctl.policies.ordering import Ordering
from flowctl.request import check_count, check_flow_id, check_number, check_priority, shown

LONGEST: Final = 600.0
"""Seconds that a scenario may last."""

LONGEST_HOLD: Final = 60.0
MOST_SEATS: Final = 1_000
FASTEST: Final = 5_000.0
"""Arrivals a second: more than that, threads of one process do not ask for in time."""

FAIRNESS: Final[Mapping[str, Fairness]] = {
    "round-robin": RoundRobin(),
    "weighted-fair": WeightedFair(),
    "global-strict": GlobalStrict(),
}
ORDERING: Final[Mapping[str, Ordering]] = {"fcfs": Fcfs(), "earliest-deadline": EarliestDeadline()}

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a file says, checked. Either `threads` or `rate` is 0."""

    name: str
    seats: int
    hold: float
    holds: Holds
    seconds: float
    threads: int
    rate: float
    seed: int
    tenants: Sequence[Tenant]
    bands: Sequence[BandConfig]


# --- reading -------------------------------------------------------------------------------------------------------


def read(path: Path) -> Scenario:
    """The scenario in a file. `ValueError` with one line of what is wrong."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8: {error}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"must be TOML: {error}") from None
    return parsed(document, path.stem)


def parsed(document: Mapping[str, object], name: str) -> Scenario:
    """The scenario in a document; its name, if it gives none. `ValueError` with one line of what is wrong."""
    try:
        return _parsed(Fields(document), name)
    except TypeError as error:  # a number where text should be, and the like
        raise ValueError(str(error)) from None


@final
class Fields:
    """The fields of one table, each taken once; `end` refuses what is left."""

    def __init__(self, table: object, path: str = "") -> None:
        if not isinstance(table, Mapping):
            raise TypeError(f"{path} must be a table, not {shown(table)}")
        self._table: dict[str, object] = dict(table)
        self._path = path
        self._known: list[str] = []

    def name(self, key: str) -> str:
        """As errors call it."""
        return f"{self._path}.{key}" if self._path else key

    def take(self, key: str, check: Callable[[str, object], T], default: T) -> T:
        """The value of a field, if it passes; the default where it is not given."""
        found = self.take_if_given(key, check)
        return default if found is None else found

    def take_required(self, key: str, check: Callable[[str, object], T]) -> T:
        """The value of a field, if it passes."""
        found = self.take_if_given(key, check)
        if found is None:
            raise ValueError(f"{self.name(key)} is required")
        return found

    def take_if_given(self, key: str, check: Callable[[str, object], T]) -> T | None:
        """The value of a field, if it passes; None where it is not given."""
        self._known.append(key)
        return check(self.name(key), self._table.pop(key)) if key in self._table else None

    def end(self) -> None:
        """No field is left."""
        if self._table:
            unknown = next(iter(self._table))
            raise ValueError(f"{self.name(unknown)} is not known: choose from {', '.join(self._known)}")


def _parsed(fields: Fields, name: str) -> Scenario:
    found = Scenario(
        name=fields.take("name", _text, name),
        seats=fields.take_required("seats", partial(_count, most=MOST_SEATS)),
        hold=fields.take_required("hold", partial(_above_zero, most=LONGEST_HOLD)),
        holds=fields.take("holds", _holds, "constant"),
        seconds=fields.take_required("seconds", partial(_above_zero, most=LONGEST)),
        threads=fields.take("threads", partial(_count, most=MOST_THREADS), 0),
        rate=fields.take("rate", partial(_above_zero, most=FASTEST), 0.0),
        seed=fields.take("seed", partial(check_count, at_least=0), 1),
        tenants=fields.take_required("tenants", _tenants),
        bands=(),
    )
    if bool(found.threads) is bool(found.rate):
        rule = "threads (a closed loop) or rate (an open loop) is required"
        raise ValueError(f"{rule}, not both" if found.threads else rule)
    if found.threads and found.threads < len(found.tenants):
        raise ValueError(f"threads must be at least one for each of {len(found.tenants)} tenants, not {found.threads}")
    bands = fields.take("bands", partial(_bands, found.tenants), _missing_bands(found.tenants, ()))
    fields.end()
    return replace(found, bands=bands)


def _tables(name: str, value: object) -> list[Fields]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be at least one table ([[{name}]]), not {shown(value)}")
    return [Fields(table, f"{name}[{index}]") for index, table in enumerate(value)]


def _tenants(name: str, value: object) -> Sequence[Tenant]:
    found: list[Tenant] = []
    for fields in _tables(name, value):
        tenant = Tenant(
            name=fields.take_required("name", _flow_id),
            share=fields.take("share", partial(_above_zero, most=1e6), 1.0),
            weight=fields.take("weight", partial(_above_zero, most=1e6, least=1e-6), 1.0),
            priority=fields.take("priority", _priority, 0),
            ttl=fields.take_if_given("ttl", partial(_seconds, most=LONGEST)),
            cost=fields.take("cost", partial(_count, most=MOST_SEATS), 1),
        )
        if tenant.name in {other.name for other in found}:
            raise ValueError(f"{fields.name('name')} must be another than those before, not {shown(tenant.name)}")
        fields.end()
        found.append(tenant)
    return tuple(found)


def _bands(tenants: Sequence[Tenant], name: str, value: object) -> Sequence[BandConfig]:
    found: list[BandConfig] = []
    for fields in _tables(name, value):
        priority = fields.take_required("priority", _priority)
        if priority not in {tenant.priority for tenant in tenants}:
            raise ValueError(f"{fields.name('priority')} must be that of a tenant, not {priority}")
        if priority in {band.priority for band in found}:
            raise ValueError(f"{fields.name('priority')} must be another than those before, not {priority}")
        weights = _weights(tenants, priority)
        kind = fields.take(
            "fairness", partial(_one_of, choices=FAIRNESS), "weighted-fair" if weights else "round-robin"
        )
        if weights and kind != "weighted-fair":
            raise ValueError(f"{fields.name('fairness')} must be weighted-fair where weights differ, not {kind!r}")
        usual = BandConfig()
        found.append(
            BandConfig(
                priority=priority,
                fairness=FAIRNESS[kind],
                weights=weights,
                ordering=ORDERING[fields.take("ordering", partial(_one_of, choices=ORDERING), "fcfs")],
                max_requests=fields.take_if_given("max_requests", _limit) or usual.max_requests,
                max_requests_per_flow=fields.take_if_given("max_requests_per_flow", _limit),
                default_ttl=fields.take_if_given("default_ttl", partial(_seconds, most=LONGEST)),
            )
        )
        fields.end()
    return (*found, *_missing_bands(tenants, [band.priority for band in found]))


def _missing_bands(tenants: Sequence[Tenant], there: Sequence[int | None]) -> Sequence[BandConfig]:
    """Those of the tenants that no table speaks of, which need one because they have weights."""
    made = []
    for priority in sorted({tenant.priority for tenant in tenants} - set(there)):
        weights = _weights(tenants, priority)
        if weights:
            made.append(BandConfig(priority=priority, fairness=WeightedFair(), weights=weights))
    return tuple(made)


def _weights(tenants: Sequence[Tenant], priority: int) -> dict[str, float]:
    """Those of a band; empty if all are the same."""
    weights = {tenant.name: tenant.weight for tenant in tenants if tenant.priority == priority}
    return weights if len(set(weights.values())) > 1 else {}


# --- the checks of single values -----------------------------------------------------------------------------------


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{name} must be a line of text, not {shown(value)}")
    return value


def _flow_id(name: str, value: object) -> str:
    try:
        return _text(name, check_flow_id(_text(name, value)))
    except ValueError as error:
        raise ValueError(str(error).replace("flow id", name)) from None


def _priority(name: str, value: object) -> int:
    try:
        return check_priority(value)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error).replace("priority", name)) from None


def _one_of(name: str, value: object, choices: Mapping[str, object]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {shown(value)}")
    return value


def _holds(name: str, value: object) -> Holds:
    if value == "constant":
        return "constant"
    if value == "exponential":
        return "exponential"
    raise ValueError(f"{name} must be constant or exponential, not {shown(value)}")


def _count(name: str, value: object, most: int) -> int:
    count = check_count(name, value, at_least=1)
    if count > most:
        raise ValueError(f"{name} must be at most {most:,}, not {shown(value)}")
    return count


def _limit(name: str, value: object) -> int:
    return check_count(name, value, at_least=1)


def _seconds(name: str, value: object, most: float) -> float:
    seconds = check_number(name, value)
    if not 0 <= seconds <= most:
        raise ValueError(f"{name} must be from 0 to {most:g}, not {shown(value)}")
    return seconds


def _above_zero(name: str, value: object, most: float, least: float = 0.0) -> float:
    number = check_number(name, value)
    if not max(least, 0.0) <= number <= most or not number:
        raise ValueError(f"{name} must be {f'from {least:g}' if least else 'above 0'} to {most:g}, not {shown(value)}")
    return number
