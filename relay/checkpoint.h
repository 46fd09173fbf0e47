/* Checkpoints: tokens that name a moment of the database, and the history of those that stand in the backlog.
 * A token is "system identifier;timeline;LSN;pg_snapshot", all read in one statement, the LSN after the
 * snapshot. Nothing here talks to PostgreSQL; the canary makes tokens, recovery uses them, workers see them
 * as opaque text. */
#pragma once

#include "wire.h"

/* The snapshot is cut to this length, in SQL, by falling back to "xmin:xmin:", which is older and therefore
 * safe. */
#define CHECKPOINT_SNAPSHOT_MAX 1024
#define CHECKPOINT_TOKEN_MAX (CHECKPOINT_SNAPSHOT_MAX + 64)
/* Some minutes' worth: what a failover may have to go back to. */
#define CHECKPOINT_HISTORY_MAX 64

/* SQL for a token of the statement's own snapshot; a primary only, any role. */
#define CHECKPOINT_TOKEN_SQL                                                                                 \
	"(SELECT concat_ws(';', system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),"     \
	" pg_current_wal_insert_lsn(),"                                                                      \
	" CASE WHEN length(s::text) <= 1024 THEN s::text"                                                    \
	" ELSE pg_snapshot_xmin(s) || ':' || pg_snapshot_xmin(s) || ':' END)"                                \
	" FROM pg_control_system(), pg_current_snapshot() AS s)"

/* Shared by the history and the workers that passed it last. */
struct checkpoint {
	unsigned refs;
	uint64_t seq; /* of its CHECKPOINT frame; 0 for one that a worker brought */
	uint32_t len;
	char token[]; /* NUL-terminated */
};

/* With one reference; NULL when memory is short. */
struct checkpoint *checkpoint_new(struct wire_str token, uint64_t seq);
struct checkpoint *checkpoint_ref(struct checkpoint *checkpoint);
/* NULL is none. */
void checkpoint_unref(struct checkpoint *checkpoint);

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
	uint32_t timeline;
	uint64_t lsn;
	const char *snapshot; /* into the token */
	uint64_t xmin, xmax;
};

/* 0, or -EBADMSG for a text that is no token: workers and other relays give us these. */
int checkpoint_parse(const char *token, struct checkpoint_parts *out);
/* Whether a is of a later moment than b, by their LSNs; of two timelines the later counts. A snapshot is
 * taken before its LSN is read, so two that were made at once may seem the other way round: where that would
 * lose something, ask checkpoint_covers(). */
bool checkpoint_is_newer(const char *a, const char *b);
/* Whether all that b sees, a sees too; of two timelines the later does. */
bool checkpoint_covers(const char *a, const char *b);
/* Whether both are of one timeline of one cluster, and a's LSN is not beyond b's. */
bool checkpoint_precedes(const char *a, const char *b);
/* "X/Y", as PostgreSQL prints an LSN. */
int checkpoint_parse_lsn(const char *text, uint64_t *out);
