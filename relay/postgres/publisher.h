/* The connection that runs pg_notify: what has queued while a statement was in flight goes out as the next
 * one, so an idle publisher sends at once and a busy one batches by itself. Whose requests those are, the
 * queue says, round robin. Runs through a transaction pooler: no named statements, no session state. Also
 * carries the canary's statements, in turn. Workers' requests and reconciliation come in here. */
#pragma once

#include "base/backoff.h"
#include "base/config.h"
#include "base/histogram.h"
#include "postgres/publish_queue.h"
#include "postgres/session.h"
#include "wire.h"

#define PUBLISHER_BATCH_MAX 4096
#define PUBLISHER_BATCH_BYTES_MAX ((size_t)1 << 20)
/* Where several users have workers: one that publishes little waits for the batch of one that publishes much,
 * so that takes no more than a millisecond; and who has still more to publish rests before the next, so that
 * PostgreSQL and its listeners are not busy all the time. */
#define PUBLISHER_SHARED_BATCH_MAX 128
#define PUBLISHER_SHARED_BATCH_BYTES_MAX ((size_t)64 << 10)
#define PUBLISHER_REST_SECONDS 0.001
/* From the request to its answer. */
#define PUBLISHER_REQUEST_SECONDS 5.
#define PUBLISHER_STATEMENT_SECONDS 5.
/* Longer waits between attempts to connect would let requests run out that PostgreSQL could take by now. */
#define PUBLISHER_BACKOFF_MAX 4.

/* What became of a request: code is WIRE_ERROR_NONE when it is committed. */
typedef void published_fn(void *context, uint64_t source, uint32_t slot, uint64_t request,
	enum wire_error_code code, const char *text);
/* One statement that runs between two batches. */
struct publisher_statement {
	const char *sql;
	struct session_param params[SESSION_PARAMS_MAX]; /* their values live until the statement is over */
	int n_params;
	/* Each result, then NULL: it is over. Or, when it could not be run to its end, error alone. */
	void (*on_result)(void *context, PGresult *result, const char *error);
	void *context;
};

struct publisher_events {
	published_fn *published;
	void (*connected)(void *context);
	/* As upstream's. */
	void (*lost)(void *context, const char *error, bool heals, double retry);
};

/* Requests that were taken from the queue together. */
struct publish_batch {
	struct publish_list requests;
	uint32_t n;
	size_t bytes;
};

struct publisher {
	const struct config *config;
	const struct publisher_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry, expiry, rest;
	struct ev_prepare iteration_end; /* runs while something was queued in this turn of the loop */
	struct publish_queue queue;
	struct publish_batch in_flight, again; /* again: not published by a statement, and before the queue */
	bool shared;                           /* several users have workers */
	bool rested;                           /* some rest from the end of the batch in flight on */
	unsigned alone; /* after a batch that was refused: so many requests go one by one, to find the one at
			   fault */
	bool refused;   /* the statement in flight was */
	struct session_text refusal;

	struct publisher_statement statement; /* waiting or in flight; without sql: there is none */
	bool statement_sent;

	uint64_t n_published, n_batches, n_failed, n_full, n_full_for_user, n_evicted;
	struct histogram to_commit; /* from a request to the confirmation that it is committed */
	char last_error[256];
};

void publisher_start(struct publisher *publisher, struct ev_loop *loop, const struct config *config,
	const struct publisher_events *events, void *context);
/* Requests that are still there are forgotten. */
void publisher_stop(struct publisher *publisher);
/* origin: a worker's, or NULL for the relay itself. channel: of the configuration. 0: published follows.
 * -EBUSY: the queue is full, or the user's share of it. -ENOMEM. */
int publisher_submit(struct publisher *publisher, const struct publish_origin *origin, const char *channel,
	struct wire_str payload);
/* Nothing waits and nothing is in flight. */
bool publisher_idle(const struct publisher *publisher);
/* Answer all that waits with this. */
void publisher_abandon(struct publisher *publisher, enum wire_error_code code, const char *text);
/* Runs a statement. None may be under way. */
void publisher_ask(struct publisher *publisher, const struct publisher_statement *statement);
/* Come back now, if it is waiting: PostgreSQL is there again. */
void publisher_hurry(struct publisher *publisher);
