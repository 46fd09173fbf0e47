#include "fanout/reader.h"

#include "fanout/delivery.h"
#include "fanout/fanout.h"
#include "fanout/requests.h"
#include "fanout/room.h"

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

/* How much is read of a worker at a time, and thereby of requests that wait for their turn. Many requests fit
 * in, so a system call is little beside them. */
#define READ_SIZE 8192
/* More is read only when there is no whole frame. */
#define INPUT_MAX (WIRE_FRAME_MAX + READ_SIZE)

/* A connection that is not read does not show that it is gone, unless it is asked. */
static bool is_gone(const struct worker *w)
{
	struct pollfd p = {.fd = w->fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

/* Whether the next frame may be done; if not, something wakes it. The worker may be ended after this. */
static bool may_go_on(struct worker *w)
{
	if (room_for_answer(w))
		return true;
	/* What its socket takes does not count. */
	if (!w->blocked)
		delivery_flush(w);
	if (w->ended)
		return false;
	if (room_for_answer(w))
		return true;
	room_wait(w);
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
	if (in->size == 0 ? in->end + READ_SIZE <= FANOUT_SCRATCH : in->end + READ_SIZE <= in->size)
		return 0;
	/* A frame that comes in many parts is not to be copied for each. */
	uint32_t size = 2 * (len + READ_SIZE);
	return own_bytes(in, size < INPUT_MAX ? size : INPUT_MAX);
}

/* More of its bytes. Whether there were any; the worker may be ended if not. */
static bool receive(struct worker *w, int *cost)
{
	struct worker_input *in = &w->input;

	if (make_room(w) < 0) {
		worker_end(w, WIRE_BYE_NONE, "out of memory");
		return false;
	}
	ssize_t n = recv(w->fd, in->bytes + in->end, READ_SIZE, MSG_DONTWAIT);
	*cost -= COST_READ;
	in->more = n == READ_SIZE;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		worker_end(w, WIRE_BYE_NONE, n == 0 ? "it closed the connection" : strerrordesc_np(errno));
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
		worker_end(w, WIRE_BYE_NONE, "out of memory");
	room_account(w);
}

/* Frames */

/* error: of wire_scan() or wire_request_read() */
static void unreadable(struct worker *w, int error)
{
	switch (error) {
	case -EMSGSIZE:
		w->fanout->n_limited[LIMIT_FRAME]++;
		worker_end(w, WIRE_BYE_PROTOCOL, "a frame is larger than 65536 bytes");
		break;
	case -EBADMSG:
		worker_end(w, WIRE_BYE_PROTOCOL, "this is no msgpack array");
		break;
	default:
		worker_end(w, WIRE_BYE_PROTOCOL, "a frame's elements are not what its type says");
	}
}

static void take_frame(struct worker *w, const unsigned char *bytes, uint32_t len)
{
	struct wire_strs pubkeys;
	struct wire_frame frame;
	int r = wire_request_read(bytes, len, &frame, &pubkeys);

	if (r == 0 && pubkeys.offset > 0 && w->state != WORKER_NEW)
		requests_subscribe_begin(w, len, &pubkeys);
	else if (r == 0)
		requests_do(w, &frame);
	else if (r == -ENOTSUP && w->state != WORKER_NEW)
		delivery_error(w, false, 0, WIRE_ERROR_UNKNOWN_TYPE,
			"a frame of a type that this relay does not know");
	else
		unreadable(w, r);
}

/* Do the next frame, or a portion of it. 0; -EAGAIN: it has not come whole. The worker may be ended after
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
	if (w->ended)
		return 0;
	if (w->subscribing.step == SUBSCRIBING_NOT || requests_subscribe(w, bytes, cost))
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
			if (!w->ended)
				ev_io_start(w->fanout->loop, &w->reader);
			return false;
		}
		if (w->ended)
			return false;
	}
	return true;
}

void reader_serve(struct worker *w)
{
	if (w->parked && is_gone(w))
		worker_end(w, WIRE_BYE_NONE, "it closed the connection");
	if (!w->reading || w->parked || w->ended)
		return;
	bool more = take_frames(w);
	if (w->ended)
		return;
	keep_rest(w);
	if (w->ended)
		return;
	if (more)
		worker_ask(w);
	room_wake_one(w->user);
}

void reader_ready(struct worker *w)
{
	w->input.more = true;
	ev_io_stop(w->fanout->loop, &w->reader);
	worker_ask(w);
}

void reader_free(struct worker *w)
{
	drop_bytes(&w->input);
}
