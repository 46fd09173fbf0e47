/* One worker: its state, and what any of the modules around it may do to it. The modules that serve it call
 * each other in one direction only:
 *
 *   connection   accepts it, serves it when its turn comes, closes it
 *   reader       its bytes become frames
 *   requests     what each frame does
 *   delivery     what it is sent, from the backlog and from its private queue
 *   room         how much may wait for it, for its user, for all
 *
 * Whoever finds that a worker cannot go on calls worker_end(); the connection closes it when it serves it
 * next. */
#pragma once

#include "base/access.h"
#include "base/checkpoint.h"
#include "fanout/private_queue.h"
#include "fanout/users.h"
#include "fanout/wanted.h"
#include "wire_request.h"

#include <ev.h>
#include <stdbool.h>
#include <sys/types.h>

struct fanout;
struct catch_up_waiter;
struct worker;

#define WORKER_NAME_MAX 64

/* The limits that are counted when they are reached. How much each is, the configuration says. */
enum worker_limit {
	LIMIT_WORKERS,
	LIMIT_WORKERS_PER_UID,
	LIMIT_SUBSCRIPTIONS,
	LIMIT_SUBSCRIPTIONS_PER_UID,
	LIMIT_SUBSCRIPTIONS_TOTAL,
	LIMIT_WORKER_QUEUE,
	LIMIT_WORKER_QUEUES,
	LIMIT_WORKER_PUBLISHES,
	LIMIT_FRAME,
	LIMITS_N,
};

enum worker_state {
	WORKER_NEW,         /* HELLO has not come */
	WORKER_RESUMING,    /* BEGIN has not come: it gets answers only */
	WORKER_CATCHING_UP, /* it gets answers and recovered frames; the backlog waits */
	WORKER_LIVE,
	WORKER_DEAD, /* disconnected; freed once it has no subscriptions left */
};

/* Bytes of requests that were read and are not done yet: the beginning of a frame, or frames that wait for
 * their turn. */
struct worker_input {
	unsigned char *bytes;
	uint32_t start, end, size; /* size 0: the bytes are in the fan-out's scratch, until the slice ends */
	struct wire_scanner scanner; /* of the frame at start */
	bool more;                   /* the socket may hold some */
};

/* A SUBSCRIBE or UNSUBSCRIBE at work. It may hold thousands of pubkeys, so it is done in portions, in these
 * steps. Its frame stays at the start of the input meanwhile. */
enum subscribing_step {
	SUBSCRIBING_NOT,
	SUBSCRIBING_CHECK, /* are all of them strings? */
	SUBSCRIBING_COUNT, /* near a limit: how many are new? */
	SUBSCRIBING_ADD,
	SUBSCRIBING_REMOVE,
};
struct subscribing {
	enum subscribing_step step;
	uint32_t frame_len;
	struct wire_strs all, left;
	uint64_t id;
	unsigned topic;
	uint32_t n_new;
	uint32_t n_reserved; /* counted for the user and for all, and not made yet */
};

struct worker {
	struct fanout *fanout;
	TAILQ_ENTRY(worker) next; /* in one of the lists of struct workers */
	int fd;
	struct ev_io reader, writer;
	struct ev_timer hello_deadline;

	uint32_t slot; /* its place in the table: the router's name for it */
	uint64_t id;   /* never used again: everybody else's name for it */
	pid_t pid;
	uid_t uid;
	struct user *user;
	struct access_rights rights;
	double since; /* seconds of clock_now() */
	char name[WORKER_NAME_MAX + 1];

	enum worker_state state;
	/* It cannot go on. Once set, nothing more is read or sent, and its connection is closed soon. */
	bool ended;
	enum wire_bye_code end_code; /* WIRE_BYE_NONE: it left by itself, so there is nobody to tell */
	const char *end_reason;      /* static */

	struct ready asking, sending; /* its places in the schedules */
	bool overdue;                 /* HELLO did not come in time */

	/* What it sends. */
	bool reading; /* its requests are taken: the reader watches, or its turn will come */
	bool parked;  /* they wait until its user has less queued */
	TAILQ_ENTRY(worker) next_parked;
	struct worker_input input;
	struct subscribing subscribing;
	uint32_t n_publishing; /* requests that wait for their answer */

	/* Its subscriptions. Bit 0 of the mask is TOPIC_ALL. */
	uint64_t all_mask;
	uint32_t n_edges; /* by pubkey */

	/* What it is owed of the backlog: of the frames after the cursor, those that match its subscriptions.
	 * When wanted_whole, wanted lists them all, and the worker subscribes by pubkey only, or to nothing.
	 * Otherwise a scan of the backlog finds them; for a worker that wants every channel that is no more
	 * than a run of bytes up to the head. */
	uint64_t cursor;
	bool wanted_whole;
	struct wanted wanted;
	TAILQ_ENTRY(worker) next_scanner; /* while not wanted_whole */
	struct private_queue private;
	size_t queued; /* memory of the private queue and of the input, as the user's sum has it */

	/* When it is sent to. */
	bool dirty; /* at the end of this iteration */
	TAILQ_ENTRY(worker) next_dirty;
	bool blocked;    /* not now: the socket was full, or there is more than one slice may send */
	bool in_round;   /* the round that is under way has not come to it */
	double progress; /* when the socket last took something, of clock_now() */

	/* The newest checkpoint it has passed, where catching up starts; NULL when there is none. */
	struct checkpoint *passed;
	/* As given by HELLO. */
	bool resume_in_epoch; /* its epoch is ours */
	uint64_t resume_seq;
	uint64_t begin_id;                /* of the BEGIN that waits for its OK */
	bool begun;                       /* begin_id waits */
	struct catch_up_waiter *catch_up; /* catch_up's; NULL when it is not at work for this worker */
	bool starved;                     /* takes no recovered changes until its user has less queued */
	TAILQ_ENTRY(worker) next_starved;

	uint64_t n_sent, n_overruns;
	uint64_t
		n_dropped; /* frames that left the backlog before it took them; recovered, or told as a gap */
};

/* What outlives a worker: an answer may come when it is gone. */
struct worker_ref {
	uint32_t slot;
	uint64_t id;
};

/* What workers ask of the rest of the relay. */
struct worker_requests {
	void *context;
	/* Publish; answered through connection_published(), perhaps before this returns. */
	void (*publish)(void *context, struct worker_ref worker, uint64_t request, unsigned topic,
		struct wire_str payload);
	/* Find what changed since worker->passed; answered through connection_recovered() and
	 * connection_caught_up(). */
	void (*catch_up)(void *context, struct worker *worker);
	/* While its catch_up is at work: room_takes_more(), after the socket took something. */
	void (*takes_more)(void *context, struct worker *worker);
	/* The worker is gone, and its catch_up with it. */
	void (*forget)(void *context, struct worker *worker);
};

const char *worker_state_name(enum worker_state state);
const char *worker_limit_name(enum worker_limit limit);

/* It cannot go on: close its connection soon, with BYE unless code is WIRE_BYE_NONE. reason: static. Only the
 * first call counts. */
void worker_end(struct worker *worker, enum wire_bye_code code, const char *reason);

/* Its requests, or what it is sent, go on when its turn comes. */
void worker_ask(struct worker *worker);
void worker_send(struct worker *worker);

/* Take its requests again, after its answers were read. */
void worker_resume_reading(struct worker *worker);
/* Take none: the relay ends. */
void worker_stop_reading(struct worker *worker);

/* Bring worker->passed up to its cursor. */
void worker_note_checkpoint(struct worker *worker);
