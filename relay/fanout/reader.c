#include "fanout/reader.h"

#include "base/peer.h"
#include "fanout/delivery.h"
#include "fanout/fanout.h"
#include "fanout/requests.h"
#include "fanout/room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Nanoseconds, measured on a machine of 2020. READER_SLICE bounds what a slice may cost: short
 * enough that serving every user once does not take long, long enough that it reads more than
 * one system call is worth. The others are what a recv(), a byte and a frame cost. */
#define READER_SLICE 20000
#define COST_READ 1500
#define COST_SCAN 2
#define COST_FRAME 500

/* Bytes: bounds one recv(), and with it the requests that wait in the input. Some 100 requests
 * fit, so the system call costs little for each. */
#define READ_SIZE 8192
/* Bytes: bounds the input. More is read only when it contains no whole frame. */
#define INPUT_MAX (WIRE_FRAME_MAX + READ_SIZE)
_Static_assert(INPUT_MAX <= FANOUT_SCRATCH, "the largest frame and what follows it fit into the scratch");
_Static_assert(COST_READ + COST_SCAN * READ_SIZE <= READER_SLICE, "a slice has time to scan one recv()");

/* Whether the next frame may be done. If not, the worker is ended, or room.c lets it go on
 * later. */
static bool may_go_on(struct worker *w)
{
	if (room_for_answer(w))
		return true;
	/* What its socket still takes does not have to wait in the queue. */
	if (!w->blocked)
		delivery_flush(w);
	if (w->ended)
		return false;
	if (room_for_answer(w))
		return true;
	room_wait(w);
	return false;
}

/* The input's bytes */

/* Moves the bytes into a new buffer of this size that the input owns. 0 or -ENOMEM. */
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

/* Makes room for a recv() after the beginning of a frame. 0 or -ENOMEM. */
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
	/* Twice, so that a frame that comes in many parts is not copied for each. */
	uint32_t size = 2 * (len + READ_SIZE);
	return own_bytes(in, size < INPUT_MAX ? size : INPUT_MAX);
}

/* Whether bytes came. If not, the worker may be ended. */
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

/* The slice ends. The next worker uses the scratch, so what is left moves to a buffer of its
 * own. A large buffer is not kept for a few bytes. */
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

/* error: of wire_scan() or wire_request_read(). */
static void unreadable(struct worker *w, int error)
{
	switch (error) {
	case -EMSGSIZE:
		w->fanout->n_limited[LIMIT_FRAME]++;
		worker_end(w, WIRE_BYE_PROTOCOL, "a frame is larger than 65536 bytes");
		break;
	case -EBADMSG:
		worker_end(w, WIRE_BYE_PROTOCOL, "this is not a msgpack array");
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

/* Does the next frame, or a portion of it. 0, and the worker may be ended; -EAGAIN: more bytes
 * are needed. */
static int do_next(struct worker *w, int *cost)
{
	struct worker_input *in = &w->input;

	/* Without bytes there may be no buffer. */
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

/* Takes frames as long as the slice lasts. Whether there may be more to do at once. */
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
	if (w->parked && peer_is_gone(w->fd))
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
