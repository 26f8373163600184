"""What the models claim, and the rule that each protection keeps: without it, that rule is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PARKED_FOR_EVER: Final = "invalid end state"
NEVER_SERVED: Final = "acceptance cycle"


@dataclass(frozen=True, slots=True)
class Removal:
    """A protection that is taken away by a switch of the model, and the rule that is broken for want of it."""

    what: str
    switch: str
    rule: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a model is searched for, under which switches; and what it must be missed without."""

    model: Literal["lease", "ticket"]
    promise: str
    claim: str
    switches: str
    removals: tuple[Removal, ...] = ()

    @property
    def is_liveness(self) -> bool:
        return "LIVENESS" in self.switches


CLAIMS: Final = (
    Claim(
        "lease",
        "L1-L6, P2",
        "2 requests and 2 collectors, 2 rounds each: no resurrected flow, no flow of a removed band",
        "ROUNDS=2",
        (
            Removal("a pin minds the mark", "PIN_IGNORES_MARK", "L1_marked_with_pins"),
            Removal("a mark is compared with what was seen", "MARK_WITHOUT_COMPARE", "L1_marked_with_pins"),
            Removal("an unpin is compared with what was seen", "UNPIN_WITHOUT_COMPARE", "L6_band_has_other_pins"),
            Removal("a removal compares identity", "REMOVE_BY_KEY", "L2_removed_unmarked"),
            Removal("a collector compares and removes in one step", "REMOVE_IN_TWO_STEPS", "L2_removed_unmarked"),
            Removal("who helps compares and removes in one step", "HELP_IN_TWO_STEPS", "L2_removed_unmarked"),
            Removal("only what is marked is removed", "COLLECT_UNMARKED", "L2_removed_unmarked"),
            Removal("whoever flips `detached` finalises", "NO_DETACHED_FLAG", "L5_finalised_twice"),
            Removal("a band is pinned before its flow is published", "BAND_LEASED_LATE", "L6_flow_of_a_removed_band"),
            Removal("a band's lease is given back last", "BAND_UNPINNED_FIRST", "L6_flow_of_a_removed_band"),
        ),
    ),
    Claim(
        "lease",
        "L5",
        "2 requests and 2 collectors that may die anywhere, 2 rounds each: the next collection leaves nothing behind",
        "ROUNDS=2 DEATHS",
        (
            Removal("a collection takes up what is marked", "MARKED_IS_SKIPPED", "L5_left_behind"),
            Removal("what another removed is finalised all the same", "FINALISED_BY_THE_REMOVER", "L5_left_behind"),
            Removal("the audit gives back what the dead had pinned", "PINS_ARE_NOT_AUDITED", "L5_left_behind"),
        ),
    ),
    Claim("lease", "L1-L6, P2", "2 requests and a collector that go on for ever", "COLLECTORS=1"),
    Claim("lease", "L1-L6, P2", "a request and 2 collectors that go on for ever", "REQUESTS=1"),
    Claim(
        "lease",
        "L1-L6, P2",
        "2 requests whose creations may fail at any step, and a collector, 2 sweeps",
        "ROUNDS=1 SWEEPS=2 COLLECTORS=1 FAILING",
        (
            Removal("a failed constructor leaves the table alone", "FAILURE_REMOVES_BY_KEY", "L2_removed_unmarked"),
            Removal("a flow is detached until it is attached", "BORN_ATTACHED", "L5_finalised_twice"),
        ),
    ),
    Claim(
        "lease",
        "L7",
        "every pin is served under weak fairness, also when both collectors die",
        "ROUNDS=1 DEATHS LIVENESS",
        (Removal("whoever meets a marked flow removes it", "WAIT_FOR_THE_COLLECTOR", NEVER_SERVED),),
    ),
    Claim(
        "ticket",
        "P1, P3, P4",
        "3 tickets without deadlines on 2 seats: settled once, and nobody is left parked",
        "CLOSER",
        (
            Removal("a release runs the round", "RELEASE_WITHOUT_ROUND", "T2_somebody_could_go"),
            Removal("what is settled is told", "SETTLED_AND_NOT_TOLD", PARKED_FOR_EVER),
            Removal("a wake-up that comes before the wait is kept", "WAKE_IS_NOT_KEPT", PARKED_FOR_EVER),
            Removal("close evicts what is queued", "CLOSE_FORGETS_THE_QUEUE", "T2_somebody_could_go"),
            Removal("the rest of a bounded round is owed", "NOTHING_IS_OWED", "T2_somebody_could_go"),
        ),
    ),
    Claim(
        "ticket",
        "P1, P3, P4",
        "3 tickets that may expire, one cancelled and released twice: each loser gives back all",
        "STRANGER DEADLINES",
        (
            Removal("whoever settles looks whether it is settled", "SETTLE_WITHOUT_LOOKING", "P1_settled_twice"),
            Removal("a withdrawal runs the round", "WITHDRAW_WITHOUT_ROUND", "T2_somebody_could_go"),
            Removal("the fast path looks and takes in one section", "FAST_PATH_IN_TWO_STEPS", "T3_more_than_the_seats"),
            Removal("a withdrawal gives back at once", "GIVEN_BACK_BY_A_SWEEP", "B1_left_over"),
            Removal("only one release takes the hold", "RELEASE_WITHOUT_HOLD", "B1_seats_or_pins_of_nobody"),
        ),
    ),
    Claim(
        "ticket",
        "P1, P3",
        "3 tickets for 1 place, that may expire, be displaced, and one cancelled and released twice",
        "STRANGER DEADLINES PLACES=1",
        (Removal("whoever is evicted leaves its queue", "EVICTED_STAYS_QUEUED", "P1_settled_twice"),),
    ),
    Claim(
        "ticket",
        "P1, P3",
        "3 tickets for 1 place, that may expire, be displaced, or closed",
        "CLOSER DEADLINES PLACES=1",
    ),
    Claim(
        "ticket",
        "P7",
        "with 2 exceptions that tear sections or stop the telling, books stay those of the holds",
        "DEADLINES TEARS=2",
        (Removal("torn books are made anew from the holds", "TORN_IS_NOT_MENDED", "B1_queue_of_others"),),
    ),
    Claim(
        "ticket",
        "P4, P6",
        "everybody gets out under weak fairness, also after an exception",
        "TEARS=1 LIVENESS",
        (Removal("whoever's slice is over helps", "SLICES_DO_NOT_HELP", NEVER_SERVED),),
    ),
)
