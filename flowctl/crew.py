"""The workers of an executor: they run what was granted, and end when nothing can come any more.

C1  A granted job has a worker of its own, as long as `most` allows. A job that waits for its grant has none.
C2  The workers end after `end`, once no job is pending. At exit all crews end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Final, TypeVar, final

from flowctl import sync
from flowctl.clock import SLICE
from flowctl.errors import ClosedWhileQueued
from flowctl.job import Pending, Place, Scope
from flowctl.ticket import Ticket

logger = logging.getLogger("flowctl")

T = TypeVar("T")

AFTER_SHUTDOWN: Final = "cannot schedule new futures after shutdown"
AT_EXIT: Final = "cannot schedule new futures after interpreter shutdown"


@final
class Crew:
    """Runs granted jobs on threads that start when they are needed, at most `most` (None: one for each grant)."""

    def __init__(self, most: int | None, prefix: str, initializer: Callable[[], object] | None) -> None:
        # fixed after construction
        self._most = most
        self._prefix = prefix
        self._initializer = initializer
        self._enlisted = _crews  # a finaliser at the very end finds no names of modules
        # fed and emptied in single steps by anyone; None has a worker look whether it is over. What is copied is a
        # dict: without a GIL, a deque cannot be copied while others change it
        self._ready: sync.Handover[tuple[Pending, Ticket] | None] = sync.Handover()
        self._waiters: dict[sync.Parking, None] = {}
        self._starting: dict[object, None] = {}
        self._threads: dict[sync.Thread, None] = {}
        # re-entrant for handlers and finalisers, which find plain stores half done at no point; rank: innermost
        self._mutex = sync.RLock()
        # the threads of workers that are counted as spare, and still give back and tell; each writes its own
        self._winding: set[int] = set()
        # written under _mutex
        self.pending: dict[Place, Pending] = {}
        self._hired = 0
        self._spare = 0  # workers that wait, or will when they have told, less the granted jobs that do
        self._has_warned = False
        # written once, read by anyone
        self._is_ending = False
        self._is_broken = False
        self.is_lost = False  # it stayed in the parent of this forked child
        sync.renew_after_fork(self)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def enter(self, place: Place, job: Pending) -> None:
        """Take a job into the books. `RuntimeError` if none can come any more."""
        if not self._is_ending:
            _enlist(self)
        with self._mutex:
            is_late = self._is_ending or place.scope.is_closed
            if not is_late and not self._is_broken and not _exit:
                self.pending[place] = job
                return
        self._look_round()
        if self._is_broken:
            raise BrokenExecutor("an initializer of a worker failed: the executor cannot be used any more")
        raise RuntimeError(AFTER_SHUTDOWN if is_late and not _exit else AT_EXIT)

    def forget(self, place: Place) -> None:
        """The job has ended."""
        with self._mutex:
            job = self.pending.pop(place, None)
        del job  # not under the mutex: that may be the end of things with finalisers
        self._look_round()

    def employ(self, job: Pending, ticket: Ticket) -> None:
        """Have a granted job run, on a new worker if none is spare."""
        self._count_on_a_worker((job, ticket))

    def _count_on_a_worker(self, granted: tuple[Pending, Ticket] | None) -> None:
        hires = warns = False
        try:
            with self._mutex:
                # plain stores and one call of C: no exception and no handler can come between them
                spare, number = self._spare, self._hired
                hires = spare <= 0 and (self._most is None or number < self._most)
                warns = spare <= 0 and not hires and not self._has_warned
                if hires:
                    self._hired = number + 1
                else:
                    self._spare = spare - 1
                if warns:
                    self._has_warned = True
                if granted is not None:
                    self._ready.put(granted)
            if hires:
                self._hire(number)
        except BaseException as error:
            if hires:  # if its thread is there all the same, there is one more than we count
                with self._mutex:
                    self._hired -= 1
                    self._spare -= 1
            if not isinstance(error, RuntimeError):
                raise
            if granted is not None and not self._threads:  # no thread to be had, and nobody will ever come to it
                granted[0].refuse(error)
        if warns:
            logger.warning("granted work waits for one of %s workers, on its seats: raise max_workers", self._most)

    def places(self, scope: Scope | None = None) -> list[Place]:
        """Of the jobs that have not ended; of one scope only, if there is one."""
        return [place for place in self.pending.copy() if scope is None or place.scope is scope]

    def cancel(self, places: list[Place]) -> None:
        """Cancel those that do not run yet."""
        for place in places:
            job = self.pending.get(place)
            if job is not None:
                job.cancel()

    def refuse_all(self, error: Callable[[Place], BaseException]) -> None:
        """End those that do not run yet."""
        for place, job in self.pending.copy().items():
            job.refuse(error(place))

    # --- workers ---------------------------------------------------------------------------------------------------

    def _hire(self, number: int) -> None:
        starting = object()
        try:
            self._starting[starting] = None
            self._threads[sync.start_thread(self._work, f"{self._prefix}_{number}", daemon=False)] = None
        finally:
            self._starting.pop(starting, None)
            self._look_round()

    def _work(self) -> None:
        if self._initializer is not None:
            self._begin(
                self._initializer
            )  # if that fails: what it was hired for was refused, and is to be cleared away
        while not self.is_lost:
            granted = self._ready.get()
            if granted is not None:
                self._run(*granted)
                del granted  # what the job refers to is not kept until the next one comes
            if self._is_ending and not self.pending:
                self._ready.put(None)  # the next one
                return

    def _run(self, job: Pending, ticket: Ticket) -> None:
        try:
            job.run(ticket)
        except BaseException:
            # from a callback of the future or of the controller, and nothing that ends a worker
            logger.critical("worker of an executor", exc_info=True)
        finally:
            self.wind_up()
            self._winding.discard(sync.get_ident())
            del job, ticket  # an error that the job raised has this frame, and the job has that error

    def wind_up(self) -> None:
        """The calling worker will be spare soon: before it gives its seats back, so that it is counted on for the next
        job that these let go, and no other worker is started for that.
        """
        me = sync.get_ident()
        if me not in self._winding:
            self._winding.add(me)
            with self._mutex:
                self._spare += 1

    def call_back(self, callback: Callable[[Future[T]], object], future: Future[T]) -> None:
        """Run a callback of a future: if by a worker that is counted as spare, it is not, for as long as that takes."""
        me = sync.get_ident()
        if me not in self._winding:
            callback(future)
            return
        self._winding.discard(me)
        self._count_on_a_worker(None)  # for what this one was counted on
        try:
            callback(future)
        finally:
            self.wind_up()

    def _begin(self, initializer: Callable[[], object]) -> None:
        try:
            initializer()
        except BaseException:
            logger.critical("initializer of a worker", exc_info=True)
            with self._mutex:
                self._is_broken = True
            self.refuse_all(lambda place: BrokenExecutor("an initializer of a worker failed"))

    def is_resting(self) -> bool:
        """Does no worker run anything?"""
        with self._mutex:
            # once all have ended, what was granted and then cancelled may be left to nobody
            return not self.pending or self._spare == self._hired

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, scope: Scope) -> None:
        """Take no more jobs of this scope."""
        with self._mutex:
            scope.is_closed = True

    def end(self) -> None:
        """Take no more jobs, and let the workers go when the last one has ended."""
        with self._mutex:
            self._is_ending = True
        self._look_round()

    def abandon(self) -> None:
        """The same from a finaliser, which may have come while its thread holds any lock: nobody can submit."""
        self._is_ending = True
        self._look_round()

    def _look_round(self) -> None:
        """Something may be over: let those who wait for it look."""
        if self._is_ending and not self.pending:
            self._enlisted.pop(self, None)
        if self._is_ending:
            self._ready.put(None)
        for parking in self._waiters.copy():
            parking.wake()

    def is_worker(self) -> bool:
        """Is the caller's thread one of the workers?"""
        return any(thread.ident == sync.get_ident() for thread in self._threads.copy())

    def wait(self, places: list[Place]) -> None:
        """Block until these jobs have ended. `RuntimeError` if the caller is one of them."""
        if any(place.thread == sync.get_ident() for place in places):
            raise RuntimeError("a call that waits for its own executor to be shut down would wait for itself")
        left = places.copy()

        def reached() -> bool:
            while left and left[-1] not in self.pending:
                left.pop()
            return not left

        self._wait_until(reached)

    def join(self) -> None:
        """Block until the workers of a crew that has ended are gone."""
        self._wait_until(lambda: not self._starting)
        for thread in self._threads.copy():
            thread.join()

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        parking = sync.Parking()
        self.attend(parking)
        try:
            self._park_until(reached, parking)
        finally:
            del self._waiters[parking]

    def _park_until(self, reached: Callable[[], bool], parking: sync.Parking) -> None:
        while not reached():
            if not parking.wait(SLICE):  # the truth is looked at, whatever became of the wake-up
                self.clear_up()

    def clear_up(self) -> None:
        """Have those that ended leave the books, if an exception kept them from that."""
        for job in self.pending.copy().values():
            job.clear_up()

    def attend(self, parking: sync.Parking) -> None:
        """Wake it whenever a job has ended."""
        self._waiters[parking] = None

    def after_fork_in_child(self) -> None:
        """Called in a forked child: its thread may be a worker of the parent, which has nothing to do here."""
        self.is_lost = True
        # futures of the parent may be cancelled here
        self._mutex, self.pending, self._waiters = sync.RLock(), {}, {}


# --- exit ---------------------------------------------------------------------------------------------------------

_crews: Final[dict[Crew, None]] = {}
"""Those that have not ended: an executor may be dropped before its work is done."""
_hooks: Final[dict[str, object]] = {}
_exit: Final[set[str]] = set()


def _enlist(crew: Crew) -> None:
    _crews[crew] = None
    me = object()
    if _hooks.setdefault("before exit", me) is me:
        sync.before_exit(_run_out)


def _run_out() -> None:
    """The main thread has ended: let all crews do what they have, and end.

    What still waits for seats that no worker will ever give back is refused: the interpreter always exits.
    """
    _exit.add("begun")
    crews = [crew for crew in _crews.copy() if not crew.is_lost]
    parking = sync.Parking()
    for crew in crews:
        crew.attend(parking)
        crew.end()
    while any(crew.pending for crew in crews):
        if not parking.wait(SLICE) and all(crew.is_resting() for crew in crews):
            for crew in crews:
                crew.clear_up()
                crew.refuse_all(_refused_at_exit)


def _refused_at_exit(place: Place) -> ClosedWhileQueued:
    ticket = place.ticket
    return ClosedWhileQueued("the interpreter exits", key=None if ticket is None else ticket.key)
