/* One worker: its state, and what every module that serves it may do to it. It does no I/O.
 * relay/DESIGN.md has its states. The modules that serve it call each other downwards only:
 *
 *   connection   accepts it, serves it when the schedule says so, closes it
 *   reader       turns its bytes into frames
 *   requests     does what each frame asks
 *   delivery     sends to it, from the backlog and from its private queue
 *   room         bounds what waits for it, for its user, for all
 *
 * A module that finds that a worker cannot go on calls worker_end(). connection.c closes it
 * when the schedule serves it next. */
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

/* Bytes of the name in HELLO that the relay keeps, for the log and the operators. The rest is
 * cut off: names tell processes apart, and 64 do. */
#define WORKER_NAME_MAX 64

/* The limits whose hits are counted. The configuration sets them, except LIMIT_FRAME, which is
 * WIRE_FRAME_MAX. */
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
	WORKER_CATCHING_UP, /* it gets answers and recovered changes; the backlog waits */
	WORKER_LIVE,
	WORKER_DEAD, /* disconnected; freed once it has no subscriptions left */
};

/* Bytes of requests that were read and are not done yet: the beginning of a frame, or frames
 * that wait until the schedule serves the worker. */
struct worker_input {
	/* Owned; if size is 0, in the fan-out's scratch until the slice ends. */
	unsigned char *bytes;
	uint32_t start, end, size;
	struct wire_scanner scanner; /* of the frame at start */
	bool more;                   /* the socket may have unread bytes */
};

/* A SUBSCRIBE or UNSUBSCRIBE with pubkeys. There may be thousands, so requests.c does it in
 * portions, in these steps. Its frame stays at the start of the input meanwhile. */
enum subscribing_step {
	SUBSCRIBING_NOT,
	SUBSCRIBING_CHECK, /* whether all are strings */
	SUBSCRIBING_COUNT, /* near a limit: how many are new */
	SUBSCRIBING_ADD,
	SUBSCRIBING_REMOVE,
};
struct subscribing {
	enum subscribing_step step;
	uint32_t frame_len;
	struct wire_strs all, left; /* offsets in the frame */
	uint64_t id;
	unsigned topic;
	uint32_t n_new;
	uint32_t n_reserved; /* counted for the user and for all, and not added yet */
};

struct worker {
	struct fanout *fanout;    /* outlives it */
	TAILQ_ENTRY(worker) next; /* in one of the lists of struct workers */
	int fd;
	struct ev_io reader, writer;
	struct ev_timer hello_deadline;

	uint32_t slot; /* its place in the table; names it in the router */
	uint64_t id;   /* names it everywhere else; never used again */
	pid_t pid;
	uid_t uid;
	struct user *user; /* it holds a reference */
	struct access_rights rights;
	double since; /* seconds of clock_now() */
	char name[WORKER_NAME_MAX + 1];

	enum worker_state state;
	/* It cannot go on. Once set, nothing more is read or sent, and connection.c closes it
	 * soon. */
	bool ended;
	/* WIRE_BYE_NONE: it left by itself, so it is sent no BYE. */
	enum wire_bye_code end_code;
	const char *end_reason; /* static */

	struct ready asking, sending; /* its places in the schedules */
	bool overdue;                 /* HELLO_SECONDS have passed without HELLO */

	/* What it sends. */
	bool reading; /* its requests are taken: the reader watches, or asking will serve it */
	bool parked;  /* its requests wait until its user has less queued */
	TAILQ_ENTRY(worker) next_parked;
	struct worker_input input;
	struct subscribing subscribing;
	uint32_t n_publishing; /* requests that wait for the publisher's answer */

	/* Its subscriptions. Bit n of the mask is topic n. */
	uint64_t all_mask;
	uint32_t n_edges; /* by pubkey */
	/* On which it has had some by pubkey, since it had none; exact enough to ask whether a
	 * change of the settings concerns it. */
	uint64_t edge_topics;

	/* It is owed the frames of the backlog after the cursor that match its subscriptions.
	 * If wanted_whole, it subscribes by pubkey only or to nothing, and wanted lists these
	 * frames. Otherwise it is a scanner: a scan of the backlog finds them. For a worker
	 * that subscribes to every channel, they are all bytes up to the head. */
	uint64_t cursor;
	uint64_t welcome_seq; /* the backlog's head at WELCOME */
	bool wanted_whole;
	struct wanted wanted;
	TAILQ_ENTRY(worker) next_scanner; /* while not wanted_whole */
	struct private_queue private;
	/* Bytes of the private queue and of the input, as the user's sum counts them. */
	size_t queued;

	/* When it is sent to. */
	bool dirty; /* at the end of this iteration */
	TAILQ_ENTRY(worker) next_dirty;
	bool blocked;    /* not now: the socket was full, or a slice was not enough */
	bool in_round;   /* the current round has still to serve it */
	double progress; /* seconds of clock_now(), when the socket last took something */

	/* The newest checkpoint that it has passed, where catching up starts. NULL: none. It
	 * holds a reference. */
	struct checkpoint *passed;
	/* As HELLO says. */
	bool resume_in_epoch; /* its epoch is ours */
	uint64_t resume_seq;
	uint64_t begin_id;                /* of the BEGIN that waits for its OK */
	bool begun;                       /* begin_id waits */
	struct catch_up_waiter *catch_up; /* owned by catch_up.c; NULL: it does not catch up */
	/* Its recovered changes wait until its user has less queued. */
	bool starved;
	TAILQ_ENTRY(worker) next_starved;

	uint64_t n_sent, n_overruns;
	/* Frames that left the backlog before it took them. It catches up on them, or gets a
	 * GAP. */
	uint64_t n_dropped;
};

/* Names a worker for an answer that may come when the worker is gone. */
struct worker_ref {
	uint32_t slot;
	uint64_t id;
};

/* What workers need from the rest of the relay. context must outlive the fan-out. */
struct worker_requests {
	/* connection_published() answers, maybe before this returns. payload: valid until this
	 * returns. */
	void (*publish)(void *context, struct worker_ref worker, uint64_t request, unsigned topic,
		struct wire_str payload);
	/* Finds what changed since worker->passed. connection_recovered() and
	 * connection_caught_up() answer, maybe before this returns. */
	void (*catch_up)(void *context, struct worker *worker);
	/* While it catches up: room_takes_more() may be true again. */
	void (*takes_more)(void *context, struct worker *worker);
	/* The worker is disconnected: its catching up ends, without an answer. */
	void (*forget)(void *context, struct worker *worker);
};

/* By enum worker_state, and by enum worker_limit: what operators read. */
extern const char *const worker_state_names[];
extern const char *const worker_limit_names[LIMITS_N];

/* The worker cannot go on: connection.c closes it soon, with BYE unless code is WIRE_BYE_NONE.
 * reason must be static. Only the first call counts. */
void worker_end(struct worker *worker, enum wire_bye_code code, const char *reason);

/* Add it to the schedule of requests, or of sending. */
void worker_ask(struct worker *worker);
void worker_send(struct worker *worker);

/* Takes its requests again, after it read its answers. */
void worker_resume_reading(struct worker *worker);
/* Takes no more requests: the relay ends. */
void worker_stop_reading(struct worker *worker);

/* Brings worker->passed up to its cursor. */
void worker_note_checkpoint(struct worker *worker);
