"""A process that ends in one of many ways while requests wait, and then prints what became of them.

One seat is held; two threads and one request without a thread wait for it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

from flowctl import ConcurrencyLimit, FlowControlError, FlowController, FlowKey, Request, Ticket, sync
from tests.support import wait_for

controller = FlowController(gate=ConcurrencyLimit(1))
holder: list[Ticket] = []
outcomes: dict[str, str] = {}
closed: list[bool] = []


def wait(name: str) -> None:
    try:
        controller.admit(name).release()
    except FlowControlError as error:
        outcomes[name] = error.outcome.value
    except BaseException as error:
        outcomes[name] = type(error).__name__
        raise
    else:
        outcomes[name] = "served"


def settled(ticket: Ticket) -> None:
    assert ticket.outcome is not None
    outcomes["no thread"] = "served" if ticket.error is None else ticket.outcome.value
    if ticket.error is None:
        ticket.release()


def all_wait(*, daemon: bool) -> list[threading.Thread]:
    holder.append(controller.admit("holder"))
    waiting = [threading.Thread(target=wait, args=(name,), daemon=daemon) for name in ("thread 1", "thread 2")]
    for thread in waiting:
        thread.start()
    controller.submit(Request(FlowKey("no thread")), settled)
    wait_for(lambda: controller.stats().queued == 3)
    return waiting


def close(drain: float | None = None) -> None:
    closed.append(controller.close(drain))


def send(number: signal.Signals, queued: int) -> None:
    """To this process, once so many wait."""

    def act() -> None:
        wait_for(lambda: controller.stats().queued == queued)
        os.kill(os.getpid(), number)

    threading.Thread(target=act, daemon=True).start()


def print_what_became_of_them() -> None:
    stats = controller.stats()
    json.dump({"outcomes": outcomes, "closed": closed, "queued": stats.queued}, sys.stdout)


# --- the ways to end ----------------------------------------------------------------------------------------------


def never_closed() -> None:
    all_wait(daemon=False)


def never_closed_with_daemons() -> None:
    all_wait(daemon=True)


def closed_at_the_end() -> None:
    all_wait(daemon=False)
    close()


def closed_with_daemons() -> None:
    for thread in all_wait(daemon=True):
        atexit.register(thread.join, 20)
    close()


def closed_in_atexit() -> None:
    for thread in all_wait(daemon=True):
        atexit.register(thread.join, 20)
    atexit.register(close)


def drained() -> None:
    all_wait(daemon=False)

    def release() -> None:
        wait_for(lambda: controller.stats().queued == 0)
        holder[0].release()

    threading.Thread(target=release).start()
    close(drain=20)


def drained_in_vain() -> None:
    all_wait(daemon=False)
    close(drain=0.05)


def drained_twice_at_once() -> None:
    all_wait(daemon=False)
    threading.Thread(target=close, args=(0.1,)).start()
    close(drain=0.1)


def the_block_ends_in_an_exception() -> None:
    with controller:
        all_wait(daemon=False)
        raise LookupError("the end")


def sigterm_closes() -> None:
    over: SimpleQueue[None] = SimpleQueue()  # an event's lock may be held by the thread that the handler interrupts

    def handle(number: int, frame: object) -> None:
        close()
        over.put(None)

    signal.signal(signal.SIGTERM, handle)
    all_wait(daemon=False)
    send(signal.SIGTERM, queued=3)
    over.get(timeout=20)


def sigterm_closes_while_the_main_thread_waits() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: close())
    all_wait(daemon=False)
    send(signal.SIGTERM, queued=4)
    wait("main")


def sigterm_exits_while_the_main_thread_waits() -> None:
    def handle(number: int, frame: object) -> NoReturn:
        raise SystemExit(7)

    signal.signal(signal.SIGTERM, handle)
    all_wait(daemon=False)
    send(signal.SIGTERM, queued=4)
    wait("main")


def sigterm_exits_and_atexit_closes() -> None:
    atexit.register(close)
    sigterm_exits_while_the_main_thread_waits()


def sigint_while_the_main_thread_waits() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
    all_wait(daemon=False)
    send(signal.SIGINT, queued=4)
    wait("main")


def sigterm_with_no_handler() -> None:
    all_wait(daemon=False)
    send(signal.SIGTERM, queued=4)
    wait("main")


def exit_in_a_thread_that_holds_the_seat() -> None:
    threads = all_wait(daemon=False)

    def leave() -> NoReturn:
        with holder.pop():
            sys.exit(3)

    thread = threading.Thread(target=leave)
    thread.start()
    for each in (thread, *threads):
        each.join()


def exit_in_a_callback() -> None:
    all_wait(daemon=False)

    def leave(ticket: Ticket) -> NoReturn:
        ticket.release()
        sys.exit(3)

    controller.submit(Request(FlowKey("leaving", 9)), leave)
    wait_for(lambda: controller.stats().queued == 4)
    holder.pop().release()


WAYS: tuple[Callable[[], None], ...] = (
    never_closed,
    never_closed_with_daemons,
    closed_at_the_end,
    closed_with_daemons,
    closed_in_atexit,
    drained,
    drained_in_vain,
    drained_twice_at_once,
    the_block_ends_in_an_exception,
    sigterm_closes,
    sigterm_closes_while_the_main_thread_waits,
    sigterm_exits_while_the_main_thread_waits,
    sigterm_exits_and_atexit_closes,
    sigint_while_the_main_thread_waits,
    sigterm_with_no_handler,
    exit_in_a_thread_that_holds_the_seat,
    exit_in_a_callback,
)


def without_looking_whether_it_exits() -> None:
    """Take away what ends the waits of an interpreter that exits; and their deadline is far away."""
    sync.exiting = lambda: False
    never_closed()


if __name__ == "__main__":
    atexit.register(print_what_became_of_them)
    globals()[sys.argv[1]]()
