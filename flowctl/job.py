"""A call that is to run once it is granted, and its future.

J1  A job ends once: it runs, is refused, or is cancelled. Whoever takes its claim decides that.
J2  Its seats are given back before its future tells that it is done, and at once when it is cancelled.
J3  Nothing of it is kept once it is done: no cycle holds a call, its arguments, or its result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, Protocol, TypeVar, final

from flowctl import sync
from flowctl.current import Serving, serving
from flowctl.errors import Revoked
from flowctl.ticket import Ticket

T = TypeVar("T")


class Pending(Protocol):
    """A job, as far as its crew cares."""

    def run(self, ticket: Ticket) -> None: ...

    def cancel(self) -> bool: ...

    def refuse(self, error: BaseException) -> None: ...

    def clear_up(self) -> None: ...


class Employer(Protocol):
    """Who has it run."""

    def employ(self, job: Pending, ticket: Ticket) -> None:
        """It was granted."""

    def forget(self, place: Place) -> None:
        """It has ended."""

    def wind_up(self) -> None:
        """The calling worker is about to give the seats back, and will be free."""

    def call_back(self, callback: Callable[[Future[T]], object], future: Future[T]) -> None:
        """Run a callback of its future."""


@final
class Scope:
    """What was submitted by one door: an executor, or a view of it."""

    __slots__ = ("is_closed",)

    def __init__(self) -> None:
        self.is_closed = False  # written under a crew's mutex


@final
class Place:
    """A job's place in the books of its crew and, by its ticket, in the controller's. It does not know its future,
    which knows it: that would be a cycle.
    """

    __slots__ = ("_claims", "_crew", "scope", "thread", "ticket")

    def __init__(self, crew: Employer, scope: Scope) -> None:
        # fixed after construction
        self._crew = crew
        self.scope = scope
        # emptied in a single step by anyone
        self._claims: list[None] = [None]
        # written by who submits, cleared by anyone
        self.ticket: Ticket | None = None
        # written by its worker, read by anyone: 0 until it runs
        self.thread = 0

    def claim(self) -> bool:
        """True for the first caller, who decides how the job ends."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def give_back(self) -> None:
        """Out of the queue, or off the seats, whatever it has."""
        ticket, self.ticket = self.ticket, None  # a ticket knows its job: kept, it would be a cycle
        if ticket is not None and not ticket.cancel():
            ticket.release("ignored")

    def leave(self, future: Future[T]) -> None:
        """The first of the future's callbacks: it is done."""
        try:
            if self.claim():  # it was cancelled: others claim before they end it
                future.set_running_or_notify_cancel()
            self.give_back()
        finally:
            self._crew.forget(self)


@final
class Told(Future[T]):
    """A future whose callbacks may take long: a worker that runs one has no time for what it was counted on to do."""

    def __init__(self, crew: Employer) -> None:
        super().__init__()
        self._crew = crew

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        super().add_done_callback(partial(self._crew.call_back, fn))


@final
class Job(Generic[T]):
    """A call, and the future that will tell of it."""

    __slots__ = ("_call", "_crew", "_future", "_place")

    def __init__(self, crew: Employer, call: Callable[[], T], future: Future[T], place: Place) -> None:
        self._crew = crew
        self._call = call
        self._future = future
        self._place = place

    def settled(self, ticket: Ticket) -> None:
        """The controller has decided, in whichever thread."""
        try:
            error = ticket.error
            if error is not None:
                self.refuse(error)
            elif self._future.cancelled():  # while it was submitted
                ticket.release("ignored")
            else:
                self._crew.employ(self, ticket)
        except BaseException as interrupt:
            self.refuse(interrupt)  # nobody else would end it, unless it runs
            raise

    def cancel(self) -> bool:
        return self._future.cancel()

    def refuse(self, error: BaseException) -> None:
        """End it without running it, unless it is running, or done."""
        if self._place.claim() and self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)

    def clear_up(self) -> None:
        """If it is done: what an exception may have kept its future's first callback from."""
        if self._future.done():
            self._place.leave(self._future)

    def run(self, ticket: Ticket) -> None:
        """Call it, give the seats back, tell."""
        future, crew = self._future, self._crew
        if not (self._place.claim() and future.set_running_or_notify_cancel()):
            crew.wind_up()
            ticket.release("ignored")
            return
        self._place.thread = sync.get_ident()
        self._place.ticket = None  # given back here
        here = Serving(ticket)
        try:
            serving.set(weakref.ref(here))
            result = self._call()
        except BaseException as error:  # noqa: BLE001 - it is told to whoever asks
            serving.set(None)
            crew.wind_up()
            try:
                # An exception is the call's own affair: a limit that backed off for each bug would punish the others.
                ticket.release("ignored" if isinstance(error, Revoked) else "ok")
            finally:
                future.set_exception(error)
                del self, future, ticket, here  # the error's traceback holds this frame
        else:
            serving.set(None)
            crew.wind_up()
            try:
                ticket.release("ok")
            finally:
                future.set_result(result)
