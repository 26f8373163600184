"""What does each gate cost where nobody has to wait? Beside the fixed limit: nobody asks it while there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Final, final

from benchmarks.crew import race, race_seconds
from benchmarks.harness import Depth, Plot, Question, Row, Step, Target
from flowctl import (
    AdaptiveLimit,
    Aimd,
    ConcurrencyLimit,
    Config,
    FlowController,
    Gate,
    Holdback,
    InFlight,
    Revocation,
    Saturation,
)

SEATS: Final = 64
ADAPTIVE: Final = Target("ratio", "at most", 1.3)

Gates = Callable[[], Gate | Sequence[Gate]]


def idle() -> float:
    """A back end with nothing to do."""
    return 0.0


KINDS: Final[tuple[tuple[str, Gates, Config, Target | None], ...]] = (
    ("adaptive limit", lambda: AdaptiveLimit(Aimd(), initial=SEATS), Config(), ADAPTIVE),
    ("requests in flight", lambda: InFlight(SEATS), Config(), None),
    ("a sampled signal", lambda: Saturation(idle), Config(), None),
    ("a limit and a signal", lambda: [ConcurrencyLimit(SEATS), Saturation(idle)], Config(), None),
    ("a limit with holdback", lambda: ConcurrencyLimit(SEATS), Config(ceilings=Holdback(0.2)), None),
    ("a limit, holders watched", lambda: ConcurrencyLimit(SEATS), Config(hold_warning=60.0), None),
    ("a limit with revocation", lambda: ConcurrencyLimit(SEATS), Config(revocation=Revocation()), None),
)


@final
class Asker:
    """Asks a free controller, and gives back at once."""

    def __init__(self, config: Config, gate: Gate | Sequence[Gate]) -> None:
        self.controller = FlowController(config, gate=gate)
        # the first request waits until a signal has been sampled
        self.controller.admit("tenant", ttl=10.0).release()

    def call(self, number: int, count: int) -> None:
        controller = self.controller
        for _ in repeat(None, count):
            controller.admit("tenant").release()


def _measure(name: str, gate: Gates, config: Config, target: Target | None, depth: Depth) -> list[Row]:
    ours, rival = Asker(config, gate()), Asker(Config(), ConcurrencyLimit(SEATS))
    with ours.controller, rival.controller:
        pairs = race(ours.call, rival.call, 1, depth)
    return [
        Row(
            name=name,
            unit="ns",
            samples=tuple(pairs.ours),
            rival="fixed limit",
            rival_samples=tuple(pairs.rival),
            target=target,
            at={"threads": 1, "gate": name},
        )
    ]


def steps(depth: Depth) -> list[Step]:
    if depth.level == 0:
        return []
    return [
        Step(name, race_seconds(1, depth), partial(_measure, name, gate, config, target, depth))
        for name, gate, config, target in KINDS
    ]


QUESTION: Final = Question(
    "gates",
    "what each gate costs when nobody has to wait",
    steps,
    plots=(Plot(title="To a fixed limit", x="gate", shows="ratio"),),
)
