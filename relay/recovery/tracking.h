/* Looks after what pgherald.sql installed: folds the journal of changes when this relay's turn
 * has come, and asks what is tracked and what is wrong with it, whenever the upstream is back.
 * Recovery itself needs none of it. It has a connection of its own, which it closes when it is
 * not used: a fold may take a second, and nothing else may wait for that. relay.c calls this. */
#pragma once

#include "base/backoff.h"
#include "base/config.h"
#include "postgres/session.h"
#include "postgres/upstream.h"

/* How many intervals what could be folded may wait, before status shows that the fold does not
 * keep up; and at least as many seconds. */
#define TRACKING_LAG_INTERVALS 4.
#define TRACKING_LAG_SECONDS 60.

struct tracking {
	const struct config *config;
	const struct upstream *upstream;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry; /* until the next attempt to connect */
	struct ev_timer idle;  /* until an unused connection is closed */

	bool due;       /* ask once the connection is there */
	bool due_folds; /* and fold */
	bool again;     /* the fold under way says that there is more */

	/* What the last answer said. */
	uint64_t n_tables; /* that are tracked */
	double fold_lag;   /* seconds for which the journal waits for the fold */
	char problem[256]; /* of a table or a function; empty: none */
	/* A channel that is tracked and not configured; empty: none. */
	char unserved[ENCODING_NAME_UTF8_MAX + 1];

	struct session_text trouble; /* why the last attempt to ask or to fold failed; empty: it did not */
	uint64_t n_folded;           /* rows of the journal */
};

/* loop, config and upstream must outlive it. */
void tracking_init(struct tracking *tracking, struct ev_loop *loop, const struct config *config,
	const struct upstream *upstream);
/* The upstream is proved, or what it found in the database has changed: asks. Logs what is
 * wrong. */
void tracking_look(struct tracking *tracking);
/* It is this relay's turn: folds. */
void tracking_fold(struct tracking *tracking);
/* The upstream is gone, or the relay ends: asks no more. */
void tracking_stop(struct tracking *tracking);
/* Whether an answer is awaited. */
bool tracking_is_asking(const struct tracking *tracking);
/* Seconds for which the fold has not kept up; 0 while it does. */
double tracking_fold_lag(const struct tracking *tracking);
