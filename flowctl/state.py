"""All of a controller that changes. A forked child gets a new one, and never looks at the old."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Final, final

from flowctl import sync
from flowctl.band import PriorityBand
from flowctl.clock import Clock
from flowctl.collector import TICK, Collector
from flowctl.config import Config
from flowctl.flow import Flow
from flowctl.gate import Gate, Signal
from flowctl.holders import Overdue
from flowctl.news import News, Observer, Report
from flowctl.profile import Profile
from flowctl.registry import FlowRegistry
from flowctl.stats import CollectReport, SignalState
from flowctl.turn import Turn

LOOKS: Final = 4
"""How often within `hold_warning` or `max_hold` it is looked who holds seats."""


@final
class State:
    """The turn, the registry and the collector of one controller in one process: what the collector works on."""

    __slots__ = (
        "_background",
        "_clock",
        "_cycle",
        "_look_every",
        "_mutex",
        "_next_look",
        "_owner",
        "_report",
        "_samplers",
        "_signals",
        "bands",
        "collector",
        "overdue",
        "profile",
        "registry",
        "ticks_while_queued",
        "turn",
    )

    def __init__(
        self,
        config: Config,
        gates: Sequence[Gate],
        clock: Clock,
        *,
        observer: Observer | None,
        report: Report,
        owner: Callable[[], object],
        background: bool,
    ) -> None:
        # fixed after construction; the owner is gone once it is None
        self._owner = owner
        self._clock = clock
        self._report = report
        self._background = background
        self.profile = profile = Profile(clock.now) if config.profile else None
        lock = profile and profile.turn()
        self.turn = Turn(config, gates, clock, News(observer, report), priorities=self.priorities, lock=lock)
        self.registry = FlowRegistry(config, clock, self.turn.lock, self.turn.is_interrupted, profile)
        self.bands: dict[int, PriorityBand[Flow]] = self.registry.bands.entries
        assert config.gc_interval is not None
        self.collector = Collector(self, clock, config.gc_interval, report)
        self._signals = tuple(gate for gate in gates if isinstance(gate, Signal))
        self._samplers = [
            Collector(_Sampling(signal, self.in_use), clock, signal.interval, self._report_signal, "flowctl-sampler")
            for signal in self._signals
        ]
        self.ticks_while_queued = bool(self._signals) or config.revocation is not None
        watched = [most for most in (config.hold_warning, config.max_hold) if most is not None]
        self._look_every = max(min(watched) / LOOKS, TICK) if watched else math.inf
        # the collector's, read by anyone
        self.overdue: frozenset[int] = frozenset()  # the holds that were reported
        self._next_look = 0.0 if watched else math.inf
        # guarded by _mutex (re-entrant for handlers; rank: alone): a cycle runs for as long as its token lives
        self._mutex = sync.RLock()
        self._cycle: weakref.ref[_Cycle] | None = None

    def look_out(self, awake_by: float = math.inf) -> None:
        """See that the background threads run, and that the collector looks round at this time."""
        if self._background:
            self.collector.ensure(awake_by)
            for sampler in self._samplers:
                sampler.ensure()

    def stop(self, *, wait: bool) -> None:
        """Stop the background threads for good, and wait for the collector if it may be waited for."""
        for sampler in self._samplers:
            sampler.stop(wait=False)  # its source may block for ever
        self.collector.stop(wait=wait)

    def priorities(self) -> list[int]:
        """Those that have a band."""
        return list(self.registry.bands.entries.copy())

    def signals(self) -> tuple[SignalState, ...]:
        """How the saturation signals stand."""
        return tuple(signal.state() for signal in self._signals)

    def collect(self) -> CollectReport:
        """One whole cycle; returns at once if one is running."""
        token = _Cycle()
        with self._mutex:
            if self._cycle is not None and self._cycle() is not None:
                return CollectReport()
            self._cycle = weakref.ref(token)
        try:
            if not self._background:
                self._sample()
            self.tick()
            suspects: list[Flow] = []
            flows = self.registry.sweep_flows(pinned=suspects.append)
            self.turn.audit(suspects, repairs=self.registry.audit_bands())
            bands = self.registry.sweep_bands()
            self.turn.see_bands()
            return CollectReport(flows=flows, bands=bands, shards=self.registry.topology.sweep())
        finally:
            del token  # whoever keeps an exception keeps this frame

    def tick(self) -> None:
        """What cannot wait for the next cycle."""
        self.turn.tick()
        if self._look_every < math.inf:
            self._next_look = self._clock.now() + self._look_every
            self._report_overdue()

    def _report_overdue(self) -> None:
        """Report, once each, who has held seats for too long."""
        late = self.turn.overdue()
        for overdue in late:
            if overdue.serial not in self.overdue:
                self._report("hold_warning", TimeoutError(_told(overdue)))
                self.overdue |= {overdue.serial}  # after it: an exception on the way loses no report
        self.overdue = frozenset([overdue.serial for overdue in late])

    def needs_ticks(self) -> bool:
        """Is there anything that only looking tells?"""
        return self.turn.has_probes() or (self.ticks_while_queued and self.turn.ledger.queued > 0)

    def next_deadline(self) -> float:
        """When a request expires that no thread waits for, or seats may be held for too long."""
        return min(self.turn.next_deadline(), self._next_look)

    def _sample(self) -> None:
        """Look at the signals, where they have no threads of their own."""
        for signal in self._signals:
            try:
                signal.sample()
            except Exception as error:  # noqa: BLE001 - a source of the user's own; it is reported
                self._report_signal(signal.name, error)

    def _report_signal(self, what: str, error: BaseException) -> None:
        self._report("saturation signal", error)

    def in_use(self) -> bool:
        """False once nobody has the controller, or a ticket of it."""
        return self._owner() is not None or self.turn.ledger.has_claims

    def _check(self) -> None:
        self.turn._check()
        self.registry._check(self.turn.ledger.pins_by_flow())


def _told(overdue: Overdue) -> str:
    stack = sync.stack_of(overdue.thread)
    return (
        f"{overdue.key} holds {overdue.seats} seats for {overdue.seconds:.1f} s"
        f"{': its thread is at' if stack else ', and its thread is not known'}\n{stack}".rstrip()
    )


@final
class _Sampling:
    """The work of a signal's thread."""

    __slots__ = ("_signal", "in_use")

    def __init__(self, signal: Signal, in_use: Callable[[], bool]) -> None:
        self._signal = signal
        self.in_use = in_use

    def collect(self) -> None:
        self._signal.sample()

    def tick(self) -> None:
        """Nothing is due between two samples."""

    def needs_ticks(self) -> bool:
        return False

    def next_deadline(self) -> float:
        return math.inf


@final
class _Cycle:
    """Stands for one running cycle of the collector, in the frame that runs it."""

    __slots__ = ("__weakref__",)
