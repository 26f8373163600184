"""The explorer finds what is planted, and calls right what is right."""

import threading
from collections.abc import Callable

import pytest

from flowctl import sync
from flowctl.atomic import CellWord, LockWord
from flowctl.sync import RWLock
from tests.interleave.explorer import Handler, Scenario, Violation, explore, replay, sample
from tests.interleave.scheduled import ScheduledClock, SharedDict, SharedValue


def found(program: Callable[[], Scenario], *, preemptions: int | None = None) -> Violation:
    with pytest.raises(Violation) as caught:
        explore(program, preemptions=preemptions)
    return caught.value


def counting(*, locked: bool, actors: int = 2) -> Scenario:
    counter = SharedValue(0)
    mutex = sync.Lock()

    def count() -> None:
        if locked:
            with mutex:
                counter.set(counter.get() + 1)
        else:
            counter.set(counter.get() + 1)

    def check() -> None:
        assert counter.get() == actors

    return Scenario([count] * actors, at_end=check)


def test_a_lost_update_is_found_and_its_schedule_replays_it() -> None:
    violation = found(lambda: counting(locked=False))

    assert violation.kind == "invariant"
    assert f"replay(program, {violation.schedule})" in str(violation)
    for _ in range(3):
        with pytest.raises(Violation) as again:
            replay(lambda: counting(locked=False), violation.schedule)
        assert (again.value.kind, again.value.schedule) == (violation.kind, violation.schedule)


def test_a_lost_update_needs_a_preemption() -> None:
    assert explore(lambda: counting(locked=False), preemptions=0).schedules == 2

    assert found(lambda: counting(locked=False), preemptions=1).kind == "invariant"


def test_under_a_lock_no_update_is_lost() -> None:
    # sleep sets leave one schedule for each order in which the lock is taken
    assert explore(lambda: counting(locked=True)).schedules == 2
    assert explore(lambda: counting(locked=True, actors=3)).schedules == 6
    assert explore(lambda: counting(locked=True), preemptions=99).schedules > 2


def test_independent_steps_are_tried_in_one_order_only() -> None:
    def program() -> Scenario:
        mine, yours = SharedValue(0), SharedValue(0)
        return Scenario([lambda: mine.set(1), lambda: yours.set(1)])

    assert explore(program).schedules == 1
    assert explore(program, preemptions=99).schedules == 6  # each begins, then sets: 4 over 2


def test_all_interleavings_of_dependent_steps_are_run() -> None:
    orders: set[str] = set()

    def program() -> Scenario:
        def twice(letter: str) -> None:
            for _ in range(2):
                shared.setdefault(letter, letter)
                log.append(letter)

        shared: SharedDict[str, str] = SharedDict()
        log: list[str] = []
        return Scenario([lambda: twice("a"), lambda: twice("b")], at_end=lambda: orders.add("".join(log)))

    assert explore(program).schedules == 6  # 4 over 2
    assert orders == {"aabb", "abab", "abba", "baab", "baba", "bbaa"}


def test_sleep_sets_leave_out_no_state() -> None:
    def states(preemptions: int | None) -> set[tuple[int, ...]]:
        seen: set[tuple[int, ...]] = set()

        def program() -> Scenario:
            values = [SharedValue(0), SharedValue(0)]

            def move(start: int, other: int) -> None:
                values[start].set(values[other].get() + 1)
                values[other].set(values[start].get() * 2)

            return Scenario(
                [lambda: move(0, 1), lambda: move(1, 0), lambda: values[0].set(5)],
                invariant=lambda: seen.add(tuple(value.get() for value in values)),
            )

        explore(program, preemptions=preemptions)
        return seen

    assert states(None) == states(99)


def taking_two_locks(*, in_one_order: bool) -> Scenario:
    left, right = sync.Lock(), sync.RLock()

    def one() -> None:
        with left, right:
            pass

    def other() -> None:
        with right, left:
            pass

    return Scenario([one, one if in_one_order else other])


def test_two_locks_in_two_orders_are_a_deadlock() -> None:
    violation = found(lambda: taking_two_locks(in_one_order=False))

    assert violation.kind == "deadlock"
    with pytest.raises(Violation, match="deadlock"):
        replay(lambda: taking_two_locks(in_one_order=False), violation.schedule)
    assert explore(lambda: taking_two_locks(in_one_order=True)).schedules == 2


def test_a_wake_up_that_never_comes_is_a_deadlock_and_an_early_one_is_kept() -> None:
    def waiting(*, woken: bool) -> Scenario:
        parking = sync.Parking()
        return Scenario([lambda: parking.wait(1.0), *([parking.wake] if woken else [])])

    assert explore(lambda: waiting(woken=True)).schedules >= 1
    assert found(lambda: waiting(woken=False)).kind == "deadlock"


def test_who_spins_until_another_moves_is_a_livelock() -> None:
    def program() -> Scenario:
        done = SharedValue(False)

        def spin() -> None:
            while not done.get():
                pass

        return Scenario([spin, lambda: done.set(True)])

    assert found(program).kind == "livelock"


def test_an_invariant_that_breaks_in_one_interleaving_only_is_found() -> None:
    bad = "abbaab"

    def program() -> Scenario:
        def say(letter: str) -> None:
            for _ in range(3):
                said.set(letter)
                log.append(letter)

        said = SharedValue("")
        log: list[str] = []

        def check() -> None:
            assert "".join(log) != bad

        return Scenario([lambda: say("a"), lambda: say("b")], invariant=check)

    violation = found(program)

    assert violation.kind == "invariant"
    steps = [line.split(": ") for line in str(violation).splitlines()[1:]]
    assert "".join("ab"[int(number)] for number, name in steps if name == "set") == bad
    with pytest.raises(Violation):
        replay(program, violation.schedule)


def test_an_exception_of_an_actor_is_a_violation_with_its_cause() -> None:
    def program() -> Scenario:
        empty: SharedDict[str, str] = SharedDict()
        return Scenario([lambda: empty["missing"]])

    violation = found(program)

    assert violation.kind == "exception"
    assert isinstance(violation.__cause__, KeyError)


def test_a_schedule_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot take step"):
        replay(lambda: counting(locked=True), (0, 0, 1, 1))


@pytest.mark.parametrize("word", [CellWord, LockWord])
def test_words_add_in_one_step(word: Callable[[int], CellWord | LockWord]) -> None:
    def program() -> Scenario:
        counter = word(0)

        def check() -> None:
            assert counter.load() == 3

        return Scenario([lambda: counter.fetch_add(1), lambda: counter.fetch_add(2)], at_end=check)

    assert explore(program).schedules >= 2


def test_a_fair_reader_writer_lock_lets_nobody_in_beside_a_writer() -> None:
    def program() -> Scenario:
        lock = RWLock()
        inside: list[str] = []
        door = SharedValue(0)

        def enter(side: str) -> None:
            with lock.write() if side == "write" else lock.read():
                inside.append(side)
                door.set(door.get())
                inside.remove(side)

        def check() -> None:
            assert "write" not in inside or len(inside) == 1

        return Scenario([lambda: enter("write"), lambda: enter("read")], invariant=check)

    assert explore(program).schedules >= 2


def test_random_schedules_find_what_takes_a_few_steps_in_order_and_replay_it() -> None:
    with pytest.raises(Violation) as caught:
        sample(lambda: counting(locked=False, actors=5), runs=200)

    assert caught.value.kind == "invariant"
    with pytest.raises(Violation):
        replay(lambda: counting(locked=False, actors=5), caught.value.schedule)
    assert sample(lambda: counting(locked=True, actors=5), runs=50).schedules == 50


def test_the_same_seed_draws_the_same_schedules() -> None:
    def drawn(seed: int) -> list[str]:
        orders: list[str] = []

        def program() -> Scenario:
            log: list[str] = []
            shared = SharedValue("")

            def say(letter: str) -> None:
                shared.set(letter)
                log.append(letter)

            return Scenario(
                [lambda letter=letter: say(letter) for letter in "abcd"],  # type: ignore[misc]  # a default of its own
                at_end=lambda: orders.append("".join(log)),
            )

        sample(program, runs=20, seed=seed)
        return orders

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 5


def test_a_handler_comes_at_every_point_of_its_actor_or_never() -> None:
    seen: set[str] = set()

    def program() -> Scenario:
        log: list[str] = []
        shared = SharedValue(0)

        def act() -> None:
            for letter in "ab":
                shared.set(0)
                log.append(letter)

        return Scenario([act], at_end=lambda: seen.add("".join(log)), handlers=[Handler(0, lambda: log.append("!"))])

    explore(program)

    assert seen == {"ab", "!ab", "a!b"}


def test_handlers_nest() -> None:
    seen: set[str] = set()

    def program() -> Scenario:
        log: list[str] = []
        shared = SharedValue(0)

        def interrupt(letter: str) -> None:
            log.append(f"({letter}")
            shared.set(0)
            log.append(f"{letter})")

        handlers = [Handler(0, lambda: interrupt("x")), Handler(0, lambda: interrupt("y"))]
        return Scenario([lambda: shared.set(0)], at_end=lambda: seen.add("".join(log)), handlers=handlers)

    explore(program)

    assert seen == {"", "(xx)", "(xx)(yy)", "(x(yy)x)"}


def test_an_exception_comes_where_a_call_is_made_and_a_handler_anywhere() -> None:
    def points(*, raises: bool) -> int:
        def program() -> Scenario:
            shared: SharedDict[str, int] = SharedDict()

            def act() -> None:
                shared["stored"] = 1  # no call
                shared.setdefault("stored", 2)  # a call

            return Scenario([act], handlers=[Handler(0, lambda: None, raises=raises)])

        return explore(program).schedules - 1

    assert (points(raises=False), points(raises=True)) == (2, 2)


def test_an_exception_comes_before_a_call_or_as_it_is_left() -> None:
    seen: set[tuple[bool, bool]] = set()

    def program() -> Scenario:
        shared: SharedDict[str, int] = SharedDict()
        returned: list[int] = []

        def act() -> None:
            try:
                returned.append(shared.setdefault("stored", 1))
            except KeyError:
                pass

        def raise_it() -> None:
            raise KeyError

        return Scenario(
            [act],
            at_end=lambda: seen.add((dict.__len__(shared) > 0, bool(returned))),
            handlers=[Handler(0, raise_it, raises=True)],
        )

    explore(program)

    assert seen == {(False, False), (True, False), (True, True)}


def test_what_only_a_handler_could_end_is_a_deadlock() -> None:
    def program() -> Scenario:
        parking = sync.Parking()
        return Scenario([lambda: parking.wait(1.0)], handlers=[Handler(0, parking.wake)])

    assert found(program).kind == "deadlock"


def test_a_clock_that_moves_lets_a_waiter_go() -> None:
    def program(seconds: float) -> Scenario:
        clock = ScheduledClock(0.0)
        parking = sync.Parking()
        return Scenario([lambda: clock.park(parking, 5.0), lambda: clock.advance(seconds)])

    assert explore(lambda: program(5.0)).schedules >= 1
    assert found(lambda: program(4.0)).kind == "deadlock"


def test_afterwards_everything_is_as_it_was() -> None:
    explore(lambda: counting(locked=True))

    assert sync.Lock is threading.Lock
    assert sync.get_ident is threading.get_ident
    assert type(CellWord(3)._cell) is sync.Cell
    assert type(vars(CellWord)["_cell"]).__name__ == "member_descriptor"
