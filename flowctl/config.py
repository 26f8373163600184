"""Configuration: frozen, keyword-only, and complete once it is constructed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flowctl.lease import MAX_IDLE
from flowctl.policies.ceiling import Ceilings, Static
from flowctl.policies.displacement import Displacement, LongestFlow, LowerPriority
from flowctl.policies.fairness import Fairness, RoundRobin
from flowctl.policies.ordering import Fcfs, Ordering
from flowctl.policies.revocation import Revocation
from flowctl.request import check_count, check_flow_id, check_priority, check_seconds, check_ttl, shown

_MIN_WEIGHT = 1e-9  # the largest cost over the smallest weight, and sums of that, are still exact enough


@dataclass(frozen=True, slots=True, kw_only=True)
class BandConfig:
    """One priority band, or a template for bands that are not configured. A limit of None is no limit.

    Raises `TypeError` or `ValueError`, naming the field, its value and the rule.
    """

    # None only in a template
    priority: int | None = None
    ordering: Ordering = field(default_factory=Fcfs)
    fairness: Fairness = field(default_factory=RoundRobin)
    # what a process can hold and still answer within a usual TTL
    max_requests: int | None = 5_000
    max_bytes: int | None = 1_000_000_000
    max_requests_per_flow: int | None = None
    max_bytes_per_flow: int | None = None
    # at the band's own limit
    displacement: Displacement = field(default_factory=LongestFlow)
    # seconds in the queue; None: the global default
    default_ttl: float | None = None
    # by flow id, for a fairness policy that minds; others weigh 1.0
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.priority is not None:
            object.__setattr__(self, "priority", check_priority(self.priority))
        for name in ("max_requests", "max_bytes", "max_requests_per_flow", "max_bytes_per_flow"):
            _check_limit(name, getattr(self, name))
        check_ttl(self.default_ttl, "default_ttl")
        _check_policy("ordering", self.ordering, "key")
        _check_policy("fairness", self.fairness, "charge")
        _check_policy("displacement", self.displacement, "victims")
        object.__setattr__(self, "weights", _checked_weights(self.weights))

    def at(self, priority: int) -> BandConfig:
        """The configuration of a band that is made from this template."""
        return replace(self, priority=priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A controller. Times are seconds; a limit of None is no limit.

    Raises `TypeError` or `ValueError`, naming the field, its value and the rule.

    >>> Config(flow_gc_timeout=300.0, band_gc_timeout=60.0)
    Traceback (most recent call last):
    ...
    ValueError: band_gc_timeout must be at least flow_gc_timeout (300.0), not 60.0
    """

    # how much may be in flight: a `Gate` or several; the controller's own argument wins, and one of them is needed
    gate: object | None = None
    bands: Sequence[BandConfig] = ()
    default_band: BandConfig = field(default_factory=BandConfig)
    # for priorities below 0; None: default_band
    negative_band: BandConfig | None = None
    # False: a priority that is not configured goes to the nearest configured band below, else to the lowest
    dynamic_bands: bool = True
    # bounds what made-up priorities can cost
    max_bands: int = 64
    max_requests: int | None = None
    max_bytes: int | None = None
    # a request that waited for a minute has lost its user; None: no limit
    default_ttl: float | None = 60.0
    # caps what a request asks for
    max_ttl: float = 3600.0
    # longer than a tenant's usual pause, so that its place among the others survives it
    flow_gc_timeout: float = 300.0
    # None: twice flow_gc_timeout
    band_gc_timeout: float | None = None
    # None: a tenth of flow_gc_timeout, in 0.05 to 30; a flow lives at most timeout + interval
    gc_interval: float | None = None
    # contention on who exists, never who goes next
    shards: int = 4
    # bounds what made-up flow ids can cost: at this many the longest-idle one goes first. None: no limit
    max_flows: int | None = 10_000
    # if none is idle then, new ids share so many flows in each band
    overflow_flows: int = 64
    # count where threads meet, for `FlowController.contention()`; what that costs is a row of the benchmarks
    profile: bool = False
    # refuse who would wait for longer than its ttl, as far as that can be told, instead of letting it wait in vain
    refuse_doomed: bool = False
    # at the global limit
    displacement: Displacement = field(default_factory=LowerPriority)
    # how full the back end may be for each priority
    ceilings: Ceilings = field(default_factory=Static)
    # whether work that is under way is asked to stop for what is more important; None: it is not
    revocation: Revocation | None = None
    # seconds after which whoever holds a seat is reported, with the stack of its thread; None: nobody is
    hold_warning: float | None = None
    # seconds after which whoever holds a seat is asked to stop; None: nobody is
    max_hold: float | None = None

    def __post_init__(self) -> None:
        self._check_bands()
        for name in ("max_requests", "max_bytes"):
            _check_limit(name, getattr(self, name))
        check_ttl(self.default_ttl, "default_ttl")
        _check_seconds_at_least("max_ttl", self.max_ttl, 0.0)
        self._check_collection()
        check_count("shards", self.shards, at_least=1)
        _check_limit("max_flows", self.max_flows)
        check_count("overflow_flows", self.overflow_flows, at_least=1)
        for name in ("refuse_doomed", "profile"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {shown(getattr(self, name))}")
        _check_policy("displacement", self.displacement, "victims")
        _check_policy("ceilings", self.ceilings, "ceilings")
        if self.revocation is not None and not isinstance(self.revocation, Revocation):
            raise TypeError(f"revocation must be a Revocation, not {shown(self.revocation)}")
        for name in ("hold_warning", "max_hold"):
            seconds = getattr(self, name)
            if seconds is not None and check_seconds(name, seconds) <= 0:
                raise ValueError(f"{name} must be above 0, not {shown(seconds)}")

    @property
    def watches(self) -> bool:
        """Does anybody want to know how long seats are held?"""
        return any(limit is not None for limit in (self.revocation, self.hold_warning, self.max_hold))

    def _check_bands(self) -> None:
        if isinstance(self.bands, str) or not isinstance(self.bands, Sequence):
            raise TypeError(f"bands must be a sequence of BandConfig, not {shown(self.bands)}")
        object.__setattr__(self, "bands", tuple(self.bands))
        _check_distinct(self.bands)
        for name, template in (("default_band", self.default_band), ("negative_band", self.negative_band)):
            _check_template(name, template)
        if not isinstance(self.dynamic_bands, bool):
            raise TypeError(f"dynamic_bands must be a bool, not {shown(self.dynamic_bands)}")
        if not self.dynamic_bands and not self.bands:
            raise ValueError("dynamic_bands=False needs bands to send every priority to, not an empty sequence")
        check_count("max_bands", self.max_bands, at_least=max(1, len(self.bands)))

    def _check_collection(self) -> None:
        flow_timeout = _check_seconds_at_least("flow_gc_timeout", self.flow_gc_timeout, 0.0)
        if flow_timeout > MAX_IDLE:
            raise ValueError(f"flow_gc_timeout must be at most {MAX_IDLE:.0f}, not {shown(self.flow_gc_timeout)}")
        if self.band_gc_timeout is None:
            object.__setattr__(self, "band_gc_timeout", min(2 * flow_timeout, MAX_IDLE))
        elif check_seconds("band_gc_timeout", self.band_gc_timeout) < flow_timeout:
            raise ValueError(
                f"band_gc_timeout must be at least flow_gc_timeout ({flow_timeout}), not {self.band_gc_timeout}"
            )
        elif self.band_gc_timeout > MAX_IDLE:
            raise ValueError(f"band_gc_timeout must be at most {MAX_IDLE:.0f}, not {shown(self.band_gc_timeout)}")
        if self.gc_interval is None:
            object.__setattr__(self, "gc_interval", min(max(flow_timeout / 10, 0.05), 30.0))
        elif check_seconds("gc_interval", self.gc_interval) <= 0:
            raise ValueError(f"gc_interval must be above 0, not {self.gc_interval}")

    def template_for(self, priority: int) -> BandConfig:
        """The configuration of a band that is not configured, made from the template for its priority."""
        template = self.negative_band if priority < 0 and self.negative_band is not None else self.default_band
        return template.at(priority)

    def deadline(self, received_at: float, ttl: float | None, band_ttl: float | None) -> float:
        """When a request has waited for long enough; infinite where nothing limits it."""
        if ttl is not None:
            return received_at + min(ttl, self.max_ttl)
        default = self.default_ttl if band_ttl is None else band_ttl
        return math.inf if default is None else received_at + default


def _check_distinct(bands: Sequence[object]) -> None:
    seen: set[int] = set()
    for index, band in enumerate(bands):
        if not isinstance(band, BandConfig):
            raise TypeError(f"bands[{index}] must be a BandConfig, not {shown(band)}")
        if band.priority is None:
            raise ValueError(f"bands[{index}].priority is required (only a template has none)")
        if band.priority in seen:
            raise ValueError(f"bands[{index}].priority must be unique, not {band.priority} again")
        seen.add(band.priority)


def _check_template(name: str, template: object) -> None:
    if template is None and name == "negative_band":
        return
    if not isinstance(template, BandConfig):
        raise TypeError(f"{name} must be a BandConfig, not {shown(template)}")
    if template.priority is not None:
        raise ValueError(f"{name}.priority must be None (it is a template), not {template.priority}")


def _checked_weights(weights: object) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a mapping of flow id to weight, not {shown(weights)}")
    checked: dict[str, float] = {}
    for flow_id, weight in weights.items():
        name = f"weights[{shown(flow_id)}]"
        try:
            exact = check_flow_id(flow_id)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise TypeError(f"{name} must be a number, not {shown(weight)}")
        if not _MIN_WEIGHT <= weight <= 1 / _MIN_WEIGHT:
            raise ValueError(f"{name} must be in {_MIN_WEIGHT} to {1 / _MIN_WEIGHT:.0e}, not {shown(weight)}")
        checked[exact] = float(weight)
    return checked


def _check_limit(name: str, limit: object) -> None:
    if limit is not None:
        check_count(name, limit, at_least=1)


def _check_seconds_at_least(name: str, seconds: object, least: float) -> float:
    value = check_seconds(name, seconds)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {shown(seconds)}")
    return value


def _check_policy(name: str, policy: object, method: str) -> None:
    if isinstance(policy, type) or not callable(getattr(policy, method, None)):
        raise TypeError(f"{name} must be a policy (an object with .{method}()), not {shown(policy)}")
