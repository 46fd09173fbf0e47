/* One worker: its connection, its handshake, its requests (reader.c takes their bytes, requests.c does what
 * they ask), and what it is owed (delivery.c): a cursor into the backlog and a queue of frames for it alone.
 * Leaves out what its requests need of PostgreSQL: that it asks through struct worker_requests. The listener
 * makes workers, the fan-out flushes them; all that a worker itself asks for is done when the schedule serves
 * it. */
#pragma once

#include "base/access.h"
#include "base/checkpoint.h"
#include "fanout/users.h"
#include "wire_request.h"

#include <ev.h>
#include <stdbool.h>
#include <sys/types.h>

struct decoded;
struct fanout;
struct catch_up_member;
struct worker;

/* Frames that a worker with pubkeys may be behind before it is sent by a walk of the backlog instead of from
 * its list. */
#define WORKER_WANTED_MAX 1024
#define WORKER_HELLO_SECONDS 10.
#define WORKER_NAME_MAX 64
/* How much is read of a worker at a time, and thereby of requests that wait for their turn. Many requests fit
 * in, so a system call is little beside them. */
#define WORKER_READ_SIZE 8192

/* What was reached, and how often, the fan-out counts; how much it is, the configuration says. */
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
	WORKER_DEAD, /* closed; freed at the end of an iteration, once it has no subscriptions left */
};

/* A byte queue, and before which frame of the backlog each stretch of it goes out. */
struct private_stretch {
	uint64_t after; /* goes out once the cursor is here; 0 or the cursor: at once */
	uint32_t len;
};
struct private_queue {
	unsigned char *bytes;
	size_t start, end, size;
	struct private_stretch *stretches;
	uint32_t first, n, max;
};

/* Bytes of requests that were read and are not done yet: the beginning of a frame, or frames that wait for
 * their turn. */
struct worker_input {
	unsigned char *bytes;
	uint32_t start, end, size; /* size 0: the bytes are in the fan-out's scratch, until the slice ends */
	struct wire_scanner scanner; /* of the frame at start */
	bool more;                   /* the socket may hold some */
};

/* A SUBSCRIBE or UNSUBSCRIBE at work: there may be thousands of pubkeys in it, so it is done in portions, in
 * these steps. Its frame stands at the start of the input meanwhile. */
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
	uint32_t n_reserved; /* of the user's and of all: not made yet */
};

/* The seqs, behind the cursor, that a worker with pubkeys is owed. */
struct wanted {
	uint64_t *seqs;
	uint32_t first, n, max;
};

struct worker {
	struct fanout *fanout;
	struct worker *next, *prev;               /* all workers */
	struct worker *next_walker, *prev_walker; /* those that are not wanted_whole */
	struct worker *next_dirty;                /* those to flush at the end of this turn of the loop */
	bool dirty;
	bool blocked; /* the socket was full, and the writer watches; or there is more than one slice may send
		       */
	bool in_round; /* the round that is under way has not come to it */
	bool reading;  /* its requests are taken: the reader watches, or its turn will come */
	bool parked;   /* not now, since its user has too much queued */
	bool overdue;  /* HELLO did not come in time */
	enum worker_state state;
	struct user *user;
	struct ready asking, sending; /* its places in the schedules */
	bool starved;                 /* takes no recovered changes, for the same reason */
	TAILQ_ENTRY(worker) next_parked, next_starved;
	int fd;
	struct ev_io reader, writer;
	struct ev_timer hello_deadline;

	uint32_t slot; /* its place in the fan-out's table: the router's name for it */
	uint64_t id;   /* never used again: everybody else's name for it */
	pid_t pid;
	uid_t uid;
	struct access_rights rights;
	double since;
	char name[WORKER_NAME_MAX + 1];

	struct worker_input input;
	struct subscribing subscribing;

	/* Its subscriptions. Bit 0 of the mask is TOPIC_ALL. */
	uint64_t all_mask;
	uint32_t n_edges; /* by pubkey */

	/* What it is owed of the backlog: of the frames behind the cursor, those that match its
	 * subscriptions. When wanted_whole, wanted lists them all, and the worker subscribes by pubkey only,
	 * or to nothing; otherwise they are found by a walk, which for a worker that wants every channel is
	 * no more than a run of bytes up to the head. */
	uint64_t cursor;
	bool wanted_whole;
	struct wanted wanted;
	struct private_queue private;
	size_t queued; /* memory of the queue and of the input, as the user's sum has it */

	/* The newest checkpoint it has passed, where catching up starts; NULL when there is none. */
	struct checkpoint *passed;
	/* As given by HELLO. */
	bool resume_in_epoch; /* its epoch is ours */
	uint64_t resume_seq;
	uint64_t begin_id;                /* of the BEGIN that waits for its OK */
	bool begun;                       /* begin_id waits */
	struct catch_up_member *catch_up; /* catch_up's; NULL when it is not at work for this worker */

	uint32_t n_publishing; /* requests that wait for their answer */
	double progress;       /* when the socket last took something */
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
	/* Publish; answered through worker_published(), perhaps before this returns. */
	void (*publish)(void *context, struct worker_ref worker, uint64_t request, unsigned topic,
		struct wire_str payload);
	/* Find what changed since worker->passed; answered through worker_recovered() and worker_caught_up().
	 */
	void (*catch_up)(void *context, struct worker *worker);
	/* While its catch_up is at work: worker_takes_more(), after the socket took something. */
	void (*takes_more)(void *context, struct worker *worker);
	/* The worker is gone, and its catch_up with it. */
	void (*forget)(void *context, struct worker *worker);
};

const char *worker_state_name(enum worker_state state);
const char *worker_limit_name(enum worker_limit limit);
/* Takes fd over. NULL when there is no worker: it may not connect, and was told so, or memory is short. */
struct worker *worker_open(struct fanout *fanout, int fd);
/* Bring worker->passed up to its cursor. */
void worker_note_checkpoint(struct worker *worker);
/* The one way to end a connection. code: WIRE_BYE_NONE when the worker itself is gone, else it is told BYE
 * with this code and reason. The struct lives until the end of the loop's turn. */
void worker_close(struct worker *worker, enum wire_bye_code code, const char *reason);
/* Frees what worker_close() left; the fan-out calls it. */
void worker_free(struct worker *worker);

/* Its requests, or what it is sent, go on when its turn comes. */
void worker_ask(struct worker *worker);
void worker_send(struct worker *worker);
/* The queue or the input has grown or shrunk. */
void worker_account(struct worker *worker);

/* What catch_up found: one recovered change or message. Only while worker_takes_more(). */
void worker_recovered(struct worker *worker, struct decoded *decoded);
/* If not, requests.takes_more() follows. */
bool worker_takes_more(struct worker *worker);
/* catch_up is over: the worker has what it missed up to seq; live from there. token: the checkpoint that it
 * has passed with that, NULL when none is known. cause and text: of the GAP that it must be told. */
void worker_caught_up(
	struct worker *worker, uint64_t seq, const char *token, enum wire_gap_cause cause, const char *text);

/* The answer to publish: OK, or ERROR with a code. */
void worker_published(struct fanout *fanout, struct worker_ref worker, uint64_t request,
	enum wire_error_code code, const char *text);

/* Answer a request, or with has_id false a frame that is none, with ERROR. */
void worker_error(
	struct worker *worker, bool has_id, uint64_t id, enum wire_error_code code, const char *text);
void worker_protocol_error(struct worker *worker, const char *what);

/* reader.c: frames out of bytes, a slice at a time */

/* The socket has bytes. */
void reader_ready(struct worker *worker);
/* One slice of its requests. The worker may be dead after this. */
void reader_serve(struct worker *worker);
/* Take its requests again, after its answers were read. */
void reader_resume(struct worker *worker);
/* Take none: the relay ends. */
void reader_stop(struct worker *worker);
/* The user's workers, or others, have less queued by now: those who wait for that go on. */
void reader_wake(struct fanout *fanout);
/* Now and then: whether those who wait for that are still there. */
void reader_look_after_parked(struct fanout *fanout);
void reader_free(struct worker *worker);

/* requests.c */

/* Do what the frame asks. The worker may be dead after this. */
void worker_request(struct worker *worker, const struct wire_frame *frame);
/* The same of a SUBSCRIBE or UNSUBSCRIBE with pubkeys, in portions: go on with the frame until it is done, or
 * until *cost, from which is taken what it costs, is used up. Whether it is done. The worker may be dead
 * after this. */
void worker_subscribe_begin(struct worker *worker, uint32_t frame_len, const struct wire_strs *pubkeys);
bool worker_subscribe(struct worker *worker, const unsigned char *frame, int *cost);

/* delivery.c */

/* Queue a frame for this worker alone, behind what it is owed of the backlog up to now. */
void delivery_queue(struct worker *worker, const struct wire_frame *frame);
/* OK with the seq at which the worker stands, when it has been sent all that it is owed up to now. */
void delivery_ok(struct worker *worker, uint64_t request);
/* The frame stands in the backlog, and a subscription by pubkey matches it. */
void delivery_want(struct worker *worker, uint64_t seq);
/* Find what is owed by a walk, from the cursor on. */
void delivery_walk(struct worker *worker);
/* Send what can be sent, and in one slice; the rest follows by itself. The worker may be dead after this. */
void delivery_flush(struct worker *worker);
/* Bytes of answers and recovered frames, and what it takes to keep their order. */
size_t delivery_queued(const struct worker *worker);
/* Frames and bytes of the backlog that it has not been sent yet. */
uint64_t delivery_lag(struct worker *worker, uint64_t *bytes);
void delivery_free(struct worker *worker);
