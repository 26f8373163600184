"""P12 and P6: the collector raises or dies in each of its phases. It goes on, and nobody's deadline depends on it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import final

import pytest

from flowctl import BandConfig, ConcurrencyLimit, Config, Expired, FlowController, FlowKey, Request, Ticket, sync
from flowctl.bands import Bands
from flowctl.clock import MonotonicClock
from flowctl.collector import Collector
from flowctl.gate import Load
from flowctl.ledger import Ledger, Picture
from flowctl.policies.displacement import Backlog, Newcomer, T
from flowctl.registry import FlowRegistry
from flowctl.shard import Shard
from flowctl.state import State
from flowctl.testing import FakeClock
from flowctl.topology import Topology
from flowctl.turn import Turn
from flowctl.wheel import Wheel
from tests.proof import Proof
from tests.support import GateOver, MakeController, Spawn, wait_for
from tests.test_flows import BoomError

GOES_ON = "the collector goes on after an error in each of its phases, and says so once for each"
ENDS = "a blocked admit ends by its deadline, whatever is dead"

PHASES: tuple[tuple[type, str], ...] = (
    (Turn, "tick"),
    (Turn, "_with_gone_clients"),
    (Turn, "_expire_locked"),
    (Turn, "next_deadline"),
    (Turn, "has_probes"),
    (Turn, "age"),
    (Turn, "audit"),
    (Turn, "change"),
    (Ledger, "pop_due"),
    (Ledger, "next_deadline"),
    (Ledger, "picture"),
    (Picture, "is_sound"),
    (Picture, "overpinned"),
    (FlowRegistry, "sweep_flows"),
    (FlowRegistry, "_sweep_retired"),
    (FlowRegistry, "_look_locked"),
    (FlowRegistry, "_try_mark"),
    (FlowRegistry, "remove"),
    (FlowRegistry, "_finalise"),
    (FlowRegistry, "audit_bands"),
    (FlowRegistry, "sweep_bands"),
    (Bands, "sweep"),
    (Topology, "sweep"),
    (Shard, "retire"),
    (Shard, "try_drop"),
    (Shard, "flows_at"),
    (Wheel, "turn"),
    (Wheel, "drop"),
    (Shard, "detach"),
    (Shard, "counts"),
    (FakeClock, "now"),
    (FakeClock, "park"),
    (State, "in_use"),
)


@final
class Fault:
    """Raises in the collector's thread only, so many times."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error = error
        self.times = times
        self.raised = 0

    def instead_of(self, whole: Callable[..., object]) -> Callable[..., object]:
        def act(*args: object, **kwargs: object) -> object:
            if threading.current_thread().name == "flowctl-collector" and self.raised < self.times:
                self.raised += 1
                raise self.error
            return whole(*args, **kwargs)

        return act


def idle(controller: FlowController) -> None:
    """Leave flows and bands that will be due."""
    for priority in (0, 5):
        controller.admit("idle", priority=priority).release()


@pytest.mark.parametrize("error", [BoomError("collector"), KeyboardInterrupt(), SystemExit()], ids=repr)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: f"{phase[0].__name__}.{phase[1]}")
def test_it_goes_on_after_an_error_in_each_phase(
    *,
    phase: tuple[type, str],
    error: BaseException,
    clock: FakeClock,
    make_controller: MakeController,
    monkeypatch: pytest.MonkeyPatch,
    proof: Proof,
) -> None:
    controller = make_controller(Config(flow_gc_timeout=1.0, band_gc_timeout=1.0), background=True)
    fault = Fault(error, times=2)
    holder = controller.admit("holder")
    told = threading.Event()
    controller.submit(Request(FlowKey("waiting"), ttl=2), lambda ticket: told.set())
    other = controller.submit(Request(FlowKey("waiting", 3), ttl=2), lambda ticket: None)
    controller.retire_band(3)
    controller.resize(1)
    owner, name = phase
    monkeypatch.setattr(owner, name, fault.instead_of(getattr(owner, name)))
    collector = controller._state.collector
    thread = collector._thread

    def settled() -> bool:
        clock.advance(0.5)
        return fault.raised == fault.times and told.is_set()

    wait_for(settled)
    holder.release()
    heartbeat = collector.heartbeat or 0.0

    def all_gone() -> bool:
        clock.advance(0.5)
        return not controller.flows() and not controller.bands() and (collector.heartbeat or 0.0) > heartbeat

    wait_for(all_gone)
    wait_for(lambda: len(controller._state.registry.topology.shards) == 1)
    assert other.state == "refused"

    assert collector._thread is thread, "the same thread lives on"
    assert collector.failures == controller.stats().incidents == 2
    proof.shown("P12", GOES_ON, "faults", fault.times, "points")


def test_each_kth_cycle_may_raise_and_it_says_so_the_1st_2nd_4th_and_8th_time(
    clock: FakeClock,
    make_controller: MakeController,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault(BoomError("cycle"), times=9)
    monkeypatch.setattr(FlowRegistry, "sweep_bands", fault.instead_of(FlowRegistry.sweep_bands))
    controller = make_controller(Config(flow_gc_timeout=1.0), background=True)
    with caplog.at_level(logging.ERROR, logger="flowctl"):
        controller.admit("a").release()

        def failed() -> bool:
            clock.advance(0.5)
            return controller._state.collector.failures == 9

        wait_for(failed)

    numbers = [re.findall(r"collector .*no\. (\d+)", record.getMessage()) for record in caplog.records]
    assert numbers == [["1"], ["2"], ["4"], ["8"]]


def test_without_its_supervision_it_is_found_dead(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    def run_unsupervised(self: Collector) -> None:
        try:
            while not self._stopping and self._work.in_use():
                self.look_round()
        except BoomError:
            return

    monkeypatch.setattr(Collector, "_run", run_unsupervised)
    fault = Fault(BoomError("once"), times=1)
    monkeypatch.setattr(Turn, "tick", fault.instead_of(Turn.tick))
    controller = make_controller(background=True)
    controller.admit("a").release()
    thread = controller._state.collector._thread
    assert thread is not None
    thread.join(30)

    assert not thread.is_alive()
    assert controller._state.collector.heartbeat is None, "nothing has shown that it was gone"
    proof.missed(GOES_ON, "the supervision of its loop", 1, "points")


# --- P6: nobody's deadline depends on it --------------------------------------------------------------------------


@pytest.fixture
def no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies as soon as it starts, each time."""
    monkeypatch.setattr(Collector, "_run", lambda self: None)


@pytest.mark.usefixtures("no_collector")
def test_an_admit_ends_by_its_deadline_although_the_collector_is_dead(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn, proof: Proof
) -> None:
    controller = make_controller(background=True)
    with controller.admit("holder"):
        waiting = [spawn(controller.admit, f"flow-{nth}", ttl=5, cancel=lambda: False) for nth in range(3)]
        clock.wait_for_sleepers(3)
        clock.advance(5)
        for waiter in waiting:
            with pytest.raises(Expired):
                waiter.result()
    proof.shown("P6", ENDS, "faults", 3, "runs")


@pytest.mark.usefixtures("no_collector")
def test_an_admit_finds_out_that_its_client_left_although_the_collector_is_dead(spawn: Spawn) -> None:
    controller, gone = FlowController(gate=ConcurrencyLimit(1)), threading.Event()
    with controller.admit("holder"):
        waiting = spawn(controller.admit, "a", cancel=gone.is_set)
        gone.set()
        wait_for(lambda: waiting.done)
    assert controller.stats().evicted == 1
    controller.close()


@pytest.mark.usefixtures("no_collector")
def test_a_request_without_a_thread_expires_at_the_next_decision_although_the_collector_is_dead(
    clock: FakeClock, make_controller: MakeController, proof: Proof
) -> None:
    controller = make_controller(background=True)
    holder = controller.admit("holder")
    told: list[Ticket] = []
    controller.submit(Request(FlowKey("a"), ttl=5), told.append)
    clock.advance(5)
    assert not told

    holder.release()
    assert [ticket.error.__class__ for ticket in told] == [Expired]
    proof.shown("P6", "a request without a thread expires by the next tick or decision", "faults", 1, "runs")


def test_a_request_without_a_thread_expires_by_the_tick_of_a_collector_that_is_started_again(
    clock: FakeClock, make_controller: MakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make_controller(background=True)
    _holder = controller.admit("holder")
    told = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(Collector, "_run", lambda self: None)
        controller._state.collector.stop()
        controller._state.collector._stopping = False
        controller.submit(Request(FlowKey("a"), ttl=5), lambda ticket: told.set())
        thread = controller._state.collector._thread
        assert thread is not None
        thread.join(30)
    clock.advance(5)
    controller.submit(Request(FlowKey("b"), ttl=60), lambda ticket: None)  # sees that it runs

    assert told.wait(30)


class DeadGate(GateOver):
    """Admits nobody once it is dead: it raises whenever it is asked."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(seats=1)
        self.error = error
        self.dead = False

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        if self.dead:
            raise self.error
        return super().admits(load, cost, ceiling)


class DeadFairness:
    def charge(self, cost: int, weight: float) -> float:
        raise BoomError


class DeadDisplacement:
    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        raise BoomError


@pytest.mark.parametrize("error", [BoomError(), KeyboardInterrupt()], ids=repr)
def test_an_admit_ends_by_its_deadline_although_the_gate_always_raises(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn, error: BaseException, proof: Proof
) -> None:
    gate = DeadGate(error)
    controller = make_controller(gate=gate)
    holder = controller.admit("holder")
    waiting = spawn(controller.admit, "a", ttl=5)
    behind = spawn(controller.admit, "b", ttl=4)
    clock.wait_for_sleepers(2)
    gate.dead = True
    try:
        holder.release()
    except KeyboardInterrupt:
        pass
    clock.advance(5)
    for waiter in (waiting, behind):
        with pytest.raises((Expired, type(error))):
            waiter.result()
    gate.dead = False
    controller.collect()
    assert (controller.stats().queued, controller.stats().in_flight) == (0, 0)
    proof.shown("P6", ENDS, "faults", 2, "runs")


def test_an_admit_ends_by_its_deadline_although_all_policies_always_raise(
    clock: FakeClock, make_controller: MakeController, spawn: Spawn, proof: Proof
) -> None:
    band = BandConfig(fairness=DeadFairness(), displacement=DeadDisplacement(), max_requests=3)
    controller = make_controller(Config(default_band=band, displacement=DeadDisplacement(), max_requests=4))
    holder = controller.admit("holder")
    waiting = [spawn(controller.admit, f"flow-{nth}", ttl=5) for nth in range(3)]
    clock.wait_for_sleepers(3)
    holder.release()
    clock.advance(5)

    for waiter in waiting:
        with pytest.raises(Expired):
            waiter.result()
    assert controller.stats().queued == 0
    proof.shown("P6", ENDS, "faults", 3, "runs")


class Deaf:
    """A parking that no wake-up reaches: whoever should wake is dead."""

    def __init__(self) -> None:
        self._never = threading.Event()

    def wake(self) -> None:
        """Nobody hears it."""

    def wait(self, seconds: float) -> bool:
        return self._never.wait(min(seconds, 0.02))


def test_a_waiter_whose_waker_died_finds_out_at_the_end_of_its_slice(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    controller = FlowController(gate=ConcurrencyLimit(1), background=False)
    holder = controller.admit("holder")
    monkeypatch.setattr(sync, "Parking", Deaf)
    waiting = spawn(lambda: controller.admit("a", ttl=None).release())
    wait_for(lambda: controller.stats().queued == 1)
    holder.release()

    assert waiting.result()
    proof.shown("P6", "a waiter looks round after each slice, whoever should have woken it", "faults", 1, "runs")
    controller.close()


def test_without_slices_a_waiter_whose_waker_died_stays_asleep(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    asleep, woken = threading.Event(), threading.Event()

    class Whole(MonotonicClock):  # type: ignore[misc]  # final for users
        __slots__ = ()

        def park(self, parking: sync.Parking, until: float | None) -> None:
            asleep.set()
            woken.wait()

    controller = FlowController(gate=ConcurrencyLimit(1), clock=Whole(), background=False)
    holder = controller.admit("holder")
    waiting = spawn(lambda: controller.admit("a").release())
    assert asleep.wait(30)
    holder.release()  # it is granted, and nobody wakes it
    with pytest.raises(TimeoutError):
        waiting.result(timeout=0.3)

    claim = "a waiter looks round after each slice, whoever should have woken it"
    proof.missed(claim, "parking in slices", 1, "runs")
    woken.set()
    waiting.result()
    controller.close()
