/* Catching up: gives a worker the changes it missed, when it came back from another epoch or
 * overran the backlog.
 *
 * Workers of one user that ask from the same checkpoint share a question. A question gets one
 * of a few lanes, each with a connection of its own. It reads rows as fast as PostgreSQL sends
 * them, into a spool. Each waiter of the question is fed from the spool as its socket takes
 * more. So a lane waits for no worker, and a slow worker does not make the database answer
 * twice. A worker that comes later joins, as long as the spool is whole. Lanes and memory are shared between
 * users, by uid. The schedule of requests feeds the waiters, so a user with many delays no other user's, and
 * PostgreSQL is read first.
 *
 *                                 +-> waiter -> socket
 *   PostgreSQL -> lane -> spool --+-> waiter -> socket
 *
 * changes_since.h asks the database; recovery.h recovers what all workers missed. relay.c calls
 * this, for the workers. */
#pragma once

#include "base/clock.h"
#include "fanout/fanout.h"
#include "recovery/changes_since.h"
#include "recovery/recovery.h"
#include "recovery/spool.h"

#include <sys/queue.h>

/* Questions that are read at the same time. A user has at most one lane, so that one user's
 * workers do not take all lanes from another's. Three, because each lane costs PostgreSQL a
 * connection. */
#define CATCH_UP_LANES 3

TAILQ_HEAD(catch_up_waiters, catch_up_waiter);

/* A worker that catches up. worker->catch_up points to it. */
struct catch_up_waiter {
	struct catch_up *catch_up;
	struct worker *worker;
	struct catch_up_user *user;
	struct catch_up_question *question; /* NULL while it waits for a lane */
	struct spool_reader reader;
	struct catch_up_waiters *list; /* which of waiting or hungry it is in, or NULL */
	/* Its place in the schedule, if it has rows to take and room in its socket. If it is neither
	 * there nor in a list, it takes no more until takes_more(). */
	struct ready feeding;
	uint64_t seen_rows; /* rows it had taken at the last look (shortage.h) */
	double stalled_for; /* seconds for which it kept memory that others need */
	bool overdue;       /* it shall be told of a gap */
	TAILQ_ENTRY(catch_up_waiter) link;
	TAILQ_ENTRY(catch_up_waiter) sibling; /* in the question */
};

/* Lives from when it gets a lane until its last waiter has all rows or is gone, and a little longer if
 * others can still join. */
struct catch_up_question {
	TAILQ_ENTRY(catch_up_question) link;
	struct catch_up_user *user;
	struct catch_up_lane *lane; /* NULL once all rows are read */
	struct spool spool;
	size_t kept; /* bytes of the spool, as counted in the user and in catch_up */
	struct catch_up_waiters waiters;
	struct catch_up_waiters hungry; /* have taken all rows that were read, and wait for more */
	uint64_t fed;                   /* spool.n_bytes when they were woken last */
	unsigned n_waiters;
	struct checkpoint *since; /* from which its waiters ask */
	bool asked;
	bool complete;             /* all rows are read */
	uint64_t head;             /* of the backlog when it was asked */
	struct checkpoint *latest; /* the relay's latest at that time; NULL when there was none */
	bool latest_counts;        /* latest is of the run that was asked. Known once all rows are read. */
};

struct catch_up_user {
	TAILQ_ENTRY(catch_up_user) link;
	uid_t uid;
	struct catch_up_lane *lane;
	struct catch_up_waiters waiting; /* for a lane */
	TAILQ_HEAD(, catch_up_question) questions;
	size_t kept;  /* bytes of the questions' spools */
	bool refused; /* a lane was free, but memory for the question was not */
};

struct catch_up_lane {
	struct catch_up *catch_up;
	struct changes_since changes;
	struct catch_up_question *question; /* NULL: the lane is free, or rests */
	struct ev_timer rest;               /* until it may ask again */
};

struct catch_up {
	struct ev_loop *loop;
	const struct config *config;
	struct fanout *fanout;
	struct recovery *recovery;
	struct catch_up_lane lanes[CATCH_UP_LANES];
	TAILQ_HEAD(catch_up_users, catch_up_user) users; /* the one that got a lane last is last */
	struct ev_timer gather;                          /* until workers that ask the same have come */
	struct ev_timer room;     /* until room that became free is used, in the next iteration */
	struct ev_timer few_rows; /* until the hungry are woken for what there is */
	struct ev_timer idle;     /* until questions without waiters are freed */
	struct ev_timer shortage; /* until the next look at who keeps memory (shortage.h) */
	struct diag_limit limit;

	size_t kept;                   /* bytes of all spools */
	char frame[BACKLOG_FRAME_MAX]; /* the row that on_row() encodes */
	unsigned n_workers;
	uint64_t n_gaps;    /* told */
	uint64_t n_evicted; /* of them, because memory was short */
};

/* Whether the lane has read a row for which there is no room. */
static inline bool catch_up_is_paused(const struct catch_up_lane *lane)
{
	return lane->question && changes_is_paused(&lane->changes);
}

/* There is room again: use it in the next iteration. */
static inline void catch_up_wake(struct catch_up *catch_up)
{
	if (!ev_is_active(&catch_up->room))
		timer_arm(catch_up->loop, &catch_up->room, 0);
}

/* All of it must outlive catch_up. */
void catch_up_init(struct catch_up *catch_up, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct recovery *recovery, const struct upstream *upstream);
/* All workers must be closed. */
void catch_up_close(struct catch_up *catch_up);

/* What struct worker_requests calls. recoverable: whether the database can be asked; if not,
 * the worker is told of a gap at once. */
void catch_up_begin(struct catch_up *catch_up, struct worker *worker, bool recoverable);
void catch_up_takes_more(struct worker *worker);
void catch_up_forget(struct catch_up *catch_up, struct worker *worker);

/* How many rows were read for the worker and not given to it yet. */
uint64_t catch_up_rows_left(const struct worker *worker);
