/* Tickets: granted, expired, cancelled, displaced or closed, whichever comes first; and nobody waits for nothing.

P1  A ticket is settled once; whoever loses gives back all that it took: seat, pin, place.
T2  After a section nobody who waits could go, or the rest of the round is owed.
T3  No grant takes what is in flight above the seats.
B1  Seats in flight, pins and the queue are those of the holds, or the books are torn and say so.
P4  Whoever is settled is told: without timers, no caller is left parked (an invalid end state).
P7  With exceptions that tear sections or keep what was settled from being told (TEARS), everybody still gets out: the
    next who passes mends the books, runs the round and tells (LIVENESS, weak fairness).

The flow is one and stays; lease.pml is about its coming and going. A section of the turn is one step, because one lock
guards it; what is read without the lock, and what is told after it, are steps of their own. The first ticket takes two
of two seats, the others one, so that a head that leaves may let the next one go. A line of `do` is a transition: the
table in docs/design.md maps each to its line of code. */

#define TICKETS 3
#define SEATS 2
#ifndef PLACES
#define PLACES 2            /* the queue's limit */
#endif
#define SETTLED_A_SECTION 1
#ifndef TEARS
#define TEARS 0
#endif

mtype = {
    TRY_GRANT, ARRIVE, PARK, LOOK, WITHDRAW, RELEASE, CANCEL, RELEASE_TWICE, CLOSE, HELP, TELL, WAKE, TOLD, GIVE_UP
}
mtype = { DISPLACE, EXCEPTION }                     /* no steps of their own */
mtype = { GONE, GRANT_LATER, WAIT_LATER }           /* an end, and of removals only */

#define NONE 0
#define GRANTED 1
#define REFUSED 2

#define COST(x) (x == 1 -> 2 : 1)

byte outcome[TICKETS + 1], serial[TICKETS + 1];
byte pinned[TICKETS + 1], seats[TICKETS + 1];   /* what a ticket's hold claims; no pin, no hold */
chan queue = [TICKETS] of { byte, byte };       /* (serial, ticket), by arrival */
chan news = [TICKETS + 2] of { byte };          /* settled, and not told yet */
byte in_flight, pins, arrivals, tears, gone;
bool closed, torn, owed, woken[TICKETS + 1];
#ifdef WAKE_IS_NOT_KEPT
bool waits[TICKETS + 1];
#endif

/* Only the invariants read this. */
byte settled[TICKETS + 1];

#define QUEUED(t) (pinned[t] && outcome[t] == NONE)
#define SUM(of) (of[1] + of[2] + of[3])

hidden byte P1_settled_twice, T2_somebody_could_go, T3_more_than_the_seats;
hidden byte B1_seats_or_pins_of_nobody, B1_queue_of_others, B1_left_over;

#define BROKEN(rule, when) :: d_step { (when) -> rule = true; assert(!rule) }
#define HEAD_FITS (in_flight + (queue?[eval(serial[1]), 1] -> 2 : 1) <= SEATS)

#ifndef LIVENESS
active proctype Invariants() {
end:
    if
    BROKEN(P1_settled_twice, settled[1] > 1 || settled[2] > 1 || settled[3] > 1)
    BROKEN(B1_seats_or_pins_of_nobody, !torn && (in_flight != SUM(seats) || pins != SUM(pinned)))
    BROKEN(T3_more_than_the_seats, in_flight > SEATS)
    BROKEN(B1_queue_of_others, len(queue) > PLACES || !torn && len(queue) != QUEUED(1) + QUEUED(2) + QUEUED(3))
    BROKEN(T2_somebody_could_go, !torn && !owed && len(queue) > 0 && (closed || HEAD_FITS))
    BROKEN(B1_left_over, gone == TICKETS && !torn && (in_flight || pins || len(queue)))
    fi
}
#endif

hidden byte taken[64];

/* A transition says that it was taken: one that never is proves nothing. */
#define TAKEN(here) if :: !taken[here] -> taken[here] = true; printf("taken "); printf(#here); printf("\n") :: else fi;

/* --- under the lock ---------------------------------------------------------------------------------------------- */

hidden byte n, x, s;
#ifdef NOTHING_IS_OWED
#define LEFT_TO_DO false
#else
#define LEFT_TO_DO true
#endif

inline settle(t, how) {
    outcome[t] = how; settled[t]++;
#ifndef SETTLED_AND_NOT_TOLD
    news!t
#endif
}

inline drop(t) {
    in_flight = in_flight - seats[t]; seats[t] = 0;
    pins = pins - pinned[t]; pinned[t] = 0
}

inline release(t) {
#ifdef RELEASE_WITHOUT_HOLD
    if :: outcome[t] == GRANTED -> in_flight = in_flight - COST(t); pins-- :: else fi;
    seats[t] = 0; pinned[t] = 0
#else
    drop(t)
#endif
}

inline grant(t) { seats[t] = COST(t); in_flight = in_flight + COST(t); settle(t, GRANTED) }

inline evict(t) {
    if
    :: outcome[t] == NONE && pinned[t] ->
#ifndef EVICTED_STAYS_QUEUED
        if :: queue??[eval(serial[t]), eval(t)] -> queue??eval(serial[t]), eval(t) :: else fi;
#endif
        settle(t, REFUSED);
#ifndef GIVEN_BACK_BY_A_SWEEP
        drop(t)
#endif
#ifdef SETTLE_WITHOUT_LOOKING
    :: outcome[t] != NONE -> settle(t, REFUSED)
#endif
    :: else
    fi
}

inline round() {
    n = 0; owed = false;
    do
    :: len(queue) == 0 -> break
    :: len(queue) > 0 ->
        queue?<s, x>;
        if
        :: n == SETTLED_A_SECTION -> owed = LEFT_TO_DO; break
        :: n < SETTLED_A_SECTION && closed -> evict(x); n++
        :: n < SETTLED_A_SECTION && !closed && in_flight + COST(x) <= SEATS -> queue?s, x; grant(x); n++
        :: else -> break
        fi
    od;
    n = 0; x = 0; s = 0
}

/* Make every other book anew from the holds. */
inline mend() {
    if
#ifdef TORN_IS_NOT_MENDED
    :: torn -> torn = false
#else
    :: torn ->
        do :: queue?s, x :: empty(queue) -> break od;
        x = 1; in_flight = 0; pins = 0;
        do
        :: x <= TICKETS ->
            if :: outcome[x] == REFUSED -> seats[x] = 0; pinned[x] = 0 :: else fi;
            if :: outcome[x] == NONE && pinned[x] -> queue!!serial[x], x :: else fi;
            in_flight = in_flight + seats[x]; pins = pins + pinned[x];
            x++
        :: else -> break
        od;
        x = 0; s = 0; torn = false
#endif
    :: else
    fi
}

inline enter(t) { arrivals++; serial[t] = arrivals; pinned[t] = 1; pins++ }

inline decide(t) {
    if
    :: closed -> settle(t, REFUSED); drop(t)
    :: !closed && len(queue) == 0 && in_flight + COST(t) <= SEATS -> grant(t)
    :: else ->
        if
        :: len(queue) < PLACES -> queue!!serial[t], t
        :: else -> settle(t, REFUSED); drop(t)
        fi
    fi
}

#ifdef WAKE_IS_NOT_KEPT
#define WAKE_UP(t) woken[t] = waits[t]  /* lost on who does not wait yet */
#else
#define WAKE_UP(t) woken[t] = true
#endif

/* With no lock held: the rest of the round, if it is owed, and whom to tell. */
#define AFTER_A_SECTION \
    :: d_step { pc == HELP && (owed || torn) -> TAKEN(HELP) mend(); round() } \
    :: d_step { pc == HELP && !owed && !torn -> TAKEN(HELP) pc = TELL } \
    :: d_step { pc == TELL && len(news) > 0 -> TAKEN(TELL) news?<telling>; pc = WAKE } \
    :: d_step { pc == TELL && len(news) == 0 -> TAKEN(TELL) pc = then; then = 0 } \
    :: d_step { pc == WAKE -> TAKEN(WAKE) WAKE_UP(telling); pc = TOLD } \
    :: d_step { pc == TOLD -> TAKEN(TOLD) \
        if :: news??[eval(telling)] -> news??eval(telling) :: else fi; /* or another told it too, and was faster */ \
        telling = 0; pc = TELL }

/* --- those who come ---------------------------------------------------------------------------------------------- */

#define SECTION(here) d_step { pc == here -> TAKEN(here) mend();
#define TEAR(here) d_step { pc == here && tears < TEARS -> TAKEN(EXCEPTION) tears++; mend();
#define END }

proctype Caller(byte me) {
    mtype pc = TRY_GRANT, then;
    byte telling;
    do
#ifdef FAST_PATH_IN_TWO_STEPS
    :: d_step { pc == TRY_GRANT -> TAKEN(TRY_GRANT)
        pc = (!torn && !closed && len(queue) == 0 && in_flight + COST(me) <= SEATS -> GRANT_LATER : ARRIVE) }
    :: d_step { pc == GRANT_LATER ->
        enter(me); seats[me] = COST(me); in_flight = in_flight + COST(me);
        outcome[me] = GRANTED; settled[me]++; pc = RELEASE }
#else
    :: d_step { pc == TRY_GRANT -> TAKEN(TRY_GRANT)
        if
        :: !torn && !closed && len(queue) == 0 && in_flight + COST(me) <= SEATS ->
            enter(me); seats[me] = COST(me); in_flight = in_flight + COST(me);
            outcome[me] = GRANTED; settled[me]++; pc = RELEASE
        :: else -> pc = ARRIVE
        fi }
#endif
    :: SECTION(ARRIVE) enter(me); decide(me); round(); then = LOOK; pc = HELP; END
    :: SECTION(ARRIVE)                          /* the same, and a displacement policy names the newest for it */
        enter(me);
        if
        :: !closed && len(queue) == PLACES ->
            TAKEN(DISPLACE)
            x = 1; n = 0;
            do
            :: x <= TICKETS ->
                if :: queue??[eval(serial[x]), eval(x)] && serial[x] > n -> n = serial[x] :: else fi; x++
            :: else -> break
            od;
            x = 1;
            do :: x <= TICKETS && !(serial[x] == n) -> x++ :: else -> break od;
            evict(x)
        :: else
        fi;
        decide(me); round(); then = LOOK; pc = HELP; END
    :: TEAR(ARRIVE) enter(me); torn = true; then = 0; pc = GIVE_UP; END

    :: d_step { pc == LOOK -> TAKEN(LOOK)
        pc = (outcome[me] == NONE -> PARK : (outcome[me] == GRANTED -> RELEASE : GONE)) }
#ifdef WAKE_IS_NOT_KEPT
    :: d_step { pc == PARK && !waits[me] -> TAKEN(WAIT_LATER) waits[me] = true }
    :: d_step { pc == PARK && woken[me] -> TAKEN(PARK) woken[me] = false; waits[me] = false; pc = LOOK }
#else
    :: d_step { pc == PARK && woken[me] -> TAKEN(PARK) woken[me] = false; pc = LOOK }
#endif
#ifdef SLICES_DO_NOT_HELP
    :: d_step { pc == PARK && TEARS > 0 -> TAKEN(PARK) pc = LOOK }
#else
    :: d_step { pc == PARK && TEARS > 0 -> TAKEN(PARK) then = LOOK; pc = HELP }     /* a slice is over */
#endif
#ifdef DEADLINES
    :: d_step { pc == PARK -> TAKEN(PARK) pc = WITHDRAW }
#endif
    :: SECTION(WITHDRAW) evict(me);
#ifndef WITHDRAW_WITHOUT_ROUND
        round();
#endif
        then = LOOK; pc = HELP; END

    :: SECTION(RELEASE) release(me);
#ifndef RELEASE_WITHOUT_ROUND
        round();
#endif
        then = GONE; pc = HELP; END
    :: TEAR(RELEASE)
        drop(me);
        if :: len(queue) > 0 -> queue?s, x; s = 0; x = 0 :: else fi;
        torn = true; then = 0; pc = GONE; END
    :: SECTION(GIVE_UP)
        evict(me);
        if :: outcome[me] == GRANTED -> drop(me) :: else fi;
        round(); then = GONE; pc = HELP; END

    AFTER_A_SECTION
    :: d_step { pc == HELP && tears < TEARS -> tears++; pc = (then == GONE -> GONE : GIVE_UP); then = 0 }
    :: d_step { (pc == TELL || pc == WAKE || pc == TOLD) && tears < TEARS ->
        tears++; telling = 0; pc = (then == GONE -> GONE : GIVE_UP); then = 0 }
    :: pc == GONE -> break
    od;
    gone++
}

#ifdef CLOSER
proctype Closer() {
    mtype pc = CLOSE, then;
    byte telling;
    do
    :: SECTION(CLOSE) closed = true;
#ifndef CLOSE_FORGETS_THE_QUEUE
        round();
#endif
        then = GONE; pc = HELP; END
    AFTER_A_SECTION
    :: pc == GONE -> break
    od
}
#endif

#ifdef STRANGER
/* Any other thread that has a ticket: it cancels it, or releases it as well. */
proctype Stranger(byte whose) {
    mtype pc = CANCEL, then;
    byte telling;
    do
    :: SECTION(CANCEL) evict(whose); round(); then = RELEASE_TWICE; pc = HELP; END
    :: d_step { pc == RELEASE_TWICE && outcome[whose] == NONE -> TAKEN(RELEASE_TWICE) pc = GONE }
    :: d_step { pc == RELEASE_TWICE && outcome[whose] != NONE -> TAKEN(RELEASE_TWICE)
        mend(); release(whose); round(); then = GONE; pc = HELP }
    AFTER_A_SECTION
    :: pc == GONE -> break
    od
}
#endif

init {
    atomic {
        run Caller(1); run Caller(2); run Caller(3);
#ifdef CLOSER
        run Closer();
#endif
#ifdef STRANGER
        if :: run Stranger(1) :: run Stranger(2) :: run Stranger(3) fi
#else
        skip
#endif
    }
}

#ifdef LIVENESS
ltl everybody_gets_out { <> (gone == TICKETS) }
#endif
