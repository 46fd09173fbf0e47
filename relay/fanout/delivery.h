/* Delivery: what a worker is sent, and the only place that writes to its socket, except for
 * BYE. It merges two sources into one stream: the backlog, from the worker's cursor on, and the
 * private queue. While a worker catches up, the spool is instead of the backlog. fanout.c decides when
 * scanners are sent to. fanout.c, reader.c and connection.c flush; those and requests.c queue. */
#pragma once

#include "fanout/worker.h"

/* Queues a copy of the frame for this worker alone, after what it is owed of the backlog up to
 * now. Ends the worker when out of memory. */
void delivery_queue(struct worker *worker, const struct wire_frame *frame);
/* The same for frames that are encoded. */
void delivery_queue_bytes(struct worker *worker, struct wire_str frames);
/* Sends frames that come next, straight from where they are. Only while the worker catches up.
 * Returns how many bytes the socket took: 0 if something waits to be sent first. If it took
 * half of a frame, call delivery_rest() with the other half. May end the worker. */
uint32_t delivery_send(struct worker *worker, struct wire_str frames);
void delivery_rest(struct worker *worker, struct wire_str rest);
/* Queues OK, with the seq that the worker has reached once it was sent everything that it is
 * owed up to now. */
void delivery_ok(struct worker *worker, uint64_t request);
/* Queues ERROR for a request, or with has_id false for a frame that is not one, and counts
 * it. */
void delivery_error(
	struct worker *worker, bool has_id, uint64_t id, enum wire_error_code code, const char *text);

/* The frame is in the backlog, and is for all workers or matches a subscription by pubkey. */
void delivery_want(struct worker *worker, uint64_t seq);
/* Makes the worker a scanner: from its cursor on, it looks at every frame of the backlog. */
void delivery_scan(struct worker *worker);

/* Flushes the worker at the end of this iteration; if several users have workers, when the
 * schedule serves it. */
void delivery_mark(struct worker *worker);
/* Sends what the socket takes and one slice allows; the rest follows by itself. May end the
 * worker. */
void delivery_flush(struct worker *worker);

/* How far a worker lags behind. A worker with pubkeys that is owed nothing has no lag, whatever
 * came for others. */
struct delivery_lag {
	uint64_t frames; /* of the backlog, not sent to it yet */
	uint64_t bytes;  /* of these frames and of the private queue */
};
struct delivery_lag delivery_lag(const struct worker *worker);

/* Frees the private queue and the list of wanted frames. */
void delivery_free(struct worker *worker);
