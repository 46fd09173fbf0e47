/* The relay without its process: assembles the parts in flow order, takes them apart in
 * reverse, and passes each one's events on to the others. Settings, listeners and signals are
 * main.c's, which calls this; the fuzz targets run it in local mode. */
#pragma once

#include "ops/parts.h"

/* The outcome of a start: one of them is called, before relay_serve(). */
struct relay_events {
	/* The relay hears PostgreSQL. Call relay_serve() once others may connect. */
	void (*proved)(void *context);
	/* The settings cannot work. why: borrowed until this returns. */
	void (*refused)(void *context, const char *why);
};

/* What "systemctl status" shows is made of these. */
struct relay_status {
	bool stopping;
	enum upstream_state state;
	uint64_t n_losses;
	uint32_t n_workers;
};

struct relay {
	struct ev_loop *loop;
	const struct config *config;
	struct relay_events events;
	void *context;

	struct upstream upstream;
	struct decode decode;
	struct fanout fanout; /* backlog, router, workers */
	struct publisher publisher;
	struct canary canary;
	struct recovery recovery;
	struct catch_up catch_up;
	struct reconcile reconcile;
	struct tracking tracking;
	struct ops ops;
	struct metrics_socket metrics_socket;
	struct rates rates;
	struct parts parts;
	struct ev_prepare iteration;
	struct relay_status told_status;
	double told_status_at;       /* by clock_now() */
	struct ev_timer status_rest; /* until the status may be told again */

	/* Tokens of canaries until they are an interval old; only used without
	 * reconciliation. */
	struct checkpoint_waiting waiting;
	/* Of the canary that proved the upstream, while recovery runs. Not set if none did. */
	struct token proved;
	struct rights_told told;
	/* The last line about the upstream's loss, and when it was logged (clock_now()). */
	char loss[256];
	double loss_said;
	bool published;      /* the publisher's connection has published something */
	bool publisher_away; /* its loss is logged, and not its return */
	bool ready;          /* the start is over: failures are retried from now on */
};

/* Connects nothing yet. loop, config and context must outlive the relay; events is copied. 0 or
 * negative errno; then the process must end. */
int relay_open(struct relay *relay, struct ev_loop *loop, const struct config *config,
	const struct relay_events *events, void *context);
/* Connects to PostgreSQL. In local mode it calls proved() before it returns. */
void relay_start(struct relay *relay);
/* Workers and operators may connect. From now on the relay retries after failures, and calls no
 * event. */
void relay_serve(struct relay *relay);
/* How many seconds the start may take: PGHERALD_START_TIMEOUT, 0 if there is no limit. By default
 * those of the URL whose hosts take longest, and some for what follows. */
double relay_start_seconds(const struct config *config);
/* Writes why proved() was not called within this many seconds: the last error, or which server
 * does not answer. */
void relay_explain_delay(const struct relay *relay, double seconds, char *why, size_t size);
/* Tells everybody who asks that the relay ends. It goes on serving. */
void relay_drain(struct relay *relay);
/* Reads no more requests. What is being published goes on. */
void relay_stop(struct relay *relay);
/* Whether nothing is being published any more. */
bool relay_is_idle(const struct relay *relay);
/* Sends BYE to the workers, and frees everything. */
void relay_close(struct relay *relay);

/* Settings that were read again, in two steps. The first makes sure that the relay hears the
 * channels which *fresh adds; done follows, maybe before this returns: why is NULL, or says why
 * PostgreSQL refuses. *fresh must outlive that. */
void relay_prepare(struct relay *relay, const struct config *fresh,
	void (*done)(void *context, const char *why), void *context);
/* The second, when the configuration has changed. before: its channels are what they were. */
void relay_reloaded(struct relay *relay, const struct config *before);

/* A listener's accepted event, for workers. context is the struct relay. Takes fd over. */
void relay_worker_accepted(void *context, int fd);
