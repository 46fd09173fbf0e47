/* One question to the database: what changed since this checkpoint? Finds out whether the checkpoint means
 * anything on the server that it reached, after a restart or failover too, and whether that is the server of
 * the LISTEN connection, since in a failover both may be there. Reads the rows of pgherald.changes_since one
 * at a time, no faster than they are taken. Tries again when the connection fails. Whom the rows are for is
 * recovery's business, which calls it. Keeps its connection for the next question, for a while. */
#pragma once

#include "base/backoff.h"
#include "base/checkpoint.h"
#include "base/config.h"
#include "postgres/session.h"

enum changes_outcome {
	CHANGES_COMPLETE,
	CHANGES_WRONG,      /* the function raised, hung, or answered in another shape */
	CHANGES_OTHER_TIME, /* the server does not know that its history has the checkpoint */
	CHANGES_NO_FUNCTION,
};

struct changes_events {
	/* About to ask; whatever is committed and heard by now will be among the rows. */
	void (*asking)(void *context);
	/* Returns whether the next may come; when not, changes_more() lets it. */
	bool (*row)(void *context, const char *channel, struct wire_str value);
	/* token: the moment that was asked about, with its whole snapshot; it is not on disk yet, so it is
	 * good for asking this run of the server again and nothing else. NULL where none was had. text: what
	 * is wrong, for people. Both are borrowed for the call. */
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text);
};

struct changes_since {
	const struct config *config;
	const struct checkpoint_history *history; /* where to go back to behind a fork */
	const char *identity; /* of the server that the upstream hears, as UPSTREAM_IDENTITY_SQL says; empty
				 while it hears none */
	const struct changes_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry;   /* after a failed connection */
	struct ev_timer silence; /* while rows are waited for */
	struct ev_timer pace;    /* until the rate allows the next rows */
	struct ev_timer idle;    /* until a connection that nobody needs is closed */

	char *since; /* the question: a token; NULL when there is none */
	char *token; /* the moment of the plan; NULL before it */
	char snapshot[CHECKPOINT_SNAPSHOT_MAX +
		      1]; /* what is asked, where it is not since's own; else empty */
	bool asks_run;    /* the plan is there, and whether the server knows since's run is not */
	bool failed;      /* the question was tried before in vain */
	bool wants_pause; /* by the taker */
	double rate;      /* rows a second; 0: unlimited */
	uint64_t n_rows, n_bad_rows;
	double allowance; /* rows that the rate allows by now */
	double allowance_at;
	char trouble[256]; /* what was wrong first */
};

void changes_init(struct changes_since *changes, struct ev_loop *loop, const struct config *config,
	const struct checkpoint_history *history, const char *identity, const struct changes_events *events,
	void *context);
/* since: a token from anywhere, copied. rate: rows a second at most, 0 for no limit. done follows, perhaps at
 * once; no question may be under way. */
void changes_ask(struct changes_since *changes, const char *since, double rate);
/* After row() said no. */
void changes_more(struct changes_since *changes);
/* Forget the question, without done. */
void changes_abort(struct changes_since *changes);
void changes_close(struct changes_since *changes);
static inline bool changes_busy(const struct changes_since *changes)
{
	return changes->since != NULL;
}
