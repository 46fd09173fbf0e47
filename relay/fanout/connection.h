/* A worker's connection: it is accepted, served when its turn comes, and closed, in one way. And the answers
 * that come from elsewhere: from the publisher, from the catch-up. Leaves out what a frame means and what is
 * sent, which are requests.c and delivery.c. The listener's accepted, the operator's kill and relay.c call
 * it. */
#pragma once

#include "fanout/fanout.h"

struct decoded;

/* Takes fd over. NULL when there is no worker: it may not connect, and was told so, or memory is short. */
struct worker *connection_open(struct fanout *fanout, int fd);
/* Close it, after BYE unless code is WIRE_BYE_NONE. The struct is freed when the worker's subscriptions are
 * gone, in a later iteration. */
void connection_close(struct worker *worker, enum wire_bye_code code, const char *reason);
/* All of them. Frees what was closed before. */
void connection_close_all(struct fanout *fanout, enum wire_bye_code code, const char *reason);

/* The answer to requests.publish(): OK, or ERROR with this code. */
void connection_published(struct fanout *fanout, struct worker_ref worker, uint64_t request,
	enum wire_error_code code, const char *text);

/* What catch_up found: one recovered change or message. Only while room_takes_more(). */
void connection_recovered(struct worker *worker, struct decoded *decoded);
/* The catch-up is over: the worker has what it missed up to seq, and is live from there. token: the
 * checkpoint that it has passed with that, NULL when none is known. cause and text: of the GAP that it must
 * be told. */
void connection_caught_up(
	struct worker *worker, uint64_t seq, const char *token, enum wire_gap_cause cause, const char *text);
