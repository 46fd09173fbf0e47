/* Where the flow turns wide: a decoded notification is encoded once into the backlog, those who want it are
 * marked, and each is flushed once at the end of the loop's turn, at the pace that the workers can follow. So
 * an idle relay sends at once, a busy one sends many frames at a time. Owns the backlog, the router and the
 * table of workers. The upstream's side of main and, in local mode, the workers' publishing call it. */
#pragma once

#include "base/checkpoint.h"
#include "base/config.h"
#include "fanout/backlog.h"
#include "fanout/decode.h"
#include "fanout/pace.h"
#include "fanout/router.h"
#include "fanout/worker.h"

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
	uint32_t round_left;    /* of a round that is under way: so many are still to be sent to */
	struct worker *workers; /* all that are not dead */
	struct worker *walkers; /* by next_walker: those that look at every frame of the backlog */
	struct worker *leaving; /* by next: dead, and still with subscriptions */
	struct worker *dead;    /* by next; freed at the end of the iteration */
	struct worker *dirty;   /* by next_dirty */
	struct worker **slots;
	uint32_t *free_slots;
	uint32_t n_slots, slots_max, n_free_slots;
	uint32_t n_workers;
	uint64_t next_id;
	/* What all users have in sum. */
	uint64_t n_subscriptions;
	size_t queued;
	unsigned n_parked;
	struct ev_timer parked_check;

	uint64_t flushed_head, flushed_end; /* the backlog's at the last round */
	uint64_t turn_ends[2];              /* and at the last two turns of the loop */
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

/* The frame that tells of it; its strings are borrowed. */
void fanout_frame(const struct decoded *decoded, uint64_t seq, unsigned flags, struct wire_frame *out);

/* The router's key of it. A hash costs as much as all else that is done to a change, so it is taken once, and
 * only when somebody asks. */
uint64_t fanout_key(const struct fanout *fanout, struct decoded *decoded);
/* The same of a frame of the backlog; 0 when it has no pubkey. */
uint64_t fanout_key_of_frame(const struct fanout *fanout, uint64_t seq);

/* Append to the backlog, for all who want it. flags are the frame's. */
void fanout_decoded(struct fanout *fanout, struct decoded *decoded, unsigned flags);
void fanout_checkpoint(struct fanout *fanout, const char *token);
void fanout_gap(struct fanout *fanout, enum wire_gap_cause cause, const char *text);
void fanout_upstream(struct fanout *fanout, bool live, const char *text);

/* Changes and messages, of all channels. */
uint64_t fanout_n_appended(const struct fanout *fanout);

/* The table of workers. fanout_add: 0 or -ENOMEM. The slot of one that is removed is used again only when it
 * is buried: the router names it until then. */
int fanout_add(struct fanout *fanout, struct worker *worker, uid_t uid);
void fanout_remove(struct fanout *fanout, struct worker *worker);
void fanout_bury(struct fanout *fanout, struct worker *worker);
/* NULL when that worker is gone. */
struct worker *fanout_worker(struct fanout *fanout, struct worker_ref ref);
struct worker *fanout_worker_by_id(struct fanout *fanout, uint64_t id);
/* Walkers are flushed by rounds, at the end of a turn in which the backlog grew or later. */
void fanout_add_walker(struct fanout *fanout, struct worker *worker);
void fanout_remove_walker(struct fanout *fanout, struct worker *worker);
/* Its turn in the round that is under way. The worker may be dead after this. */
void fanout_flush_in_round(struct fanout *fanout, struct worker *worker);
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
/* Flush it at the end of this iteration; or, where several users have workers, when its turn comes. */
void fanout_mark(struct fanout *fanout, struct worker *worker);
/* Some worker that does take what it is sent is so far behind that more would push it out of the backlog. A
 * worker that takes nothing does not count: nobody waits for it. */
bool fanout_crowded(struct fanout *fanout);
/* Read no more requests: the relay ends. */
void fanout_stop_reading(struct fanout *fanout);
/* BYE to all. */
void fanout_close_workers(struct fanout *fanout, enum wire_bye_code code, const char *reason);
