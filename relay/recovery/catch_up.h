/* Catching up one worker, or several that ask from the same checkpoint, after they fell behind or came back
 * from another epoch. A question is asked on one of a few connections, the lanes, and its rows are read at
 * PostgreSQL's pace into a spool, from which each of the question's workers is fed as its socket takes more.
 * So a lane waits for no worker, and no worker starts again. Lanes and memory are shared out between users,
 * by uid. What is asked, and how, is changes_since's business; what all workers missed is recovery's. main
 * and the workers call it. */
#pragma once

#include "base/clock.h"
#include "fanout/fanout.h"
#include "recovery/changes_since.h"
#include "recovery/recovery.h"
#include "recovery/spool.h"

#include <sys/queue.h>

/* Questions that are read at once. One user has one lane at the most, so that whatever the workers of one
 * ask, those of another find a lane. */
#define CATCH_UP_LANES 3

TAILQ_HEAD(catch_up_waiters, catch_up_waiter);

/* A worker that waits for what it missed. The worker points to it. */
struct catch_up_waiter {
	struct worker *worker;
	struct catch_up_user *user;
	struct catch_up_question *question; /* NULL while it waits for a lane */
	struct spool_reader reader;
	struct catch_up_waiters *list; /* where it stands; NULL while its socket has to take more first */
	uint64_t seen_rows;            /* that it had taken when it was last looked at */
	double stalled_for;            /* seconds in which there was no room because of it */
	bool overdue;                  /* it is to be told of a gap */
	TAILQ_ENTRY(catch_up_waiter) link;
	TAILQ_ENTRY(catch_up_waiter) sibling; /* of the question */
};

/* From the time when a lane is free for it until its last waiter is through. */
struct catch_up_question {
	TAILQ_ENTRY(catch_up_question) link;
	struct catch_up_user *user;
	struct catch_up_lane *lane; /* NULL once all rows are read */
	struct spool spool;
	size_t kept; /* bytes of the spool that are counted */
	struct catch_up_waiters waiters;
	struct catch_up_waiters hungry; /* those that have taken all rows there are, and wait for more */
	unsigned n_waiters;
	bool asked;                /* too late to join */
	uint64_t head;             /* of the backlog when it was asked */
	struct checkpoint *latest; /* the relay's at that time; NULL when there was none */
	bool latest_counts;        /* it was of the run that was asked; known once all rows are read */
};

struct catch_up_user {
	TAILQ_ENTRY(catch_up_user) link;
	uid_t uid;
	struct catch_up_lane *lane;
	struct catch_up_waiters waiting; /* for a lane */
	TAILQ_HEAD(, catch_up_question) questions;
	size_t kept;  /* bytes of their spools */
	bool refused; /* a lane was free, and no memory for the question */
};

struct catch_up_lane {
	struct catch_up *catch_up;
	struct changes_since changes;
	struct catch_up_question *question; /* NULL: it asks nothing */
	struct ev_timer rest;               /* until it may ask again */
};

struct catch_up {
	struct ev_loop *loop;
	const struct config *config;
	struct fanout *fanout;
	struct recovery *recovery;
	struct catch_up_lane lanes[CATCH_UP_LANES];
	TAILQ_HEAD(catch_up_users, catch_up_user) users; /* who had a lane last stands last */
	struct catch_up_waiters ready;                   /* those whose sockets take more */
	struct ev_timer gather;   /* until those who ask the same in this moment have come */
	struct ev_timer feeding;  /* until ready waiters are fed, and room is used */
	struct ev_timer shortage; /* looks again while there is no room */
	struct diag_limit limit;

	size_t kept; /* bytes of all spools */
	unsigned n_workers;
	uint64_t n_gaps;    /* told */
	uint64_t n_evicted; /* of them, those for want of memory */
};

/* There was no room for the next row. Once its connection is lost, it asks anew, and then there is. */
static inline bool catch_up_is_paused(const struct catch_up_lane *lane)
{
	return lane->question && changes_is_paused(&lane->changes);
}

/* There is room again, or a waiter is ready. */
static inline void catch_up_wake(struct catch_up *catch_up)
{
	if (!ev_is_active(&catch_up->feeding))
		timer_arm(catch_up->loop, &catch_up->feeding, 0);
}

void catch_up_init(struct catch_up *catch_up, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct recovery *recovery, const struct upstream *upstream);
/* Every worker must be closed. */
void catch_up_close(struct catch_up *catch_up);

/* struct worker_requests' catch_up, takes_more and forget. recoverable: whether the database can be asked. */
void catch_up_begin(struct catch_up *catch_up, struct worker *worker, bool recoverable);
void catch_up_takes_more(struct catch_up *catch_up, struct worker *worker);
void catch_up_forget(struct catch_up *catch_up, struct worker *worker);

/* Rows that are read and that the worker has not been given yet. */
uint64_t catch_up_rows_left(const struct worker *worker);
