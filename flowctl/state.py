"""All of a controller that changes. A forked child gets a new one, and never looks at the old."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import final

from flowctl import sync
from flowctl.clock import Clock
from flowctl.collector import Collector
from flowctl.config import Config
from flowctl.flow import Flow
from flowctl.gate import Gate
from flowctl.news import News, Observer, Report
from flowctl.registry import FlowRegistry
from flowctl.stats import CollectReport
from flowctl.turn import Turn


@final
class State:
    """The turn, the registry and the collector of one controller in one process: what the collector works on."""

    __slots__ = ("_cycle", "_mutex", "_owner", "bands", "collector", "registry", "turn")

    def __init__(
        self,
        config: Config,
        gates: Sequence[Gate],
        clock: Clock,
        *,
        observer: Observer | None,
        report: Report,
        owner: Callable[[], object],
    ) -> None:
        # fixed after construction; the owner is gone once it is None
        self._owner = owner
        lock = sync.CountedRLock(clock.now) if config.profile else None
        self.turn = Turn(config, gates, clock, News(observer, report), lock)
        self.registry = FlowRegistry(config, clock, self.turn.lock, self.turn.is_interrupted)
        self.bands = self.registry.bands.entries
        assert config.gc_interval is not None
        self.collector = Collector(self, clock, config.gc_interval, report)
        # guarded by _mutex (re-entrant for handlers; rank: alone): a cycle runs for as long as its token lives
        self._mutex = sync.RLock()
        self._cycle: weakref.ref[_Cycle] | None = None

    def collect(self) -> CollectReport:
        """One whole cycle; returns at once if one is running."""
        token = _Cycle()
        with self._mutex:
            if self._cycle is not None and self._cycle() is not None:
                return CollectReport()
            self._cycle = weakref.ref(token)
        try:
            self.turn.tick()
            suspects: list[Flow] = []
            flows = self.registry.sweep_flows(pinned=suspects.append)
            self.turn.audit(suspects, repairs=self.registry.audit_bands())
            return CollectReport(flows=flows, bands=self.registry.sweep_bands(), shards=self.registry.topology.sweep())
        finally:
            del token  # whoever keeps an exception keeps this frame

    def tick(self) -> None:
        """What cannot wait for the next cycle."""
        self.turn.tick()

    def needs_ticks(self) -> bool:
        """Is there anything that only looking tells?"""
        return self.turn.has_probes()

    def next_deadline(self) -> float:
        """When a request expires that no thread waits for."""
        return self.turn.next_deadline()

    def in_use(self) -> bool:
        """False once nobody has the controller, or a ticket of it."""
        return self._owner() is not None or bool(self.turn.ledger.holds)

    def _check(self) -> None:
        self.turn._check()
        self.registry._check(self.turn.ledger.pins_by_flow())


@final
class _Cycle:
    """Stands for one running cycle of the collector, in the frame that runs it."""

    __slots__ = ("__weakref__",)
