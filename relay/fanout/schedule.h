/* Who is served next: round robin by user, and within a user by connection, for SCHEDULE_SECONDS in an
 * iteration of the event loop. So a user with a thousand connections delays another by one slice, and what
 * many ask together never holds up the sockets of PostgreSQL, which are read first. What is done in one slice
 * is its owner's business, and takes some 20 microseconds: the workers' connections, the operators' and those
 * of the metrics each bring a function. There are two schedules: of what is sent, and of what is asked.
 *
 * A list and not libev's priorities: those say which of two events comes first within one iteration, but
 * neither how much of it is done nor whose turn it was last. The list is served by an ev_check, when all
 * events of PostgreSQL's sockets are handled and before any deadline; while somebody is ready an ev_idle
 * keeps the loop from waiting. Who is ready stops watching its socket, so it costs nothing until it is
 * served.
 *
 * A user who is not done by then asks for more than others wait for; where there are others, it rests for a
 * while before it may ask on. Otherwise the relay would be busy all the time, and the kernel would let a
 * process that always runs wait for the processor behind those that run now and then: then whoever asks
 * little waits too. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <sys/queue.h>

/* What one iteration may take of those who are ready. As long as a round trip to a worker: so a flood delays
 * what comes from PostgreSQL by no more than the machine itself does. */
#define SCHEDULE_SECONDS 0.0002
/* Ten times as long, so the relay is mostly idle: and still takes some 100,000 requests a second. */
#define SCHEDULE_REST_SECONDS 0.002

/* One connection. serve() does one slice, and adds it again when there is more to do. It may free it. */
struct ready {
	struct share *share; /* its user's; outlives it */
	void (*serve)(struct ready *ready);
	bool waits;
	TAILQ_ENTRY(ready) next;
};

TAILQ_HEAD(shares, share);

/* Those of one user that are ready. */
struct share {
	TAILQ_HEAD(, ready) ready;
	struct shares *in; /* the schedule's ring, or those that rest; NULL while nobody is ready */
	TAILQ_ENTRY(share) next;
};

struct schedule {
	struct ev_loop *loop;
	struct shares ring; /* the first is served next */
	struct shares resting;
	double seconds;      /* of an iteration: SCHEDULE_SECONDS */
	double rest_seconds; /* 0: nobody rests */
	unsigned n_users;    /* who have workers; the fan-out counts them */
	struct ev_check serving;
	struct ev_idle busy; /* while the ring is not empty */
	struct ev_timer rest;
};

/* priority: libev's, among the events of an iteration. */
void schedule_open(struct schedule *schedule, struct ev_loop *loop, int priority, double rest_seconds);
/* Nobody is ready any more. */
void schedule_close(struct schedule *schedule);

void share_init(struct share *share);
static inline void ready_init(struct ready *ready, struct share *share, void (*serve)(struct ready *ready))
{
	*ready = (struct ready){.share = share, .serve = serve};
}

/* Serve it when its turn comes, if it does not wait for that already. */
void schedule_add(struct schedule *schedule, struct ready *ready);
void schedule_remove(struct schedule *schedule, struct ready *ready);
