/* What a worker sends, from its socket to the frames that requests.c is given. The schedule says when; a
 * slice ends when it has cost READER_SLICE, wherever in a frame or among pubkeys that is. What was read and
 * not done waits in the worker's input, which is bounded: more is read only when it holds no whole frame.
 * Before each frame there must be room for its answer. Without room for it in the worker's own queue, its
 * requests wait until it reads; without room in what its user may queue, or all, they wait until others have
 * read. */
#include "base/diag.h"
#include "fanout/fanout.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What a slice may cost, and what costs how much: nanoseconds, about, on a machine of 2020. A slice is so
 * short that a round of all users with one is not long, and so long that the system calls of a connection are
 * little beside what they bring. */
#define READER_SLICE 20000
#define COST_READ 1500
#define COST_SCAN 2 /* a byte */
#define COST_FRAME 500

/* More is read only when there is no whole frame. */
#define INPUT_MAX (WIRE_FRAME_MAX + WORKER_READ_SIZE)

static struct diag_limit pause_limit, user_limit;

/* Room for answers */

static bool user_has_room(const struct worker *w)
{
	const struct fanout *f = w->fanout;
	const struct config *config = f->config;
	size_t total = config->worker_queues_total_size, left = total > f->queued ? total - f->queued : 0;

	/* No user has more than what is left for all the others: so there always is some for the next. */
	return w->user->queued <= config->worker_queues_per_uid_size && w->user->queued <= left;
}

static bool has_room(const struct worker *w)
{
	return delivery_queued(w) <= w->fanout->config->worker_queue_size && user_has_room(w);
}

bool worker_takes_more(struct worker *w)
{
	/* If not, a flush asks again. */
	if (delivery_queued(w) > w->fanout->config->worker_queue_size / 2)
		return false;
	if (user_has_room(w))
		return true;
	if (!w->starved) {
		w->starved = true;
		TAILQ_INSERT_TAIL(&w->user->starved, w, next_starved);
		w->fanout->n_parked++;
	}
	return false;
}

static void wait_until_it_reads(struct worker *w)
{
	w->reading = false;
	w->fanout->n_limited[LIMIT_WORKER_QUEUE]++;
	diag_limited(&pause_limit, DIAG_NOTICE,
		"a worker does not read its answers, so its requests wait worker=%llu pid=%d name=\"%s\"",
		(unsigned long long)w->id, (int)w->pid, w->name);
}

static void park(struct worker *w)
{
	struct fanout *f = w->fanout;

	w->parked = true;
	TAILQ_INSERT_TAIL(&w->user->parked, w, next_parked);
	f->n_parked++;
	f->n_limited[LIMIT_WORKER_QUEUES]++;
	diag_limited(&user_limit, DIAG_NOTICE,
		"a user's workers do not read their answers, so their requests wait uid=%u bytes=%zu of_all=%zu",
		(unsigned)w->user->uid, w->user->queued, f->queued);
}

static void unpark(struct worker *w)
{
	w->parked = false;
	TAILQ_REMOVE(&w->user->parked, w, next_parked);
	w->fanout->n_parked--;
}

/* A connection that is not read does not show that it is gone, unless it is asked. */
static bool is_gone(const struct worker *w)
{
	struct pollfd p = {.fd = w->fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

void reader_look_after_parked(struct fanout *f)
{
	struct worker *w;
	struct user *user;

	for (unsigned i = 0; i < USERS_BUCKETS; i++)
		LIST_FOREACH(user, &f->users.buckets[i], next)
	TAILQ_FOREACH (w, &user->parked, next_parked)
		worker_ask(w);
}

/* One goes on; it wakes the next when it has been served. */
static void wake_first(struct user *user)
{
	struct worker *first = TAILQ_FIRST(&user->parked);

	if (!first || !user_has_room(first))
		return;
	unpark(first);
	worker_ask(first);
}

static void end_starving(struct worker *w)
{
	w->starved = false;
	TAILQ_REMOVE(&w->user->starved, w, next_starved);
	w->fanout->n_parked--;
}

static void feed(struct user *user)
{
	struct worker *w;

	while ((w = TAILQ_FIRST(&user->starved)) && user_has_room(w)) {
		const struct worker_requests *requests = &w->fanout->requests;
		end_starving(w);
		if (w->catch_up)
			requests->takes_more(requests->context, w);
	}
}

void reader_wake(struct fanout *f)
{
	struct user *user;

	if (f->n_parked == 0)
		return;
	for (unsigned i = 0; i < USERS_BUCKETS; i++) {
		LIST_FOREACH(user, &f->users.buckets[i], next)
		{
			wake_first(user);
			feed(user);
		}
	}
}

/* Whether the next frame may be done; if not, something wakes it. The worker may be dead after this. */
static bool may_go_on(struct worker *w)
{
	if (has_room(w))
		return true;
	/* What its socket takes does not count. */
	if (!w->blocked)
		delivery_flush(w);
	if (w->state == WORKER_DEAD)
		return false;
	if (has_room(w))
		return true;
	if (delivery_queued(w) > w->fanout->config->worker_queue_size)
		wait_until_it_reads(w);
	else
		park(w);
	return false;
}

/* Bytes */

/* Move the bytes into a buffer of this size, and of their own. 0 or -ENOMEM. */
static int own_bytes(struct worker_input *in, uint32_t size)
{
	uint32_t len = in->end - in->start;
	unsigned char *bytes = malloc(size);

	if (!bytes)
		return -ENOMEM;
	memcpy(bytes, in->bytes + in->start, len);
	if (in->size > 0)
		free(in->bytes);
	in->bytes = bytes;
	in->start = 0;
	in->end = len;
	in->size = size;
	return 0;
}

static void drop_bytes(struct worker_input *in)
{
	if (in->size > 0)
		free(in->bytes);
	in->bytes = NULL;
	in->start = in->end = in->size = 0;
}

/* Room behind what is there, which is no whole frame. 0 or -ENOMEM. */
static int make_room(struct worker *w)
{
	struct worker_input *in = &w->input;
	uint32_t len = in->end - in->start;

	if (len == 0) {
		drop_bytes(in);
		in->bytes = w->fanout->scratch;
		return 0;
	}
	if (in->size == 0 ? in->end + WORKER_READ_SIZE <= FANOUT_SCRATCH
			  : in->end + WORKER_READ_SIZE <= in->size)
		return 0;
	/* A frame that comes in many parts is not to be copied for each. */
	uint32_t size = 2 * (len + WORKER_READ_SIZE);
	return own_bytes(in, size < INPUT_MAX ? size : INPUT_MAX);
}

/* More of its bytes. Whether there were any; the worker may be dead if not. */
static bool receive(struct worker *w, int *cost)
{
	struct worker_input *in = &w->input;

	if (make_room(w) < 0) {
		worker_close(w, WIRE_BYE_NONE, "out of memory");
		return false;
	}
	ssize_t n = recv(w->fd, in->bytes + in->end, WORKER_READ_SIZE, MSG_DONTWAIT);
	*cost -= COST_READ;
	in->more = n == WORKER_READ_SIZE;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		worker_close(w, WIRE_BYE_NONE, n == 0 ? "it closed the connection" : strerror(errno));
		return false;
	}
	in->end += (uint32_t)n;
	return true;
}

/* The slice ends. What is left must not stay in the scratch; and a large buffer not for a few bytes. */
static void keep_rest(struct worker *w)
{
	struct worker_input *in = &w->input;
	uint32_t len = in->end - in->start;

	if (len == 0)
		drop_bytes(in);
	else if ((in->size == 0 || in->size / 4 > len) && own_bytes(in, len) < 0)
		worker_close(w, WIRE_BYE_NONE, "out of memory");
	worker_account(w);
}

/* Frames */

/* error: of wire_scan() or wire_request_read() */
static void unreadable(struct worker *w, int error)
{
	switch (error) {
	case -EMSGSIZE:
		w->fanout->n_limited[LIMIT_FRAME]++;
		worker_protocol_error(w, "a frame is larger than 65536 bytes");
		break;
	case -EBADMSG:
		worker_protocol_error(w, "this is no msgpack array");
		break;
	default:
		worker_protocol_error(w, "a frame's elements are not what its type says");
	}
}

static void take_frame(struct worker *w, const unsigned char *bytes, uint32_t len)
{
	struct wire_strs pubkeys;
	struct wire_frame frame;
	int r = wire_request_read(bytes, len, &frame, &pubkeys);

	if (r == 0 && pubkeys.offset > 0 && w->state != WORKER_NEW)
		worker_subscribe_begin(w, len, &pubkeys);
	else if (r == 0)
		worker_request(w, &frame);
	else if (r == -ENOTSUP && w->state != WORKER_NEW)
		worker_error(w, false, 0, WIRE_ERROR_UNKNOWN_TYPE,
			"a frame of a type that this relay does not know");
	else
		unreadable(w, r);
}

/* Do the next frame, or a portion of it. 0; -EAGAIN: it has not come whole. The worker may be dead after
 * this. */
static int do_next(struct worker *w, int *cost)
{
	struct worker_input *in = &w->input;

	/* Without bytes there is no buffer either. */
	if (in->start == in->end)
		return -EAGAIN;
	const unsigned char *bytes = in->bytes + in->start;
	uint32_t len = w->subscribing.frame_len;

	if (w->subscribing.step == SUBSCRIBING_NOT) {
		uint32_t scanned = in->scanner.offset;
		int r = wire_scan(&in->scanner, bytes, in->end - in->start);
		*cost -= (int)(in->scanner.offset - scanned) * COST_SCAN;
		if (r == -EAGAIN)
			return r;
		if (r < 0) {
			unreadable(w, r);
			return 0;
		}
		len = in->scanner.offset;
		in->scanner = (struct wire_scanner){0};
		*cost -= COST_FRAME;
		take_frame(w, bytes, len);
	}
	if (w->state == WORKER_DEAD)
		return 0;
	if (w->subscribing.step == SUBSCRIBING_NOT || worker_subscribe(w, bytes, cost))
		in->start += len;
	return 0;
}

/* Take frames as long as the slice lasts. Whether more can be done for it at once. */
static bool take_frames(struct worker *w)
{
	int cost = READER_SLICE;

	while (cost > 0) {
		if (!may_go_on(w))
			return false;
		if (do_next(w, &cost) == -EAGAIN && (!w->input.more || !receive(w, &cost))) {
			if (w->state != WORKER_DEAD)
				ev_io_start(w->fanout->loop, &w->reader);
			return false;
		}
		if (w->state == WORKER_DEAD)
			return false;
	}
	return true;
}

void reader_serve(struct worker *w)
{
	if (w->parked && is_gone(w))
		worker_close(w, WIRE_BYE_NONE, "it closed the connection");
	if (!w->reading || w->parked || w->state == WORKER_DEAD)
		return;
	bool more = take_frames(w);
	if (w->state == WORKER_DEAD)
		return;
	keep_rest(w);
	if (w->state == WORKER_DEAD)
		return;
	if (more)
		worker_ask(w);
	wake_first(w->user);
}

void reader_ready(struct worker *w)
{
	w->input.more = true;
	ev_io_stop(w->fanout->loop, &w->reader);
	worker_ask(w);
}

void reader_resume(struct worker *w)
{
	if (w->reading || w->state == WORKER_DEAD || w->fanout->stopping)
		return;
	w->reading = true;
	w->input.more = true;
	worker_ask(w);
}

void reader_stop(struct worker *w)
{
	w->reading = false;
	ev_io_stop(w->fanout->loop, &w->reader);
}

void reader_free(struct worker *w)
{
	if (w->parked)
		unpark(w);
	if (w->starved)
		end_starving(w);
	drop_bytes(&w->input);
}
