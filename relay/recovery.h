/* Whom missed changes are for: all workers, through the backlog, after the upstream was away; one worker
 * alone, or several that ask from the same checkpoint, after they fell behind or came back from another
 * epoch; reconciliation. Asks the database through changes_since, lets nobody who is slow hold up the others.
 * main and the workers call it. */
#pragma once

#include "changes_since.h"
#include "decode.h"
#include "fanout.h"
#include "upstream.h"

/* Questions for workers that may be under way at once; others wait. */
#define RECOVERY_LANES 3
/* A worker that took nothing for so long does not hold up those who share its question. */
#define RECOVERY_STALL_SECONDS 2.

struct recovery;

/* A worker that waits for what it missed. Owned by recovery; the worker points to it. */
struct recovery_member {
	struct recovery_member *next;
	struct worker *worker;
	size_t pending; /* bytes queued for it when it was last looked at */
	double pending_since;
};

struct recovery_lane {
	struct recovery *recovery;
	struct changes_since changes;
	struct recovery_member *members;
	bool asked;    /* too late to join */
	uint64_t head; /* of the backlog when the question was asked */
};

/* Who gets the rows of the backlog's lane. */
struct recovery_taker {
	bool (*row)(void *context, struct decoded *decoded);
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text);
};

struct recovery {
	struct ev_loop *loop;
	const struct config *config;
	struct fanout *fanout;
	struct decode *decode;

	struct changes_since backlog_changes; /* for the backlog, or else for reconciliation */
	const struct recovery_taker *taker;   /* NULL when its lane is free */
	void *taker_context;
	void (*on_backlog_done)(
		void *context, enum changes_outcome outcome, const char *token, const char *text);
	void *context; /* on_backlog_done's */
	struct recovery_lane lanes[RECOVERY_LANES];
	struct recovery_member *waiting; /* for a lane, in order */
	struct recovery_member
		*resting; /* stalled; they wait again once they have taken what is queued for them */
	struct ev_timer poll;
	struct diag_limit limit, row_limit;

	uint64_t n_questions, n_rows, n_gaps;
};

void recovery_init(struct recovery *recovery, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct decode *decode, const struct upstream *upstream);
void recovery_close(struct recovery *recovery);
/* Recovered changes go into the backlog, then done is called. Reconciliation gives way. */
void recovery_for_backlog(struct recovery *recovery, const char *since,
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text),
	void *context);
/* -EBUSY: the lane is taken. */
int recovery_for_reconciliation(
	struct recovery *recovery, const char *since, const struct recovery_taker *taker, void *context);
/* Whether the question under way was tried before in vain. */
bool recovery_failed(const struct recovery *recovery);
/* Forget what recovery_for_backlog() or recovery_for_reconciliation() asked. */
void recovery_abort(struct recovery *recovery);
/* struct worker_requests' catch_up and forget */
void recovery_catch_up(struct recovery *recovery, struct worker *worker, bool recoverable);
void recovery_forget(struct recovery *recovery, struct worker *worker);
