"""What the demo shows: a live table in a terminal, plain lines elsewhere, and three lines in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowctl.demo.clients import PAUSE, Figures, Tenant
from flowctl.demo.phases import Phase, Show
from flowctl.demo.server import SEATS, THREADS, WORK

LINE_EVERY: Final = 2.0
"""Seconds between two plain lines."""


@contextmanager
def shown(noisy: Tenant, polite: Tenant) -> Iterator[Show]:
    """Something that shows phases as they go on."""
    console = Console()
    pause = "-".join(f"{seconds * 1000:.0f}" for seconds in PAUSE)
    console.print(
        f"{noisy.clients} noisy clients and {polite.clients} polite ones ask waitress with {THREADS} threads,\n"
        f"over a back end that takes {SEATS} requests at a time, {WORK * 1000:.0f} ms each.\n"
        f"Who is refused asks again after {pause} ms; times are from the first try to the answer.",
        highlight=False,
        soft_wrap=True,
    )
    if not console.is_terminal:
        yield PlainLines().show
        return
    phases: dict[str, Phase] = {}
    with Live(console=console, auto_refresh=False) as live:

        def show(phase: Phase) -> None:
            phases[phase.name] = phase
            live.update(picture(list(phases.values())), refresh=True)

        yield show


def picture(phases: list[Phase]) -> Group:
    """The table of the phases so far, and how far the last one is."""
    table = Table("", "tenant")
    for column in ("served/s", "p50", "p99", "refused/s"):
        table.add_column(column, justify="right", min_width=8, no_wrap=True)
    for phase in phases:
        table.add_row(f"{phase.name} flowctl", "noisy", *_cells(phase.noisy))
        table.add_row(f"{phase.elapsed:4.1f} s", "polite", *_cells(phase.polite), style="bold")
        table.add_section()
    busy = ", ".join(f"{phase.busy:.0%} {phase.name} flowctl" for phase in phases)
    return Group(table, Text(f"back end busy: {busy}"))


@final
class PlainLines:
    """Phases as lines for a log: one every other second."""

    def __init__(self) -> None:
        self._next = ("", 0.0)

    def show(self, phase: Phase) -> None:
        name, due = self._next
        if phase.name != name:
            due = LINE_EVERY
        elif phase.elapsed >= due:
            due += LINE_EVERY
            seen = "; ".join(
                "{} {} served/s, p50 {}, p99 {}, {} refused/s".format(tenant, *_cells(figures))
                for tenant, figures in (("noisy", phase.noisy), ("polite", phase.polite))
            )
            print(f"{phase.name} flowctl, {phase.elapsed:4.1f} s: {seen}", flush=True)
        self._next = (phase.name, due)


def summary(without: Phase, protected: Phase) -> list[str]:
    """Three lines that say what flowctl changed, and at whose cost."""
    return [
        f"polite: {_change(without.polite, protected.polite)}",
        f"noisy: {_change(without.noisy, protected.noisy)}",
        (
            f"back end: {without.busy:.0%} -> {protected.busy:.0%} busy, "
            f"served {without.answered:.0f} -> {protected.answered:.0f}/s in all"
        ),
    ]


def _change(was: Figures, now: Figures) -> str:
    return (
        f"p50 {_bare(was.p50)} -> {_ms(now.p50)}, p99 {_bare(was.p99)} -> {_ms(now.p99)}, "
        f"served {was.answered:.0f} -> {now.answered:.0f}/s, refused {now.refused:,.0f}/s"
    )


def _cells(figures: Figures) -> tuple[str, str, str, str]:
    return f"{figures.answered:.0f}", _ms(figures.p50), _ms(figures.p99), f"{figures.refused:,.0f}"


def _ms(seconds: float) -> str:
    return _bare(seconds) if math.isnan(seconds) else f"{_bare(seconds)} ms"


def _bare(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:,.0f}"
