/* Where the flow turns wide: a decoded notification is encoded once into the backlog, those who want it are
 * marked, and each is flushed once at the end of the iteration, at the pace that the workers can follow. So
 * an idle relay sends at once, a busy one sends many frames at a time. Owns the backlog, the router and the
 * table of workers. The upstream's side of main and, in local mode, the workers' publishing call it. */
#pragma once

#include "base/checkpoint.h"
#include "base/config.h"
#include "fanout/backlog.h"
#include "fanout/decode.h"
#include "fanout/pace.h"
#include "fanout/router.h"
#include "fanout/workers.h"

#define EPOCH_LEN 32

struct fanout {
	struct ev_loop *loop;
	const struct config *config;
	struct worker_requests requests;
	struct backlog backlog;
	struct router router;
	char epoch[EPOCH_LEN + 1];
	bool upstream_live;
	bool stopping; /* no worker's requests are read any more */
	struct checkpoint_history checkpoints;

	struct users users;
	struct schedule asking, sending;
	uint32_t round_left; /* of a round that is under way: so many are still to be sent to */
	struct workers workers;
	struct worker_list scanners; /* that look at every frame of the backlog; rounds flush them */
	struct worker_list dirty;    /* to flush at the end of this iteration */
	/* What all users have in sum. */
	uint64_t n_subscriptions;
	size_t queued;
	unsigned n_parked;
	struct ev_timer parked_check;

	uint64_t flushed_head, flushed_end; /* the backlog's at the last round */
	uint64_t iteration_ends[2];         /* and at the last two iterations */
	struct pace pace;
	/* Whoever is held lets what comes next wait unread: nobody could be sent it yet. When that is over,
	 * ahead is how many bytes of it may be read at once. NULL when nobody can be held. While held the
	 * pace's alarm is set, which ends it. */
	void (*hold)(void *context, bool held, size_t ahead);
	void *hold_context;
	bool held;
	struct ev_prepare flush;
	unsigned char *scratch; /* where a worker's bytes are read to */

	/* Sees each frame as it is appended; NULL while nobody looks. */
	void (*tap)(void *context, const struct wire_frame *frame);
	void *tap_context;

	double checkpoint_at;                  /* when the latest checkpoint was appended */
	uint64_t n_appended[CHANNELS_MAX + 1]; /* changes and messages, by topic, heard or recovered */
	uint64_t n_recovered;
	uint64_t n_gaps; /* for all workers; those for one alone are recovery's */
	uint64_t n_deliveries, n_wakes, n_overruns, n_holds;
	uint64_t n_limited[LIMITS_N];
	uint64_t n_accepted, n_closed[WIRE_BYES_N],
		n_errors[WIRE_ERRORS_N]; /* by code; WIRE_BYE_NONE: left by themselves */
};

#define FANOUT_SCRATCH ((size_t)2 * WIRE_FRAME_MAX)

/* 0 or negative errno. */
int fanout_open(struct fanout *fanout, struct ev_loop *loop, const struct config *config,
	const struct worker_requests *requests);
/* Every worker must be closed. */
void fanout_close(struct fanout *fanout);

/* Append to the backlog, for all who want it. flags are the frame's. */
void fanout_decoded(struct fanout *fanout, struct decoded *decoded, unsigned flags);
void fanout_checkpoint(struct fanout *fanout, const char *token);
void fanout_gap(struct fanout *fanout, enum wire_gap_cause cause, const char *text);
void fanout_upstream(struct fanout *fanout, bool live, const char *text);

/* Changes and messages, of all channels. */
uint64_t fanout_n_appended(const struct fanout *fanout);

/* Its turn in the round that is under way. The worker may be ended after this. */
void fanout_flush_in_round(struct fanout *fanout, struct worker *worker);
/* It has no turn in the round any more. */
void fanout_leave_round(struct fanout *fanout, struct worker *worker);
/* Several users have workers: whoever is sent much must not hold up the others. */
static inline bool fanout_is_shared(const struct fanout *fanout)
{
	return fanout->asking.n_users > 1;
}
/* Some frames no round has sent yet. */
static inline bool fanout_round_waits(const struct fanout *fanout)
{
	return fanout->backlog.head != fanout->flushed_head;
}
/* Some worker that does take what it is sent is so far behind that more would push it out of the backlog. A
 * worker that takes nothing does not count: nobody waits for it. */
bool fanout_crowded(struct fanout *fanout);
/* Read no more requests: the relay ends. */
void fanout_stop_reading(struct fanout *fanout);
