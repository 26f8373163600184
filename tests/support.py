"""What tests share that is no fixture: threads whose results can be asked for, and controllers that are checked."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, ParamSpec, TypeVar, final

from flowctl import ConcurrencyLimit, Config, FlowControlError, FlowController, Ticket
from flowctl.clock import Clock
from flowctl.gate import Change, Gate, Load
from flowctl.news import Observer
from flowctl.testing import FakeClock

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 30.0
"""Real seconds after which a thread that should have ended is a failure."""


@contextmanager
def without_cycle_collector() -> Iterator[None]:
    """Collect garbage now, and none from now on, so that no finaliser runs by chance."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@final
class Spawned(Generic[T]):
    """A thread that runs one call."""

    def __init__(self, run: Callable[[], T]) -> None:
        self._run = run
        self._returned: list[T] = []
        self._raised: BaseException | None = None
        self._asked = False
        self.thread = threading.Thread(target=self._call, daemon=True)
        self.thread.start()

    def _call(self) -> None:
        try:
            self._returned.append(self._run())
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever asks for the result
            self._raised = error

    @property
    def done(self) -> bool:
        return not self.thread.is_alive()

    def result(self, timeout: float = PATIENCE) -> T:
        """What the call returned; raises what it raised, or `TimeoutError` if it has not ended by then."""
        self._asked = True
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise TimeoutError(f"{self._run!r} has not ended after {timeout} s")
        if self._raised is not None:
            raise self._raised
        return self._returned[0]

    def end(self) -> None:
        """See that it ended, and that nothing but a refusal went unheard."""
        if self._asked and self.done:
            return
        try:
            self.result()
        except FlowControlError:
            pass


@final
class Spawn:
    """Starts threads: ``spawn(fn, *args, **kwargs)`` returns a `Spawned`."""

    def __init__(self) -> None:
        self._endings: list[Callable[[], None]] = []

    def __call__(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Spawned[T]:
        spawned = Spawned(lambda: fn(*args, **kwargs))
        self._endings.append(spawned.end)
        return spawned

    def join(self) -> None:
        """Wait for all of them."""
        while self._endings:
            self._endings.pop()()


@final
class MakeController:
    """Makes controllers that a test drives by hand: ``make_controller(Config(...), gate=..., limit=...)``."""

    def __init__(self, clock: FakeClock, spawn: Spawn) -> None:
        self._clock = clock
        self._spawn = spawn
        self._made: list[FlowController] = []

    def __call__(
        self,
        config: Config | None = None,
        *,
        limit: int = 1,
        gate: Gate | Sequence[Gate] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        background: bool = False,
    ) -> FlowController:
        controller = FlowController(
            config,
            gate=ConcurrencyLimit(limit) if gate is None else gate,
            clock=self._clock if clock is None else clock,
            observer=observer,
            background=background,
        )
        self._made.append(controller)
        return controller

    def close(self) -> None:
        """Close all, wait for the threads that used them, and check what they left behind."""
        for controller in self._made:
            controller.close()
        self._spawn.join()
        for controller in self._made:
            controller._check()


def wait_for(reached: Callable[[], bool]) -> None:
    """Look again and again, for as long as patience lasts: for what a thread of the library does by itself."""
    pause, until = threading.Event(), time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < until, "it never came"
        pause.wait(0.005)


class GateOver(Gate):
    """Seats that a test's own gate stands over: it promises nothing, so that it is asked each time."""

    def __init__(self, seats: int) -> None:
        self.seats = ConcurrencyLimit(seats)

    def bind(self, owner: object, run: Change, now: Callable[[], float]) -> None:
        self.seats.bind(owner, run, now)

    def saturation(self, load: Load) -> float:
        return self.seats.saturation(load)

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        return self.seats.admits(load, cost, ceiling)


@final
class Released:
    """Notes how each request's work went, as it was told."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def settled(self, ticket: Ticket) -> None:
        pass

    def released(self, ticket: Ticket, outcome: str) -> None:
        self.outcomes.append(outcome)


def true_in_child(story: Callable[[], bool]) -> bool:
    """Fork, and say whether the story came true in the child, within ten seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        came_true = False
        try:
            came_true = story()
        finally:
            os._exit(0 if came_true else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
