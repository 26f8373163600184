"""`@controller.limit(...)`: each call has one ticket, given back once, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from functools import partial
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from flowctl import (
    AdaptiveLimit,
    Config,
    ControllerClosed,
    Expired,
    FlowController,
    FlowKey,
    Request,
    Revocation,
    Revoked,
    Saturated,
    Ticket,
)
from flowctl.integrations.wsgi import FlowControlMiddleware
from flowctl.policies.limits import Estimate, Window
from flowctl.testing import FakeClock
from tests.servers.exchange import Exchange
from tests.support import PATIENCE, MakeController, Spawn


def in_flight(controller: FlowController) -> int:
    return controller.stats().in_flight


@pytest.fixture
def controller(make_controller: MakeController) -> Iterator[FlowController]:
    """One seat. Whatever a test does: in the end it is not held, and was never lost and found."""
    controller = make_controller()
    yield controller
    stats = controller.stats()
    assert (stats.in_flight, stats.queued, stats.abandoned, stats.repairs) == (0, 0, 0, 0)


# --- functions --------------------------------------------------------------------------------------------------------


def test_a_call_has_a_seat_while_it_runs(controller: FlowController) -> None:
    @controller.limit(flow="reports")
    def report(first: int, *, second: int) -> tuple[int, int, int]:
        return first, second, in_flight(controller)

    assert report(1, second=2) == (1, 2, 1)
    assert report(3, second=4) == (3, 4, 1)
    assert controller.stats().dispatched == 2


async def to_await(first: int, *, second: str = "x") -> None:
    """What it says."""


def to_call(first: int, *, second: str = "x") -> None:
    """What it says."""


def to_iterate(first: int, *, second: str = "x") -> Iterator[None]:
    """What it says."""
    yield


@pytest.mark.parametrize("function", [to_await, to_call, to_iterate])
def test_it_keeps_its_name_signature_and_kind(controller: FlowController, function: Callable[..., object]) -> None:
    limited = controller.limit(flow="reports")(function)

    assert (limited.__name__, limited.__doc__, limited.__module__) == (function.__name__, "What it says.", __name__)
    assert inspect.signature(limited) == inspect.signature(function)
    for is_kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction):
        assert is_kind(limited) == is_kind(function)


def test_one_decorator_limits_several_functions(controller: FlowController) -> None:
    limit = controller.limit(flow=FlowKey("reports", 3))

    assert [limit(partial(pow, 2))(10), limit(len)("abc")] == [1024, 3]
    assert controller.flows() == [FlowKey("reports", 3)]


def test_it_asks_on_its_terms(make_controller: MakeController) -> None:
    controller = make_controller(limit=5)

    @controller.limit(flow="a", priority=7, cost=3, ttl=0)
    def hold() -> int:
        return in_flight(controller)

    assert hold() == 3
    assert controller.flows() == [FlowKey("a", 7)]
    with controller.admit("b", cost=3), pytest.raises(Saturated):
        hold()


def test_a_call_that_is_refused_never_begins(controller: FlowController) -> None:
    called: list[int] = []
    limited = controller.limit(flow="a", ttl=0)(called.append)

    with controller.admit("b"), pytest.raises(Saturated):
        limited(1)
    controller.close()
    with pytest.raises(ControllerClosed):
        limited(2)
    assert called == []


def test_a_call_waits_for_its_turn(controller: FlowController, clock: FakeClock, spawn: Spawn) -> None:
    @controller.limit(flow="a", ttl=5)
    def answer() -> str:
        return "answer"

    with controller.admit("b"):
        waiting = spawn(answer)
        clock.wait_for_sleepers(1)
        assert controller.stats().queued == 1
    assert waiting.result() == "answer"


def test_each_exception_gives_the_seat_back_once(make_controller: MakeController) -> None:
    told = Told()
    controller = make_controller(gate=told.gate())

    @controller.limit(flow="a")
    def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("own"), KeyboardInterrupt(), SystemExit(), Revoked(), GeneratorExit()):
        with pytest.raises(type(error)) as raised:
            fail(error)
        assert raised.value is error
        assert in_flight(controller) == 0
    assert controller.stats().dispatched == 5
    assert told.dropped == [1, 1, 1, 1], "all but the one that was asked to stop"


def test_a_refusal_from_within_is_an_exception_of_the_call(
    controller: FlowController, make_controller: MakeController
) -> None:
    inner = make_controller()
    limited = controller.limit(flow="a")(lambda: inner.try_admit("x").release())

    with inner.admit("y"), pytest.raises(Saturated):
        limited()


def test_whoever_calls_itself_with_one_seat_waits_for_itself_until_its_ttl(
    controller: FlowController, clock: FakeClock, spawn: Spawn
) -> None:
    @controller.limit(flow="a", ttl=5)
    def count_down(number: int) -> int:
        return count_down(number - 1) if number else 0

    assert count_down(0) == 0
    stuck = spawn(count_down, 1)
    clock.wait_for_sleepers(1)
    assert (in_flight(controller), controller.stats().queued) == (1, 1)
    clock.advance(5)
    with pytest.raises(Expired):
        stuck.result()


def test_whoever_calls_itself_takes_a_seat_each_time(make_controller: MakeController) -> None:
    controller = make_controller(limit=4)

    @controller.limit(flow="a", ttl=0)
    def depth(number: int) -> int:
        return depth(number - 1) if number else in_flight(controller)

    assert depth(3) == 4
    with pytest.raises(Saturated):
        depth(4)
    assert in_flight(controller) == 0


def test_within_a_request_of_a_middleware_all_calls_ride_on_its_seat(controller: FlowController) -> None:
    @controller.limit(flow="a", ttl=0)
    def depth(number: int) -> int:
        return depth(number - 1) if number else in_flight(controller)

    @controller.limit(flow="a", ttl=0)
    def count() -> Iterator[int]:
        yield depth(3)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [str([depth(3), *count()]).encode()]

    protected = FlowControlMiddleware(app, controller, classify=lambda environ: "a", threads=1)

    assert Exchange(protected).read() == [b"[1, 1]"]
    assert controller.stats().dispatched == 1


# --- methods ----------------------------------------------------------------------------------------------------------


def test_methods_are_limited_by_what_they_are_called_with(make_controller: MakeController) -> None:
    controller = make_controller(limit=2)

    class Translator:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @controller.limit(flow=lambda self, text: self.tenant)
        def translate(self, text: str) -> str:
            return text.upper()

        @classmethod
        @controller.limit(flow=lambda cls: cls.__name__)
        def named(cls) -> str:
            return cls.__name__

        @staticmethod
        @controller.limit(flow="static")
        def plain(text: str) -> str:
            return text

        @property
        @controller.limit(flow="property")
        def length(self) -> int:
            return len(self.tenant)

    one = Translator("one")
    assert (one.translate("a"), Translator("two").translate(text="b")) == ("A", "B")
    assert (one.named(), Translator.named(), one.plain("c"), Translator.plain("d"), one.length) == (
        "Translator",
        "Translator",
        "c",
        "d",
        3,
    )
    assert [key.id for key in controller.flows()] == ["Translator", "one", "property", "static", "two"]


# --- whose call it is -------------------------------------------------------------------------------------------------


def test_the_flow_is_a_function_of_the_arguments(make_controller: MakeController) -> None:
    controller = make_controller(limit=9)

    def whose(tenant: str, *, plan: str = "free") -> str | FlowKey | Request:
        key = FlowKey(tenant, {"free": 0, "paid": 5}.get(plan, 9))
        return tenant if plan == "free" else key if plan == "paid" else Request(key, cost=4)

    @controller.limit(flow=whose)
    def serve(tenant: str, *, plan: str = "free") -> int:
        return in_flight(controller)

    assert [serve("a"), serve("b", plan="paid"), serve("c", plan="enterprise")] == [1, 1, 4]
    assert controller.flows() == [FlowKey("c", 9), FlowKey("b", 5), FlowKey("a", 0)]


def test_what_is_said_beside_it_holds_for_ids_and_keys(make_controller: MakeController) -> None:
    controller = make_controller(limit=9)

    @controller.limit(flow=lambda named: named, priority=5, cost=2, ttl=0)
    def serve(named: str | FlowKey) -> int:
        return in_flight(controller)

    assert [serve("a"), serve(FlowKey("b", 5))] == [2, 2]
    with pytest.raises(ValueError, match="that of the FlowKey"):
        serve(FlowKey("c", 4))
    assert controller.flows() == [FlowKey("a", 5), FlowKey("b", 5)]


@pytest.mark.parametrize(
    ("named", "error", "said"),
    [
        pytest.param(7, TypeError, "flow must return a str, a FlowKey or a Request, not 7", id="no flow"),
        pytest.param(None, TypeError, "flow must return a str, a FlowKey or a Request, not None", id="nothing"),
        pytest.param("", ValueError, "flow id must have at least 1 byte", id="no id"),
        pytest.param(FlowKey("a", 2**31), ValueError, "priority must be in", id="a bad priority"),
        pytest.param(
            Request(FlowKey("a"), received_at=1.0), ValueError, "received_at is None, not 1.0", id="received already"
        ),
    ],
)
def test_what_is_no_flow_is_refused_before_anything_is_booked(
    controller: FlowController, named: str, error: type[Exception], said: str
) -> None:
    limited = controller.limit(flow=lambda: named)(pytest.fail)

    with pytest.raises(error, match=said):
        limited()
    assert controller.flows() == []


@pytest.mark.parametrize(
    "said",
    [{"priority": 1}, {"cost": 2}, {"size": 1}, {"ttl": 1.0}, {"metadata": {}}, {"revocable": False}],
    ids=lambda said: next(iter(said)),
)
def test_a_request_says_it_all_and_nothing_is_said_twice(controller: FlowController, said: dict[str, int]) -> None:
    limited = controller.limit(flow=lambda: Request(FlowKey("a")), **said)(pytest.fail)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=rf"^{next(iter(said))} must not be said to limit\(\)"):
        limited()
    assert controller.flows() == []


def test_what_it_raises_is_raised_and_nothing_is_held(controller: FlowController) -> None:
    limited = controller.limit(flow=lambda tenant: {"a": "known"}[tenant])(len)

    assert limited("a") == 1
    with pytest.raises(KeyError):
        limited("b")
    with pytest.raises(TypeError, match="positional argument"):
        limited("a", "b")  # type: ignore[call-arg]  # that is what is wrong


# --- bad arguments ----------------------------------------------------------------------------------------------------


async def a_task() -> None:
    """For those who take it for a plain function."""


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        pytest.param({"flow": 7}, TypeError, "flow must be a str, a FlowKey, or a plain function", id="flow"),
        pytest.param({"flow": Request(FlowKey("a"))}, TypeError, "flow must be a str, a FlowKey", id="a request"),
        pytest.param({"flow": a_task}, TypeError, "flow must be .* a plain function", id="a coroutine function"),
        pytest.param({"flow": ""}, ValueError, "flow id must have at least 1 byte", id="id"),
        pytest.param({"flow": FlowKey("a", 1), "priority": 2}, ValueError, "that of the FlowKey", id="two priorities"),
        pytest.param({"flow": len, "priority": True}, TypeError, "priority must be an int", id="priority"),
        pytest.param({"flow": len, "cost": 0}, ValueError, "cost must be at least 1, not 0", id="cost"),
        pytest.param({"flow": len, "size": -1}, ValueError, "size must be at least 0, not -1", id="size"),
        pytest.param({"flow": len, "ttl": "1"}, TypeError, "ttl must be a number of seconds", id="ttl"),
        pytest.param({"flow": len, "metadata": 1}, TypeError, "metadata must be a mapping", id="metadata"),
        pytest.param({"flow": len, "revocable": 1}, TypeError, "revocable must be a bool or None", id="revocable"),
    ],
)
def test_a_bad_argument_is_an_error_where_it_is_said(
    controller: FlowController, asked: dict[str, str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        controller.limit(**asked)  # type: ignore[arg-type]  # that is what is wrong


async def numbers() -> AsyncIterator[int]:
    yield 1


class Numbers:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        pytest.param(7, "limit must decorate a function, not 7", id="no function"),
        pytest.param(dict, "limit must decorate a function", id="a class"),
        pytest.param(staticmethod(len), "below @classmethod and @staticmethod", id="a static method"),
        pytest.param(classmethod(print), "below @classmethod and @staticmethod", id="a class method"),
        pytest.param(numbers, "cannot decorate an async generator function", id="an async generator function"),
        pytest.param(partial(numbers), "cannot decorate an async generator function", id="a partial one"),
        pytest.param(Numbers(), "cannot decorate an async generator function", id="a callable one"),
    ],
)
def test_what_cannot_be_limited_is_refused_where_it_is_decorated(
    controller: FlowController, function: Callable[[], object], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        controller.limit(flow="a")(function)


# --- generators -------------------------------------------------------------------------------------------------------


def test_a_generator_has_its_seat_from_the_first_next_to_the_end(controller: FlowController) -> None:
    @controller.limit(flow="a")
    def count(most: int) -> Iterator[int]:
        for _ in range(most):
            yield in_flight(controller)

    assert inspect.isgeneratorfunction(count)
    counting = count(2)
    assert in_flight(controller) == 0
    assert next(counting) == 1
    assert list(counting) == [1]
    assert in_flight(controller) == 0
    assert list(count(0)) == []


def test_one_that_nobody_began_never_asks(controller: FlowController) -> None:
    @controller.limit(flow="a")
    def count() -> Iterator[int]:
        yield 1

    counting = count()
    del counting
    count().close()  # type: ignore[attr-defined]  # it is a generator, whatever it is annotated as
    assert controller.stats().dispatched == 0


def test_one_that_is_closed_early_cleans_up_on_its_seat_and_gives_it_back(controller: FlowController) -> None:
    cleaned_up_with: list[int] = []

    @controller.limit(flow="a")
    def count() -> Generator[int, None, None]:
        try:
            yield from range(9)
        finally:
            cleaned_up_with.append(in_flight(controller))

    counting = count()
    next(counting)
    counting.close()
    counting.close()
    assert (cleaned_up_with, in_flight(controller)) == ([1], 0)


def test_one_that_is_dropped_gives_its_seat_back(controller: FlowController) -> None:
    @controller.limit(flow="a")
    def count() -> Iterator[int]:
        yield from range(9)

    for number in count():
        assert number == in_flight(controller) - 1
        break
    gc.collect()
    assert (in_flight(controller), controller.stats().abandoned) == (0, 0)


def test_one_that_will_not_end_gives_its_seat_back_all_the_same(controller: FlowController) -> None:
    @controller.limit(flow="a")
    def stubborn() -> Generator[int, None, None]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2
                return

    counting = stubborn()
    next(counting)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        counting.close()


def test_what_is_sent_thrown_and_returned_goes_through(controller: FlowController) -> None:
    @controller.limit(flow="a")
    def echo() -> Generator[str, str, str]:
        said = "ready"
        while said != "end":
            try:
                said = yield said
            except ValueError as error:
                said = f"caught {error}"
        return "returned"

    echoing = echo()
    assert [next(echoing), echoing.send("a"), echoing.throw(ValueError("b")), echoing.send("c")] == [
        "ready",
        "a",
        "caught b",
        "c",
    ]
    with pytest.raises(StopIteration) as ended:
        echoing.send("end")
    assert ended.value.value == "returned"


@pytest.mark.filterwarnings("ignore:the .* signature of throw:DeprecationWarning")
def test_an_exception_that_is_thrown_by_its_class_goes_through_too(controller: FlowController) -> None:
    @controller.limit(flow="a")
    def count() -> Generator[int, None, None]:
        yield 1

    for thrown in [(LookupError,), (LookupError, "own"), (LookupError, LookupError("own"), None)]:
        counting = count()
        next(counting)
        with pytest.raises(LookupError) as raised:
            counting.throw(*thrown)  # type: ignore[arg-type]  # any way that there is
        assert raised.value.args == (("own",) if thrown[1:] else ())


def test_how_a_generator_ended_is_a_sample_only_if_it_raised(make_controller: MakeController) -> None:
    told = Told()
    controller = make_controller(gate=told.gate())

    @controller.limit(flow="a")
    def count(fails: bool) -> Generator[int, None, None]:
        yield 1
        if fails:
            raise ValueError("own")

    list(count(fails=False))
    early = count(fails=True)
    next(early)
    early.close()
    assert told.dropped == []
    with pytest.raises(ValueError, match="own"):
        list(count(fails=True))
    assert told.dropped == [1]


def test_generators_that_are_open_at_once_have_a_seat_each(controller: FlowController, spawn: Spawn) -> None:
    @controller.limit(flow="a", ttl=0)
    def count() -> Generator[int, None, None]:
        yield from range(9)

    one, other = count(), count()
    next(one)
    with pytest.raises(Saturated):
        next(other)
    assert spawn(next, one).result() == 1, "any thread may go on with it"
    spawn(one.close).result()
    assert list(count()) == list(range(9))


# --- revoked ----------------------------------------------------------------------------------------------------------


def asking_back(make_controller: MakeController) -> tuple[FlowController, Callable[[], Ticket]]:
    """A controller, and who comes with something more important."""
    controller = make_controller(Config(revocation=Revocation()))

    def come() -> Ticket:
        urgent = controller.submit(Request(FlowKey("urgent", 9)), lambda ticket: None)
        controller.collect()
        return urgent

    return controller, come


def test_a_generator_that_is_asked_to_stop_is_told_at_its_yield(make_controller: MakeController) -> None:
    controller, come = asking_back(make_controller)

    @controller.limit(flow="a", priority=-1)
    def count() -> Iterator[int]:
        yield from range(9)

    counting = count()
    assert next(counting) == 0
    urgent = come()
    with pytest.raises(Revoked, match="a request of priority 9 waits"):
        next(counting)
    assert urgent.state == "dispatched"
    urgent.release()
    assert (in_flight(controller), controller.stats().revocations.issued) == (0, 1)


def test_a_generator_may_say_goodbye_and_is_told_once(make_controller: MakeController) -> None:
    controller, come = asking_back(make_controller)

    @controller.limit(flow="a", revocable=True)
    def count() -> Iterator[str]:
        try:
            yield "one"
        except Revoked:
            yield "stopped"
            yield "done"

    counting = count()
    assert next(counting) == "one"
    urgent = come()
    assert list(counting) == ["stopped", "done"]
    assert urgent.release()


def test_who_is_not_to_be_asked_goes_on(make_controller: MakeController) -> None:
    controller, come = asking_back(make_controller)

    @controller.limit(flow="a", priority=-1, revocable=False)
    def count() -> Iterator[int]:
        yield from range(3)

    counting = count()
    next(counting)
    urgent = come()
    assert list(counting) == [1, 2]
    assert urgent.release()


# --- coroutines -------------------------------------------------------------------------------------------------------


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await story()

    asyncio.run(bounded())


def test_a_task_waits_on_its_loop(controller: FlowController) -> None:
    @controller.limit(flow="a")
    async def answer(number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return number, in_flight(controller)

    async def story() -> None:
        answers = await asyncio.gather(answer(1), answer(2), answer(number=3))
        assert tuple(answers) == ((1, 1), (2, 1), (3, 1))

    assert inspect.iscoroutinefunction(answer)
    run(story)
    assert controller.stats().dispatched == 3


def test_a_callable_object_and_a_partial_one_wait_on_their_loop_too(controller: FlowController) -> None:
    class Answer:
        async def __call__(self, number: int) -> int:
            await asyncio.sleep(0)
            return in_flight(controller) * number

    limit = controller.limit(flow="a")

    async def story() -> None:
        assert await limit(Answer())(1) == 1
        assert await limit(partial(Answer().__call__, 2))() == 2

    run(story)


def test_a_task_that_is_cancelled_while_it_waits_has_withdrawn_and_never_begun(controller: FlowController) -> None:
    begun: list[bool] = []

    @controller.limit(flow="a")
    async def answer() -> None:
        begun.append(True)

    async def story() -> None:
        with controller.admit("b"):
            task = asyncio.create_task(answer())
            await asyncio.sleep(0)
            assert controller.stats().queued == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert controller.stats().queued == 0

    run(story)
    assert begun == []


def test_a_task_that_is_cancelled_amid_its_work_gives_its_seat_back(controller: FlowController) -> None:
    @controller.limit(flow="a")
    async def answer() -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        task = asyncio.create_task(answer())
        await asyncio.sleep(0)
        assert in_flight(controller) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_flight(controller) == 0

    run(story)


def test_a_coroutine_that_is_dropped_amid_its_work_gives_its_seat_back(controller: FlowController) -> None:
    @controller.limit(flow="a")
    async def answer() -> None:
        await asyncio.sleep(0)

    async def story() -> None:
        answering = answer()
        answering.send(None)
        assert in_flight(controller) == 1
        answering.close()
        assert in_flight(controller) == 0
        answer().close()

    run(story)
    assert controller.stats().dispatched == 1


def test_an_exception_of_a_task_and_its_refusal_are_raised(controller: FlowController) -> None:
    @controller.limit(flow=lambda error: "a", ttl=0)
    async def fail(error: Exception) -> None:
        raise error

    async def story() -> None:
        with pytest.raises(ValueError, match="own"):
            await fail(ValueError("own"))
        with controller.admit("b"), pytest.raises(Saturated):
            await fail(ValueError("own"))

    run(story)


# --- how the tests look -----------------------------------------------------------------------------------------------


class Told:
    """An algorithm that keeps what each release tells it, if that is a sample: 1 for one that was dropped, else 0."""

    def __init__(self) -> None:
        self.dropped: list[int] = []

    def gate(self) -> AdaptiveLimit:
        return AdaptiveLimit(self, initial=4, window=0.0, samples=1)

    def step(self, estimate: Estimate, window: Window) -> Estimate:
        self.dropped.append(window.dropped)
        return estimate
