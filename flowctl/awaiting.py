"""Waiting for a ticket on an event loop: no thread is parked.

A1  A task that does not get its ticket leaves nothing behind: its request is withdrawn, or its seat is given back.
A2  A task is woken through its own loop, whichever thread settles its ticket.
A3  Once that loop is closed nobody can take the ticket any more: then its seat goes to the next. One that was granted
    just before goes when its task is dropped.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from flowctl import sync
from flowctl.ticket import Ticket

SLICE: Final = 5.0
"""The longest that a task sleeps before it looks by itself, in seconds: an exception that interrupts whoever was to
wake it must not leave it asleep. Long, since thousands of tasks may wait.
"""


@final
class Waker:
    """What a task of the running loop asks for a ticket with: the `on_settled` of `submit`, which wakes it.

    Raises `RuntimeError` where no loop of asyncio runs.
    """

    __slots__ = ("_asks", "_home", "_is_taken", "_loop", "_woken")

    def __init__(self) -> None:
        # fixed after construction
        self._loop = asyncio.get_running_loop()
        self._home = sync.get_ident()
        # the loop's own
        self._woken: asyncio.Future[None] | None = None  # while it sleeps
        # written by the loop's thread, read by anyone
        self._asks = True
        self._is_taken = False

    def __call__(self, ticket: Ticket) -> None:
        """The ticket is settled. Called in any thread."""
        if self._asks and sync.get_ident() == self._home:
            return  # within `submit`: the task looks before it sleeps
        try:
            # also in the loop's own thread: a signal handler or finaliser may have come just before it sleeps
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            if not self._is_taken:  # nor will it be: of a closed loop no task runs
                ticket._desk.give_up(ticket)

    async def granted(self, ticket: Ticket) -> Ticket:
        """The ticket that was asked for, once it is granted; raises its error if it is refused.

        Whatever else it raises, a cancellation too: the request is withdrawn, and if dispatch was faster, the seat is
        given back. Does not suspend if the ticket is settled already.
        """
        try:
            self._asks = False
            await self._sleep_until_settled(ticket)
        except BaseException:
            ticket._desk.give_up(ticket)
            raise
        self._is_taken = True
        error = ticket.error
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds its traceback, and that this frame
        return ticket

    async def _sleep_until_settled(self, ticket: Ticket) -> None:
        # of its own: since 3.13 an exception that comes where a loop jumps back passes by the `except` around it
        while ticket.outcome is None:
            self._woken = self._loop.create_future()
            look_again = self._loop.call_later(SLICE, self._wake)
            try:
                await self._woken
            finally:
                look_again.cancel()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
