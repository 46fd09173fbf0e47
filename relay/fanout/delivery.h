/* What a worker is sent, and when. Two sources make one stream: the backlog, from the worker's cursor on, and
 * the private queue. The fan-out's rounds, the reader and the connection flush; nobody else writes to the
 * socket. */
#pragma once

#include "fanout/worker.h"

/* Queue a frame for this worker alone, after what it is owed of the backlog up to now. */
void delivery_queue(struct worker *worker, const struct wire_frame *frame);
/* OK with the seq at which the worker stands when it has been sent all that it is owed up to now. */
void delivery_ok(struct worker *worker, uint64_t request);
/* ERROR for a request, or with has_id false for a frame that is not one. Counted. */
void delivery_error(
	struct worker *worker, bool has_id, uint64_t id, enum wire_error_code code, const char *text);

/* The frame stands in the backlog, and a subscription by pubkey matches it. */
void delivery_want(struct worker *worker, uint64_t seq);
/* From the cursor on, find what is owed by a scan of the backlog. */
void delivery_scan(struct worker *worker);

/* Flush it at the end of this iteration; or, where several users have workers, when its turn comes. */
void delivery_mark(struct worker *worker);
/* Send what can be sent, and in one slice; the rest follows by itself. The worker may be ended after this. */
void delivery_flush(struct worker *worker);

/* How far behind it is. An idle worker with pubkeys is not behind, whatever came for others. */
struct delivery_lag {
	uint64_t frames; /* of the backlog that it has not been sent yet */
	uint64_t bytes;  /* theirs, and those of the private queue */
};
struct delivery_lag delivery_lag(const struct worker *worker);

void delivery_free(struct worker *worker);
