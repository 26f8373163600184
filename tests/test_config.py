"""Configuration: frozen, keyword-only, and complete once it is constructed. Bad values: test_bad_input.py."""

import dataclasses
import math

import pytest

from flowctl import BandConfig, Config, LowerPriority, Never
from flowctl.bands import Bands
from flowctl.policies.fairness import RoundRobin
from flowctl.policies.ordering import Fcfs
from flowctl.testing import FakeClock

DEFAULTS = {
    "bands": (),
    "negative_band": None,
    "dynamic_bands": True,
    "max_bands": 64,
    "max_requests": None,
    "max_bytes": None,
    "default_ttl": 60.0,
    "max_ttl": 3600.0,
    "flow_gc_timeout": 300.0,
    "band_gc_timeout": 600.0,
    "gc_interval": 30.0,
    "shards": 4,
}

BAND_DEFAULTS = {
    "priority": None,
    "max_requests": 5_000,
    "max_bytes": 1_000_000_000,
    "max_requests_per_flow": None,
    "max_bytes_per_flow": None,
    "default_ttl": None,
}


@pytest.mark.parametrize(("field", "value"), DEFAULTS.items())
def test_the_defaults_are_those_of_the_design(field: str, value: object) -> None:
    assert getattr(Config(), field) == value


@pytest.mark.parametrize(("field", "value"), BAND_DEFAULTS.items())
def test_the_defaults_of_a_band_are_those_of_the_design(field: str, value: object) -> None:
    assert getattr(BandConfig(), field) == value


def test_the_default_policies() -> None:
    assert isinstance(Config().displacement, LowerPriority)
    assert isinstance(BandConfig().ordering, Fcfs)
    assert isinstance(BandConfig().fairness, RoundRobin)
    assert Config().default_band.priority is None


@pytest.mark.parametrize("made", [Config(), BandConfig()], ids=["Config", "BandConfig"])
def test_a_configuration_is_frozen(made: Config | BandConfig) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.max_requests = 5  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        made.max_request = 5  # type: ignore[union-attr]


def test_a_configuration_is_keyword_only_and_refuses_unknown_names() -> None:
    with pytest.raises(TypeError):
        Config(())  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        BandConfig(5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="max_request"):
        Config(max_request=5)  # type: ignore[call-arg]


def test_bands_are_kept_as_they_were_whatever_becomes_of_the_list() -> None:
    band = BandConfig(priority=1)
    bands = [band]
    config = Config(bands=bands)
    bands.clear()

    assert config.bands == (band,)


def test_two_configurations_with_the_same_values_are_equal() -> None:
    assert BandConfig(priority=3) == BandConfig(priority=3)
    assert Config() == Config()
    assert Config() != Config(shards=2)


@pytest.mark.parametrize(
    ("flow_timeout", "interval"),
    [(0.0, 0.05), (0.4, 0.05), (0.5, 0.05), (1.0, 0.1), (60.0, 6.0), (300.0, 30.0), (1e6, 30.0)],
)
def test_a_cycle_comes_every_tenth_of_the_timeout_within_bounds(flow_timeout: float, interval: float) -> None:
    assert Config(flow_gc_timeout=flow_timeout).gc_interval == pytest.approx(interval)


@pytest.mark.parametrize("flow_timeout", [0.0, 1.5, 300.0])
def test_a_band_outlives_its_flows_by_twice_their_timeout_unless_told_otherwise(flow_timeout: float) -> None:
    assert Config(flow_gc_timeout=flow_timeout).band_gc_timeout == 2 * flow_timeout
    assert Config(flow_gc_timeout=flow_timeout, band_gc_timeout=flow_timeout).band_gc_timeout == flow_timeout


def test_a_configuration_can_be_changed_by_replacing_it() -> None:
    config = dataclasses.replace(Config(max_requests=5), max_bytes=7)

    assert (config.max_requests, config.max_bytes) == (5, 7)


CONFIG = Config(
    bands=[BandConfig(priority=5, max_requests=55)],
    default_band=BandConfig(max_requests=11),
    negative_band=BandConfig(max_requests=22),
)


@pytest.mark.parametrize(("priority", "max_requests"), [(5, 55), (4, 11), (0, 11), (-1, 22), (-(2**31), 22)])
def test_the_configuration_of_a_band_is_its_own_or_that_of_a_template(priority: int, max_requests: int) -> None:
    band = Bands(CONFIG, FakeClock()).config_at(priority)

    assert (band.priority, band.max_requests) == (priority, max_requests)


def test_without_a_negative_template_the_default_one_serves_all() -> None:
    assert Config(default_band=BandConfig(max_requests=11)).template_for(-3).max_requests == 11


def test_a_template_keeps_everything_but_the_priority() -> None:
    template = BandConfig(max_requests=3, max_bytes_per_flow=9, default_ttl=2.5, displacement=Never())

    assert dataclasses.replace(template.at(7), priority=None) == template


@pytest.mark.parametrize(
    ("asked", "band_ttl", "default", "longest", "deadline"),
    [
        pytest.param(5.0, 7.0, 60.0, 3600.0, 105.0, id="what the request asks for"),
        pytest.param(9999.0, 7.0, 60.0, 3600.0, 3700.0, id="capped"),
        pytest.param(None, 7.0, 60.0, 3600.0, 107.0, id="else the band's"),
        pytest.param(None, None, 60.0, 3600.0, 160.0, id="else the global one"),
        pytest.param(None, None, None, 3600.0, math.inf, id="no limit"),
        pytest.param(0.0, 7.0, 60.0, 3600.0, 100.0, id="0 waits for nobody"),
        pytest.param(None, 0.0, 60.0, 3600.0, 100.0, id="a band's 0 too"),
        pytest.param(5.0, 7.0, 60.0, 0.0, 100.0, id="nobody may wait"),
    ],
)
def test_how_long_a_request_may_wait(
    asked: float | None, band_ttl: float | None, default: float | None, longest: float, deadline: float
) -> None:
    config = Config(default_ttl=default, max_ttl=longest)

    assert config.deadline(100.0, asked, band_ttl) == deadline
