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
#include "postgres/upstream.h"

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
	const struct upstream *upstream;
	const struct changes_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry;   /* after a failed connection */
	struct ev_timer silence; /* while rows are waited for */
	struct ev_timer allowed; /* when the rate allows the next rows */
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

/* What a question works with. All of it must outlive the question. */
struct changes_uses {
	struct ev_loop *loop;
	const struct config *config;
	const struct checkpoint_history *history;
	const struct upstream *upstream;
};

void changes_init(struct changes_since *changes, const struct changes_uses *uses,
	const struct changes_events *events, void *context);
/* since: a token from anywhere, copied. rate: rows a second at most, 0 for no limit. done follows, perhaps at
 * once; no question may be under way. */
void changes_ask(struct changes_since *changes, const char *since, double rate);
/* After row() said no. */
void changes_more(struct changes_since *changes);
/* Forget the question, without done. */
void changes_abort(struct changes_since *changes);
void changes_close(struct changes_since *changes);
/* The token that is asked about, until done or changes_abort(); NULL: no question is under way. */
static inline const char *changes_question(const struct changes_since *changes)
{
	return changes->since;
}
/* The moment of the answer, as done gets it; NULL before the server has told it. Until done returns. */
static inline const char *changes_moment(const struct changes_since *changes)
{
	return changes->token;
}
/* Whether row() said no, and no row has come since. A lost connection asks again, and so ends the pause. */
static inline bool changes_is_paused(const struct changes_since *changes)
{
	return changes->wants_pause && changes->session.conn;
}
/* Whether the question under way was asked before in vain. */
static inline bool changes_failed(const struct changes_since *changes)
{
	return changes->since && changes->failed;
}
