"""The queue of one flow."""

import random
from collections.abc import Mapping

import pytest

from flowctl import FlowKey, Outcome
from flowctl.queue import FlowQueue
from flowctl.ticket import Notice, ReleaseOutcome, Ticket, Unborn


class NoDesk:
    """Stands where tickets are decided; these are not."""

    def release(self, ticket: Ticket, outcome: ReleaseOutcome) -> bool:
        return False

    def withdraw(self, ticket: Ticket, outcome: Outcome) -> bool:
        return False

    def give_up(self, ticket: Ticket) -> None:
        pass

    def notice(self, ticket: Ticket) -> Notice:
        return Notice()

    def adjust(self, ticket: Ticket, cost: int | None, usage: Mapping[str, object]) -> bool:
        return False

    def is_held(self, ticket: Ticket) -> bool:
        return False

    def ahead(self, ticket: Ticket) -> int | None:
        return None

    def estimated_wait(self, ticket: Ticket) -> float | None:
        return None


def ticket_of(serial: int, size: int = 0) -> Ticket:
    ticket = Ticket(NoDesk(), Unborn(FlowKey("a")), 1, size)
    ticket.serial = serial
    return ticket


def drained(queue: FlowQueue) -> list[int]:
    serials = []
    while (head := queue.head) is not None:
        serials.append(head.serial)
        queue.withdraw(head)
        queue._check()
    return serials


def test_first_come_first_served() -> None:
    queue = FlowQueue()
    for serial in (1, 2, 5):
        queue.push(ticket_of(serial))

    assert drained(queue) == [1, 2, 5]


def test_an_empty_queue_has_no_ends() -> None:
    queue = FlowQueue()

    assert (queue.head, queue.newest, queue.requests, queue.size) == (None, None, 0, 0)
    queue._check()


def test_both_ends_are_visible() -> None:
    queue, tickets = FlowQueue(), [ticket_of(serial) for serial in (1, 2, 3)]
    for ticket in tickets:
        queue.push(ticket)

    assert queue.head is tickets[0]
    assert queue.newest is tickets[2]


def test_a_withdrawal_from_the_middle_keeps_the_order_of_the_rest() -> None:
    queue, tickets = FlowQueue(), [ticket_of(serial) for serial in range(1, 8)]
    for ticket in tickets:
        queue.push(ticket)

    for index in (3, 1, 5):
        queue.withdraw(tickets[index])
        queue._check()

    assert drained(queue) == [1, 3, 5, 7]


def test_bytes_are_those_of_what_is_in() -> None:
    queue, large, small = FlowQueue(), ticket_of(1, size=100), ticket_of(2, size=7)
    queue.push(large)
    queue.push(small)
    queue.withdraw(large)

    assert queue.size == 7


def test_what_is_not_in_cannot_be_withdrawn() -> None:
    queue, ticket = FlowQueue(), ticket_of(1, size=5)
    with pytest.raises(KeyError):
        queue.withdraw(ticket)

    queue.push(ticket)
    queue.withdraw(ticket)
    with pytest.raises(KeyError):
        queue.withdraw(ticket)
    assert (queue.requests, queue.size) == (0, 0)
    queue._check()


@pytest.mark.parametrize("seed", range(10))
def test_random_pushes_and_withdrawals_agree_with_a_sorted_list(seed: int) -> None:
    rng, queue = random.Random(seed), FlowQueue()
    model: list[Ticket] = []
    for serial in range(1, 400):
        if model and rng.random() < 0.45:
            gone = model.pop(rng.choice([0, len(model) - 1, rng.randrange(len(model))]))
            queue.withdraw(gone)
        else:
            ticket = ticket_of(serial, size=rng.randrange(100))
            model.append(ticket)
            queue.push(ticket)
        queue._check()
        assert queue.requests == len(model)
        assert queue.size == sum(ticket.size for ticket in model)
        assert queue.head is (model[0] if model else None)
        assert queue.newest is (model[-1] if model else None)

    assert drained(queue) == [ticket.serial for ticket in model]


@pytest.mark.parametrize("damage", ["size", "order", "settled"])
def test_a_damaged_queue_is_found(damage: str) -> None:
    queue, tickets = FlowQueue(), [ticket_of(1, size=1), ticket_of(2, size=1)]
    for ticket in reversed(tickets) if damage == "order" else tickets:
        queue.push(ticket)
    if damage == "size":
        queue.size += 1
    elif damage == "settled":
        tickets[0].outcome = Outcome.EVICTED_TTL

    with pytest.raises(AssertionError):
        queue._check()
