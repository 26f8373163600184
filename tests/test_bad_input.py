"""A bad argument is refused with its name, its value and the rule, before anything is booked or created."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from flowctl import BandConfig, ConcurrencyLimit, Config, FlowController, FlowKey, Request
from flowctl.request import WaitingRoom
from flowctl.testing import FakeClock
from tests.support import MakeController

Call = Callable[[FlowController], object]

MB = 1024 * 1024
HUGE = 10**400
UNPRINTABLE = 10**5000
"""More digits than Python turns into a string."""


class Hostile:
    """An object whose repr raises."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Row(NamedTuple):
    call: Call
    error: type[Exception]
    words: tuple[str, ...]


def admit(*args: object, **kwargs: object) -> Call:
    return lambda controller: controller.admit(*args, **kwargs)  # type: ignore[arg-type]


def try_admit(*args: object, **kwargs: object) -> Call:
    return lambda controller: controller.try_admit(*args, **kwargs)  # type: ignore[arg-type]


def request(*args: object, **kwargs: object) -> Call:
    return lambda controller: Request(*args, **kwargs)  # type: ignore[arg-type]


def submit(*args: object) -> Call:
    return lambda controller: controller.submit(*args)  # type: ignore[arg-type]


def fake_clock(*args: object) -> Call:
    return lambda controller: FakeClock(*args)  # type: ignore[arg-type]


def advance(*args: object) -> Call:
    return lambda controller: FakeClock().advance(*args)  # type: ignore[arg-type]


def limit(*args: object) -> Call:
    return lambda controller: ConcurrencyLimit(*args)  # type: ignore[arg-type]


def set_limit(*args: object) -> Call:
    return lambda controller: controller._gates[0].set(*args)  # type: ignore[attr-defined]


def band(**kwargs: object) -> Call:
    return lambda controller: BandConfig(**kwargs)  # type: ignore[arg-type]


def config(**kwargs: object) -> Call:
    return lambda controller: Config(**kwargs)  # type: ignore[arg-type]


def make(*args: object, **kwargs: object) -> Call:
    return lambda controller: FlowController(*args, **kwargs)  # type: ignore[arg-type]


def close(**kwargs: object) -> Call:
    return lambda controller: controller.close(**kwargs)  # type: ignore[arg-type]


def key(*fields: object) -> FlowKey:
    return FlowKey(*fields)  # type: ignore[arg-type]


def room(**limits: object) -> Call:
    return lambda controller: WaitingRoom(**limits)  # type: ignore[arg-type]


def type_error(call: Call, *words: str) -> Row:
    return Row(call, TypeError, words)


def value_error(call: Call, *words: str) -> Row:
    return Row(call, ValueError, words)


NAN, INF = math.nan, math.inf
SAME_GATE = ConcurrencyLimit(1)

IDS: list[tuple[object, type[Exception], tuple[str, ...]]] = [
    ("", ValueError, ("flow id", "at least 1 byte", "''")),
    (None, TypeError, ("flow id", "str", "None")),
    (b"tenant-a", TypeError, ("flow id", "str", "b'tenant-a'", "bytes")),
    (5, TypeError, ("flow id", "str", "5")),
    (True, TypeError, ("flow id", "str", "True")),
    (NAN, TypeError, ("flow id", "str", "nan")),
    (["a"], TypeError, ("flow id", "str", "['a']")),
    (("a", 0), TypeError, ("flow id", "str", "tuple")),
    ({"a": 1}, TypeError, ("flow id", "str", "dict")),
    (bytearray(b"a"), TypeError, ("flow id", "str", "bytearray")),
    (Hostile(), TypeError, ("flow id", "str", "Hostile")),
    ("\ud800", ValueError, ("flow id", "UTF-8", "surrogate", "\\ud800")),
    ("tenant-\udfff-a", ValueError, ("flow id", "UTF-8", "\\udfff")),
    ("x" * 257, ValueError, ("flow id", "256 bytes", "xxx...xxx")),
    ("é" * 129, ValueError, ("flow id", "256 bytes", "ééé...ééé")),
    ("😀" * 65, ValueError, ("flow id", "256 bytes", "😀")),
    ("x" * 255 + "é", ValueError, ("flow id", "256 bytes")),
    ("x" * (10 * MB), ValueError, ("flow id", "256 bytes", "...")),
    ("\ud800" * MB, ValueError, ("flow id",)),
    ("\0", ValueError, ("flow id", "NUL", "\\x00")),
    ("\0overflow-1", ValueError, ("flow id", "NUL", "reserved")),
]

PRIORITIES: list[tuple[object, type[Exception], tuple[str, ...]]] = [
    (True, TypeError, ("priority", "int", "True")),
    (False, TypeError, ("priority", "int", "False")),
    (NAN, TypeError, ("priority", "int", "nan")),
    (INF, TypeError, ("priority", "int", "inf")),
    (1.0, TypeError, ("priority", "int", "1.0")),
    (Decimal(1), TypeError, ("priority", "int", "Decimal")),
    (1j, TypeError, ("priority", "int", "1j")),
    ("1", TypeError, ("priority", "int", "'1'")),
    ("high" * MB, TypeError, ("priority", "int", "...")),
    (None, TypeError, ("priority", "int", "None")),
    ([1], TypeError, ("priority", "int", "[1]")),
    (Hostile(), TypeError, ("priority", "int", "Hostile")),
    (2**31, ValueError, ("priority", "[-2**31, 2**31)", "2147483648")),
    (-(2**31) - 1, ValueError, ("priority", "[-2**31, 2**31)", "-2147483649")),
    (HUGE, ValueError, ("priority", "[-2**31, 2**31)", "...")),
    (UNPRINTABLE, ValueError, ("priority", "[-2**31, 2**31)")),
]

COSTS: list[tuple[object, type[Exception], tuple[str, ...]]] = [
    (0, ValueError, ("cost", "at least 1", "0")),
    (-1, ValueError, ("cost", "at least 1", "-1")),
    (-HUGE, ValueError, ("cost", "at least 1", "...")),
    (2**60, ValueError, ("cost", "at most", "2**53", "1152921504606846976")),
    (UNPRINTABLE, ValueError, ("cost", "at most", "2**53")),
    (True, TypeError, ("cost", "int", "True")),
    (1.0, TypeError, ("cost", "int", "1.0")),
    (NAN, TypeError, ("cost", "int", "nan")),
    ("1", TypeError, ("cost", "int", "'1'")),
    (None, TypeError, ("cost", "int", "None")),
    (Hostile(), TypeError, ("cost", "int", "Hostile")),
]

SIZES: list[tuple[object, type[Exception], tuple[str, ...]]] = [
    (-1, ValueError, ("size", "at least 0", "-1")),
    (2**60, ValueError, ("size", "at most", "2**53")),
    (1.5, TypeError, ("size", "int", "1.5")),
    (NAN, TypeError, ("size", "int", "nan")),
    (True, TypeError, ("size", "int", "True")),
    (False, TypeError, ("size", "int", "False")),
    ("12", TypeError, ("size", "int", "'12'")),
    (None, TypeError, ("size", "int", "None")),
]

TTLS: list[tuple[object, type[Exception], tuple[str, ...]]] = [
    (-1, ValueError, ("ttl", "at least 0", "-1")),
    (-0.001, ValueError, ("ttl", "at least 0", "-0.001")),
    (INF, ValueError, ("ttl", "finite", "inf")),
    (-INF, ValueError, ("ttl", "finite", "-inf")),
    (NAN, ValueError, ("ttl", "finite", "nan")),
    (HUGE, ValueError, ("ttl", "finite", "...")),
    (-HUGE, ValueError, ("ttl", "finite", "...")),
    (UNPRINTABLE, ValueError, ("ttl", "finite")),
    ("5", TypeError, ("ttl", "number", "'5'")),
    (b"5", TypeError, ("ttl", "number", "b'5'")),
    (True, TypeError, ("ttl", "number", "True")),
    (Decimal(5), TypeError, ("ttl", "number", "Decimal")),
    (1j, TypeError, ("ttl", "number", "1j")),
    ([5], TypeError, ("ttl", "number", "[5]")),
    (Hostile(), TypeError, ("ttl", "number", "Hostile")),
]

METADATA: list[tuple[object, type[Exception], tuple[str, ...]]] = [
    ([("slo", 1.0)], TypeError, ("metadata", "mapping", "slo")),
    ("slo=1", TypeError, ("metadata", "mapping", "slo=1")),
    ("slo=1" * MB, TypeError, ("metadata", "mapping", "...")),
    (5, TypeError, ("metadata", "mapping", "5")),
    (SimpleNamespace(slo=1), TypeError, ("metadata", "mapping", "slo")),
    (Hostile(), TypeError, ("metadata", "mapping", "Hostile")),
]

ROWS: dict[str, Row] = {}


def add(title: str, row: Row) -> None:
    assert title not in ROWS, title
    ROWS[title] = row


def short(value: object) -> str:
    """A test's id: a value may be large, hostile, or not printable."""
    try:
        return ascii(value)[:20]
    except (ValueError, ZeroDivisionError):
        return type(value).__name__


for nth, (value, error, words) in enumerate(IDS):
    add(f"admit({short(value)}) {nth}", Row(admit(value), error, words))
    add(f"try_admit({short(value)}) {nth}", Row(try_admit(value), error, words))
    add(f"Request(FlowKey({short(value)})) {nth}", Row(request(key(value)), error, words))
    add(f"admit(FlowKey({short(value)})) {nth}", Row(admit(key(value)), error, words))
for nth, (value, error, words) in enumerate(PRIORITIES):
    add(f"admit(priority={short(value)}) {nth}", Row(admit("a", priority=value), error, words))
    add(f"try_admit(priority={short(value)}) {nth}", Row(try_admit("a", priority=value), error, words))
    add(f"Request(FlowKey(priority={short(value)})) {nth}", Row(request(key("a", value)), error, words))
    add(f"admit(FlowKey(priority={short(value)})) {nth}", Row(admit(key("a", value)), error, words))
    if value is not None:  # a template's
        add(f"BandConfig(priority={short(value)}) {nth}", Row(band(priority=value), error, words))
for name, values in {"cost": COSTS, "size": SIZES, "ttl": TTLS, "metadata": METADATA}.items():
    for nth, (value, error, words) in enumerate(values):
        add(f"admit({name}={short(value)}) {nth}", Row(admit("a", **{name: value}), error, words))
        add(f"Request({name}={short(value)}) {nth}", Row(request(key("a"), **{name: value}), error, words))
        if name != "ttl":
            add(f"try_admit({name}={short(value)}) {nth}", Row(try_admit("a", **{name: value}), error, words))
        else:
            given = tuple(word.replace("ttl", "default_ttl") for word in words)
            add(f"BandConfig(default_ttl={short(value)}) {nth}", Row(band(default_ttl=value), error, given))
            add(f"Config(default_ttl={short(value)}) {nth}", Row(config(default_ttl=value), error, given))
            given = tuple(word.replace("ttl", "drain") for word in words)
            add(f"close(drain={short(value)}) {nth}", Row(close(drain=value), error, given))
for name in ("max_requests", "max_bytes", "max_requests_per_flow", "max_bytes_per_flow"):
    for nth, (value, error, words) in enumerate(COSTS):
        if value is not None:  # no limit
            given = tuple(word.replace("cost", name) for word in words)
            add(f"BandConfig({name}={short(value)}) {nth}", Row(band(**{name: value}), error, given))
            if not name.endswith("flow"):
                add(f"Config({name}={short(value)}) {nth}", Row(config(**{name: value}), error, given))
for nth, (value, error, words) in enumerate(COSTS):
    given = tuple(word.replace("cost", "limit") for word in words)
    add(f"ConcurrencyLimit({short(value)}) {nth}", Row(limit(value), error, given))
    add(f"ConcurrencyLimit(1).set({short(value)}) {nth}", Row(set_limit(value), error, given))
    for name in ("shards", "max_bands"):
        given = tuple(word.replace("cost", name) for word in words)
        add(f"Config({name}={short(value)}) {nth}", Row(config(**{name: value}), error, given))
for name, call in {"start": fake_clock, "seconds": advance}.items():
    for nth, (value, error, words) in enumerate(TTLS):
        given = tuple(word.replace("ttl", name) for word in words)
        add(f"FakeClock {name} {short(value)} {nth}", Row(call(value), error, given))
    add(f"FakeClock {name} None", type_error(call(None), name, "number", "None"))
for nth, (value, error, words) in enumerate(TTLS):
    if "at least 0" not in words:
        given = tuple(word.replace("ttl", "received_at") for word in words)
        add(f"Request(received_at={short(value)}) {nth}", Row(request(key("a"), received_at=value), error, given))
    for name in ("max_ttl", "flow_gc_timeout"):
        given = tuple(word.replace("ttl", name) for word in words)
        add(f"Config({name}={short(value)}) {nth}", Row(config(**{name: value}), error, given))

ROWS |= {
    # a FlowKey and a priority
    "admit(FlowKey, another priority)": value_error(admit(key("a", 5), priority=3), "priority", "FlowKey", "5", "3"),
    "admit(FlowKey, False)": type_error(admit(key("a", 5), priority=False), "priority", "int", "False"),
    "admit(FlowKey, True)": type_error(admit(key("a", 1), priority=True), "priority", "int", "True"),
    "admit(FlowKey, 0.0)": type_error(admit(key("a", 5), priority=0.0), "priority", "int", "0.0"),
    "admit(FlowKey, 5.0)": type_error(admit(key("a", 5), priority=5.0), "priority", "int", "5.0"),
    "admit(FlowKey, NaN)": type_error(admit(key("a", 5), priority=NAN), "priority", "int", "nan"),
    "admit(FlowKey, 10 MB)": type_error(admit(key("a", 5), priority="5" * 10 * MB), "priority", "..."),
    "admit(FlowKey, hostile)": type_error(admit(key("a", 5), priority=Hostile()), "priority", "Hostile"),
    "admit(tuple)": type_error(admit(("a", 0)), "flow"),
    "Request(str)": type_error(request("a"), "flow", "FlowKey", "'a'"),
    "Request(tuple)": type_error(request(("a", 0)), "flow", "FlowKey", "tuple"),
    "Request(None)": type_error(request(None), "flow", "FlowKey", "None"),
    # what is called
    "admit(cancel=5)": type_error(admit("a", cancel=5), "cancel", "callable", "5"),
    "admit(cancel=True)": type_error(admit("a", cancel=True), "cancel", "callable", "True"),
    "admit(cancel=10 MB)": type_error(admit("a", cancel="x" * 10 * MB), "cancel", "callable", "..."),
    "admit(cancel=hostile)": type_error(admit("a", cancel=Hostile()), "cancel", "callable", "Hostile"),
    "submit(None)": type_error(submit(None, print), "request", "Request", "None"),
    "submit(str)": type_error(submit("a", print), "request", "Request", "'a'"),
    "submit(FlowKey)": type_error(submit(key("a"), print), "request", "Request"),
    "submit(10 MB)": type_error(submit("x" * 10 * MB, print), "request", "Request", "..."),
    "submit(hostile)": type_error(submit(Hostile(), print), "request", "Request", "Hostile"),
    "submit(_, None)": type_error(submit(Request(key("a")), None), "on_settled", "callable", "None"),
    "submit(_, hostile)": type_error(submit(Request(key("a")), Hostile()), "on_settled", "callable", "Hostile"),
    # the configuration
    "Config(bands=str)": type_error(config(bands="10"), "bands", "BandConfig", "'10'"),
    "Config(bands=None)": type_error(config(bands=None), "bands", "BandConfig", "None"),
    "Config(bands=[10])": type_error(config(bands=[10]), "bands[0]", "BandConfig", "10"),
    "Config(bands=hostile)": type_error(config(bands=[Hostile()]), "bands[0]", "BandConfig", "Hostile"),
    "Config(bands=10 MB)": type_error(config(bands=["x" * 10 * MB]), "bands[0]", "BandConfig", "..."),
    "Config(template as a band)": value_error(
        config(bands=[BandConfig(priority=1), BandConfig()]), "bands[1].priority", "required"
    ),
    "Config(two bands of a priority)": value_error(
        config(bands=[BandConfig(priority=7), BandConfig(priority=8), BandConfig(priority=7)]),
        "bands[2].priority",
        "unique",
        "7",
    ),
    "Config(default_band=a band)": value_error(config(default_band=BandConfig(priority=3)), "default_band.priority"),
    "Config(negative_band=a band)": value_error(config(negative_band=BandConfig(priority=-3)), "negative_band", "-3"),
    "Config(default_band=None)": type_error(config(default_band=None), "default_band", "BandConfig", "None"),
    "Config(negative_band=5)": type_error(config(negative_band=5), "negative_band", "BandConfig", "5"),
    "Config(dynamic_bands=1)": type_error(config(dynamic_bands=1), "dynamic_bands", "bool", "1"),
    "Config(dynamic_bands=None)": type_error(config(dynamic_bands=None), "dynamic_bands", "bool", "None"),
    "Config(dynamic_bands=False, no bands)": value_error(config(dynamic_bands=False), "dynamic_bands", "bands"),
    "Config(fewer max_bands than bands)": value_error(
        config(bands=[BandConfig(priority=1), BandConfig(priority=2)], max_bands=1), "max_bands", "at least 2", "1"
    ),
    "Config(band timeout below the flows')": value_error(
        config(flow_gc_timeout=300.0, band_gc_timeout=299.9), "band_gc_timeout", "flow_gc_timeout", "300.0", "299.9"
    ),
    "Config(band_gc_timeout=NaN)": value_error(config(band_gc_timeout=NAN), "band_gc_timeout", "finite", "nan"),
    "Config(band_gc_timeout=True)": type_error(config(band_gc_timeout=True), "band_gc_timeout", "number", "True"),
    "Config(gc_interval=0)": value_error(config(gc_interval=0), "gc_interval", "above 0", "0"),
    "Config(gc_interval=-1)": value_error(config(gc_interval=-1.0), "gc_interval", "above 0", "-1.0"),
    "Config(gc_interval=inf)": value_error(config(gc_interval=INF), "gc_interval", "finite", "inf"),
    "Config(gc_interval=str)": type_error(config(gc_interval="5s"), "gc_interval", "number", "5s"),
    "Config(flow_gc_timeout beyond the clock)": value_error(config(flow_gc_timeout=1e308), "flow_gc_timeout"),
    "Config(displacement=class)": type_error(config(displacement=ConcurrencyLimit), "displacement", "policy"),
    "Config(displacement=None)": type_error(config(displacement=None), "displacement", "policy", "None"),
    "BandConfig(ordering=str)": type_error(band(ordering="fcfs"), "ordering", "policy", "fcfs"),
    "BandConfig(ordering=hostile)": type_error(band(ordering=Hostile()), "ordering", "policy", "Hostile"),
    "BandConfig(fairness=None)": type_error(band(fairness=None), "fairness", "policy", "None"),
    "BandConfig(displacement=5)": type_error(band(displacement=5), "displacement", "policy", "5"),
    "BandConfig(weights=5)": type_error(band(weights=5), "weights", "mapping", "5"),
    "BandConfig(weights={a: 0})": value_error(band(weights={"a": 0}), "weights", "1e-09 to 1e+09", "0"),
    "BandConfig(weights={a: NaN})": value_error(band(weights={"a": NAN}), "weights", "1e-09", "nan"),
    "BandConfig(weights={a: True})": type_error(band(weights={"a": True}), "weights", "number", "True"),
    "BandConfig(weights={5: 1})": type_error(band(weights={5: 1.0}), "weights", "flow id", "5"),
    # the controller
    "FlowController()": value_error(make(), "gate", "required"),
    "FlowController({})": type_error(make({}, gate=ConcurrencyLimit(1)), "config", "Config", "{}"),
    "FlowController(config=hostile)": type_error(make(Hostile(), gate=ConcurrencyLimit(1)), "config", "Hostile"),
    "FlowController(gate=5)": type_error(make(gate=5), "gate", "5"),
    "FlowController(gate=str)": type_error(make(gate="concurrency"), "gate"),
    "FlowController(gate=hostile)": type_error(make(gate=Hostile()), "gate", "Hostile"),
    "FlowController(gate=[])": value_error(make(gate=[]), "gate", "[]"),
    "FlowController(gate twice)": value_error(make(gate=[SAME_GATE, SAME_GATE]), "gate", "different"),
    "FlowController(another's gate)": value_error(
        lambda controller: FlowController(gate=controller._gates), "gate", "another controller"
    ),
    "admit(room=5)": type_error(admit("a", room=5), "room", "WaitingRoom", "5"),
    "admit(room=hostile)": type_error(admit("a", room=Hostile()), "room", "WaitingRoom", "Hostile"),
    "WaitingRoom(limit=0)": value_error(room(limit=0, limit_per_flow=1), "limit", "at least 1", "0"),
    "WaitingRoom(limit_per_flow=0)": value_error(room(limit=1, limit_per_flow=0), "limit_per_flow", "at least 1", "0"),
    "WaitingRoom(limit=True)": type_error(room(limit=True, limit_per_flow=1), "limit", "int", "True"),
    "WaitingRoom(limit=hostile)": type_error(room(limit=Hostile(), limit_per_flow=1), "limit", "int", "Hostile"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_bad_argument_is_named_with_its_value_and_the_rule_and_nothing_is_booked(
    controller: FlowController, row: Row
) -> None:
    before = controller.stats()
    with pytest.raises(row.error) as raised:
        row.call(controller)
    message = str(raised.value)

    assert type(raised.value) is row.error
    assert [word for word in row.words if word not in message] == [], message
    assert len(message) < 300, "a value is shown in short form"
    assert controller.stats() == before
    assert (before.queued, before.in_flight, before.dispatched, before.rejected) == (0, 0, 0, 0)
    assert controller.flows() == []
    assert controller.bands() == []
    assert controller.try_admit("a").release(), "and it works as before"


def test_there_are_many_bad_values() -> None:
    assert len(ROWS) >= 60


@pytest.mark.parametrize("good", ["x" * 256, "é" * 128, "😀" * 64, " ", "a\0b", "\x7f", "../..", "%00"])
def test_an_id_is_any_1_to_256_bytes_of_utf8(controller: FlowController, good: str) -> None:
    with controller.admit(good):
        assert controller.flows() == [FlowKey(good, 0)]


@pytest.mark.parametrize("good", [-(2**31), -1, 0, 1, 2**31 - 1])
def test_a_priority_is_any_int_of_32_bits(controller: FlowController, good: int) -> None:
    with controller.admit("a", priority=good) as ticket:
        assert ticket.key == FlowKey("a", good)


@pytest.mark.parametrize("good", [0, 0.0, -0.0, 5, 1e300, 10**300])
def test_a_ttl_is_any_finite_number_of_seconds(controller: FlowController, good: float) -> None:
    assert controller.admit("a", ttl=good).release()


class Level(enum.IntEnum):
    HIGH = 7


def test_a_priority_of_an_enumeration_is_an_int(controller: FlowController) -> None:
    with controller.admit("a", priority=Level.HIGH) as ticket:
        assert type(ticket.key.priority) is int
        assert [type(priority) for priority in controller.bands()] == [int]
    with controller.admit("a", priority=7) as again:
        assert again.key == ticket.key
    assert controller.flows() == [FlowKey("a", 7)]


def test_a_flow_key_with_a_priority_of_an_enumeration_is_the_same_flow(controller: FlowController) -> None:
    with controller.admit(FlowKey("a", Level.HIGH)), pytest.raises(ValueError, match="priority"):
        controller.admit(FlowKey("a", 7), priority=3)

    assert controller.flows() == [FlowKey("a", 7)]


class HostileId(str):
    """An id that could break every table it gets into."""

    __slots__ = ()
    calls = 0

    def __hash__(self) -> int:
        HostileId.calls += 1
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        HostileId.calls += 1
        return True


@pytest.mark.parametrize("way", ["admit", "admit a FlowKey", "try_admit", "submit"])
def test_an_id_of_a_subclass_of_str_never_gets_into_a_table(controller: FlowController, way: str) -> None:
    hostile = HostileId("tenant-a")
    HostileId.calls = 0
    if way == "submit":
        controller.submit(Request(FlowKey(hostile)), lambda ticket: None).release()
    elif way == "try_admit":
        controller.try_admit(hostile).release()
    else:
        controller.admit(hostile if way == "admit" else FlowKey(hostile)).release()

    assert HostileId.calls == 0
    assert [(type(flow.id), flow.id) for flow in controller.flows()] == [(str, "tenant-a")]


class HostileCount(int):
    """A number that runs code of its own wherever it is added or compared."""

    calls: list[str] = []  # noqa: RUF012 - the one place where all of them report

    def __radd__(self, other: int) -> int:
        self.calls.append("radd")
        return 1_000_000

    def __add__(self, other: int) -> int:
        self.calls.append("add")
        return 1_000_000

    def __rsub__(self, other: int) -> int:
        self.calls.append("rsub")
        return -1_000_000


@pytest.mark.parametrize("way", ["admit", "admit with a ttl", "try_admit", "submit"])
def test_a_cost_and_a_size_of_a_subclass_of_int_are_booked_as_plain_numbers(
    make_controller: MakeController, way: str
) -> None:
    controller, cost, size = make_controller(limit=8), HostileCount(2), HostileCount(3)
    if way == "submit":
        ticket = controller.submit(Request(FlowKey("a"), cost=cost, size=size), lambda ticket: None)
    elif way == "try_admit":
        ticket = controller.try_admit("a", cost=cost, size=size)
    else:
        ticket = controller.admit("a", cost=cost, size=size, ttl=None if way == "admit" else 5)

    assert controller.stats().in_flight == 2
    ticket.release()
    assert controller.stats().in_flight == 0
    assert HostileCount.calls == []


def test_a_release_with_an_unknown_outcome_changes_nothing(controller: FlowController) -> None:
    ticket = controller.admit("a")
    with pytest.raises(ValueError, match=r"outcome must be .* not 'done'"):
        ticket.release("done")  # type: ignore[arg-type]

    assert ticket.state == "dispatched"
    assert ticket.release()


@pytest.mark.parametrize("start", [1.7e9, 2.0**40 / 1000, 1e12, 1e15])
def test_a_clock_that_counts_from_1970_or_further_back_works_like_any_other(
    make_controller: MakeController, start: float
) -> None:
    """40 bits of milliseconds are 35 years: a wall clock has passed them."""
    clock = FakeClock(start)
    controller = make_controller(Config(flow_gc_timeout=10.0), clock=clock)
    controller.admit("a").release()
    controller._check()
    assert controller.flows() == [FlowKey("a")]

    clock.advance(9)
    assert controller.collect().flows == 0
    clock.advance(2)
    assert controller.collect().flows == 1
