"""The contention profile: that its load meets every lock, and that it says in words what its rows say."""

from dataclasses import replace

import pytest

from benchmarks import contention
from benchmarks.contention import FULL, LOCKS, MOST, SHARDS, USUAL, Load, Setting, Sight, concludes, locks_of, rows_of
from benchmarks.harness import DEFAULT, QUICK, Depth, Row
from benchmarks.harness import FULL as DEEP


@pytest.fixture(scope="module")
def sight() -> Sight:
    """A window that was long enough for a collection, however busy the machine is."""
    seconds = 0.4
    seen = Load(8, USUAL).run(seconds)
    while not seen.contention.tables.acquisitions:
        seconds *= 4
        seen = Load(8, USUAL).run(seconds)
    return seen


@pytest.mark.parametrize("lock", LOCKS)
def test_the_load_meets_each_lock(sight: Sight, lock: str) -> None:
    assert locks_of(sight.contention)[lock].acquisitions > 0


def test_the_load_exchanges_words_of_bands(sight: Sight) -> None:
    assert sight.contention.bands.attempts > 0
    assert sight.requests > 0


def test_where_max_flows_is_reached_each_new_flow_has_another_one_go() -> None:
    with Load(1, FULL).controller as controller:
        for number in range(MOST + 50):
            controller.admit(f"guest-{number}").release()
        counted = controller.contention()
        assert controller.stats().flows <= MOST

    assert counted is not None
    assert counted.tables.acquisitions >= 50


def test_rows_of_each_lock_and_of_what_is_compared(sight: Sight) -> None:
    rows = rows_of(8, {Setting(1): [sight], USUAL: [sight, sight], FULL: [sight]})
    usual = [row for row in rows if row.at["figure"] == "waited" and row.at["shards"] == SHARDS]

    assert [row.at["lock"] for row in usual] == list(LOCKS)
    assert [row.at["shards"] for row in rows if row.at["figure"] == "rate"] == [1, SHARDS]
    assert [row.at["lock"] for row in rows if row.at["figure"] == "full"] == ["idle"]
    assert len({row.name for row in rows}) == len(rows)
    assert {len(row.samples) for row in usual} == {2}
    assert all(row.at["operations/s"] for row in usual)


def test_several_locks_are_shown_as_one(sight: Sight) -> None:
    writes = [shard.write for shard in sight.contention.shards]
    one = locks_of(sight.contention)["shard write"]

    assert one.acquisitions == sum(write.acquisitions for write in writes)
    assert sum(one.histogram) == one.waits
    assert one.longest == max(write.longest for write in writes)


@pytest.mark.parametrize(
    ("depth", "budget"), [(QUICK, 7), (DEFAULT, 36), (DEEP, 240)], ids=lambda value: str(value)[:5]
)
def test_a_run_is_within_its_budget(depth: Depth, budget: float) -> None:
    assert sum(step.seconds for step in contention.steps(depth)) <= budget


# --- in words ------------------------------------------------------------------------------------------------------


def waited(lock: str, threads: int, milliseconds: float, shards: int = SHARDS) -> Row:
    at: dict[str, str | float] = {"figure": "waited", "lock": lock, "threads": threads, "shards": shards}
    at |= {"p99 us": 512, "longest ms": 3}
    return Row(name=f"{lock}, {threads}, {shards}", unit="ms/s", samples=(milliseconds,), at=at)


def rate(threads: int, shards: int, *samples: float) -> Row:
    at: dict[str, str | float] = {"figure": "rate", "threads": threads, "shards": shards}
    return Row(name=f"requests, {threads}, {shards}", unit="/s", samples=samples, at=at)


def lost(threads: int, share: float) -> Row:
    at: dict[str, str | float] = {"figure": "retries", "threads": threads, "shards": SHARDS}
    return Row(name=f"lost, {threads}", unit="/1,000", samples=(share,), at=at)


CALM = [waited("turn", 1, 0.0), waited("turn", 64, 12.0), waited("shard write", 64, 3.0), lost(64, 2.0)]


def test_without_rows_nothing_is_said() -> None:
    assert concludes([]) == []


def test_where_nothing_hurts_that_is_said_with_how_much_it_is() -> None:
    assert concludes([*CALM, rate(64, 1, 100.0), rate(64, 8, 200.0)]) == [
        "No lock hurts: of a thread's time at most 1.2% went into waiting for one, the turn, with 64 threads.",
        "Retries do not hurt: at most 2 of 1,000 exchanges of a word are lost.",
    ]


def test_the_first_to_hurt_is_the_one_that_does_with_the_fewest_threads() -> None:
    said = concludes([*CALM, waited("shard write", 256, 900.0), waited("turn", 8, 71.0), waited("turn", 256, 340.0)])

    assert said[0] == (
        "The turn is the first to hurt, with 8 threads (and not with each larger number): a thread spends 7.1% of its "
        "time waiting for it, and 34.0% with 256 threads (its wait there: p99 512 us, the longest 3 ms)."
    )
    assert said[1] == "After it: the write side of the shards from 256 threads on (90.0%)."
    assert said[2].startswith("What to change: each decision takes the turn")


def test_of_two_that_hurt_with_as_many_threads_the_one_that_takes_more_time_is_the_first() -> None:
    said = concludes([waited("turn", 64, 60.0), waited("idle", 64, 61.0)])

    assert said[0].startswith("The order of the idle is the first to hurt, from 64 threads on")
    assert "max_flows" in said[2]


def test_what_hurts_with_each_larger_number_of_threads_hurts_from_there_on() -> None:
    said = concludes([waited("turn", 1, 0.0), waited("turn", 8, 50.0), waited("turn", 64, 51.0)])

    assert said[0].startswith("The turn is the first to hurt, from 8 threads on: a thread spends 5.0% of its time")


@pytest.mark.parametrize("lock", LOCKS)
def test_for_each_lock_it_is_said_what_to_change(lock: str) -> None:
    assert any(line.startswith("What to change: ") for line in concludes([waited(lock, 2, 500.0)]))


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        ((100.0, 100.0), (150.0, 120.0), "help"),
        ((100.0, 100.0), (150.0, 101.0), "make no difference that shows"),
        ((100.0, 100.0), (50.0, 80.0), "do harm"),
    ],
)
def test_more_shards_help_if_every_round_says_so(few: tuple[float, ...], many: tuple[float, ...], verdict: str) -> None:
    waits = [waited("shard write", 64, 80.0, shards=1), waited("shard write", 64, 60.0), waited("turn", 64, 90.0)]
    waits.append(waited("shard write", 64, 20.0, shards=8))
    (said,) = [line for line in concludes([*waits, rate(64, 1, *few), rate(64, 8, *many)]) if "More shards" in line]

    assert said.startswith(f"More shards {verdict}: with 8 instead of 1 and 64 threads, ")
    assert said.endswith("20 ms a second for their write side instead of 80.")


def test_where_nobody_waits_no_share_is_told() -> None:
    assert concludes([waited("turn", 8, 0.0)]) == ["No lock hurts: no thread had to wait for one."]


def test_what_only_hurts_where_max_flows_is_reached_is_said_apart() -> None:
    full = waited("idle", 64, 500.0)
    said = concludes([*CALM, replace(full, at={**full.at, "figure": "full"})])

    assert said[0].startswith("No lock hurts")
    assert said[1].startswith("Where max_flows is reached, 50.0% of a thread's time")


def test_words_whose_exchanges_are_often_lost_are_named() -> None:
    assert concludes([*CALM, lost(8, 300.0)])[-1].startswith(
        "Of 1,000 exchanges of the words of bands, 300 are lost with 8 threads"
    )
