/* pgherald's protocol: relays on one database, their canaries, claims and checkpoints; reconciliation; recovery of what
 * an upstream missed, and of a worker that resumes; faults of relays, of connections and of PostgreSQL. Each part names
 * the C function that it stands for. README.md says what is abstracted. `run` has the scenarios (-D...) and the mutants
 * (-DMUT_...), each of which takes one safeguard out.
 *
 * A change has a position in the server's history: the first that is committed 1, the next 2. Positions stand for
 * transaction ids and for LSNs: a server that goes on from an older state gives them away again.
 * A token is RUN;LSN;SEEN: it sees what stood at the positions 1 to SEEN in the history of RUN. */
#ifndef NR
#define NR 2 /* relays, each with a worker */
#endif
#ifndef NC
#define NC 2 /* changes */
#endif
#ifndef FAULTS
#define FAULTS 0
#endif
#ifndef COPIES
#define COPIES 0 /* standbys, or backups of the disk */
#endif
#define RUNS (FAULTS + 1)
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
#define NEWER(a, b) (!SAME_RUN(a, b) || LSN(a) > LSN(b))
/* Sets of changes are masks. ALL: what the server has; ROWS: what pgherald.changes_since(h_since) returns; SEES: what of
 * it h_tok sees. */
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
#ifdef TWICE /* The first two changes are of one user. */
#define USERS(changes) ((((changes) & 3) != 0) | ((changes) & 4))
#define OF(users) ((((users) & 1) * 3) | ((users) & 4))
#define USER(i) (i < 2 -> 0 : i)
#else
#define USERS(changes) (changes)
#define OF(users) (users)
#define USER(i) (i)
#endif
/* What a canary claims, when not a token: canary.h canary_claim_kind */
#define NEVER 251
#define NOTHING 252
#define SOON 253
#define IS_TOKEN(c) ((c) < NEVER)

/* The server. started: its start time; this_run: what its tokens say of it; upto: pgherald.server_run, 0: no row, else
 * the LSN + 1 */
byte pos[NC], lsn, started, this_run, upto[RUNS];
#define KEPT (COPIES + DISK)
#ifdef F_CRASH
#define DISK 1 /* the last copy is what is on the server's own disk */
#else
#define DISK 0
#endif
#if KEPT
typedef history { byte pos[NC], upto[RUNS], lsn, this_run; bool refreshed };
history kept[KEPT];
inline save(c) {
	h_i = 0; do :: h_i < NC -> kept[c].pos[h_i] = pos[h_i]; h_i++ :: else -> break od;
	h_i = 0; do :: h_i < RUNS -> kept[c].upto[h_i] = upto[h_i]; h_i++ :: else -> break od;
	kept[c].lsn = lsn; kept[c].this_run = this_run }
inline restore(c) {
	h_i = 0; do :: h_i < NC -> pos[h_i] = kept[c].pos[h_i]; h_i++ :: else -> break od;
	h_i = 0; do :: h_i < RUNS -> upto[h_i] = kept[c].upto[h_i]; h_i++ :: else -> break od;
	lsn = kept[c].lsn; this_run = kept[c].this_run }
#endif
#define FAULT (n_faults < FAULTS)
byte n_faults, notified /* or announced */, excused;

/* A relay, and its worker: what that was given, its checkpoint, whether it must be caught up */
#define AWAY 0 /* upstream.h upstream_state */
#define PROVING 1
#define RECOVERING 2
#define LIVE 3
byte st[NR], identity[NR] /* the start time of the server that the upstream hears */;
byte deaf[NR]; /* 1: the upstream is dead, and the relay does not know */
byte K[NR], before[NR] /* fanout.checkpoints: the latest, the one before */, proved[NR] /* main.c */;
byte given[NR], wK[NR];
bool resuming[NR];
/* canary.c. in_flight 1: requested, 2: its snapshot is taken, 3: its LSN is read */
byte in_flight[NR], c_tok[NR], c_claim[NR], c_from[NR], owed[NR], idle[NR];
bool awaited[NR], proving[NR], activity[NR];
/* reconcile.h. asking 1: asked, 2: answered; pub: the announcements that are not committed yet */
byte from[NR], asked[NR], turn[NR], settling[NR], settled[NR], heard0[NR], heard1[NR], heard2[NR], susp[NR], pub[NR];
byte asking[NR], answer[NR], answered_at[NR], slow[NR], wanted[NR];
bool leading[NR], failed[NR], undone[NR];
/* The settings: channels, as the set of the users that are on them */
#ifndef CHANNELS0
#define CHANNELS0 7
#endif
#ifndef CHANNELS1
#define CHANNELS1 7
#endif
#ifndef SILENT
#define SILENT 0
#endif
#ifndef CANNOT_ASK
#define CANNOT_ASK 0
#endif
byte channels[NR];
bool silent[NR] /* PGHERALD_RECONCILE=no */, cannot_ask[NR];

#ifdef LATE
/* Relays hear what their upstream's buffer holds at any time later. The kind of an entry: a user, whose notification tells
 * of the changes in the next byte; or 8 + the sender of a canary + 4 * its nonce, then token, claim, from. */
chan up[NR] = [LATE] of { byte, byte, byte, byte };
bool nonce[NR];
#define ROOM (nfull(up[0]) && nfull(up[1]))
#define OWN_NONCE(r) nonce[r]
#else
/* Relays hear at once. */
#define ROOM true
#define OWN_NONCE(r) 0
#endif
hidden byte h_since, h_tok, h_m, h_i, h_r, h_s, h_u, h_k, h_t, h_c, h_f, h_own, h_counts;

#ifdef TWICE /* The turns that each relay had since the user's last notification; the same when the change was committed */
byte turns[NR], turns_at[NR * 2];
#define COUNT_TURN(r) if :: turns[r] < 3 -> turns[r]++ :: else fi
#else
#define COUNT_TURN(r) skip
#endif

/* PROPERTY (a): what a worker's checkpoint sees, the worker was given, or it was told GAP. */
inline check_given(r) {
	h_tok = wK[r];
	assert(!h_tok || RUN(h_tok) != this_run || (SEES & OF(channels[r]) & ~given[r] & ~excused) == 0) }

/* PROPERTY (b): what is claimed as settled was notified or announced. */
inline check_settled(r) {
	h_tok = settled[r]; h_m = SEES;
	h_tok = from[r];
	assert(!SAME_RUN(settled[r], from[r]) || RUN(h_tok) != this_run ||
		(h_m & ~SEES & OF(channels[r]) & ~notified & ~excused) == 0) }

inline give(r, changes) { /* fanout_decoded */
	if :: K[r] && !resuming[r] -> given[r] = given[r] | (changes & OF(channels[r])) :: else fi }

inline gap(r) { /* fanout_gap: the worker reads anew all there is. Only scenarios that need it have one. */
#ifndef GAPS
	assert(false);
#endif
	if :: K[r] && !resuming[r] -> given[r] = given[r] | ALL :: else fi }

inline checkpoint(r, t) { /* fanout_checkpoint */
#if COPIES
	before[r] = K[r];
#endif
	K[r] = t;
	if :: !resuming[r] -> wK[r] = t; check_given(r) :: else fi }

/* Reconciliation: reconcile.c */

inline forget_heard(r) {
	COUNT_TURN(r);
#ifndef MUT_HEARD_BEFORE
	heard0[r] = 0; heard1[r] = 0; heard2[r] = 0
#endif
	}

inline end_term(r) {
	leading[r] = false; asking[r] = 0; answer[r] = 0; answered_at[r] = NONE; slow[r] = 0; susp[r] = 0; wanted[r] = NONE;
	from[r] = NONE; asked[r] = NONE; turn[r] = NONE; settling[r] = NONE; settled[r] = NONE;
	forget_heard(r) }

#ifdef MUT_UNCONFIRMED
#define UNFINISHED(r) asking[r]
#else
#define UNFINISHED(r) (asking[r] || pub[r])
#endif
inline finish_turn_if_done(r) {
	if :: !leading[r] || UNFINISHED(r) -> skip
	   :: else ->
		if :: failed[r] -> failed[r] = false; end_term(r); undone[r] = true
		   :: else ->
			if :: settling[r] -> settled[r] = settling[r]; check_settled(r) :: else fi;
			undone[r] = false
		fi
	fi }

inline begin_term(r, f) {
	leading[r] = true; failed[r] = false; from[r] = f;
	if :: heard0[r] -> forget_heard(r) /* RECONCILE_TAKEOVER_INTERVALS are over */ :: skip fi }

inline on_own_turn(r, token) {
	if :: silent[r] -> skip
	   :: !silent[r] && (asking[r] || pub[r]) ->
		if :: slow[r] < 2 -> slow[r]++ :: else -> undone[r] = true fi
	   :: else -> /* ask */
		if :: !leading[r] -> h_f = (wanted[r] -> wanted[r] : K[r]); begin_term(r, h_f) :: else fi;
		wanted[r] = NONE;
		slow[r] = 0;
		COUNT_TURN(r); /* begin_turn */
		heard2[r] = heard1[r]; heard1[r] = heard0[r]; heard0[r] = 0;
		settling[r] = turn[r];
		turn[r] = token;
#ifdef MUT_ONLY_ASKED
		settling[r] = token;
#endif
		asking[r] = 1
	fi }

#ifdef MUT_FROM
#define FITS_FROM(r, f) true
#else
#define FITS_FROM(r, f) COVERS(K[r], f)
#endif
#ifdef MUT_CHANNELS
#define FITS_CHANNELS(r, s) true
#else
#define FITS_CHANNELS(r, s) ((channels[r] & ~channels[s]) == 0)
#endif
#ifdef MUT_CLAIM_RUN
#define JOINS_ON(r, s, t, f) FITS_CHANNELS(r, s)
#define PASSES_ON(r, t, c) NEWER(c, K[r])
#else
#define JOINS_ON(r, s, t, f) (SAME_RUN(t, K[r]) && FITS_FROM(r, f) && FITS_CHANNELS(r, s))
#define PASSES_ON(r, t, c) (PRECEDES(c, t) && SAME_RUN(c, K[r]) && NEWER(c, K[r]))
#endif
#ifdef MUT_YIELD
#define GIVES_WAY(r) (!settled[r] || undone[r])
#else
#define GIVES_WAY(r) (!leading[r])
#endif
#ifdef MUT_BANG
#define BANG(c) ((c) == NOTHING)
#else
#define BANG(c) false
#endif
#ifdef MUT_RECOVERING
#define HEARS(r) (st[r] >= RECOVERING)
#else
#define HEARS(r) (st[r] == LIVE)
#endif
/* PGHERALD_RECONCILE=no: main.c pass_on_with_delay. Its interval is two ticks. */
#ifdef TICKS
byte waiting0[NR], waiting1[NR], age0[NR], age1[NR], owing_age[NC];
bool turned[NR];
#define AGES(r) (turned[r] || (waiting0[r] && age0[r] < 2) || (waiting1[r] && age1[r] < 2))
#undef TICKS
#define TICKS (AGES(0) || AGES(NR - 1))
#ifdef MUT_YOUNG
#define OLD 1
#else
#define OLD 2
#endif
inline pass_on_with_delay(r, t) {
	h_tok = NONE;
	if :: waiting1[r] && age1[r] >= OLD -> h_tok = waiting1[r]; waiting0[r] = NONE; waiting1[r] = NONE
	   :: else ->
		if :: waiting0[r] && age0[r] >= OLD ->
			h_tok = waiting0[r]; waiting0[r] = waiting1[r]; age0[r] = age1[r]; waiting1[r] = NONE; age1[r] = 0
		   :: else fi
	fi;
	if :: !waiting0[r] -> waiting0[r] = t; age0[r] = 0
	   :: else -> if :: !waiting1[r] -> waiting1[r] = t; age1[r] = 0 :: else fi fi;
	if :: h_tok && NEWER(h_tok, K[r]) -> checkpoint(r, h_tok) :: else fi }
#else
#define pass_on_with_delay(r, t) skip
#endif

inline answer_for(r, s, f) { /* A relay that cannot ask lacks what we have. */
#ifndef MUT_WANTED
	if :: SAME_RUN(f, K[r]) && !COVERS(f, K[r]) && (channels[s] & ~channels[r]) == 0 ->
		if :: leading[r] && !COVERS(f, from[r]) -> end_term(r) :: else fi;
		if :: !wanted[r] || !COVERS(f, wanted[r]) -> wanted[r] = f :: else fi
	   :: else fi
#else
	if :: leading[r] && SAME_RUN(f, from[r]) && !COVERS(f, from[r]) && (channels[s] & ~channels[r]) == 0 ->
		end_term(r); begin_term(r, f)
	   :: else fi
#endif
	}

inline on_turn(r, s, t, c, f) { /* main.c on_turn, reconcile.c reconcile_turn */
	if :: !HEARS(r) -> skip
	   :: HEARS(r) && silent[r] -> pass_on_with_delay(r, t)
	   :: else ->
		h_counts = (IS_TOKEN(c) && JOINS_ON(r, s, t, f)) || BANG(c) ||
			(c == SOON && JOINS_ON(r, s, t, f) && (h_own || GIVES_WAY(r)));
		if :: h_counts && IS_TOKEN(c) && PASSES_ON(r, t, c) -> checkpoint(r, c) :: else fi;
		if :: !h_own && c == NOTHING -> answer_for(r, s, f) :: else fi;
		if :: h_own -> on_own_turn(r, t)
		   :: !h_own && h_counts -> end_term(r); if :: IS_TOKEN(c) -> undone[r] = false :: else fi
		   :: else fi
	fi }

/* The canary: canary.c */

inline send_canary(r) { /* and reconcile.c reconcile_claim */
	in_flight[r] = 1; awaited[r] = true;
#ifdef LATE
	nonce[r] = !nonce[r];
#endif
	if :: silent[r] && !proving[r] -> c_claim[r] = NEVER
	   :: proving[r] || (!silent[r] && st[r] != LIVE) -> c_claim[r] = NOTHING
	   :: else ->
		if :: undone[r] || (asking[r] && identity[r] != started) -> c_claim[r] = NOTHING; c_from[r] = K[r]
		   :: else ->
			c_claim[r] = (settled[r] -> settled[r] : SOON);
			c_from[r] = (from[r] -> from[r] : K[r])
		fi
	fi;
#ifndef STEPS
	c_tok[r] = NOW; in_flight[r] = 3
#endif
	}

inline forget_canary(r) { in_flight[r] = 0; c_tok[r] = NONE; c_claim[r] = 0; c_from[r] = NONE }

#ifdef MUT_UNDONE
#define UNDONE(r) undone[r]
#else
#define UNDONE(r) false
#endif
/* Whether the timer's probe finds that a turn must be taken: on_probe, main.c on_pending */
#define MUST_TURN(r) (activity[r] || (!silent[r] && lsn != idle[r]) || (owed[r] && !COVERS(K[r], owed[r])) || UNDONE(r) || wanted[r] || \
	(leading[r] && (asking[r] || susp[r] || pub[r])))
/* When the timer ends: at any time. SLOW: a question may take longer than turns are apart, up to three of them; but no
 * question ends just while a canary is on its way. */
#define MAY_END(r) true
#if defined(TICKS)
#define MAY_TURN(r) (st[r] == LIVE && !turned[r])
#elif defined(SLOW)
#undef MAY_END
#define MAY_END(r) !in_flight[r]
#define MAY_TURN(r) (st[r] == LIVE && !pub[r] && !(asking[r] && undone[r]))
#else
#define MAY_TURN(r) (st[r] == LIVE && !asking[r] && !pub[r])
#endif

inline recover(r, t) { proved[r] = t; st[r] = RECOVERING } /* main.c; on_recovered is below */

inline on_canary(r, s, t, c, f) { /* canary_notification; h_own: our own, and awaited */
	if :: h_own && proving[r] -> /* on_own, main.c on_proved */
		awaited[r] = false; proving[r] = false;
		idle[r] = SEEN(t);
		end_term(r); /* reconcile_reset */
		if :: K[r] -> recover(r, t) :: else -> st[r] = LIVE; checkpoint(r, t) fi
	   :: !h_own && s == r -> skip /* too late */
	   :: else ->
		if :: h_own -> awaited[r] = false :: else fi;
		/* note_turn */
		if :: activity[r] || (!silent[r] && SEEN(t) != idle[r]) -> owed[r] = t :: else fi;
		activity[r] = false; idle[r] = SEEN(t);
		on_turn(r, s, t, c, f)
	fi }

inline on_change(r, user, changes) { /* main.c on_upstream_heard */
	if :: channels[r] & BIT(user) ->
		activity[r] = true;
		give(r, changes);
		if :: !silent[r] -> heard0[r] = heard0[r] | BIT(user) :: else fi
	   :: else fi }

/* A NOTIFY's commit: all who listen get it, in one order. */
inline notify(user) {
	h_m = OF(BIT(user)) & ALL;
	notified = notified | h_m;
	h_r = 0;
	do :: h_r < NR ->
#ifdef TWICE
		if :: user == 0 -> turns[h_r] = 0 :: else fi;
#endif
		if :: st[h_r] >= PROVING && !deaf[h_r] ->
#ifdef LATE
			up[h_r]!user,h_m,0,0
#else
			on_change(h_r, user, h_m)
#endif
		   :: else fi;
		h_r++
	   :: else -> break od }

inline upstream_lost(r) { /* main.c on_upstream_lost, canary.c canary_stop */
	st[r] = AWAY; deaf[r] = 0; identity[r] = 0; proved[r] = NONE;
#ifndef MUT_OLD_UPSTREAM
	awaited[r] = false;
#endif
	proving[r] = false; owed[r] = NONE; idle[r] = UNKNOWN;
#ifdef TICKS
	waiting0[r] = NONE; waiting1[r] = NONE; age0[r] = 0; age1[r] = 0;
#endif
#ifdef LATE
	do :: nempty(up[r]) -> up[r]?h_k,h_t,h_c,h_f :: empty(up[r]) -> break od;
#endif
	end_term(r) }

/* Recovery */

#ifdef MUT_EARLY
#define MAY_LISTEN(r) (!K[r] || proved[r] == UNKNOWN)
#define ASKED_EARLY true
#else
#define MAY_LISTEN(r) true
#define ASKED_EARLY false
#endif


/* changes_since.c compare_runs, choose_snapshot. h_since: what t means on this server, NONE: OTHER_TIME */
#ifdef MUT_OLDER
#define OLDER(o, t) (SAME_RUN(o, t) && LSN(o) < upto[RUN(t)])
#else
#define OLDER(o, t) (COVERS(t, o) && LSN(o) < upto[RUN(t)])
#endif
inline choose(r, t) {
	h_since = NONE;
	if :: !t -> skip
	   :: t && RUN(t) == this_run -> if :: LSN(t) <= lsn -> h_since = t :: else fi
#if defined(MUT_UPTO)
	   :: t && RUN(t) != this_run -> h_since = t
#elif !defined(NO_TABLE)
	   :: t && RUN(t) != this_run && LSN(t) < upto[RUN(t)] -> h_since = t
	   :: t && RUN(t) != this_run && LSN(t) >= upto[RUN(t)] ->
		if :: OLDER(K[r], t) -> h_since = K[r]
		   :: !OLDER(K[r], t) && OLDER(before[r], t) -> h_since = before[r]
		   :: else fi
#endif
	   :: else fi }

inline gap_unless_told(r) {
#ifndef MUT_NO_GAP
	gap(r)
#else
	skip
#endif
	}

inline on_recovered(r) {
	h_t = K[r]; choose(r, h_t);
	if :: ASKED_EARLY -> skip :: h_since && !ASKED_EARLY -> give(r, ROWS) :: else -> gap_unless_told(r) fi;
	st[r] = LIVE;
	if :: proved[r] -> checkpoint(r, proved[r]) :: else fi;
	proved[r] = NONE }

inline catch_up(r) { /* recovery.c on_lane_done, passed_by */
	h_t = wK[r]; choose(r, h_t);
	resuming[r] = false;
	if :: h_since ->
		give(r, ROWS);
		if :: PRECEDES(K[r], NOW) && NEWER(K[r], wK[r]) -> wK[r] = K[r] :: else fi
	   :: else ->
		gap_unless_told(r);
#ifdef MUT_NOT_ON_DISK
		wK[r] = (PRECEDES(K[r], NOW) -> K[r] : NOW)
#else
		wK[r] = (PRECEDES(K[r], NOW) -> K[r] : NONE)
#endif
	fi;
	check_given(r) }

inline on_answer(r) { /* reconcile.c on_row, on_done */
	h_t = (asked[r] -> asked[r] : from[r]); choose(r, h_t);
	if :: cannot_ask[r] ->
#ifdef MUT_FAILED_CLAIMS
		asking[r] = 0; finish_turn_if_done(r)
#else
		end_term(r); undone[r] = true
#endif
	   :: !cannot_ask[r] && !h_since -> /* begin_anew */
		gap_unless_told(r);
		h_t = turn[r]; checkpoint(r, h_t); end_term(r); undone[r] = true
	   :: else -> answer[r] = ROWS & OF(channels[r]); answered_at[r] = NOW; asking[r] = 2
	fi }

inline on_done(r) {
	asking[r] = 0;
#ifdef TWICE
	/* The limit "twice within one interval": a change counts as heard by a notification that came before its commit. At
	 * most one turn may lie between the two. */
	h_m = answer[r] & OF(heard0[r] | heard1[r]) & ~notified & 3;
	assert(!(h_m & 1) || turns_at[r * 2] <= 1);
	assert(!(h_m & 2) || turns_at[r * 2 + 1] <= 1);
	excused = excused | h_m;
#endif
	pub[r] = pub[r] | (susp[r] & ~(heard0[r] | heard1[r] | heard2[r]));
	susp[r] = USERS(answer[r]) & ~(heard0[r] | heard1[r]);
	asked[r] = answered_at[r];
	answer[r] = 0; answered_at[r] = NONE;
	finish_turn_if_done(r) }

proctype relay(byte r) {
end:	do
#ifdef F_LISTEN
	:: atomic { FAULT && st[r] >= PROVING && !deaf[r] -> n_faults++; deaf[r] = 1 }
#endif
#ifdef F_RELAY
	:: atomic { FAULT -> n_faults++;
		upstream_lost(r); forget_canary(r);
		K[r] = NONE; before[r] = NONE; pub[r] = 0; failed[r] = false; undone[r] = false; activity[r] = false;
		resuming[r] = true }
#endif
#ifdef F_MOVE /* the worker of the other relay comes to this one */
	:: atomic { FAULT && K[r] -> n_faults++; wK[r] = wK[1 - r]; given[r] = given[1 - r]; resuming[r] = true }
#endif
#ifdef F_WORKER /* falls out of the backlog */
	:: atomic { FAULT && K[r] && !resuming[r] -> n_faults++; resuming[r] = true }
#endif
#ifdef MUT_EARLY
	:: atomic { st[r] == AWAY && K[r] && proved[r] != UNKNOWN ->
		h_t = K[r]; choose(r, h_t); if :: h_since -> give(r, ROWS) :: else -> skip fi; proved[r] = UNKNOWN }
#endif
#ifdef MUT_OLD_UPSTREAM
	:: atomic { deaf[r] == 2 -> deaf[r] = 0 }
#endif
	/* upstream.c on_listen, main.c on_upstream_listening, canary_prove */
	:: atomic { st[r] == AWAY && MAY_LISTEN(r) ->
		st[r] = PROVING; identity[r] = started; proving[r] = true;
		if :: !in_flight[r] -> send_canary(r) :: else fi }
	/* The connection says that it is dead, or on_deadline. */
	:: atomic { deaf[r] == 1 -> upstream_lost(r) }
	/* canary.c on_turn */
	:: atomic { !in_flight[r] && !awaited[r] && MUST_TURN(r) && MAY_TURN(r) ->
#ifdef TICKS
		turned[r] = true;
#endif
		send_canary(r) }
#ifdef LATE
	:: atomic { nempty(up[r]) -> up[r]?h_k,h_t,h_c,h_f;
		if :: h_k < 8 -> on_change(r, h_k, h_t)
		   :: else -> h_s = h_k & 3; h_own = h_s == r && awaited[r] && (h_k & 4) >> 2 == nonce[r];
			on_canary(r, h_s, h_t, h_c, h_f)
		fi }
#endif
	od }

inline failed_canary(r) { /* canary.c on_statement, main.c on_unproven */
	forget_canary(r); awaited[r] = false;
	if :: proving[r] -> proving[r] = false; if :: K[r] -> recover(r, NONE) :: else -> upstream_lost(r) fi
	   :: else fi }

inline end_connections() { /* of a server that ends; relays notice at any time later */
	h_r = 0;
	do :: h_r < NR ->
		if :: st[h_r] >= PROVING -> deaf[h_r] = 1 :: else fi;
		if :: in_flight[h_r] > 1 -> failed_canary(h_r) :: else fi;
		if :: asking[h_r] -> asking[h_r] = 1; answer[h_r] = 0; answered_at[h_r] = NONE :: else fi;
		h_r++
	   :: else -> break od }

/* The publishing connection: publisher.c */
proctype publisher(byte r) {
end:	do
#ifdef STEPS
	:: atomic { in_flight[r] == 1 -> c_tok[r] = TOKEN(this_run, 0, lsn); in_flight[r] = 2 }
	:: atomic { in_flight[r] == 2 -> c_tok[r] = TOKEN(this_run, lsn, SEEN(c_tok[r])); in_flight[r] = 3 }
#endif
	/* A canary is committed, and with it pgherald.note_run. */
	:: atomic { in_flight[r] == 3 && ROOM ->
		h_t = c_tok[r]; h_c = c_claim[r]; h_f = c_from[r];
		forget_canary(r);
		if :: upto[this_run] <= LSN(h_t) -> upto[this_run] = LSN(h_t) + 1 :: else fi;
#ifdef F_CRASH
		save(COPIES);
#endif
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
		   :: else -> break od;
#ifdef MUT_OLD_UPSTREAM
		if :: st[r] == AWAY && awaited[r] -> awaited[r] = false; deaf[r] = 2; identity[r] = started; recover(r, h_t) :: else fi;
#endif
		if :: proving[r] && !awaited[r] -> send_canary(r) :: else fi }
#ifdef F_CANARY
	/* It cannot be committed. */
	:: atomic { FAULT && in_flight[r] -> n_faults++; failed_canary(r) }
#endif
#ifdef F_PUBLISH
	:: atomic { FAULT && pub[r] && ROOM -> n_faults++;
		h_u = 0; do :: pub[r] & BIT(h_u) -> break :: else -> h_u++ od;
		pub[r] = pub[r] & ~BIT(h_u); failed[r] = true;
		if :: notify(h_u) :: skip fi; /* What is not confirmed may have been committed. */
		finish_turn_if_done(r) }
#endif
	/* An announcement is committed: reconcile_published. */
	:: atomic { pub[r] && ROOM ->
		h_u = 0; do :: pub[r] & BIT(h_u) -> break :: else -> h_u++ od;
		pub[r] = pub[r] & ~BIT(h_u);
		notify(h_u);
		finish_turn_if_done(r) }
	od }

/* The connections that ask: changes_since.c. Questions reach the server that the upstream hears, or are asked again. */
proctype questions(byte r) {
end:	do
	:: atomic { asking[r] == 1 && identity[r] == started && MAY_END(r) -> on_answer(r);
#ifndef STEPS
		if :: asking[r] == 2 -> on_done(r) :: else fi
#endif
		}
#ifdef STEPS
	:: atomic { asking[r] == 2 -> on_done(r) }
#endif
	:: atomic { st[r] == RECOVERING && identity[r] == started -> on_recovered(r) }
	:: atomic { resuming[r] && K[r] && (st[r] == AWAY || identity[r] == started) -> catch_up(r) }
	od }

/* Applications: each commits; its NOTIFY follows at any time, or never. */
proctype apps() {
	byte n /* committed */, owing /* those whose NOTIFY will follow */;
end:	do
	:: atomic { n < NC -> lsn++; pos[n] = lsn;
		if :: owing = owing | BIT(n)
#ifndef TICKS
		   :: skip
#endif
		fi;
#ifdef TWICE
		if :: n < 2 -> h_i = 0; do :: h_i < NR -> turns_at[h_i * 2 + n] = turns[h_i]; h_i++ :: else -> break od :: else fi;
#endif
		n++ }
	:: atomic { owing && ROOM ->
		if :: owing & 1 -> h_u = 0 :: owing & 2 -> h_u = 1 :: owing & 4 -> h_u = 2 fi;
		owing = owing & ~BIT(h_u);
#ifdef TICKS
		owing_age[h_u] = 0;
#endif
		h_u = USER(h_u); notify(h_u) }
#ifdef TICKS /* A NOTIFY follows its commit within an interval. */
	:: atomic { TICKS && !owing_age[0] && !owing_age[NC - 1] ->
		h_i = 0; do :: h_i < NC -> if :: owing & BIT(h_i) -> owing_age[h_i] = 1 :: else fi; h_i++ :: else -> break od;
		h_r = 0;
		do :: h_r < NR -> turned[h_r] = false;
			if :: waiting0[h_r] && age0[h_r] < 2 -> age0[h_r]++ :: else fi;
			if :: waiting1[h_r] && age1[h_r] < 2 -> age1[h_r]++ :: else fi;
			h_r++
		   :: else -> break od }
#endif
	od }

#ifdef MUT_RUN /* tokens name the timeline */
#define NEW_RUN(timeline) this_run = timeline
#else
#define NEW_RUN(timeline) this_run = started
#endif
proctype server() {
end:	do
#ifdef F_RESTART
	:: atomic { FAULT -> n_faults++; end_connections(); started++; NEW_RUN(this_run);
#ifdef F_CRASH
		save(COPIES)
#endif
		}
#endif
#ifdef F_CRASH /* of a backend: PostgreSQL restarts within its run, and what was not flushed is lost */
	:: atomic { FAULT -> n_faults++; end_connections(); restore(COPIES) }
#endif
#if COPIES /* A failover to a standby, or to a backup of the disk, which was refreshed once, or is of the beginning */
	:: atomic { !kept[0].refreshed -> save(0); kept[0].refreshed = true }
	:: atomic { FAULT -> n_faults++; end_connections(); started++; restore(0); NEW_RUN(this_run + 1) }
#endif
#if COPIES > 1
	:: atomic { !kept[1].refreshed -> save(1); kept[1].refreshed = true }
	:: atomic { FAULT -> n_faults++; end_connections(); started++; restore(1); NEW_RUN(this_run + 1) }
#endif
	:: false
	od }

init { atomic {
	byte r = 0;
	do :: r < NR ->
		channels[r] = (r == 0 -> CHANNELS0 : (r == 1 -> CHANNELS1 : 7)) & USERS(BIT(NC) - 1);
		cannot_ask[r] = (CANNOT_ASK >> r) & 1; silent[r] = (SILENT >> r) & 1;
		st[r] = LIVE; K[r] = TOKEN(0, 0, 0); wK[r] = K[r];
		run relay(r); run publisher(r); run questions(r); r++
	   :: else -> break od;
	upto[0] = 1;
#if KEPT
	r = 0; do :: r < KEPT -> kept[r].upto[0] = 1; r++ :: else -> break od;
#endif
#ifdef TWICE
	r = 0; do :: r < NR -> turns[r] = 3; r++ :: else -> break od;
#endif
	r = 0;
	run apps(); run server() }
	/* PROPERTY (c): all runs end, and then each relay is live, its checkpoint up to date, its worker given all. */
	atomic { timeout ->
	h_i = 0;
	do :: h_i < NR ->
		assert(st[h_i] == LIVE && !resuming[h_i]);
		assert(wK[h_i] == K[h_i]);
		/* Where nobody reconciles, the last change may come again. */
		assert(silent[h_i] || (K[h_i] && RUN(K[h_i]) == this_run && SEEN(K[h_i]) == lsn));
		assert((ALL & OF(channels[h_i]) & ~given[h_i] & ~excused) == 0); h_i++
	   :: else -> break od } }
