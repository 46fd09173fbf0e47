/* The LISTEN connection: connects, checks what it reached, LISTENs, and stays; comes back by itself after a
 * loss. That it really hears is proved by the canary; what it heard is decoded elsewhere. main calls it and
 * hears its events. */
#pragma once

#include "backoff.h"
#include "config.h"
#include "session.h"
#include "wire.h"

enum upstream_state {
	UPSTREAM_WAITING, /* for the next attempt to connect */
	UPSTREAM_CONNECTING,
	UPSTREAM_CHECKING,
	UPSTREAM_LISTENING, /* it hears, as far as PostgreSQL says; changes missed before may not be recovered
			       yet */
	UPSTREAM_LIVE,
};

struct upstream_events {
	/* LISTEN is committed. */
	void (*listening)(void *context);
	void (*heard)(void *context, const char *channel, struct wire_str payload);
	/* No connection. error is one line that says what to do, without secrets. heals: trying again may
	 * help. retry: seconds until it does. */
	void (*lost)(void *context, const char *error, bool heals, double retry);
};

/* SHA-256's size, which pgherald.relay_key has. */
#define RELAY_KEY_SIZE 32

struct upstream {
	const struct config *config;
	const struct upstream_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry;
	enum upstream_state state;
	double state_since;
	void (*on_probe)(void *context, const char *snapshot);
	void *probe_context;

	char identity[80]; /* of the database and the running server that is listened to; empty without one */
	/* What the last connection reached. */
	int backend_pid;
	char database[64];
	bool recoverable; /* the recovery function is there */
	bool notes_runs;  /* pgherald.note_run() is there, and we may call it */
	bool reads_key;   /* pgherald.relay_key is there, and we may read it */
	bool has_key;     /* the relays of this database share a key, and this is it */
	unsigned char key[RELAY_KEY_SIZE];

	uint64_t n_connects, n_losses;
	char last_error[256];
};

/* SQL for a text that names the database of a running server among all. Clusters copied from each other have
 * the same system identifier, but two servers do not start at the same microsecond. */
#define UPSTREAM_IDENTITY_SQL                                                                                \
	"(SELECT pg_catalog.concat_ws('/', system_identifier, d.oid,"                                        \
	" extract(epoch FROM pg_catalog.pg_postmaster_start_time()))"                                        \
	" FROM pg_catalog.pg_control_system(), pg_catalog.pg_database AS d"                                  \
	" WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"

void upstream_start(struct upstream *upstream, struct ev_loop *loop, const struct config *config,
	const struct upstream_events *events, void *context);
void upstream_stop(struct upstream *upstream);
/* It is proved to hear: make the session lasting. Before, a transaction pooler could have passed its settings
 * on to others. */
void upstream_settle(struct upstream *upstream);
/* All that was missed is recovered. */
void upstream_live(struct upstream *upstream);
/* The connection is dead, whatever TCP thinks: drop it and come back. */
void upstream_drop(struct upstream *upstream, const char *why);
/* While held, what PostgreSQL sends stays unread; then up to so many bytes more than usual are read at once.
 */
void upstream_hold(struct upstream *upstream, bool held, size_t ahead);
/* Come back now, if it is waiting: PostgreSQL is there again. */
void upstream_hurry(struct upstream *upstream);
/* Ask the server for its snapshot, read-only; on_probe follows, or lost. -EBUSY: a statement is under way. */
int upstream_probe(struct upstream *upstream, double seconds,
	void (*on_probe)(void *context, const char *snapshot), void *context);
const char *upstream_state_name(enum upstream_state state);
