"""An executor whose work waits for its turn in a controller's queue, and takes no thread while it waits.

E1  A future settles once: with what its call returned or raised, with the refusal of its request, or cancelled.
E2  From `submit` until it ends, work is a request of the controller: queued, bounded and refused like any other.
E3  A call runs only while its request holds its seats.

A piece of work is in `job.py`, the workers are in `crew.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import Final, ParamSpec, TypeVar, final

from flowctl import sync
from flowctl.atomic import CellWord
from flowctl.controller import FlowController
from flowctl.crew import Crew
from flowctl.job import Job, Place, Scope, Told
from flowctl.request import FlowKey, Request, check_count, check_flow_key, shown

P = ParamSpec("P")
T = TypeVar("T")


@final
class FlowExecutor(Executor):
    """A `concurrent.futures.Executor` that runs what the controller grants.

    `submit` and `map` are those of every executor, and hand all arguments on to the call, also one named `priority`
    or `ttl`: code that takes an executor need not know this one. So whose work it is, and how important, is said where
    the executor is made, or by `of`, which returns a view that is an executor too.

    The gate says how much runs: each granted call has a worker thread of its own, started when none is spare, and kept
    for the next. `max_workers` bounds the threads (None: as many as the gate ever granted at once). It bounds no
    grants: below what the gate lets through, granted work waits for a worker on its seats, in the order of its grants
    and no longer by the policies, and nobody else can use them; that is logged once. Let the gate's limit be the
    smaller one. Without a limit (signals only), say `max_workers`.

    A refusal (`QueueFull`, `Expired`, `ControllerClosed`, ...) is the future's exception, never raised by `submit`. An
    exception of the call releases its seats as "ok": it is no overload of the back end as far as anybody here can tell.
    Nobody is asked to stop: a call has no way to hear of it.

    Whoever settles a request, perhaps in another thread of the program, starts the worker, or runs the callbacks of the
    future that was refused.

    >>> from flowctl import ConcurrencyLimit
    >>> with FlowController(gate=ConcurrencyLimit(8)) as controller, FlowExecutor(controller) as executor:
    ...     executor.submit(pow, 2, 10).result()
    ...     list(executor.of("tenant-a", priority=10).map(abs, [-1, -2]))
    1024
    [1, 2]
    """

    def __init__(
        self,
        controller: FlowController,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
        *,
        flow: str | FlowKey = "default",
        priority: int = 0,
        cost: int = 1,
        size: int = 0,
        ttl: float | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        if not isinstance(controller, FlowController):
            raise TypeError(f"controller must be a FlowController, not {shown(controller)}")
        if max_workers is not None:
            max_workers = check_count("max_workers", max_workers, at_least=1)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {shown(initializer)}")
        # fixed after construction
        self._controller = controller
        self._max_workers = max_workers
        self._prefix = thread_name_prefix or f"FlowExecutor-{_named.fetch_add(1)}"
        self._initializer = None if initializer is None else partial(initializer, *initargs)
        self._request = _request(flow, priority, cost=cost, size=size, ttl=ttl, metadata=metadata)
        self._scope = Scope()
        # replaced as a whole in a forked child
        self._crew = self._new_crew()
        sync.renew_after_fork(self)

    def _new_crew(self) -> Crew:
        return Crew(self._max_workers, self._prefix, self._initializer)

    def of(
        self,
        flow: str | FlowKey,
        *,
        priority: int = 0,
        cost: int = 1,
        size: int = 0,
        ttl: float | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> FlowView:
        """An executor for one flow's work on the same workers: cheap enough to be made for each call.

        The terms are those of `FlowController.admit`; what is not said is the default there, and not this executor's.
        Raises `TypeError` or `ValueError` for a bad one, so that `submit` never does.
        """
        return FlowView(self, _request(flow, priority, cost=cost, size=size, ttl=ttl, metadata=metadata))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have it called under the executor's own flow, once it is granted. Never waits for that.

        Cancelling the future takes a request that is queued out of its queue. `RuntimeError` after `shutdown`.
        """
        return self._submit(self._request, self._scope, partial(fn, *args, **kwargs))

    def _submit(self, request: Request, scope: Scope, call: Callable[[], T]) -> Future[T]:
        crew = self._crew
        future: Told[T] = Told(crew)
        place = Place(crew, scope)
        job = Job(crew, call, future, place)
        try:
            Future.add_done_callback(future, place.leave)  # it needs no time
            crew.enter(place, job)
            place.ticket = self._controller.submit(request, job.settled)
        except BaseException:
            future.cancel()
            crew.forget(place)
            raise
        if future.done():
            place.give_back()  # it ended before its place had a ticket
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, of views neither. What was submitted is done as it would be, or cancelled if it does not
        run yet. With `wait`, block until all has ended, and the threads too; `RuntimeError` from within its own work.

        Work that is queued still waits for its turn: `close` the controller, or cancel, if it is not to.
        """
        self._shut_down(None, wait=wait, cancel_futures=cancel_futures)

    def _shut_down(self, scope: Scope | None, *, wait: bool, cancel_futures: bool) -> None:
        crew = self._crew
        if scope is None:
            crew.close(self._scope)  # for a forked child, too
            crew.end()
        else:
            crew.close(scope)
        places = crew.places(scope)
        if cancel_futures:
            crew.cancel(places)
        if wait:
            if scope is None and crew.is_worker():
                raise RuntimeError("shutdown(wait=True) by one of the executor's own workers would wait for itself")
            crew.wait(places)
            if scope is None:
                crew.join()

    def __del__(self) -> None:
        # dropped without a shutdown: what was submitted is done, and the workers go
        crew: Crew | None = getattr(self, "_crew", None)  # not there if the constructor raised
        if crew is not None:
            crew.abandon()

    def after_fork_in_child(self) -> None:
        """Called in a forked child, where the executor begins with no work and no workers. A future of the parent is
        never done here.
        """
        self._crew = self._new_crew()
        if self._scope.is_closed:
            self._crew.end()


@final
class FlowView(Executor):
    """A `FlowExecutor`, on the terms of one flow: what `FlowExecutor.of` returns."""

    def __init__(self, executor: FlowExecutor, request: Request) -> None:
        self._executor: Final = executor
        self._request: Final = request
        self._scope: Final = Scope()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have it called under this view's flow; else as `FlowExecutor.submit`."""
        return self._executor._submit(self._request, self._scope, partial(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work through this view, and wait for what came through it; others are not touched."""
        self._executor._shut_down(self._scope, wait=wait, cancel_futures=cancel_futures)


_named: Final = CellWord()
"""How many executors had to be given a name."""


def _request(
    flow: str | FlowKey,
    priority: int,
    *,
    cost: int,
    size: int,
    ttl: float | None,
    metadata: Mapping[str, object] | None,
) -> Request:
    key = check_flow_key(flow, priority)
    return Request(key, cost=cost, size=size, ttl=ttl, metadata=metadata, revocable=False)
