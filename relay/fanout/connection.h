/* A worker's connection: accepts it, serves it when the schedule says so, and closes it, in the
 * only place. It also takes the answers of the publisher and of catch_up.c. What a frame means
 * and what is sent are up to requests.c and delivery.c. relay.c, catch_up.c and the operator's
 * kill call it. */
#pragma once

#include "fanout/fanout.h"

/* Takes fd over. NULL: the worker may not connect, and was told so with BYE; or out of memory.
 * fanout owns the worker. */
struct worker *connection_open(struct fanout *fanout, int fd);
/* Closes it, after BYE unless code is WIRE_BYE_NONE. reason: borrowed until this returns. The
 * schedule frees the struct later, once the worker's subscriptions are gone. */
void connection_close(struct worker *worker, enum wire_bye_code code, const char *reason);
/* Closes and frees all workers, also those that were closed before. */
void connection_close_all(struct fanout *fanout, enum wire_bye_code code, const char *reason);

/* The rules or the channels have changed: looks up each worker's rights again. Closes those that
 * hear what they may not hear any more, or one of the topics that are gone. */
void connection_review(struct fanout *fanout, uint64_t gone);

/* The answer to requests.publish(): OK if code is WIRE_ERROR_NONE, otherwise ERROR. Does
 * nothing if the worker is gone. */
void connection_published(struct fanout *fanout, struct worker_ref worker, uint64_t request,
	enum wire_error_code code, const char *text);

/* Whether the worker subscribes to all of these topics as a whole, a bit for each. */
bool connection_wants_all(const struct worker *worker, uint64_t topics);
/* What catch_up.c found: one change or message, as a frame. key: the router's; 0: not known.
 * Queues it if the worker subscribes to it, and returns whether it does. Only while
 * room_takes_more(). */
bool connection_recovered(struct worker *worker, unsigned topic, uint64_t key, struct wire_str frame);
/* Catching up is over: the worker has what it missed up to seq, and is live from there. token:
 * the checkpoint that it has passed with that; NULL: none is known. cause and text: of the GAP
 * for it, unless cause is WIRE_GAP_NONE. token and text are borrowed until this returns. */
void connection_caught_up(
	struct worker *worker, uint64_t seq, const char *token, enum wire_gap_cause cause, const char *text);
