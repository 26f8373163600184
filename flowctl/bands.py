"""Which bands there are: configured ones, ones made from a template as they are asked for, and retired ones.

A band's lease has a pin for each flow that was built and not finalised, and one more if it is configured. What is
retired takes no new request; it is collected once it has drained, and its priority is unknown again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from flowctl import sync
from flowctl.atomic import CellWord
from flowctl.band import PriorityBand
from flowctl.clock import Clock
from flowctl.config import BandConfig, Config
from flowctl.flow import Flow
from flowctl.lease import Lease, LeaseTable, born
from flowctl.profile import Profile


@final
class Bands:
    """The bands of one controller."""

    __slots__ = ("_clock", "_config", "_founding", "_profile", "configured", "table")

    def __init__(self, config: Config, clock: Clock, profile: Profile | None = None) -> None:
        # fixed after construction
        self._config = config
        self._clock = clock
        self._profile = profile
        # one new band at a time, so that there are never too many. Re-entrant for handlers; rank: first of all
        self._founding = sync.RLock()
        self.table: LeaseTable[int, PriorityBand[Flow]] = LeaseTable(profile and profile.table())
        # replaced as a whole under _founding, read by anyone
        self.configured: Mapping[int, BandConfig] = {
            band.priority: band for band in config.bands if band.priority is not None
        }
        for priority, band in self.configured.items():
            # the pin that it is born with stays until it is retired
            self.table.publish(priority, self._new(priority, band))

    def config_at(self, priority: int) -> BandConfig:
        """The configuration of a new band at this priority."""
        configured = self.configured.get(priority)
        return self._config.template_for(priority) if configured is None else configured

    def nearest(self, priority: int) -> int | None:
        """The priority at which a request is served: its own; or, where no band takes it or may be created for it, the
        nearest below, else the nearest above. None if no band takes any.
        """
        known = self.table.entries
        try:
            if not known[priority].is_retired:
                return priority
        except KeyError:
            if self._config.dynamic_bands and len(known) < self._config.max_bands:
                return priority
        bands = known.copy()
        open_ones = [other for other, band in bands.items() if not band.is_retired]
        below = [other for other in open_ones if other < priority]
        if below:
            return max(below)
        return min(open_ones, default=None if bands else priority)

    def pin(self, priority: int) -> PriorityBand[Flow]:
        """The band of this priority, created if need be, with one pin for the caller."""
        band = self.table.pin(priority)
        if band is None:
            with self._founding:
                # looked at again: there may be no room for one more by now
                nearest = self.nearest(priority)
                priority = priority if nearest is None else nearest
                band = self._pinned(priority, self.config_at(priority))
        return band

    def configure(self, config: BandConfig) -> PriorityBand[Flow]:
        """Add a configured band, or make one that exists configured, with the same ordering and fairness: then its
        caller sees to it that it takes requests. `ValueError` if that cannot be.
        """
        priority = config.priority
        assert priority is not None
        with self._founding:
            band = self.table.entries.get(priority)
            if priority in self.configured and band is not None and band.is_retired:
                return band  # an exception kept the last one who tried from opening it
            if priority in self.configured:
                raise ValueError(
                    f"priority must not be configured yet, and {priority} is: retire_band({priority}) first"
                )
            if band is None and len(self.table.entries) >= self._config.max_bands:
                raise ValueError(
                    f"priority {priority} would be one band more than max_bands ({self._config.max_bands})"
                )
            band = self._pinned(priority, config)
            if (band.config.ordering, band.config.fairness) != (config.ordering, config.fairness):
                band.lease.unpin(self._clock.now)
                raise ValueError(
                    f"ordering and fairness of band {priority} must be what they are as long as it exists "
                    f"({band.config.ordering}, {band.config.fairness}), not {config.ordering}, {config.fairness}"
                )
            self.configured = {**self.configured, priority: config}
            return band

    def _pinned(self, priority: int, config: BandConfig) -> PriorityBand[Flow]:
        """The band of this priority, created like this if there is none, with one pin more."""
        while True:
            band = self.table.pin(priority)
            if band is not None:
                return band
            fresh = self._new(priority, config)
            if self.table.publish(priority, fresh) is fresh:
                return fresh

    def unconfigure(self, priority: int) -> PriorityBand[Flow]:
        """Let a band be collected like any other: the pin of a configured one is given back. `ValueError` if there is
        none.
        """
        with self._founding:
            band = self.table.entries.get(priority)
            if band is None:
                raise ValueError(
                    f"priority must be that of a band ({sorted(self.table.entries.copy())}), not {priority}"
                )
            if priority in self.configured:
                if not self._config.dynamic_bands and len(self.configured) == 1:
                    raise ValueError(f"priority {priority} is the last band that there is: dynamic_bands is False")
                others = dict(self.configured)
                del others[priority]
                self.configured = others
                band.lease.unpin(self._clock.now)
            return band

    def sweep(self) -> int:
        """Collect the bands that have no flow and were idle for the timeout, and the retired ones without a flow; how
        many.
        """
        now = self._clock.now()
        assert self._config.band_gc_timeout is not None
        collected = 0
        for priority, band in self.table.entries.copy().items():
            timeout = 0.0 if band.is_retired else self._config.band_gc_timeout
            if band.lease.try_mark(now, timeout) or band.lease.is_marked:
                collected += self.table.remove(priority, band)
        return collected

    def _new(self, priority: int, config: BandConfig) -> PriorityBand[Flow]:
        word = CellWord(born(self._clock.now(), pins=1))
        if self._profile is None:
            return PriorityBand(priority, config, Lease(word))
        return PriorityBand(priority, config, Lease(self._profile.band_word(word)), self._profile.table())
