/* One question to the database: what changed since this checkpoint?
 *
 * A question is one transaction. The plan reads the moment of the answer and which server it
 * reached. If that is another run of the server than the checkpoint's, it asks the server how
 * far its history contains that run. Then it reads the rows of pgherald.changes_since(), no
 * faster than they are taken. When the connection fails, it asks again from the start. The
 * connection stays open for the next question, for a while.
 *
 * It does not know what the rows are for: recovery.c and catch_up.c call it. */
#pragma once

#include "base/backoff.h"
#include "base/checkpoint.h"
#include "base/config.h"
#include "postgres/session.h"
#include "postgres/upstream.h"

enum changes_outcome {
	CHANGES_COMPLETE,
	CHANGES_WRONG, /* the function raised an error, hung, or returned malformed rows */
	/* The server cannot tell that its history contains the checkpoint, or the function no
	 * longer knows all that changed since. */
	CHANGES_OTHER_TIME,
	CHANGES_NO_FUNCTION, /* it is missing, or we do not trust its owner */
};

/* Pointers are valid until the event returns. */
struct changes_events {
	/* About to ask, perhaps again. Every change that was committed by now will be among the
	 * rows. */
	void (*asking)(void *context);
	/* A row. stored: bytes that the value has in the database's encoding. Returns whether
	 * the next may come; if not, no row comes until changes_more(). */
	bool (*row)(void *context, const char *channel, struct wire_str value, uint32_t stored);
	/* token: the moment of the answer, with its whole snapshot; NULL when the server did
	 * not tell it. What it sees may not be on disk yet. So it serves only to ask this run
	 * of the server again, and never becomes a checkpoint. text: what went wrong, for
	 * people. */
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text);
};

struct changes_since {
	const struct config *config;
	const struct checkpoint_history *history; /* for an older checkpoint, after a failover */
	const struct upstream *upstream;
	const struct changes_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry;   /* until the next attempt to connect */
	struct ev_timer silence; /* until the next row must come, or later: then it looks at row_at */
	double row_at;           /* seconds of clock_now(): when the last row came, or was asked for */
	struct ev_timer allowed; /* until the rate allows the next rows */
	struct ev_timer idle;    /* until an unused connection is closed */

	bool unheard; /* leave out what transactions notified themselves, where that is known */
	char *since;  /* the token that is asked about; NULL: no question is under way */
	char *token;  /* the moment of the answer; NULL before the plan is read */
	/* Of an older checkpoint, which is asked about instead; empty: since's own. */
	char snapshot[CHECKPOINT_SNAPSHOT_MAX + 1];
	bool asks_run;    /* since is of another run, and the server has not told yet what it kept of that */
	bool failed;      /* an attempt has failed, and it is asked again */
	double failed_at; /* by clock_now(): the first of them since the upstream is there */
	bool wants_pause; /* row() returned false */
	double rate;      /* rows a second; 0: no limit */
	uint64_t n_rows, n_bad_rows;
	double allowance;    /* rows that the rate allows */
	double allowance_at; /* seconds of clock_now(), when allowance was computed */
	char trouble[256];   /* what went wrong first */
};

/* Bytes of changes_channels(): for each channel "c:", two digits a byte, and a comma. */
#define CHANGES_CHANNELS_MAX ((size_t)CHANNELS_MAX * (2 * CHANNEL_NAME_MAX + 3))
/* The channels, as pgherald.changes_of_tracked() reads them (sql/pgherald.sql). The text has no
 * quote. */
struct changes_channels {
	char text[CHANGES_CHANNELS_MAX + 1];
};
struct changes_channels changes_channels(const struct config *config);

/* What a question works with. All of it must outlive the question. */
struct changes_uses {
	struct ev_loop *loop;
	const struct config *config;
	const struct checkpoint_history *history;
	const struct upstream *upstream;
};

void changes_init(struct changes_since *changes, const struct changes_uses *uses,
	const struct changes_events *events, void *context);
struct changes_request {
	const char *since; /* any text; copied */
	double rate;       /* rows a second at most; 0: no limit */
	bool unheard;      /* leave out what transactions notified themselves, where that is known */
};

/* Asks. No question may be under way. done follows, perhaps before this returns. */
void changes_ask(struct changes_since *changes, const struct changes_request *request);
/* There is room again, after row() returned false. */
void changes_more(struct changes_since *changes);
/* Drops the question, without done. */
void changes_abort(struct changes_since *changes);
void changes_close(struct changes_since *changes);
/* The token that is asked about, until done or changes_abort(); NULL: no question is under
 * way. */
static inline const char *changes_question(const struct changes_since *changes)
{
	return changes->since;
}
/* The moment of the answer, while the question is under way; NULL before the server tells it.
 * Borrowed until done or changes_abort(). */
static inline const char *changes_moment(const struct changes_since *changes)
{
	return changes->token;
}
/* Whether it waits for changes_more(). A question whose connection is lost is asked again, and
 * does not wait. */
bool changes_is_paused(const struct changes_since *changes);
/* Whether an attempt of the question under way has failed. */
static inline bool changes_failed(const struct changes_since *changes)
{
	return changes->since && changes->failed;
}
