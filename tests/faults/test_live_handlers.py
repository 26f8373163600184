"""P7: handlers that change the same thing as the call that they interrupt: shards, bands, whoever makes room."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowctl import BandConfig, Config, sync
from flowctl.registry import FlowRegistry
from flowctl.request import RESERVED_PREFIX
from flowctl.shard import Shard
from flowctl.topology import Layout, Topology
from tests.faults.moments import Moments
from tests.faults.points import assert_found, strike_each_point
from tests.faults.world import World
from tests.proof import Proof

CLAIM = "a handler may change what its own thread is in the middle of changing"


@pytest.fixture(autouse=True)
def _a_reader_writer_lock_that_does_not_move_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "STUCK_AFTER", 0.002)


def interrupt(at: int, world: World, change: Callable[[], object], handler: Callable[[], object]) -> int:
    """Make a change with a handler at this moment (0: none); how many moments were passed until then."""
    with Moments(at, lambda: world.step(handler)) as moments:
        world.step(change)
    world.controller._check()
    world.assert_nothing_is_left()
    return moments.passed


# --- shards --------------------------------------------------------------------------------------------------------


def resize_in_a_resize(at: int) -> int:
    """The handler's shards have flows when the resize goes on, that must stay listed."""
    world = World(Config(shards=1), seats=9)
    topology = world.controller._state.registry.topology
    opened: list[str] = []

    def resize_and_open() -> None:
        topology.resize(3)
        for name in "wxyz":
            world.hold(name)
            opened.append(name)

    with Moments(at, lambda: world.step(resize_and_open)) as moments:
        world.step(lambda: world.controller.resize(5))
    assert {flow.id for flow in topology.flows()} == set(opened), "H1: a flow in a shard that is not listed"
    assert len(topology.live) in {3, 5}
    world.assert_nothing_is_left()
    return moments.passed


def test_a_resize_in_the_middle_of_a_resize(proof: Proof) -> None:
    proof.shown("H1", CLAIM, "faults", strike_each_point(resize_in_a_resize), "points")


def test_without_the_compare_a_resize_in_the_middle_of_a_resize_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def try_resize(topology: Topology, count: int) -> bool:
        seen = topology._layout
        more = tuple([Shard(topology._now) for _ in range(count - len(seen.live))])
        topology._layout = Layout(seen.live[:count] + more, seen.retired + seen.live[count:])
        return True

    monkeypatch.setattr(Topology, "_try_resize", try_resize)
    assert_found(resize_in_a_resize, proof, CLAIM, "the compare of the layout in a resize")


# --- bands ---------------------------------------------------------------------------------------------------------


def a_request_in_a_retirement(at: int) -> int:
    world = World(Config(bands=[BandConfig(priority=0), BandConfig(priority=5)]), seats=3)
    world.hold("a", 5)
    return interrupt(at, world, lambda: world.controller.retire_band(5), lambda: world.use("a", 5))


def a_pause_in_a_pause(at: int) -> int:
    world = World()
    world.hold("holder")
    for flow in ("a", "b", "a"):
        world.ask(flow)
    pause, resume = world.controller.pause, world.controller.resume
    with Moments(at, lambda: world.step(lambda: pause("b"))) as moments:
        world.step(lambda: pause("a"))
    world.controller._check()
    for flow in "ab":
        resume(flow)
    world.assert_nothing_is_left()
    return moments.passed


@pytest.mark.parametrize("tell", [a_request_in_a_retirement, a_pause_in_a_pause])
def test_a_band_that_changes_in_the_middle_of_its_change(tell: Callable[[int], int], proof: Proof) -> None:
    proof.shown("P7", CLAIM, "faults", strike_each_point(tell), "points")


# --- whoever makes room --------------------------------------------------------------------------------------------


def an_eviction_in_an_eviction(at: int) -> int:
    world = World(Config(max_flows=3, overflow_flows=1), seats=9)
    for flow in "abc":
        world.use(flow)
    registry = world.controller._state.registry
    with Moments(at, lambda: world.step(lambda: world.use("handler's"))) as moments:
        world.step(lambda: world.use("new"))
    wheel, newborn = registry._wheel, registry._newborn
    filed = {*wheel._turning, *newborn, *[flow for flows in wheel._spokes.values() for flow in flows]}
    assert filed >= set(registry.flows()), "R3: a flow that nobody will look at again"
    assert len([flow for flow in registry.flows() if not flow.id.startswith(RESERVED_PREFIX)]) <= 4
    world.assert_nothing_is_left()
    return moments.passed


def test_an_eviction_in_the_middle_of_an_eviction(proof: Proof) -> None:
    proof.shown("R3", CLAIM, "faults", strike_each_point(an_eviction_in_an_eviction), "points")


def test_without_a_sign_that_the_wheel_turns_an_eviction_in_an_eviction_is_found(
    monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def turn(registry: FlowRegistry, act: Callable[[], bool]) -> bool:
        with registry._idle:
            return act()

    monkeypatch.setattr(FlowRegistry, "_turn_wheel", turn)
    assert_found(an_eviction_in_an_eviction, proof, CLAIM, "what tells a handler that the wheel is turning")
