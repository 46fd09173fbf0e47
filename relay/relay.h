/* The relay without a process around it: all parts, in flow order, and who tells whom. main.c brings it to
 * life and lets workers and operators in; the fuzz targets run it in local mode. */
#pragma once

#include "ops/parts.h"

/* What a start comes to. After one of them nothing more is told. */
struct relay_events {
	/* All that must work has worked. relay_serve() is to be called when others may connect. */
	void (*proved)(void *context);
	/* The settings cannot work. why: until this returns. */
	void (*refused)(void *context, const char *why);
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
	struct ops ops;
	struct metrics_socket metrics_socket;
	struct rates rates;
	struct parts parts;
	struct ev_timer second;

	/* Tokens of canaries, where nobody reconciles, until they are an interval old. */
	struct checkpoint_waiting waiting;
	/* Of the canary that proved the upstream, while what it missed is recovered; not set when none did.
	 */
	struct token proved;
	bool ready; /* start-up is over: failures are retried from now on */
};

/* Assemble it. config outlives it. Nothing is connected yet. 0 or negative errno. */
int relay_open(struct relay *relay, struct ev_loop *loop, const struct config *config,
	const struct relay_events *events, void *context);
/* Connect to PostgreSQL; in local mode there is nothing to wait for, and proved() is called at once. */
void relay_start(struct relay *relay);
/* Workers and operators may connect: from now on failures are retried, and not told. */
void relay_serve(struct relay *relay);
/* Why it has not proved itself yet: the last error, or who does not answer within so many seconds. */
void relay_explain_delay(const struct relay *relay, double seconds, char *why, size_t size);
/* Read no more requests. What is being published goes on. */
void relay_stop(struct relay *relay);
/* Nothing is being published any more. */
bool relay_is_settled(const struct relay *relay);
/* Take it apart; workers are told BYE. */
void relay_close(struct relay *relay);

/* A listener's accepted, for workers; context is the struct relay. */
void relay_worker_accepted(void *context, int fd);
