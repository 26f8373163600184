"""The tree of errors and their outcomes."""

import copy
import pickle
from collections.abc import Callable
from typing import get_args

import pytest

import flowctl
from flowctl import FlowKey, Outcome
from flowctl.errors import FlowControlError, Scope, error_for

TABLE = [
    ("QueueFull", "Rejected", "REJECTED_CAPACITY", 429, 1.0),
    ("Saturated", "Rejected", "REJECTED_SATURATED", 429, 1.0),
    ("ExpiredOnArrival", "Rejected", "REJECTED_EXPIRED", 503, 1.0),
    ("ControllerClosed", "Rejected", "REJECTED_CLOSED", 503, 1.0),
    ("Rejected", "FlowControlError", "REJECTED_OTHER", 503, 1.0),
    ("Expired", "Evicted", "EVICTED_TTL", 503, 1.0),
    ("Cancelled", "Evicted", "EVICTED_CANCELLED", 499, None),
    ("Displaced", "Evicted", "EVICTED_DISPLACED", 429, 1.0),
    ("ClosedWhileQueued", "Evicted", "EVICTED_CLOSED", 503, 1.0),
    ("Revoked", "FlowControlError", "REVOKED", 429, 1.0),
]


def class_named(name: str) -> type[FlowControlError]:
    found: type[FlowControlError] = getattr(flowctl, name)
    return found


each_class = pytest.mark.parametrize("name", [row[0] for row in TABLE])


@pytest.mark.parametrize(("name", "parent", "outcome", "status", "retry_after"), TABLE, ids=[row[0] for row in TABLE])
def test_each_refusal_has_its_place_outcome_and_status(
    name: str, parent: str, outcome: str, status: int, retry_after: float | None
) -> None:
    cls = class_named(name)

    assert cls.__bases__ == (class_named(parent),)
    assert cls.outcome is Outcome[outcome]
    assert cls.http_status == status
    assert error_for(Outcome[outcome]) is cls
    assert cls().retry_after == retry_after


def test_every_outcome_but_a_grant_has_a_class() -> None:
    assert {Outcome[row[2]] for row in TABLE} == set(Outcome) - {Outcome.DISPATCHED}
    with pytest.raises(KeyError):
        error_for(Outcome.DISPATCHED)


def test_the_root_is_an_exception_and_nothing_more() -> None:
    assert FlowControlError.__bases__ == (Exception,)
    assert flowctl.Evicted.__bases__ == (FlowControlError,)


@each_class
def test_an_error_without_a_message_says_what_its_class_means(name: str) -> None:
    error = class_named(name)()

    assert str(error)
    assert str(error) == (class_named(name).__doc__ or "").splitlines()[0]
    assert (error.key, error.waited, error.scope) == (None, 0.0, None)


SENT: dict[str, Callable[[FlowControlError], FlowControlError]] = {
    "pickle": lambda error: unpickled(pickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@each_class
@pytest.mark.parametrize("way", SENT)
def test_an_error_keeps_its_fields_wherever_it_is_sent(name: str, way: str) -> None:
    error = class_named(name)("no room", key=FlowKey("tenant-a", 3), waited=1.5, retry_after=7.25, scope="band")
    again = SENT[way](error)

    assert type(again) is type(error)
    assert str(again) == "no room"
    assert (again.key, again.waited, again.retry_after, again.scope) == (FlowKey("tenant-a", 3), 1.5, 7.25, "band")
    assert (again.outcome, again.http_status) == (error.outcome, error.http_status)


@each_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_without_fields_can_be_pickled_by_every_protocol(name: str, protocol: int) -> None:
    error = class_named(name)()
    again = unpickled(pickle.dumps(error, protocol))

    assert (str(again), again.key, again.retry_after) == (str(error), None, error.retry_after)


def test_a_retry_after_of_0_is_kept() -> None:
    assert flowctl.QueueFull(retry_after=0.0).retry_after == 0.0


@pytest.mark.parametrize("scope", get_args(Scope))
def test_a_full_queue_names_the_limit_that_was_met(scope: Scope) -> None:
    assert flowctl.QueueFull("full", scope=scope).scope == scope


def unpickled(data: bytes) -> FlowControlError:
    error = pickle.loads(data)
    assert isinstance(error, FlowControlError)
    return error
