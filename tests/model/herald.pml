/* The protocol between the relays of one database: canaries, claims and checkpoints; reconciliation; recovery of what an
 * upstream missed, and of a worker that resumes; faults of relays, connections and PostgreSQL. Each part names the C
 * function that it stands for. README.md says what is left out. `run` has the scenarios (-D) and the mutants (-DMUTANT=),
 * each of which takes one safeguard out: MUT(x) is where.
 *
 * A change has a position in the server's history: the first to be committed 1, the next 2. Positions stand for transaction
 * ids and for LSNs: a server that goes on from an older state gives them away again.
 * A token is RUN;LSN;SEEN: it sees what stood at the positions 1 to SEEN of the history of RUN. */
#ifndef NR
#define NR 2 /* relays, each with a worker */
#endif
#ifndef NC
#define NC 2 /* changes: at most 3 */
#endif
#ifndef FAULTS
#define FAULTS 0
#endif
#ifndef KINDS
#define KINDS 0 /* of faults, a sum of these */
#endif
#define LISTEN 1   /* an upstream is dead, and its relay does not know */
#define RELAY 2    /* a relay dies */
#define WORKER 4   /* a worker falls out of the backlog */
#define ARRIVE 8   /* a worker comes from a relay elsewhere */
#define CANARY 16  /* a canary cannot be committed */
#define PUBLISH 32 /* an announcement is not confirmed */
#define RESTART 64 /* PostgreSQL restarts */
#define CRASH 128  /* a backend crashes: PostgreSQL restarts within its run, what was not flushed is lost */
#ifndef COPIES
#define COPIES 0 /* standbys or backups to fail over to, another kind of fault */
#endif
#ifndef GAPS
#define GAPS 0 /* whether workers may be told GAP */
#endif
#ifndef TABLE
#define TABLE 1 /* whether the database has pgherald.server_run */
#endif
#ifndef STEPS
#define STEPS 0 /* whether canaries and questions take more than one step */
#endif
#ifndef SLOW
#define SLOW 0 /* whether a question may take longer than turns are apart */
#endif
#ifndef TWICE
#define TWICE 0 /* whether the first two changes are of one user */
#endif
#ifndef CHANNELS
#define CHANNELS 511 /* three bits a relay: its channels, as the set of the users on them */
#endif
#ifndef SILENT
#define SILENT 0 /* a bit a relay: PGHERALD_RECONCILE=no. Then each NOTIFY follows its commit within an interval. */
#endif
#ifndef CANNOT_ASK
#define CANNOT_ASK 0 /* a bit a relay: its reconciliation's questions fail */
#endif
#ifndef CUT_OFF
#define CUT_OFF 0 /* a bit a relay: its upstream is away at the beginning */
#endif
#ifndef BEGINNINGS
#define BEGINNINGS 4 /* RECONCILE_BEGINNINGS */
#endif
#ifndef MUTANT
#define MUTANT NONE
#endif
#define MUT(x) (MUTANT == x)
#define ANY_FROM 1 /* a claim counts though our checkpoint does not cover its FROM */
#define ANY_CHANNELS 2
#define ANY_RUN 3
#define FAILED_CLAIMS 4
#define BANG_COUNTS 5
#define ONLY_ASKED 6 /* settles what it has only asked about */
#define UNCONFIRMED 7
#define NOT_LIVE 8 /* believes claims while it recovers */
#define HEARD_LONG_AGO 9
#define LSN_ALONE 10 /* tokens name the timeline, not the run */
#define ANY_LSN 11   /* of another run, all counts as known */
#define NO_GAP 12
#define OLD_UPSTREAM 13 /* hears its canary on the upstream that is lost */
#define ASKED_EARLY 14  /* recovers before LISTEN is committed */
#define YOUNG 15        /* RECONCILE=no: passes on what is younger than an interval */
#define YIELDS 16       /* a leader gives way to a claim that settles nothing, and so does who has done so often */
#define OLDER_BY_LSN 17
#define NOT_ON_DISK 18
#define NEVER_IDLE 19 /* a failure alone keeps a relay writing */
#define UNANSWERED 20 /* a relay that cannot ask is left alone */
#define OWN_RUN 22    /* our own claim is of no use where our checkpoint is of an earlier run */
#define LATEST 21     /* a worker that was caught up gets the checkpoint of then, not of when it was asked */

#define NONE 0
#define UNKNOWN 255
#define BIT(i) (1 << (i))
#define TOKEN(run, lsn, seen) (1 + (run) * 16 + (lsn) * 4 + (seen))
#define RUN(t) (((t) - 1) >> 4)
#define LSN(t) ((((t) - 1) >> 2) & 3)
#define SEEN(t) (((t) - 1) & 3)
#define NOW TOKEN(this_run, lsn, lsn)
/* checkpoint.c */
#define SAME_RUN(a, b) ((a) && (b) && RUN(a) == RUN(b))
#define COVERS(a, b) (SAME_RUN(a, b) && SEEN(a) >= SEEN(b))
#define PRECEDES(a, b) (SAME_RUN(a, b) && LSN(a) <= LSN(b))
#define NEWER(a, b) (!SAME_RUN(a, b) || (LSN(a) == LSN(b) -> SEEN(a) > SEEN(b) : LSN(a) > LSN(b)))
/* Sets of changes are masks. ALL: what the server has. ROWS: what pgherald.changes_since(h_since) returns. SEES: what h_tok
 * sees of ALL. */
#if NC == 1
#define EACH(of) (of(0))
#elif NC == 2
#define EACH(of) (of(0) | of(1) << 1)
#else
#define EACH(of) (of(0) | of(1) << 1 | of(2) << 2)
#endif
#define IN_ALL(i) (pos[i] > 0)
#define IN_ROWS(i) (pos[i] > SEEN(h_since))
#define IN_SEES(i) (pos[i] > 0 && pos[i] <= SEEN(h_tok))
#define ALL EACH(IN_ALL)
#define ROWS EACH(IN_ROWS)
#define SEES EACH(IN_SEES)
#if TWICE
#define USERS(changes) ((((changes) & 3) != 0) | ((changes) & 4))
#define OF(users) ((((users) & 1) * 3) | ((users) & 4))
#define USER(i) (i < 2 -> 0 : i)
#else
#define USERS(changes) (changes)
#define OF(users) (users)
#define USER(i) (i)
#endif
/* What a canary claims, where that is not a token: canary.h canary_claim_kind */
#define NEVER 251
#define NOTHING 252
#define SOON 253
#define IS_TOKEN(c) ((c) < NEVER)

/* The server. started: counts its starts; this_run: the RUN of its tokens; upto: pgherald.server_run, 0: no row, else LSN + 1.
 * kept: its standbys or backups, and last what is on its own disk. */
byte pos[NC], upto[FAULTS + 1], lsn, started, this_run;
typedef history { byte pos[NC], upto[FAULTS + 1], lsn, its_run; bool refreshed };
history kept[COPIES + 1];
byte n_faults, notified /* or announced */, excused;
byte there, there_tok, there_given; /* a canary elsewhere, whose token is a worker's checkpoint there; 2: it is committed */
#define FAULT(kind) (n_faults < FAULTS && (KINDS & kind))

/* A relay */
#define AWAY 0 /* upstream.h upstream_state */
#define PROVING 1
#define RECOVERING 2
#define LIVE 3
byte st[NR], identity[NR] /* which start of the server its upstream is connected to */, deaf[NR];
byte K[NR], before[NR] /* fanout.checkpoints: the latest, the one before */, proved[NR] /* main.c */;
/* canary.c. in_flight 1: requested, 2: its snapshot is taken, 3: its LSN is read */
byte in_flight[NR], c_tok[NR], c_claim[NR], c_from[NR], owed[NR], idle[NR];
bool awaited[NR], proving[NR], activity[NR];
/* reconcile.h. asking 1: asked, 2: answered; pub: the announcements that are not committed yet */
byte from[NR], asked[NR], turn[NR], settling[NR], settled[NR], wanted[NR], heard0[NR], heard1[NR], heard2[NR], susp[NR];
byte pub[NR], asking[NR], answer[NR], answered_at[NR], slow[NR];
byte beginnings[NR];
bool leading[NR], failed[NR], undone[NR];
byte waiting0[NR], waiting1[NR], age0[NR], age1[NR]; /* checkpoint.h checkpoint_waiting; an interval is two ticks */
bool turned[NR];                                     /* in this tick */
/* Its worker: what it was given, its checkpoint; whether it has to be caught up, and was asked for, with what so far */
byte given[NR], wK[NR], missed[NR], since[NR], latest[NR];
bool resuming[NR], catching[NR];
/* Its settings */
#define channels(r) ((CHANNELS >> (3 * (r))) & USERS(BIT(NC) - 1))
#define silent(r) (SILENT & BIT(r))
#define cannot_ask(r) (CANNOT_ASK & BIT(r))
/* The turns that a relay had since the last notification of the user with two changes; the same when each was committed */
byte turns[NR], turns_at[NR * 2];

#ifdef LATE
/* Relays hear what their upstream's buffer holds at any time later. An entry: a user, and the changes that who reads the
 * user's data then finds; or 8 + a canary's sender + 4 * its nonce, then token, claim, from. */
chan up[NR] = [LATE] of { byte, byte, byte, byte };
bool nonce[NR];
#define ROOM (nfull(up[0]) && nfull(up[NR - 1]))
#else
#define ROOM true /* They hear at once. */
#endif
hidden byte h_since, h_tok, h_m, h_i, h_r, h_s, h_u, h_k, h_t, h_c, h_f, h_own, h_counts;

inline save(c) {
	h_i = 0; do :: h_i < NC -> kept[c].pos[h_i] = pos[h_i]; h_i++ :: else -> break od;
	h_i = 0; do :: h_i <= FAULTS -> kept[c].upto[h_i] = upto[h_i]; h_i++ :: else -> break od;
	kept[c].lsn = lsn; kept[c].its_run = this_run }

inline restore(c) {
	h_i = 0; do :: h_i < NC -> pos[h_i] = kept[c].pos[h_i]; h_i++ :: else -> break od;
	h_i = 0; do :: h_i <= FAULTS -> upto[h_i] = kept[c].upto[h_i]; h_i++ :: else -> break od;
	lsn = kept[c].lsn; this_run = kept[c].its_run }

/* PROPERTY (a): what a worker's checkpoint sees, the worker was given, or it was told GAP. */
inline check_given(r) {
	h_tok = wK[r];
	assert(!h_tok || RUN(h_tok) != this_run || (SEES & OF(channels(r)) & ~given[r] & ~excused) == 0) }

/* PROPERTY (b): what is claimed as settled was notified or announced. */
inline check_settled(r) {
	h_tok = settled[r]; h_m = SEES;
	h_tok = from[r];
	assert(!SAME_RUN(settled[r], from[r]) || RUN(h_tok) != this_run ||
		(h_m & ~SEES & OF(channels(r)) & ~notified & ~excused) == 0) }

inline give(r, changes) { /* fanout_decoded */
	if :: K[r] && !resuming[r] -> given[r] = given[r] | (changes & OF(channels(r)))
	   :: K[r] && catching[r] -> since[r] = since[r] | (changes & OF(channels(r)))
	   :: else fi }

inline gap(r) { /* fanout_gap: the workers read anew all there is. */
	assert(GAPS);
	if :: MUT(NO_GAP) -> skip :: else -> give(r, 7 & ALL) fi }

inline checkpoint(r, t) { /* fanout_checkpoint */
	if :: COPIES -> before[r] = K[r] :: else fi;
	K[r] = t;
	if :: !resuming[r] -> wK[r] = t; check_given(r) :: else fi }

/* Reconciliation: reconcile.c */

inline count_turn(r) { if :: TWICE && turns[r] < 3 -> turns[r]++ :: else fi }

inline forget_heard(r) {
	count_turn(r);
	if :: MUT(HEARD_LONG_AGO) -> skip :: else -> heard0[r] = 0; heard1[r] = 0; heard2[r] = 0 fi }

inline end_term(r) {
	leading[r] = false; asking[r] = 0; answer[r] = 0; answered_at[r] = NONE; slow[r] = 0; susp[r] = 0;
	from[r] = NONE; asked[r] = NONE; turn[r] = NONE; settling[r] = NONE; settled[r] = NONE; wanted[r] = NONE }

inline reconcile_reset(r) { end_term(r); forget_heard(r) }

inline finish_turn_if_done(r) {
	if :: !leading[r] || asking[r] || (pub[r] && !MUT(UNCONFIRMED)) -> skip
	   :: else ->
		if :: failed[r] -> failed[r] = false; end_term(r); undone[r] = true
		   :: else ->
			if :: settling[r] -> settled[r] = settling[r]; check_settled(r) :: else fi;
			undone[r] = false
		fi
	fi }

inline begin_term(r) {
	from[r] = (wanted[r] -> wanted[r] : K[r]);
	leading[r] = true; failed[r] = false;
	if :: heard0[r] | heard1[r] | heard2[r] -> forget_heard(r) /* RECONCILE_TAKEOVER_INTERVALS are over */ :: skip fi }

inline on_own_turn(r, token) {
	if :: asking[r] || pub[r] -> if :: slow[r] < 2 -> slow[r]++ :: else -> undone[r] = true fi
	   :: else -> /* ask, begin_turn */
		if :: !leading[r] -> begin_term(r) :: else fi;
		count_turn(r);
		heard2[r] = heard1[r]; heard1[r] = heard0[r]; heard0[r] = 0;
		wanted[r] = NONE; slow[r] = 0;
		settling[r] = (MUT(ONLY_ASKED) -> token : turn[r]);
		turn[r] = token;
		asking[r] = 1
	fi }

inline answer_for(r, s, f) {
	if :: !MUT(UNANSWERED) && SAME_RUN(f, K[r]) && !COVERS(f, K[r]) && (channels(s) & ~channels(r)) == 0 ->
		h_m = (wanted[r] && COVERS(f, wanted[r]) -> wanted[r] : f); /* checkpoint_before_both */
		if :: leading[r] && !COVERS(f, from[r]) -> end_term(r) :: else fi;
		wanted[r] = h_m
	   :: else fi }

inline pass_on_with_delay(r, t) { /* main.c, checkpoint.c checkpoint_waited, checkpoint_wait */
	h_tok = NONE;
	if :: waiting1[r] && age1[r] >= 2 - MUT(YOUNG) -> h_tok = waiting1[r]; waiting0[r] = NONE; waiting1[r] = NONE
	   :: else ->
		if :: waiting0[r] && age0[r] >= 2 - MUT(YOUNG) ->
			h_tok = waiting0[r]; waiting0[r] = waiting1[r]; age0[r] = age1[r]; waiting1[r] = NONE; age1[r] = 0
		   :: else fi
	fi;
	if :: !waiting0[r] -> waiting0[r] = t; age0[r] = 0
	   :: waiting0[r] && !waiting1[r] -> waiting1[r] = t; age1[r] = 0
	   :: else fi;
	if :: h_tok && NEWER(h_tok, K[r]) -> checkpoint(r, h_tok) :: else fi }

#define OWN_JOINS(r, f) (MUT(OWN_RUN) -> COVERS(K[r], f) : leading[r] && f == from[r])
#define JOINS_ON(r, s, t, f) ((SAME_RUN(t, K[r]) || MUT(ANY_RUN)) && (COVERS(K[r], f) || MUT(ANY_FROM) || MUT(ANY_RUN)) && \
	((channels(r) & ~channels(s)) == 0 || MUT(ANY_CHANNELS)))
#define PASSES_ON(r, t, c) ((PRECEDES(c, t) || MUT(ANY_RUN)) && NEWER(c, K[r]))
#define GIVES_WAY(r) (MUT(YIELDS) -> !settled[r] || undone[r] : !leading[r] && beginnings[r] < BEGINNINGS)

inline on_turn(r, s, t, c, f) { /* main.c on_turn, reconcile.c reconcile_turn */
	if :: st[r] != LIVE && !(MUT(NOT_LIVE) && st[r] == RECOVERING) -> skip
	   :: else ->
		if :: silent(r) -> pass_on_with_delay(r, t)
		   :: else ->
			h_counts = (c == NOTHING && MUT(BANG_COUNTS)) || (c != NOTHING && c != NEVER && (h_own -> OWN_JOINS(r, f) :
				JOINS_ON(r, s, t, f) && (IS_TOKEN(c) || GIVES_WAY(r))));
			if :: h_counts && IS_TOKEN(c) ->
				if :: PASSES_ON(r, t, c) -> checkpoint(r, c) :: else fi;
				beginnings[r] = 0
			   :: else fi;
			if :: h_own -> on_own_turn(r, t)
			   :: !h_own && c == NOTHING && !h_counts -> answer_for(r, s, f)
			   :: !h_own && h_counts ->
				end_term(r); forget_heard(r);
				if :: IS_TOKEN(c) -> undone[r] = false :: c == SOON && !MUT(YIELDS) -> beginnings[r]++ :: else fi
			   :: else fi
		fi
	fi }

/* The canary: canary.c */

inline send_canary(r) { /* and reconcile.c reconcile_claim */
	in_flight[r] = 1; awaited[r] = true;
#ifdef LATE
	nonce[r] = !nonce[r];
#endif
	if :: silent(r) && !proving[r] -> c_claim[r] = NEVER
	   :: proving[r] || (!silent(r) && st[r] != LIVE) -> c_claim[r] = NOTHING
	   :: else ->
		if :: undone[r] || (asking[r] && identity[r] != started) -> c_claim[r] = NOTHING; c_from[r] = K[r]
		   :: else ->
			c_claim[r] = (settled[r] -> settled[r] : SOON);
			c_from[r] = (from[r] -> from[r] : (wanted[r] -> wanted[r] : K[r]))
		fi
	fi;
	if :: !STEPS -> c_tok[r] = NOW; in_flight[r] = 3 :: else fi }

inline forget_canary(r) { in_flight[r] = 0; c_tok[r] = NONE; c_claim[r] = 0; c_from[r] = NONE }

/* Whether the timer's probe finds that a turn is due: on_probe, main.c on_pending */
#define DUE(r) (activity[r] || (!silent(r) && lsn != idle[r]) || (owed[r] && !COVERS(K[r], owed[r])) || wanted[r] || \
	(MUT(NEVER_IDLE) && undone[r]) || (leading[r] && (asking[r] || susp[r] || pub[r])))
/* When the timer ends: at any time, but announcements take less than a turn, and questions too, unless SLOW: then up to three
 * turns, and they do not end just while a canary is on its way. */
#define ENDS(r) (st[r] == LIVE && !pub[r] && !turned[r] && (!asking[r] || (SLOW && !undone[r])))
#define MAY_END(r) (!SLOW || !in_flight[r])

inline recover(r, t) { proved[r] = t; st[r] = RECOVERING } /* main.c; on_recovered is below */

inline on_canary(r, s, t, c, f) { /* canary_notification; h_own: our own, and awaited */
	if :: h_own && proving[r] -> /* on_own, main.c on_proved */
		awaited[r] = false; proving[r] = false;
		idle[r] = SEEN(t);
		reconcile_reset(r);
		if :: K[r] -> recover(r, t) :: else -> st[r] = LIVE; checkpoint(r, t) fi
	   :: !h_own && s == r -> skip /* too late */
	   :: else ->
		if :: h_own -> awaited[r] = false :: else fi;
		/* note_turn */
		if :: activity[r] || (!silent(r) && SEEN(t) != idle[r]) -> owed[r] = t :: else fi;
		activity[r] = false; idle[r] = SEEN(t);
		on_turn(r, s, t, c, f)
	fi }

inline on_change(r, user, changes) { /* main.c on_upstream_heard */
	if :: channels(r) & BIT(user) ->
		activity[r] = true;
		give(r, changes);
		if :: !silent(r) -> heard0[r] = heard0[r] | BIT(user) :: else fi
	   :: else fi }

inline notify(user) { /* A NOTIFY's commit: all who listen get it, in one order. */
	h_m = OF(BIT(user)) & ALL;
	notified = notified | h_m;
	h_r = 0;
	do :: h_r < NR ->
		if :: TWICE && user == 0 -> turns[h_r] = 0 :: else fi;
		if :: st[h_r] >= PROVING && !deaf[h_r] ->
#ifdef LATE
			up[h_r]!user,h_m,0,0
#else
			on_change(h_r, user, h_m)
#endif
		   :: else fi;
		h_r++
	   :: else -> h_r = 0; break od }

/* Recovery */

/* changes_since.c compare_runs, choose_snapshot. h_since: what t means on this server, NONE: OTHER_TIME */
#define OLDER(o, t) ((COVERS(t, o) || (MUT(OLDER_BY_LSN) && SAME_RUN(t, o))) && LSN(o) < upto[RUN(t)])
inline choose(r, t) {
	h_since = NONE;
	if :: !t -> skip
	   :: t && RUN(t) == this_run -> if :: LSN(t) <= lsn -> h_since = t :: else fi
	   :: else ->
		if :: MUT(ANY_LSN) || (TABLE && LSN(t) < upto[RUN(t)]) -> h_since = t
		   :: else ->
			if :: TABLE && OLDER(K[r], t) -> h_since = K[r]
			   :: TABLE && !OLDER(K[r], t) && OLDER(before[r], t) -> h_since = before[r]
			   :: else fi
		fi
	fi }

inline on_recovered(r) { /* main.c */
	h_t = K[r]; choose(r, h_t);
	if :: MUT(ASKED_EARLY) -> skip :: h_since && !MUT(ASKED_EARLY) -> give(r, ROWS) :: else -> gap(r) fi;
	st[r] = LIVE;
	if :: proved[r] -> checkpoint(r, proved[r]) :: else fi;
	proved[r] = NONE }

inline finish_catch_up(r) { /* catch_up.c finish, question.c question_passed, then what the backlog has since */
	resuming[r] = false; catching[r] = false;
	given[r] = given[r] | missed[r];
	if :: MUT(LATEST) -> wK[r] = K[r]
	   :: !MUT(LATEST) && latest[r] && NEWER(latest[r], wK[r]) -> wK[r] = latest[r]
	   :: else fi;
	check_given(r);
	given[r] = given[r] | since[r];
	if :: K[r] != latest[r] && PRECEDES(K[r], NOW) -> wK[r] = K[r]; check_given(r) :: else fi;
	missed[r] = 0; since[r] = 0; latest[r] = NONE }

inline ask_for_worker(r) { /* catch_up.c on_asking */
	h_t = wK[r]; choose(r, h_t);
	if :: h_since ->
		missed[r] = ROWS & OF(channels(r));
		latest[r] = (PRECEDES(K[r], NOW) -> K[r] : NONE);
		catching[r] = true;
		if :: !STEPS -> finish_catch_up(r) :: else fi
	   :: else -> /* tell_gap */
		resuming[r] = false;
		gap(r);
		wK[r] = (MUT(NOT_ON_DISK) && !PRECEDES(K[r], NOW) -> NOW : K[r]); /* worker_caught_up */
		check_given(r)
	fi }

inline on_answer(r) { /* reconcile.c on_row, on_done */
	h_t = (asked[r] -> asked[r] : from[r]); choose(r, h_t);
	if :: cannot_ask(r) ->
		if :: MUT(FAILED_CLAIMS) -> asking[r] = 0; finish_turn_if_done(r) :: else -> end_term(r); undone[r] = true fi
	   :: !cannot_ask(r) && !h_since -> /* begin_anew */
		gap(r);
		h_t = turn[r]; checkpoint(r, h_t); end_term(r); undone[r] = true
	   :: else -> answer[r] = ROWS & OF(channels(r)); answered_at[r] = NOW; asking[r] = 2
	fi }

inline on_done(r) {
	asking[r] = 0;
	/* The limit "twice within one interval": it counts as heard by a notification before its commit. At most one turn may
	 * lie between the two. */
	h_m = answer[r] & OF(heard0[r] | heard1[r]) & ~notified;
	assert(!h_m || TWICE);
	assert(!(h_m & 1) || turns_at[r * 2] <= 1);
	assert(!(h_m & 2) || turns_at[r * 2 + 1] <= 1);
	excused = excused | h_m;
	pub[r] = pub[r] | (susp[r] & ~(heard0[r] | heard1[r] | heard2[r]));
	susp[r] = USERS(answer[r]) & ~(heard0[r] | heard1[r]);
	asked[r] = answered_at[r];
	answer[r] = 0; answered_at[r] = NONE;
	finish_turn_if_done(r) }

inline upstream_lost(r) { /* main.c on_upstream_lost, canary.c canary_stop */
	st[r] = AWAY; deaf[r] = 0; identity[r] = 0; proved[r] = NONE;
	awaited[r] = MUT(OLD_UPSTREAM) && awaited[r];
	proving[r] = false; owed[r] = NONE; idle[r] = UNKNOWN;
	waiting0[r] = NONE; waiting1[r] = NONE; age0[r] = 0; age1[r] = 0;
#ifdef LATE
	do :: nempty(up[r]) -> up[r]?h_k,h_t,h_c,h_f :: empty(up[r]) -> break od;
#endif
	reconcile_reset(r) }

inline relay_dies(r) {
	upstream_lost(r); forget_canary(r);
	awaited[r] = false;
	K[r] = NONE; before[r] = NONE; pub[r] = 0; beginnings[r] = 0; failed[r] = false; undone[r] = false; activity[r] = false; turned[r] = false;
	missed[r] = 0; since[r] = 0; latest[r] = NONE;
	resuming[r] = true; catching[r] = false }

proctype relay(byte r) {
end:	do
	/* upstream.c on_listen, main.c on_upstream_listening, canary_prove */
	:: atomic { st[r] == AWAY && (!MUT(ASKED_EARLY) || !K[r] || proved[r]) ->
		st[r] = PROVING; identity[r] = started; proving[r] = true;
		if :: !in_flight[r] -> send_canary(r) :: else fi }
	:: atomic { MUT(ASKED_EARLY) && st[r] == AWAY && K[r] && !proved[r] ->
		h_t = K[r]; choose(r, h_t); if :: h_since -> give(r, ROWS) :: else fi; proved[r] = UNKNOWN }
	/* The connection says that it is dead, or canary.c on_deadline. */
	:: atomic { deaf[r] == 1 -> upstream_lost(r) }
	:: atomic { deaf[r] == 2 -> deaf[r] = 0 } /* OLD_UPSTREAM: only now LISTEN is committed */
	/* canary.c on_turn */
	:: atomic { !in_flight[r] && !awaited[r] && DUE(r) && ENDS(r) -> turned[r] = SILENT != 0; send_canary(r) }
#ifdef LATE
	:: atomic { nempty(up[r]) -> up[r]?h_k,h_t,h_c,h_f;
		if :: h_k < 8 -> on_change(r, h_k, h_t)
		   :: else -> h_s = h_k & 3; h_own = h_s == r && awaited[r] && (h_k & 4) >> 2 == nonce[r];
			on_canary(r, h_s, h_t, h_c, h_f)
		fi }
#endif
	:: atomic { FAULT(LISTEN) && st[r] >= PROVING && !deaf[r] -> n_faults++; deaf[r] = 1 }
	:: atomic { FAULT(RELAY) -> n_faults++; relay_dies(r) }
	:: atomic { FAULT(WORKER) && K[r] && !resuming[r] -> n_faults++; resuming[r] = true }
	:: atomic { FAULT(ARRIVE) && K[r] && !resuming[r] && there == 2 -> n_faults++;
		wK[r] = there_tok; given[r] = there_given; resuming[r] = true }
	od }

inline failed_canary(r) { /* canary.c on_statement, main.c on_unproven */
	forget_canary(r); awaited[r] = false;
	if :: proving[r] -> proving[r] = false; if :: K[r] -> recover(r, NONE) :: else -> upstream_lost(r) fi :: else fi }

/* Its publishing connection: publisher.c */
proctype publisher(byte r) {
end:	do
	:: atomic { in_flight[r] == 1 -> c_tok[r] = TOKEN(this_run, 0, lsn); in_flight[r] = 2 }
	:: atomic { in_flight[r] == 2 -> c_tok[r] = TOKEN(this_run, lsn, SEEN(c_tok[r])); in_flight[r] = 3 }
	:: atomic { in_flight[r] == 3 && ROOM -> /* its commit, and with it pgherald.note_run */
		h_t = c_tok[r]; h_c = c_claim[r]; h_f = c_from[r];
		forget_canary(r);
		if :: upto[this_run] <= LSN(h_t) -> upto[this_run] = LSN(h_t) + 1 :: else fi;
		if :: KINDS & CRASH -> save(COPIES) :: else fi;
		h_r = 0;
		do :: h_r < NR ->
			if :: st[h_r] >= PROVING && !deaf[h_r] ->
#ifdef LATE
				up[h_r]!8 + r + 4 * nonce[r],h_t,h_c,h_f
#else
				h_s = r; h_own = h_r == r && awaited[r];
				on_canary(h_r, h_s, h_t, h_c, h_f)
#endif
			   :: else fi;
			h_r++
		   :: else -> h_r = 0; break od;
		if :: MUT(OLD_UPSTREAM) && st[r] == AWAY && awaited[r] ->
			awaited[r] = false; deaf[r] = 2; identity[r] = started; recover(r, h_t)
		   :: else fi;
		if :: proving[r] && !awaited[r] -> send_canary(r) :: else fi }
	:: atomic { FAULT(CANARY) && in_flight[r] -> n_faults++; failed_canary(r) }
	/* an announcement: reconcile_published */
	:: atomic { pub[r] && ROOM ->
		h_u = 0; do :: pub[r] & BIT(h_u) -> break :: else -> h_u++ od;
		pub[r] = pub[r] & ~BIT(h_u);
		if :: notify(h_u)
		   :: FAULT(PUBLISH) -> n_faults++; failed[r] = true; notify(h_u) /* committed, but not confirmed */
		   :: FAULT(PUBLISH) -> n_faults++; failed[r] = true
		fi;
		finish_turn_if_done(r) }
	od }

/* Its connections that ask: changes_since.c. Questions reach the server that the upstream hears, or are asked again. */
proctype questions(byte r) {
end:	do
	:: atomic { asking[r] == 1 && identity[r] == started && MAY_END(r) -> on_answer(r);
		if :: !STEPS && asking[r] == 2 -> on_done(r) :: else fi }
	:: atomic { asking[r] == 2 -> on_done(r) }
	:: atomic { st[r] == RECOVERING && identity[r] == started -> on_recovered(r) }
	:: atomic { resuming[r] && K[r] && !catching[r] && (st[r] == AWAY || identity[r] == started) -> ask_for_worker(r) }
	:: atomic { catching[r] -> finish_catch_up(r) }
	od }

#define AGES(r) (turned[r] || (waiting0[r] && age0[r] < 2) || (waiting1[r] && age1[r] < 2))

/* Applications: each commits; its NOTIFY follows at any time, or never. */
proctype applications() {
	byte n /* committed */, owing /* those whose NOTIFY will follow */, old /* those that owe it since before this tick */;
end:	do
	:: atomic { n < NC -> lsn++; pos[n] = lsn;
		/* PROPERTY (a) again: no checkpoint sees what is committed only now. */
		h_i = 0;
		do :: h_i < NR -> assert(!wK[h_i] || RUN(wK[h_i]) != this_run || SEEN(wK[h_i]) < lsn); h_i++
		   :: else -> break od;
		if :: owing = owing | BIT(n) :: !SILENT -> skip fi;
		if :: TWICE && n < 2 ->
			h_i = 0; do :: h_i < NR -> turns_at[h_i * 2 + n] = turns[h_i]; h_i++ :: else -> break od
		   :: else fi;
		n++ }
	:: atomic { owing && ROOM ->
		if :: owing & 1 -> h_u = 0 :: owing & 2 -> h_u = 1 :: owing & 4 -> h_u = 2 fi;
		owing = owing & ~BIT(h_u); old = old & ~BIT(h_u);
		h_u = USER(h_u); notify(h_u) }
	/* Where it is PGHERALD_RECONCILE=no, time passes, in half intervals. */
	:: atomic { SILENT && !old && (AGES(0) || AGES(NR - 1)) ->
		old = owing;
		h_r = 0;
		do :: h_r < NR -> turned[h_r] = false;
			if :: waiting0[h_r] && age0[h_r] < 2 -> age0[h_r]++ :: else fi;
			if :: waiting1[h_r] && age1[h_r] < 2 -> age1[h_r]++ :: else fi;
			h_r++
		   :: else -> h_r = 0; break od }
	od }

inline end_connections() { /* of a server that ends; the relays notice at any time later */
	n_faults++;
	h_r = 0;
	do :: h_r < NR ->
		if :: st[h_r] >= PROVING -> deaf[h_r] = 1 :: else fi;
		if :: in_flight[h_r] > 1 -> failed_canary(h_r) :: else fi;
		if :: asking[h_r] -> asking[h_r] = 1; answer[h_r] = 0; answered_at[h_r] = NONE :: else fi;
		catching[h_r] = false; missed[h_r] = 0; since[h_r] = 0; latest[h_r] = NONE;
		h_r++
	   :: else -> h_r = 0; break od }

proctype server() {
end:	do
	:: atomic { FAULT(RESTART) -> end_connections();
		started++; if :: !MUT(LSN_ALONE) -> this_run = started :: else fi;
		save(COPIES) }
	:: atomic { (KINDS & ARRIVE) && !there -> there_tok = TOKEN(this_run, 0, lsn); there = 1 }
	:: atomic { there == 1 && RUN(there_tok) == this_run ->
		there_tok = TOKEN(this_run, lsn, SEEN(there_tok)); h_tok = there_tok; there_given = SEES;
		if :: upto[this_run] <= lsn -> upto[this_run] = lsn + 1 :: else fi;
		there = 2 }
	:: atomic { FAULT(CRASH) -> end_connections(); restore(COPIES) }
	/* A failover to a standby, or to a backup of the disk. Each was made at the beginning and refreshed once. */
	:: atomic { COPIES > 0 && !kept[0].refreshed -> save(0); kept[0].refreshed = true }
	:: atomic { COPIES > 1 && !kept[COPIES - 1].refreshed -> save(COPIES - 1); kept[COPIES - 1].refreshed = true }
	:: atomic { COPIES > 0 && n_faults < FAULTS -> end_connections();
		started++;
		if :: restore(0) :: COPIES > 1 -> restore(COPIES - 1) fi;
		this_run = (MUT(LSN_ALONE) -> this_run + 1 : started);
		save(COPIES) }
	od }

init { atomic {
	h_i = 0;
	do :: h_i < NR ->
		st[h_i] = (CUT_OFF & BIT(h_i) -> AWAY : LIVE); K[h_i] = TOKEN(0, 0, 0); wK[h_i] = K[h_i]; turns[h_i] = 3;
		run relay(h_i); run publisher(h_i); run questions(h_i); h_i++
	   :: else -> break od;
	upto[0] = 1;
	h_i = 0; do :: h_i <= COPIES -> kept[h_i].upto[0] = 1; h_i++ :: else -> break od;
	run applications(); run server() }
	/* PROPERTY (c): all runs end, and then each relay is live, its checkpoint up to date, its worker given all. Where nobody
	 * reconciles, the last change may be after the checkpoint. */
	atomic { timeout ->
	h_i = 0;
	do :: h_i < NR ->
		assert(st[h_i] == LIVE && !resuming[h_i]);
		assert(silent(h_i) || (wK[h_i] == K[h_i] && RUN(K[h_i]) == this_run && SEEN(K[h_i]) == lsn));
		assert((ALL & OF(channels(h_i)) & ~given[h_i] & ~excused) == 0); h_i++
	   :: else -> break od } }
