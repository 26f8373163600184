"""P7: the k-th call to foreign code raises, for every k. Nothing is leaked, and what is swallowed is counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import final
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    FlowController,
    FlowKey,
    LongestFlow,
    LowerPriority,
    Request,
    RoundRobin,
)
from flowctl.gate import Change, Gate, Load
from flowctl.incidents import Incidents
from flowctl.news import News
from flowctl.policies.displacement import Backlog, Newcomer, T
from flowctl.policies.ordering import Waiting
from flowctl.ticket import ReleaseOutcome, Ticket
from tests.faults.points import assert_found, strike_each_point
from tests.faults.world import Asked, World
from tests.proof import Proof
from tests.servers.exchange import TEXT, environment, protected

CLAIM = "whatever foreign code raises, at every call-out, leaks nothing, and is raised or counted"

KINDS: tuple[type[BaseException], ...] = (ValueError, KeyboardInterrupt, SystemExit)


@final
class CallOuts:
    """Counts the calls to foreign code; number `at` raises `fault`."""

    def __init__(self, at: int, fault: BaseException) -> None:
        self.by_kind: Counter[str] = Counter()
        self.counting = False
        self.raised = False
        self._at = at
        self._fault = fault

    def __call__(self, kind: str) -> None:
        if self.counting:
            self.by_kind[kind] += 1
            if self.by_kind.total() == self._at:
                self.raised = True
                raise self._fault


class ForeignGate(Gate):
    def __init__(self, seats: ConcurrencyLimit, out: CallOuts) -> None:
        self.seats = seats
        self.out = out

    def bind(self, owner: object, run: Change, now: Callable[[], float]) -> None:
        self.seats.bind(owner, run, now)

    @property
    def limit(self) -> int:
        self.out("gate.limit")
        return self.seats.limit

    @property
    def sure_seats(self) -> int:
        self.out("gate.sure_seats")
        return 0

    def admits(self, load: Load, cost: int, ceiling: float) -> bool:
        self.out("gate.admits")
        return self.seats.admits(load, cost, ceiling)

    def saturation(self, load: Load) -> float:
        self.out("gate.saturation")
        return self.seats.saturation(load)


class ForeignFairness:
    def __init__(self, out: CallOuts) -> None:
        self.out = out

    def charge(self, cost: int, weight: float) -> float:
        self.out("fairness.charge")
        return RoundRobin().charge(cost, weight)


class ForeignOrdering:
    def __init__(self, out: CallOuts) -> None:
        self.out = out

    def key(self, request: Waiting) -> float:
        self.out("ordering.key")
        return request.arrived


class ForeignLongest:
    def __init__(self, out: CallOuts) -> None:
        self.out = out

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        self.out("displacement.victims of the longest")
        for victim in LongestFlow().victims(newcomer, backlogs):
            self.out("displacement.victims of the longest, the next")
            yield victim


class ForeignDisplacement:
    def __init__(self, out: CallOuts) -> None:
        self.out = out

    def victims(self, newcomer: Newcomer, backlogs: Sequence[Backlog[T]]) -> Iterator[T]:
        self.out("displacement.victims")
        for victim in LowerPriority().victims(newcomer, backlogs):
            self.out("displacement.victims, the next")
            yield victim


class ForeignObserver:
    def __init__(self, out: CallOuts) -> None:
        self.out = out

    def settled(self, ticket: Ticket) -> None:
        self.out("observer.settled")

    def released(self, ticket: Ticket, outcome: ReleaseOutcome) -> None:
        self.out("observer.released")


class ForeignHandler(logging.Handler):
    def __init__(self, out: CallOuts) -> None:
        super().__init__()
        self.out = out

    def emit(self, record: logging.LogRecord) -> None:
        self.out("log handler")


class ForeignAsked(Asked):
    def __init__(self, out: CallOuts) -> None:
        super().__init__()
        self.out = out
        self.complaints = 0

    def __call__(self, ticket: Ticket) -> None:
        self.told += 1
        self.out("on_settled")
        ticket.release()
        if ticket.key.id == "complaining":
            self.complaints += 1
            raise LookupError("always")


class Story(World):
    """All that a controller does, with everything foreign that it can be given."""

    def __init__(self, out: CallOuts, fault: BaseException) -> None:
        band = BandConfig(
            ordering=ForeignOrdering(out),
            fairness=ForeignFairness(out),
            displacement=ForeignLongest(out),
            max_requests=2,
        )
        config = Config(
            default_band=band,
            max_requests=5,
            displacement=ForeignDisplacement(out),
            flow_gc_timeout=100.0,
            band_gc_timeout=100.0,
        )
        super().__init__(config, gate=lambda limit: ForeignGate(limit, out), observer=ForeignObserver(out), fault=fault)
        self.out = out
        self.mine: list[ForeignAsked] = []
        self.script.called = out

    def ask(self, flow: str, priority: int = 0, *, ttl: float | None = None, size: int = 0) -> None:
        asked = ForeignAsked(self.out)
        self.asked.append(asked)
        self.mine.append(asked)
        asked.ticket = self.controller.submit(Request(FlowKey(flow, priority), ttl=ttl, size=size), asked)

    def wait_with_a_probe(self, answers: list[bool]) -> None:
        def probe() -> bool:
            self.out("cancel probe")
            return answers.pop(0) if answers else False

        self.controller.admit("probed", cancel=probe).release()

    def tell(self) -> None:
        def later() -> None:
            self.script.time += 5

        controller = self.controller
        self.step(lambda: self.hold("holder"))
        self.step(lambda: self.hold("holder"))  # waits, and expires
        for flow, priority, ttl in (("a", 0, None), ("b", 0, 3.0), ("a", 0, None), ("c", 5, 50.0), ("c", 5, None)):
            self.step(lambda flow=flow, priority=priority, ttl=ttl: self.ask(flow, priority, ttl=ttl))  # type: ignore[misc]
        self.step(lambda: self.ask("d", 7))  # somebody makes room
        self.step(lambda: self.ask("d", 0))  # nobody does
        self.step(lambda: self.use("e", ttl=0))
        self.step(later)
        self.step(controller.collect)
        self.step(controller.stats)
        for flow in ("i", "i", "i", "i", "j"):  # the longest flow makes room
            self.step(lambda flow=flow: self.ask(flow, 3))  # type: ignore[misc]
        last_queued = self.asked[-3].ticket
        if last_queued is not None:
            self.step(last_queued.cancel)
        self.step(lambda: self.limit.set(3))
        self.step(lambda: self.limit.set(1))
        self.meanwhile(controller.collect, self.let_go)
        self.step(lambda: self.wait_with_a_probe([False, False]))
        self.step(lambda: self.ask("complaining"))
        self.step(lambda: self.hold("g"))
        self.meanwhile(int, int)
        self.step(lambda: self.wait_with_a_probe([False, True]))
        self.script.time += 200
        self.step(controller.collect)
        self.step(controller.flows)
        self.step(lambda: self.ask("h", 3))
        self.meanwhile(self.let_go)
        self.step(lambda: controller.close(drain=5))
        self.step(lambda: self.use("late"))


def tell(kind: type[BaseException], at: int) -> Counter[str]:
    """Tell the story with the call-out number `at` raising (0: none); what was called how often until then."""
    fault = kind("foreign")
    out = CallOuts(at, fault)
    story = Story(out, fault)
    handler = ForeignHandler(out)
    logger = logging.getLogger("flowctl")
    logger.addHandler(handler)
    try:
        out.counting = True
        story.tell()
        out.counting = False
    finally:
        logger.removeHandler(handler)
    story.assert_nothing_is_left()
    if out.raised and not story.struck:
        assert isinstance(fault, Exception), "swallowed"
        incidents = story.controller.stats().incidents - sum(asked.complaints for asked in story.mine)
        assert incidents == 1 or fault in causes(story), "swallowed, and not counted"
    return out.by_kind


def causes(story: Story) -> list[BaseException | None]:
    """Why those without a thread were refused: that tells them what was raised in their way."""
    tickets = [asked.ticket for asked in story.asked if asked.ticket is not None]
    return [ticket.error.__cause__ for ticket in tickets if ticket.error is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kth_call_out_raises_for_every_k(kind: type[BaseException], proof: Proof) -> None:
    every = tell(kind, 0)
    points = strike_each_point(lambda at: tell(kind, at).total())

    assert set(every) == {
        "cancel probe",
        "clock.now",
        "clock.park",
        "displacement.victims",
        "displacement.victims, the next",
        "displacement.victims of the longest",
        "displacement.victims of the longest, the next",
        "fairness.charge",
        "gate.admits",
        "gate.limit",
        "gate.saturation",
        "gate.sure_seats",
        "log handler",
        "observer.released",
        "observer.settled",
        "on_settled",
        "ordering.key",
    }
    assert points >= every.total() // 2
    proof.shown("P7", CLAIM, "faults", points, "points")


@pytest.mark.parametrize(
    ("removed", "owner", "name", "without"),
    [
        ("what it raises is counted", Incidents, "report", lambda self, what, error: None),
        ("what a callback raises is caught", News, "_tell", lambda self, telling: telling.pop().wait.on_settled(None)),
    ],
    ids=str,
)
def test_a_protection_that_is_taken_away_is_missed(
    *,
    removed: str,
    owner: type,
    name: str,
    without: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    proof: Proof,
) -> None:
    monkeypatch.setattr(owner, name, without)
    assert_found(lambda at: tell(ValueError, at).total(), proof, CLAIM, removed)


# --- the middleware -----------------------------------------------------------------------------------------------


class Response:
    """What an application returns: everything that a server may call, each a call-out."""

    def __init__(self, out: CallOuts) -> None:
        self.out = out
        self.closed = 0
        self.blocks = iter([b"one", b"two"])

    def __iter__(self) -> Iterator[bytes]:
        self.out("iter")
        return self

    def __next__(self) -> bytes:
        self.out("next")
        return next(self.blocks)

    def close(self) -> None:
        self.closed += 1
        self.out("close")


class SizedResponse(Response):
    def __len__(self) -> int:
        self.out("len")
        return 2


def serve(controller: FlowController, response: type[Response], out: CallOuts, fault: BaseException) -> None:
    """One request as a server handles it, that hears of all that is raised; afterwards the seat is free."""
    returned: list[Response] = []
    expected = [fault]

    def classify(environ: WSGIEnvironment) -> str:
        try:
            out("classifier")
        except Exception:
            expected.clear()  # the middleware bears it
            raise
        return "a"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        out("app")
        start_response("200 OK", TEXT)(b"written")
        returned.append(response(out))
        return returned[0]

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        out("start_response")
        return lambda block: out("write")

    raised: list[BaseException] = []
    out.counting = True
    try:
        result = protected(app, controller, classify=classify)(environment(), start_response)
        try:
            len(result) if isinstance(result, Sized) else None
            for _ in result:
                pass
        finally:
            getattr(result, "close", int)()
    except BaseException as error:
        raised.append(error)
        if error is not fault:
            raise
    out.counting = False
    assert controller.stats().in_flight == 0, "the seat is not free"
    assert [each.closed for each in returned] == [1] * len(returned), "not closed once"
    assert controller.try_admit("b").release()
    controller._check()
    if out.raised:
        assert raised == expected, "the server has not heard of it"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("response", [Response, SizedResponse])
def test_the_kth_call_out_of_the_middleware_raises_for_every_k(
    controller: FlowController, response: type[Response], kind: type[BaseException], proof: Proof
) -> None:
    every = CallOuts(0, kind("never"))
    serve(controller, response, every, kind("never"))
    assert {"classifier", "app", "start_response", "write", "iter", "next", "close"} <= set(every.by_kind)

    for at in range(1, every.by_kind.total() + 1):
        fault = kind("foreign")
        serve(controller, response, CallOuts(at, fault), fault)
    claim = "whatever a classifier, an application or a server's function raises, the seat is free afterwards"
    proof.shown("P7", claim, "faults", every.by_kind.total(), "points")
