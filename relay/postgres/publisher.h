/* The publisher: the connection that runs pg_notify. Requests that queue up while a statement
 * runs go out together in the next one. So an idle publisher sends at once, and a busy one
 * sends batches. publish_queue.h decides whose request is next. Also runs the canary's
 * statements, between two batches.
 *
 * It works through a transaction pooler: no named statements, no session state. relay.c submits
 * workers' requests, reconcile.c the relay's own. */
#pragma once

#include "base/backoff.h"
#include "base/config.h"
#include "base/histogram.h"
#include "postgres/crowd.h"
#include "postgres/publish_queue.h"
#include "postgres/session.h"
#include "wire.h"

/* Bounds one statement: requests that come meanwhile wait for its end. */
#define PUBLISHER_BATCH_MAX 4096
#define PUBLISHER_BATCH_BYTES_MAX ((size_t)1 << 20)
/* The same where several users have workers. A user that publishes little waits for the batch
 * of one that publishes much, so a batch must take no more than a millisecond. */
#define PUBLISHER_SHARED_BATCH_MAX 128
#define PUBLISHER_SHARED_BATCH_BYTES_MAX ((size_t)64 << 10)
/* After a shared batch, users that have more to publish wait this long, so that PostgreSQL and
 * its listeners have time for others. */
#define PUBLISHER_REST_SECONDS 0.001
/* From a request to its answer: PROTOCOL.md promises it. */
#define PUBLISHER_REQUEST_SECONDS 5.
#define PUBLISHER_STATEMENT_SECONDS 5.
/* Seconds between two attempts to connect, at most. Shorter than a request's deadline: a
 * request that waits must not expire although PostgreSQL is back. */
#define PUBLISHER_BACKOFF_MAX 4.
_Static_assert(PUBLISHER_SHARED_BATCH_MAX <= PUBLISHER_BATCH_MAX &&
		       PUBLISHER_SHARED_BATCH_BYTES_MAX <= PUBLISHER_BATCH_BYTES_MAX,
	"a shared batch is a smaller one");
_Static_assert(
	PUBLISH_IN_A_ROW <= PUBLISHER_SHARED_BATCH_MAX, "a connection's requests in a row fit into a batch");
_Static_assert((int)PUBLISHER_BACKOFF_MAX < (int)PUBLISHER_REQUEST_SECONDS,
	"a request outlives one wait to connect");

/* One statement that runs between two batches. */
struct publisher_statement {
	const char *sql;
	struct session_param params[SESSION_PARAMS_MAX]; /* their values live until the statement is over */
	int n_params;
	/* Each result, then NULL: it is over. Or, when it could not be run to its end, error
	 * alone. */
	void (*on_result)(void *context, PGresult *result, const char *error);
	void *context;
};

struct publisher_events {
	/* What became of a request. WIRE_ERROR_NONE: it is committed. origin and text are valid
	 * until the event returns. */
	void (*published)(void *context, const struct publish_origin *origin, enum wire_error_code code,
		const char *text);
	void (*connected)(void *context);
	/* As in struct upstream_events. */
	void (*lost)(void *context, const char *error, bool heals, double retry);
};

/* Requests that were taken from the queue. */
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
	struct ev_prepare iteration_end; /* active while something was queued in this iteration */
	struct publish_queue queue;
	struct crowd crowd;
	struct ev_timer crowd_over;            /* active while the loop waits in each iteration */
	struct publish_batch in_flight, again; /* again: to be published before those in the queue */
	bool shared;                           /* several users have workers; relay.c sets it */
	bool rested;                           /* users rest once the batch in flight is done */
	unsigned alone; /* how many requests still go one by one: PostgreSQL refused them as a batch, and one
			   of them is at fault */
	/* Of the batch in flight: how many statements were sent, and how many the server completed. */
	unsigned n_sent, n_completed;
	bool only_arrays; /* the way to the server does not take several statements together */
	bool refused;     /* PostgreSQL refused the statement in flight, for the reason refusal */
	struct session_text refusal;
	bool unfit; /* it refused the text of a request, which no NOTIFY carries */

	bool used;   /* something was asked on this connection */
	bool idled;  /* the connection was closed while it was idle, and is made again without a wait */
	bool prompt; /* it was idle or healthy and is lost, and no attempt has failed since */

	struct publisher_statement statement; /* waiting or in flight; without sql: there is none */
	bool statement_sent;

	uint64_t n_published, n_batches, n_failed, n_full, n_full_for_user, n_evicted;
	struct histogram to_commit; /* seconds from a request to its commit */
	char last_error[640];       /* what the relay says, and what a session_text says */
	double last_error_at;       /* seconds of clock_now() */
};

/* config, events and context must outlive it. */
void publisher_start(struct publisher *publisher, struct ev_loop *loop, const struct config *config,
	const struct publisher_events *events, void *context);
/* Drops the requests that are left, without an answer. */
void publisher_stop(struct publisher *publisher);
/* Queues a request. origin: NULL for the relay itself. channel: points into the configuration.
 * payload: copied. 0: published follows. -EBUSY: the queue is full, or the user's share of it.
 * -ENOMEM. */
int publisher_submit(struct publisher *publisher, const struct publish_origin *origin, const char *channel,
	struct wire_str payload);
/* It could not connect, or lost a connection that was in use. */
static inline bool publisher_is_down(const struct publisher *p)
{
	return !p->session.conn && !p->idled && *p->last_error;
}
/* Seconds until it connects again; below 0: it does not wait for that. */
double publisher_next_attempt(const struct publisher *publisher);
/* Whether no request waits or is in flight. */
bool publisher_idle(const struct publisher *publisher);
/* Answers every request that waits or is in flight with this. */
void publisher_abandon(struct publisher *publisher, enum wire_error_code code, const char *text);
/* Runs a statement. None may be under way. */
void publisher_ask(struct publisher *publisher, const struct publisher_statement *statement);
/* The limits in the configuration have changed. */
void publisher_limit(struct publisher *publisher);
/* PostgreSQL is there again: connect now instead of waiting. */
void publisher_hurry(struct publisher *publisher);
