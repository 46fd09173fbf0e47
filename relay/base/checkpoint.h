/* Checkpoints: tokens that name a moment of the database, and the history of those in the
 * backlog.
 *
 * A checkpoint says: who has it has every change that was committed before it. Its token is the
 * text "system identifier;run;LSN;pg_snapshot". The snapshot says which transactions it sees;
 * recovery asks for all others. One statement reads the whole token, the LSN last.
 *
 * The run is the server's start time in microseconds. A restart, a promotion and a disk that
 * was set back each begin a new run. LSNs and transaction ids of two runs cannot be compared:
 * after a failover the new primary gives the same ids to other transactions.
 *
 * A server may withhold a part (postgres/rights.h). A system identifier, a run or an LSN that
 * is 0 is unknown. What is of an unknown run cannot be compared with anything.
 *
 * This file does not talk to PostgreSQL. The canary makes tokens, recovery uses them, workers
 * keep them as opaque text. */
#pragma once

#include "wire.h"

/* Bounds the snapshot of a token that leaves the relay. A longer one is replaced by
 * "xmin:xmin:", which sees less: recovery then returns more rows than needed and misses none. 1
 * KiB has room for some 100 transactions that are in progress. */
#define CHECKPOINT_SNAPSHOT_MAX 1024
/* What stands before the snapshot: two numbers of 64 bits, an LSN, three semicolons. */
#define CHECKPOINT_PREFIX_MAX (20 + 20 + 17 + 3)
#define CHECKPOINT_TOKEN_MAX (CHECKPOINT_SNAPSHOT_MAX + 64)
_Static_assert(
	CHECKPOINT_PREFIX_MAX + CHECKPOINT_SNAPSHOT_MAX <= CHECKPOINT_TOKEN_MAX, "a token holds its parts");
/* A HELLO carries it with a name and an epoch. */
_Static_assert(2 * CHECKPOINT_TOKEN_MAX <= WIRE_FRAME_MAX, "a token fits into a frame");
/* How far back a failover may go: five minutes at the default interval. */
#define CHECKPOINT_HISTORY_MAX 64

/* A token by value. Assign it; do not copy its text. All zero: there is none. */
struct token {
	char text[CHECKPOINT_TOKEN_MAX + 1]; /* NUL-terminated */
};

/* text has at most CHECKPOINT_TOKEN_MAX bytes. */
struct token token_of(const char *text);
static inline bool token_is_set(const struct token *token)
{
	return token->text[0] != '\0';
}

/* A checkpoint that the history shares with the workers that passed it last. */
struct checkpoint {
	unsigned refs;
	uint64_t seq; /* of its CHECKPOINT frame; 0 for one that a worker brought */
	uint32_t len;
	char token[]; /* NUL-terminated */
};

/* With one reference; NULL when out of memory. */
struct checkpoint *checkpoint_new(struct wire_str token, uint64_t seq);
/* NULL stays NULL. */
struct checkpoint *checkpoint_ref(struct checkpoint *checkpoint);
void checkpoint_unref(struct checkpoint *checkpoint);
/* *place gives up its reference and gets one to this; either may be NULL. */
void checkpoint_set(struct checkpoint **place, struct checkpoint *checkpoint);

/* The last CHECKPOINT_HISTORY_MAX, oldest first. */
struct checkpoint_history {
	struct checkpoint *items[CHECKPOINT_HISTORY_MAX];
	unsigned n;
};

/* Takes the reference over. */
void checkpoint_history_add(struct checkpoint_history *history, struct checkpoint *checkpoint);
/* NULL when there is none. Borrowed until the next checkpoint_history_add() or _clear(). */
struct checkpoint *checkpoint_history_latest(const struct checkpoint_history *history);
/* The newest whose frame has at most this seq; NULL when there is none. Borrowed likewise. */
struct checkpoint *checkpoint_history_at(const struct checkpoint_history *history, uint64_t seq);
void checkpoint_history_clear(struct checkpoint_history *history);

/* The parts of a token. */
struct checkpoint_parts {
	/* 0: unknown */
	uint64_t system_identifier;
	uint64_t run; /* microseconds since 1970, by the server's clock */
	uint64_t lsn;
	const char *snapshot; /* points into the text that was parsed */
	uint64_t xmin, xmax;
};

/* The functions from here on take texts, since a token of the relay's own may be longer than
 * struct token holds, and texts from workers and other relays may be no tokens. */

/* 0, or -EBADMSG for a text that is not a token. */
int checkpoint_parse(const char *token, struct checkpoint_parts *out);
/* Whether both belong to one run of one cluster. */
bool checkpoint_same_run(const char *a, const char *b);
/* Whether a has a later LSN than b, or where one is unknown, a later snapshot. If they are of
 * different runs: true, so a must be of the run that the upstream hears. Two tokens made at the
 * same time may compare the wrong way, since each LSN is read after its snapshot. Where that
 * would lose a change, call checkpoint_covers(). */
bool checkpoint_is_newer(const char *a, const char *b);
/* Whether both belong to one run, and a sees every transaction that b sees. */
bool checkpoint_covers(const char *a, const char *b);
/* Whether both belong to one run, and a is not newer. */
bool checkpoint_precedes(const char *a, const char *b);
/* A token that sees no more than either. Both must be tokens of one run. */
struct token checkpoint_before_both(const char *a, const char *b);
/* "X/Y", as PostgreSQL prints an LSN. 0 or -EBADMSG. */
int checkpoint_parse_lsn(const char *text, uint64_t *out);

/* Tokens that wait until they are old enough to be passed on. Only where the relay does not
 * reconcile. All zero at first. A relay that hears one canary an interval keeps two at most;
 * the rest is for fleets in which several relays send. */
#define CHECKPOINT_WAITING_MAX 8
struct checkpoint_waiting {
	struct {
		struct token token;
		double heard;            /* seconds of clock_now() */
	} items[CHECKPOINT_WAITING_MAX]; /* oldest first */
	unsigned n;
};

/* Without room the token is dropped: a later one will do. */
void checkpoint_waiting_add(struct checkpoint_waiting *waiting, const struct token *token, double now);
/* Takes out those that were heard at this moment or before, and returns the newest of them; not
 * set when there is none. */
struct token checkpoint_waiting_take(struct checkpoint_waiting *waiting, double heard);
static inline void checkpoint_waiting_clear(struct checkpoint_waiting *waiting)
{
	waiting->n = 0;
}
