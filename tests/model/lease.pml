/* Leases: flows and their band are pinned, created, marked and taken away; whoever does it may stop at any step.

L1  A marked lease has no pins and never gains one.
L2  An entry leaves its table only after its lease was marked.
L3  A flow's pins are those who hold it: its requests, and its creator for the pin that it was born with.
L4  A flow that a request holds is the very object in its band's table, and its band the one in the table of bands.
L5  A flow is finalised once; and once all is at rest, one more collection leaves nothing behind (DEATHS).
L6  A band's pins are the flows that were built and not finalised, and those that are on their way: so no flow is ever
    of a band that was removed.
L7  A pin waits for no collection: each request is served, also when the collectors die (LIVENESS).

One flow's key, one band's key. There is no clock: what has no pins may be marked at any time, which is any timeout at
all. Without ROUNDS everybody goes on for ever. An `AT` is a transition: what a thread does in one step of the code, and
where it goes from there. The table in docs/design.md maps each to its line of code.

Four things keep the search small, and none takes a behaviour away:
-   A load and the exchange that follows it are one step. An exchange succeeds only where a load would see the same
    word, and nothing is done between them; where it fails, its loop comes again, or (`try_mark`) nothing is done, as by
    a collector that does not choose the flow. So is the look for a mark after `try_mark`: a mark is final.
-   Objects are numbers and 0 is none, so that a successor with the same key is another number; what nobody can refer to
    any more is forgotten, and its number used again. One more than there are is an error of the model.
-   Two requests that change places are the same state, and two collectors: all that a thread knows is in arrays, which
    are sorted after each step (not for LIVENESS, where it matters whose turn it is).
-   What only the rules read follows from the rest of the state, up to the pins that the dead had in hand. */

#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef COLLECTORS
#define COLLECTORS 2
#endif
#define THREADS (REQUESTS + COLLECTORS)
#if defined(DEATHS) && !defined(LIVENESS)
#define LAST_ONE 1
#else
#define LAST_ONE 0
#endif

mtype = {
    /* a request: */        FIND_BAND, FIND_FLOW, ENTER, HELP, LEAVE,
    /* a creation: */       BAND_FIND, BAND_FOUND, PIN, PIN_HELP, BUILD, ATTACH, PUBLISH, DISOWN,
    /* a collection: */     CHOOSE, MARK, REMOVE, SWEEP, SWEEP_MARK, SWEEP_REMOVE, AUDIT,
    /* a finalisation: */   DETACH, UNPIN
}
mtype = { DEATH, FAILURE, NOTHING_IS_LEFT }                                 /* no steps of the code */
mtype = { OVER, DONE, REMOVE_LATER, MARK_LATER, UNPIN_LATER, UNPIN_EARLY }  /* ends, and of removals only */

#define FLOWS 4     /* as many objects as there are at once */
#define BANDS 3
#define MARKED 64   /* a word: marked, no pins. A pin is 1 */

byte word[FLOWS + 1], band_of[FLOWS + 1], word_of_band[BANDS + 1];
byte flow_at[BANDS + 1], band_at;   /* the one place in each band's table, and in the table of bands */
byte due, attached;                 /* sets of flows: bit x is flow x */

/* What a thread knows: where it is, its flow, its band, the flow that it built itself, and its round. */
mtype pc[THREADS + 2];
byte flow[THREADS + 2], band[THREADS + 2], own[THREADS + 2], round[THREADS + 2], ended;
#define PC pc[me]
#define F flow[me]
#define B band[me]
#define OWN own[me]

#define IN(set, x) ((set >> x) & 1)
#define ADD(set, x) set = set | (1 << x)
#define TAKE(set, x) set = set & ~(1 << x)

/* --- what must hold: only these read what is counted ------------------------------------------------------------- */

byte published, born, finalised, held[FLOWS + 1];
byte flows_of[BANDS + 1];
short in_hand[BANDS + 1];

hidden byte L1_marked_with_pins, L2_removed_unmarked, L3_pins_of_nobody, L4_held_and_not_in_the_table;
hidden byte L5_finalised_twice, L5_left_behind, L6_band_has_other_pins, L6_flow_of_a_removed_band;

#define FLOW_L1(x) (word[x] <= MARKED)
#define FLOW_L2(x) (!IN(published, x) || flow_at[band_of[x]] == x || word[x] >= MARKED)
#define FLOW_L3(x) (word[x] % MARKED == held[x] + IN(born, x))
#define FLOW_L4(x) (held[x] == 0 || flow_at[band_of[x]] == x && band_at == band_of[x])
#define FLOW_L6(x) (band_of[x] == 0 || IN(finalised, x) || band_at == band_of[x])
#define BAND_L1(x) (word_of_band[x] <= MARKED)
#define BAND_L2(x) (word_of_band[x] == 0 || band_at == x || word_of_band[x] >= MARKED)
#define BAND_L6(x) (word_of_band[x] % MARKED == flows_of[x] + in_hand[x])
#define EACH_FLOW(L) (L(1) && L(2) && L(3) && L(4))
#define EACH_BAND(L) (L(1) && L(2) && L(3))
#define NO_FLOW(x) (band_of[x] == 0 && word[x] == 0)
#define NO_BAND(x) (word_of_band[x] == 0 && flow_at[x] == 0)

inline check() {
    L1_marked_with_pins = !EACH_FLOW(FLOW_L1) || !EACH_BAND(BAND_L1);   assert(!L1_marked_with_pins);
    L2_removed_unmarked = !EACH_FLOW(FLOW_L2) || !EACH_BAND(BAND_L2);   assert(!L2_removed_unmarked);
    L3_pins_of_nobody = !EACH_FLOW(FLOW_L3);                            assert(!L3_pins_of_nobody);
    L4_held_and_not_in_the_table = !EACH_FLOW(FLOW_L4);                 assert(!L4_held_and_not_in_the_table);
    L6_band_has_other_pins = !EACH_BAND(BAND_L6);                       assert(!L6_band_has_other_pins);
    L6_flow_of_a_removed_band = !EACH_FLOW(FLOW_L6);                    assert(!L6_flow_of_a_removed_band)
}

hidden byte taken[64];

/* A transition says that it was taken: one that never is proves nothing. */
#define TAKEN(here) if :: !taken[here] -> taken[here] = true; printf("taken "); printf(#here); printf("\n") :: else fi;
#define AT(here) :: PC == here -> TAKEN(here)

/* --- objects come and go ----------------------------------------------------------------------------------------- */

hidden byte what, who;
hidden int one, other;
hidden byte wanted;

/* Forget the flows and bands that nobody refers to: a thread, a table, or a flow that is not forgotten. */
inline forget() {
    what = (finalised -> 1 : FLOWS + 1);
    do
    :: what > FLOWS -> break
    :: else ->
        if
        :: IN(finalised, what) && flow_at[band_of[what]] != what && word[what] % MARKED == 0 ->
            wanted = false; who = 1;
            do
            :: who <= THREADS + 1 -> wanted = (wanted || flow[who] == what || own[who] == what); who++
            :: else -> break
            od;
            if
            :: !wanted ->
                word[what] = 0; band_of[what] = 0; TAKE(due, what); TAKE(finalised, what); TAKE(published, what)
            :: else
            fi
        :: else
        fi;
        what++
    od;
    what = 1;
    do
    :: what > BANDS -> break
    :: what <= BANDS && word_of_band[what] == MARKED && band_at != what ->
        wanted = false; who = 1;
        do :: who <= THREADS + 1 -> wanted = (wanted || band[who] == what); who++ :: else -> break od;
        who = 1;
        do :: who <= FLOWS -> wanted = (wanted || band_of[who] == what); who++ :: else -> break od;
        if :: !wanted -> word_of_band[what] = 0; flow_at[what] = 0 :: else fi;
        what++
    :: else -> what++
    od
}

#define KEY(a) ((((pc[a] * 4 + round[a]) * 8 + flow[a]) * 8 + band[a]) * 8 + own[a])

inline sort(a, b) {
    one = KEY(a); other = KEY(b);
    if
    :: one > other ->
        who = pc[a]; pc[a] = pc[b]; pc[b] = who;
        who = round[a]; round[a] = round[b]; round[b] = who;
        who = flow[a]; flow[a] = flow[b]; flow[b] = who;
        who = band[a]; band[a] = band[b]; band[b] = who;
        who = own[a]; own[a] = own[b]; own[b] = who
    :: else
    fi
}

inline tidy(begin, rounds) {
    if
    :: PC == OVER && round[me] + 1 < rounds -> round[me]++; PC = begin
    :: PC == OVER && round[me] + 1 >= rounds -> round[me] = 0; PC = DONE; ended++
    :: else
    fi;
    forget();
    check();
#if !defined(LIVENESS) && !defined(UNPIN_WITHOUT_COMPARE)
#if REQUESTS == 2
    sort(1, 2);
#endif
#if COLLECTORS == 2
    sort(REQUESTS + 1, REQUESTS + 2)
#endif
#endif
}

#ifdef ROUNDS
#ifndef SWEEPS
#define SWEEPS ROUNDS
#endif
#define TIDY_REQUEST tidy(FIND_BAND, ROUNDS)
#define TIDY_COLLECTOR tidy(CHOOSE, SWEEPS)
#else
#define TIDY_REQUEST PC = (PC == OVER -> FIND_BAND : PC); tidy(FIND_BAND, 1)
#define TIDY_COLLECTOR PC = (PC == OVER -> CHOOSE : PC); tidy(CHOOSE, 1)
#endif

inline new_flow() {
    what = 1;
    do :: what <= FLOWS && band_of[what] -> what++ :: else -> break od;
    assert(what <= FLOWS);
    OWN = what; band_of[what] = B; word[what] = 1; ADD(born, what);
    flows_of[B]++; in_hand[B]--
}

inline new_band() {
    what = 1;
    do :: what <= BANDS && (word_of_band[what] || band_at == what) -> what++ :: else -> break od;
    assert(what <= BANDS);
    B = what; word_of_band[what] = 1; in_hand[what]++
}

/* --- what several do --------------------------------------------------------------------------------------------- */

#ifdef PIN_IGNORES_MARK
#define PINNABLE(x) (x != 0)
#else
#define PINNABLE(x) (word[x] < MARKED)
#endif
#ifdef NO_DETACHED_FLAG
#define NOT_DETACHED(x) (x != 0)
#else
#define NOT_DETACHED(x) (IN(attached, x))
#endif

inline remove_flow() {
#ifdef REMOVE_BY_KEY
    flow_at[band_of[F]] = 0
#else
    if :: flow_at[band_of[F]] == F -> flow_at[band_of[F]] = 0 :: else fi
#endif
}

inline remove_band() { if :: band_at == B -> band_at = 0 :: else fi }

/* The pin of the flow's band is in this thread's hand now. */
inline let_go(x) {
    L5_finalised_twice = IN(finalised, x); assert(!L5_finalised_twice);
    ADD(finalised, x);
    B = band_of[x]; flows_of[B]--; in_hand[B]++
}

inline detach(x, if_first, if_not) {
    if
    :: NOT_DETACHED(x) -> TAKE(attached, x); let_go(x); PC = if_first
    :: else -> PC = if_not
    fi
}

#ifdef UNPIN_WITHOUT_COMPARE
byte seen[THREADS + 2];
#define UNPINS(then) \
    AT(UNPIN) seen[me] = word_of_band[B]; PC = UNPIN_LATER \
    AT(UNPIN_LATER) word_of_band[B] = seen[me] - 1; in_hand[B]--; B = 0; seen[me] = 0; PC = then
#else
#define UNPINS(then) AT(UNPIN) word_of_band[B] = word_of_band[B] - 1; in_hand[B]--; B = 0; PC = then
#endif

/* --- a request --------------------------------------------------------------------------------------------------- */

proctype Request(byte me) {
end:
    do
    :: d_step { PC != DONE ->
        if
        AT(FIND_BAND) B = band_at; PC = (B -> FIND_FLOW : BAND_FIND)
        AT(FIND_FLOW) F = flow_at[B]; B = 0; PC = (F -> ENTER : BAND_FIND)
        AT(ENTER)
            if
            :: PINNABLE(F) -> word[F] = word[F] + 1; held[F]++; PC = (OWN -> DISOWN : LEAVE)
            :: else -> PC = (OWN -> DISOWN : HELP); F = (OWN -> 0 : F)
            fi
#ifdef HELP_IN_TWO_STEPS
        AT(HELP)
            if :: flow_at[band_of[F]] == F -> PC = REMOVE_LATER :: else -> F = 0; PC = FIND_BAND fi
        AT(REMOVE_LATER) flow_at[band_of[F]] = 0; F = 0; PC = FIND_BAND
#else
        AT(HELP)
#ifndef WAIT_FOR_THE_COLLECTOR
            remove_flow();
#endif
            F = 0; PC = FIND_BAND
#endif
        AT(LEAVE) word[F] = word[F] - 1; held[F]--; F = 0; PC = OVER

        AT(BAND_FIND) B = band_at; PC = (B -> PIN : BAND_FOUND);
#ifdef BAND_LEASED_LATE
            PC = (PC == PIN && !OWN -> BUILD : PC)
#endif
        AT(BAND_FOUND)
            if
            :: band_at == 0 -> new_band(); band_at = B; PC = BUILD
            :: else -> PC = BAND_FIND
            fi
        AT(PIN)
            if
            :: word_of_band[B] < MARKED ->
                word_of_band[B] = word_of_band[B] + 1; in_hand[B]++; PC = (OWN -> ENTER : BUILD); B = (OWN -> 0 : B)
            :: else -> PC = PIN_HELP
            fi
        AT(PIN_HELP) remove_band(); B = 0; PC = BAND_FIND
        AT(BUILD) new_flow(); ADD(due, OWN); PC = ATTACH;
#ifdef BORN_ATTACHED
            ADD(attached, OWN)
#endif
        AT(ATTACH) ADD(attached, OWN); PC = PUBLISH
        AT(PUBLISH)
            F = flow_at[B];
            if
            :: F == 0 -> F = OWN; flow_at[B] = F; ADD(published, F);
#ifdef BAND_LEASED_LATE
                PC = PIN
#else
                B = 0; PC = ENTER
#endif
            :: else -> B = 0; PC = DETACH
            fi
        AT(DETACH) detach(OWN, UNPIN, (F -> ENTER : DISOWN))
        UNPINS((F -> ENTER : (OWN -> DISOWN : FIND_BAND)))
        AT(DISOWN) word[OWN] = word[OWN] - 1; TAKE(born, OWN); OWN = 0; PC = (F -> LEAVE : FIND_BAND)
        fi;
        TIDY_REQUEST }

    /* An exception, of the user's own constructor or from outside: the caller comes again. */
#ifdef FAILING
    :: d_step { PC == BUILD -> TAKEN(FAILURE)
#ifdef FAILURE_REMOVES_BY_KEY
        flow_at[B] = 0;
#endif
        PC = UNPIN; TIDY_REQUEST }
    :: d_step { PC == ATTACH -> let_go(OWN); PC = UNPIN; TIDY_REQUEST }     /* it never came into a shard */
    :: d_step { PC == PUBLISH -> B = 0; PC = DETACH; TIDY_REQUEST }
    :: d_step { PC == ENTER && OWN == F -> F = 0; PC = DISOWN; TIDY_REQUEST }   /* it is out: others may use it */
#endif
    od
}

/* --- a collector ------------------------------------------------------------------------------------------------- */

/* The last one comes when all is at rest, takes all that there is, and lives; the others may take any flow, or none. */
#define LAST (me == THREADS + 1)
#define CHOOSES(x) d_step { PC == CHOOSE && !LAST && IN(due, x) -> F = x; PC = MARK; TIDY_COLLECTOR }

proctype Collector(byte me) {
end:
    do
    :: CHOOSES(1)
    :: CHOOSES(2)
    :: CHOOSES(3)
    :: CHOOSES(4)
    :: d_step { PC == CHOOSE && !LAST -> TAKEN(CHOOSE) PC = SWEEP; TIDY_COLLECTOR }
    :: d_step { PC != DONE && (LAST -> ended == THREADS : PC != CHOOSE) ->
        if
        AT(CHOOSE)
            what = 1;
            do :: what <= FLOWS && !IN(due, what) -> what++ :: else -> break od;
            if :: what <= FLOWS -> F = what; PC = MARK :: else -> PC = AUDIT fi

#ifdef MARK_WITHOUT_COMPARE
        AT(MARK)
            PC = (word[F] == 0 -> MARK_LATER : (word[F] == MARKED -> REMOVE : SWEEP)); F = (PC == SWEEP -> 0 : F)
        AT(MARK_LATER) word[F] = word[F] | MARKED; PC = REMOVE
#else
        AT(MARK)
            if
#ifdef COLLECT_UNMARKED
            :: word[F] == 0 -> PC = REMOVE
#else
            :: word[F] == 0 -> word[F] = MARKED; PC = REMOVE
#endif
#ifndef MARKED_IS_SKIPPED
            :: word[F] == MARKED -> PC = REMOVE
#endif
            :: else -> F = 0; PC = SWEEP
            fi
#endif
        AT(REMOVE)
#ifdef FINALISED_BY_THE_REMOVER
            if :: flow_at[band_of[F]] == F -> PC = DETACH :: else -> PC = SWEEP fi;
#else
            PC = DETACH;
#endif
#ifdef REMOVE_IN_TWO_STEPS
            PC = (flow_at[band_of[F]] == F -> REMOVE_LATER : DETACH)
#else
            remove_flow();
            F = (PC == DETACH -> F : 0);
#endif
#ifdef BAND_UNPINNED_FIRST
            PC = UNPIN_EARLY
        AT(UNPIN_EARLY)     /* and whoever does this finalises, so that it is done once */
            if
            :: IN(attached, F) ->
                TAKE(attached, F); B = band_of[F]; flows_of[B]--;
                word_of_band[B] = word_of_band[B] - 1; B = 0; PC = DETACH
            :: else -> F = 0; PC = SWEEP
            fi
        AT(DETACH) ADD(finalised, F); F = 0; PC = SWEEP
#else
        AT(REMOVE_LATER) flow_at[band_of[F]] = 0; PC = DETACH
        AT(DETACH) detach(F, UNPIN, SWEEP); F = 0
#endif
        UNPINS((LAST -> CHOOSE : SWEEP))

        AT(AUDIT)
#ifndef PINS_ARE_NOT_AUDITED
            if
            :: band_at && word_of_band[band_at] < MARKED ->
                word_of_band[band_at] = flows_of[band_at]; in_hand[band_at] = 0
            :: else
            fi;
#endif
            PC = SWEEP
        AT(SWEEP) B = band_at; PC = (B -> SWEEP_MARK : OVER)
        AT(SWEEP_MARK)
            if
            :: word_of_band[B] == 0 -> word_of_band[B] = MARKED; PC = SWEEP_REMOVE
            :: word_of_band[B] == MARKED -> PC = SWEEP_REMOVE
            :: else -> B = 0; PC = OVER
            fi
        AT(SWEEP_REMOVE) remove_band(); B = 0; PC = OVER
        fi;
        TIDY_COLLECTOR;
        if
        :: LAST && PC == DONE ->
            TAKEN(NOTHING_IS_LEFT)
            L5_left_behind = band_at || due || attached || !EACH_FLOW(NO_FLOW) || !EACH_BAND(NO_BAND);
            assert(!L5_left_behind)
        :: else
        fi }
#ifdef DEATHS
    :: d_step { PC != DONE && !LAST ->      /* it dies, here or anywhere */
        TAKEN(DEATH) F = 0; B = 0; round[me] = SWEEPS; PC = OVER; TIDY_COLLECTOR }
#endif
    od
}

init {
    atomic {
        who = 1;
        do
        :: who <= REQUESTS -> pc[who] = FIND_BAND; run Request(who); who++
        :: who > REQUESTS && who <= THREADS + LAST_ONE -> pc[who] = CHOOSE; run Collector(who); who++
        :: else -> break
        od;
        who = 0
    }
}

#ifdef LIVENESS
ltl everybody_is_served { <> (pc[1] == DONE && pc[2] == DONE) }
#endif
