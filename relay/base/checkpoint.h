/* Checkpoints: tokens that name a moment of the database, and the history of those that stand in the backlog.
 * A token is "system identifier;run;LSN;pg_snapshot", all read in one statement, the LSN after the snapshot.
 * The run is the start time of the server in microseconds: a restart, a promotion or a disk that was set back
 * always has another, and only within one run do an LSN and a transaction id mean one thing for certain.
 * Nothing here talks to PostgreSQL. The canary makes tokens, recovery uses them, workers see them as opaque
 * text. */
#pragma once

#include "wire.h"

/* A snapshot that travels is cut to this length, by falling back to "xmin:xmin:". That one sees less, so it
 * is safe. Whole snapshots stay within the relay. */
#define CHECKPOINT_SNAPSHOT_MAX 1024
#define CHECKPOINT_TOKEN_MAX (CHECKPOINT_SNAPSHOT_MAX + 64)
/* What a worker or a failover may have to go back to: five minutes at the default interval. */
#define CHECKPOINT_HISTORY_MAX 64

/* SQL for the run of the server: any role may ask. */
#define CHECKPOINT_RUN_SQL                                                                                   \
	"(extract(epoch FROM pg_catalog.pg_postmaster_start_time())"                                         \
	" OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"
/* SQL for a token of the snapshot s and the LSN lsn. Only a primary has an LSN to insert at. */
#define CHECKPOINT_TOKEN_SQL(lsn, snapshot)                                                                  \
	"(SELECT pg_catalog.concat_ws(';', system_identifier, " CHECKPOINT_RUN_SQL ", " lsn ", " snapshot    \
	") FROM pg_catalog.pg_control_system())"

/* Shared by the history and the workers that passed it last. */
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

/* The newest of the last CHECKPOINT_HISTORY_MAX stands last. */
struct checkpoint_history {
	struct checkpoint *items[CHECKPOINT_HISTORY_MAX];
	unsigned n;
};

/* Takes the reference over. */
void checkpoint_history_add(struct checkpoint_history *history, struct checkpoint *checkpoint);
/* Borrowed; NULL when there is none. */
struct checkpoint *checkpoint_history_latest(const struct checkpoint_history *history);
/* The newest whose frame has a seq of at most this. Borrowed; NULL when there is none. */
struct checkpoint *checkpoint_history_at(const struct checkpoint_history *history, uint64_t seq);
void checkpoint_history_clear(struct checkpoint_history *history);

/* The parts of a token. */
struct checkpoint_parts {
	uint64_t system_identifier;
	uint64_t run; /* microseconds since 1970, by the server's clock */
	uint64_t lsn;
	const char *snapshot; /* into the token */
	uint64_t xmin, xmax;
};

/* 0, or -EBADMSG for a text that is not a token: workers and other relays give us these. */
int checkpoint_parse(const char *token, struct checkpoint_parts *out);
/* Whether both are of one run of one cluster. */
bool checkpoint_same_run(const char *a, const char *b);
/* Whether a is of a later moment than b, by their LSNs. One of another run counts as later: callers ask with
 * an a that is of the server that they hear. A snapshot is taken before its LSN is read, so two that were
 * made at once may seem the other way round: where that would lose something, ask checkpoint_covers(). */
bool checkpoint_is_newer(const char *a, const char *b);
/* Whether both are of one run, and all that b sees, a sees too. */
bool checkpoint_covers(const char *a, const char *b);
/* Whether both are of one run, and a's LSN is not beyond b's. */
bool checkpoint_precedes(const char *a, const char *b);
/* A moment of one run that sees no more than either; a and b must be tokens of one run. NULL when out of
 * memory. */
struct checkpoint *checkpoint_before_both(const char *a, const char *b);
/* "X/Y", as PostgreSQL prints an LSN. */
int checkpoint_parse_lsn(const char *text, uint64_t *out);

/* Tokens that wait until they are old enough to be passed on, where nobody reconciles. All zero at first. */
#define CHECKPOINT_WAITING_MAX 8
struct checkpoint_waiting {
	struct {
		struct checkpoint *token;
		double heard;            /* seconds of clock_now() */
	} items[CHECKPOINT_WAITING_MAX]; /* the oldest first */
	unsigned n;
};

/* Without room or memory the token is left out: a later one will do. */
void checkpoint_wait(struct checkpoint_waiting *waiting, const char *token, double now);
/* The newest that was heard at this moment or before, and forgets it and those before it; NULL when there is
 * none. The caller owns the reference. */
struct checkpoint *checkpoint_waited(struct checkpoint_waiting *waiting, double heard);
void checkpoint_waiting_clear(struct checkpoint_waiting *waiting);
