/* The schedule: which connection is served next, round robin by user, and within a user by
 * connection. In each round those come first that were not ready when it began. It does not know what serving
 * means: each connection brings a function that does one slice. fanout.c owns one schedule of what workers
 * are sent, and one of what is asked; fanout/ and ops/ add to them. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* Seconds of processor time: bounds what one iteration serves. It is as long as a round trip to a
 * worker, so a flood delays what comes from PostgreSQL no more than the machine itself does. */
#define SCHEDULE_SECONDS 0.0002
/* Seconds: how long a user rests. Ten times SCHEDULE_SECONDS, so a flood leaves the relay
 * mostly idle, which still serves about 100,000 requests a second. */
#define SCHEDULE_REST_SECONDS 0.002

/* A connection's place in a schedule. serve() does one slice, and adds the connection again if
 * there is more to do. It may free it. */
struct ready {
	struct share *share; /* its user's; must outlive it */
	void (*serve)(struct ready *ready);
	bool waits;
	TAILQ_ENTRY(ready) next;
};

TAILQ_HEAD(shares, share);

/* The connections of one user that are ready. */
struct share {
	TAILQ_HEAD(, ready) ready;
	struct shares *in; /* one of the schedule's lists; NULL while none is ready */
	uint64_t round;    /* when it was served last */
	TAILQ_ENTRY(share) next;
};

/* Each iteration of the loop serves for SCHEDULE_SECONDS, in slices of about 20 microseconds.
 * So a user with a thousand connections delays another user by one slice. PostgreSQL's sockets
 * are read first, so no flood of requests delays them.
 *
 * In a round each user is served once. A user that asks now and then comes when a round has
 * begun, and has had no slice in it: it is served next, before users that always have more. It
 * takes nothing from them but the order. Without this, it waited for a slice of each of them, and
 * so for several iterations where twenty users flood the relay.
 *
 * libev's priorities could not do this: they order the events of one iteration, but say neither
 * how much to do nor who was served last. An ev_check serves the list, after all events of
 * PostgreSQL's sockets and before any deadline. While the list is not empty, an ev_idle keeps
 * the loop from waiting. A connection that is ready stops watching its socket, so it costs
 * nothing until it is served.
 *
 * If users are left when the time is over and several users have workers, those that are left
 * rest. Without the rest, a flood would keep the relay busy all the time. The kernel prefers
 * processes that sleep now and then, so every user would wait longer for the processor. */
struct schedule {
	struct ev_loop *loop;
	uint64_t round;      /* the number of this round */
	struct shares fresh; /* not served in this round; the first is served next */
	struct shares ring;  /* after those; the first is served next */
	struct shares resting;
	double rest_seconds; /* 0: users do not rest */
	unsigned n_users;    /* with workers; connection.c counts them */
	struct ev_check serving;
	struct ev_idle busy; /* while a connection is ready and does not rest */
	struct ev_timer rest;
};

/* priority: libev's, among the events of an iteration. loop must outlive the schedule. */
void schedule_open(struct schedule *schedule, struct ev_loop *loop, int priority, double rest_seconds);
/* Every connection must be removed. */
void schedule_close(struct schedule *schedule);

void share_init(struct share *share);
static inline void ready_init(struct ready *ready, struct share *share, void (*serve)(struct ready *ready))
{
	*ready = (struct ready){.share = share, .serve = serve};
}

/* No connection waits to be served, but for those that rest. */
static inline bool schedule_is_idle(const struct schedule *schedule)
{
	return TAILQ_EMPTY(&schedule->fresh) && TAILQ_EMPTY(&schedule->ring);
}

/* From now on it waits to be served, if it does not already. */
void schedule_add(struct schedule *schedule, struct ready *ready);
void schedule_remove(struct schedule *schedule, struct ready *ready);
