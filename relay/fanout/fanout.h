/* The fan-out: encodes each notification once into the backlog, and decides when workers are
 * sent it. It owns the backlog, the router, the schedules and the table of workers. It decodes
 * nothing, and reads no sockets. relay.c and recovery.c append; the modules of a worker use the
 * rest. */
#pragma once

#include "base/checkpoint.h"
#include "base/config.h"
#include "fanout/backlog.h"
#include "fanout/decode.h"
#include "fanout/pace.h"
#include "fanout/router.h"
#include "fanout/workers.h"

/* Hexadecimal digits of an epoch: 128 random bits, so no two starts of a relay have the same
 * one. */
#define EPOCH_LEN 32

/* At the end of each iteration, workers with pubkeys are flushed if they are owed something.
 * Scanners are flushed in rounds, as fast as they can read (pace.h). So an idle relay sends at
 * once, and a busy one sends many frames at a time. */
struct fanout {
	struct ev_loop *loop;
	const struct config *config;
	const struct worker_requests *requests;
	void *requests_context;
	struct backlog backlog;
	struct router router;
	char epoch[EPOCH_LEN + 1]; /* of this start of the relay; seqs count from 1 in each */
	bool upstream_live;
	uint64_t upstream_seq; /* of the last UPSTREAM; 0: none */
	bool stopping;         /* requests are not read any more */
	struct checkpoint_history checkpoints;

	struct users users;
	struct schedule asking, sending;
	/* How many workers the current round has still to serve; 0: there is no round. */
	uint32_t round_left;
	struct workers workers;
	/* Workers that look at every frame of the backlog; rounds flush them. */
	struct worker_list scanners;
	struct worker_list dirty; /* to flush at the end of this iteration */
	/* What all users have in sum. */
	uint64_t n_subscriptions;
	size_t queued;                /* bytes of private queues and inputs */
	unsigned n_parked;            /* workers that are parked or starved */
	struct ev_timer parked_check; /* while there are any */

	uint64_t flushed_head, flushed_end; /* head and end of the backlog at the last round */
	struct pace pace;
	struct ev_prepare flush;
	unsigned char *scratch; /* FANOUT_SCRATCH bytes; reader.c's during a slice; owned */

	/* Called with each frame that is appended; frame is valid until it returns. NULL while
	 * no operator tails. */
	void (*tap)(void *context, const struct wire_frame *frame);
	void *tap_context;

	/* Seconds of clock_now(), when the latest checkpoint was appended. */
	double checkpoint_at;
	/* Changes and messages, by topic, heard or recovered. */
	uint64_t n_appended[CHANNELS_MAX + 1];
	/* By topic: the head of the backlog when the channel was added, after the start. */
	uint64_t heard_since[CHANNELS_MAX + 1];
	uint64_t n_recovered;
	uint64_t n_gaps; /* for all workers; catch_up.c counts those for one */
	uint64_t n_deliveries, n_wakes, n_overruns;
	uint64_t n_limited[LIMITS_N];
	uint64_t n_accepted;
	uint64_t n_closed[WIRE_BYES_N]; /* by code; WIRE_BYE_NONE: the worker left by itself */
	uint64_t n_errors[WIRE_ERRORS_N];
};

/* Bytes that a slice may read before its input needs a buffer of its own: the largest frame,
 * and as much again for what follows it. */
#define FANOUT_SCRATCH ((size_t)2 * WIRE_FRAME_MAX)

/* loop, config and the context of requests must outlive the fan-out. 0 or negative errno; then
 * nothing is freed, and the process must end. */
int fanout_open(struct fanout *fanout, struct ev_loop *loop, const struct config *config,
	const struct worker_requests *requests, void *context);
/* Only after connection_close_all(). */
void fanout_close(struct fanout *fanout);

/* Appends to the backlog, for all workers that want it. flags are the frame's. All strings here
 * are borrowed until the call returns. */
void fanout_decoded(struct fanout *fanout, struct decoded *decoded, unsigned flags);
void fanout_checkpoint(struct fanout *fanout, const char *token);
void fanout_gap(struct fanout *fanout, enum wire_gap_cause cause, const char *text);
void fanout_upstream(struct fanout *fanout, bool live, const char *text);

/* Sum of n_appended. */
uint64_t fanout_n_appended(const struct fanout *fanout);

/* The current round serves the worker. May end it. */
void fanout_flush_in_round(struct fanout *fanout, struct worker *worker);
/* Takes the worker out of the current round. */
void fanout_leave_round(struct fanout *fanout, struct worker *worker);
/* Several users have workers. Then sending goes by the schedule, so that a user that is sent
 * much does not delay the others. */
static inline bool fanout_is_shared(const struct fanout *fanout)
{
	return fanout->asking.n_users > 1;
}
/* The backlog has frames that no round has sent yet. */
static inline bool fanout_round_waits(const struct fanout *fanout)
{
	return fanout->backlog.head != fanout->flushed_head;
}
/* Whether a worker that reads lags so far behind that much more would push it out of the
 * backlog. A stalled worker does not count, because it would delay recovery for all. */
bool fanout_crowded(struct fanout *fanout);
/* Reads no more requests: the relay ends. */
void fanout_stop_reading(struct fanout *fanout);
