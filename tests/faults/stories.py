"""Stories: each prepares a world, yields it, and then goes on with what is to be struck by a fault.

A story is told again and again, with the fault at another moment each time. Nothing in it is left to chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flowctl import (
    AdaptiveLimit,
    Aimd,
    BandConfig,
    Config,
    EarliestDeadline,
    FlowKey,
    Holdback,
    LongestFlow,
    Revocation,
    Saturation,
    WaitingRoom,
    WeightedFair,
)
from tests.faults.world import World
from tests.servers.exchange import Exchange, a_list, impatient, protected

Story = Callable[[], Iterator[World]]

QUICK = Config(flow_gc_timeout=1.0, band_gc_timeout=1.0)


def a_free_seat() -> Iterator[World]:
    world = World()
    world.use("a")
    yield world
    world.step(lambda: world.use("a"))


def a_new_flow() -> Iterator[World]:
    world = World()
    world.use("another")
    yield world
    world.step(lambda: world.use("a"))


def a_new_band() -> Iterator[World]:
    world = World()
    yield world
    world.step(lambda: world.use("a", 5))


def a_flow_that_is_created_twice_at_once() -> Iterator[World]:
    world = World(QUICK, seats=2)
    world.idle = 1.0  # which of the two is let go of at once, and it is collected like any other if that failed
    now, at_once = world.script.now, [lambda: world.step(lambda: world.use("a"))]

    def slow() -> float:
        while at_once and world.controller._state.registry._moves:
            at_once.pop()()
        return now()

    world.controller._state.registry._clock.now = slow  # type: ignore[method-assign]
    yield world
    world.step(lambda: world.use("a"))


def a_flow_whose_collector_died() -> Iterator[World]:
    world = World(QUICK)
    world.use("a")
    flow = world.controller._state.registry.find(FlowKey("a"))
    assert flow is not None
    world.script.time += 5
    assert flow.lease.try_mark(world.script.time, 1.0)
    yield world
    world.step(lambda: world.use("a"))


def a_wait_that_is_granted() -> Iterator[World]:
    world = World()
    world.hold("holder")
    world.meanwhile(world.let_go)
    yield world
    world.step(lambda: world.use("a"))


def a_wait_that_expires() -> Iterator[World]:
    world = World()
    world.hold("holder")
    yield world
    world.step(lambda: world.use("a", ttl=5))


def a_wait_whose_client_leaves() -> Iterator[World]:
    world = World()
    world.hold("holder")
    gone: list[bool] = []
    world.meanwhile(int, lambda: gone.append(True))
    yield world
    world.step(lambda: world.controller.admit("a", cancel=lambda: bool(gone)).release())


def a_wait_in_a_room() -> Iterator[World]:
    world = World()
    room = WaitingRoom(2, 1)
    world.hold("holder")

    def wait() -> None:
        world.controller.admit("a", room=room).release()

    world.meanwhile(wait, world.let_go)
    yield world
    world.step(wait)


def a_refusal_at_once() -> Iterator[World]:
    world = World()
    world.hold("holder")
    yield world
    world.step(lambda: world.controller.try_admit("a"))


def requests_without_threads() -> Iterator[World]:
    world = World()
    world.hold("holder")
    yield world
    for flow, priority in (("a", 0), ("a", 0), ("c", 5)):
        world.step(lambda flow=flow, priority=priority: world.ask(flow, priority))  # type: ignore[misc]
    world.step(world.let_go)


def requests_that_expire() -> Iterator[World]:
    world = World()
    world.hold("holder")
    for flow, ttl in (("a", 9.0), ("a", 5.0)):
        world.ask(flow, ttl=ttl)
    world.script.time += 5
    yield world
    world.step(world.controller.collect)
    world.step(lambda: world.use("c", 5, ttl=0))


def a_request_that_is_cancelled() -> Iterator[World]:
    world = World()
    world.hold("holder")
    for flow in ("a", "b", "a"):
        world.ask(flow)
    yield world
    for asked in world.asked[1:]:
        assert asked.ticket is not None
        world.step(asked.ticket.cancel)


def a_displacement() -> Iterator[World]:
    world = World(Config(max_requests=3, max_bytes=100))
    world.hold("holder")
    for flow in ("a", "b", "a"):
        world.ask(flow, size=30)
    yield world
    world.step(lambda: world.ask("c", 5, size=60))
    world.step(lambda: world.ask("d", 0, size=60))


def a_larger_limit() -> Iterator[World]:
    world = World()
    world.hold("holder")
    for flow in ("a", "b", "a"):
        world.ask(flow)
    yield world
    world.step(lambda: world.limit.set(3))
    world.step(lambda: world.limit.set(1))


def tickets_that_are_dropped() -> Iterator[World]:
    world = World(seats=2)
    world.hold("a")
    world.hold("b")
    world.ask("c")
    yield world
    world.step(world.held.clear)
    world.step(lambda: world.use("a"))


def a_collection() -> Iterator[World]:
    world = World(Config(bands=[BandConfig(priority=1)], flow_gc_timeout=1.0, band_gc_timeout=1.0), seats=2)
    world.hold("busy")
    for flow, priority in (("a", 0), ("b", 1), ("c", 7)):
        world.use(flow, priority)
    world.script.time += 5
    yield world
    world.step(world.controller.collect)
    world.step(lambda: world.use("a"))


def fewer_shards_and_more() -> Iterator[World]:
    world = World(Config(shards=2, flow_gc_timeout=1.0), seats=2)
    world.hold("a")
    yield world
    world.step(lambda: world.controller.resize(1))
    world.step(lambda: world.use("new"))
    world.step(lambda: world.controller.resize(3))
    world.step(lambda: world.use("newer"))


def a_room_that_is_made_by_who_was_idle_for_longest() -> Iterator[World]:
    world = World(Config(max_flows=2, overflow_flows=1), seats=2)
    world.use("a")
    world.script.time += 1
    world.hold("b")
    yield world
    world.step(lambda: world.use("new"))
    world.step(lambda: world.ask("newer"))


def a_band_that_is_retired() -> Iterator[World]:
    world = World(Config(bands=[BandConfig(priority=0), BandConfig(priority=5)], flow_gc_timeout=1.0))
    world.hold("holder", 5)
    world.ask("a", 5)
    yield world
    world.step(lambda: world.controller.retire_band(5))
    world.step(lambda: world.ask("a", 5))
    world.step(world.let_go)
    world.step(world.controller.collect)


def a_band_that_is_added() -> Iterator[World]:
    world = World()
    world.hold("holder")
    yield world
    world.step(lambda: world.controller.add_band(BandConfig(priority=5)))
    world.step(lambda: world.ask("a", 5))


def a_pause_and_a_resumption() -> Iterator[World]:
    world = World()
    world.hold("holder")
    for flow in ("a", "b", "a"):
        world.ask(flow)
    yield world
    world.step(lambda: world.controller.pause("a"))
    world.step(world.let_go)
    world.step(lambda: world.controller.resume("a"))
    world.step(lambda: world.controller.resume("a"))  # whoever was kept from it does it again


def a_correction() -> Iterator[World]:
    world = World(Config(default_band=BandConfig(fairness=WeightedFair())))
    world.hold("holder")
    world.meanwhile(world.let_go)
    world.hold("a")
    for flow in ("a", "b"):
        world.ask(flow)
    ticket = world.held[0]
    yield world
    world.step(lambda: ticket.adjust(cost=9))
    world.step(lambda: ticket.adjust(cost=1))


def a_revocation() -> Iterator[World]:
    world = World(Config(revocation=Revocation(), hold_warning=0.5), seats=2)
    for flow in "ab":
        world.hold(flow, -1)
    victim = world.held[1]
    event, notice = victim.revoked, victim.notice
    assert notice is not None
    yield world
    world.step(lambda: world.ask("live", 5))
    world.script.time += 1
    world.step(world.controller.collect)
    world.step(world.controller.collect)  # whoever was kept from it does it again
    world.step(victim.check)
    assert (notice.reason is not None) == event._is_set, "asked, and not told"
    world.step(victim.release)
    world.step(world.controller.collect)


def a_limit_that_learns() -> Iterator[World]:
    world = World(gate=lambda limit: AdaptiveLimit(Aimd(), initial=2, samples=2, window=0))
    for flow in "aabb":
        world.ask(flow)
    yield world
    world.script.time += 1
    for _ in range(3):
        world.step(lambda: world.use("a"))


def a_signal_that_opens() -> Iterator[World]:
    opens_at = 1001.0
    world = World(
        Config(ceilings=Holdback(0.2)),
        gate=lambda limit: Saturation(lambda: 1.0 if world.script.time < opens_at else 0.0),
    )
    opens_at = world.script.time + 1
    world.ask("a", -1)
    world.ask("b", 5)
    yield world
    world.step(world.controller.collect)
    world.script.time += 1
    world.step(lambda: world.use("c", 7))
    world.step(world.controller.collect)


def a_displacement_by_who_is_due_first() -> Iterator[World]:
    band = BandConfig(ordering=EarliestDeadline(), displacement=LongestFlow(), max_requests=3)
    world = World(Config(default_band=band))
    world.hold("holder")
    for flow, ttl in (("a", 30.0), ("a", 20.0), ("a", 40.0)):
        world.ask(flow, ttl=ttl)
    yield world
    world.step(lambda: world.ask("b", ttl=50.0))
    world.step(world.let_go)


def a_new_flow_where_it_is_counted() -> Iterator[World]:
    world = World(Config(profile=True))
    world.use("another")
    yield world
    world.step(lambda: world.use("a"))
    world.step(world.controller.contention)


def a_collection_where_it_is_counted() -> Iterator[World]:
    world = World(Config(profile=True, shards=1, flow_gc_timeout=1.0, band_gc_timeout=1.0))
    world.use("a")
    world.script.time += 5
    yield world
    world.step(world.controller.collect)
    world.step(lambda: world.use("a"))


def a_look_round() -> Iterator[World]:
    world = World()
    world.hold("holder")
    world.ask("a")
    yield world
    world.step(world.controller.stats)
    world.step(world.controller.flows)
    world.step(world.controller.bands)


def a_close() -> Iterator[World]:
    world = World()
    world.hold("holder")
    for flow in ("a", "b", "a"):
        world.ask(flow)
    world.meanwhile(lambda: world.use("late"), world.let_go)
    yield world
    world.step(lambda: world.controller.close(drain=5))
    world.step(world.controller.close)


def a_response() -> Iterator[World]:
    world = World()
    middleware = protected(a_list, world.controller)
    Exchange(middleware).read()
    yield world
    world.step(lambda: Exchange(middleware).read())


def a_response_that_is_refused() -> Iterator[World]:
    world = World()
    middleware = protected(a_list, world.controller, classify=impatient)
    world.hold("holder")
    yield world
    world.step(lambda: Exchange(middleware).read())


STORIES: tuple[Story, ...] = (
    a_free_seat,
    a_new_flow,
    a_new_band,
    a_flow_that_is_created_twice_at_once,
    a_flow_whose_collector_died,
    a_wait_that_is_granted,
    a_wait_that_expires,
    a_wait_whose_client_leaves,
    a_wait_in_a_room,
    a_refusal_at_once,
    requests_without_threads,
    requests_that_expire,
    a_request_that_is_cancelled,
    a_displacement,
    a_larger_limit,
    tickets_that_are_dropped,
    a_collection,
    fewer_shards_and_more,
    a_room_that_is_made_by_who_was_idle_for_longest,
    a_band_that_is_retired,
    a_band_that_is_added,
    a_pause_and_a_resumption,
    a_correction,
    a_revocation,
    a_limit_that_learns,
    a_signal_that_opens,
    a_displacement_by_who_is_due_first,
    a_new_flow_where_it_is_counted,
    a_collection_where_it_is_counted,
    a_look_round,
    a_close,
    a_response,
    a_response_that_is_refused,
)
