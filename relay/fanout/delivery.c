#include "fanout/delivery.h"

#include "base/clock.h"
#include "base/diag.h"
#include "fanout/fanout.h"
#include "fanout/room.h"
#include "wire_change.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* gather() lists what comes next as spans of bytes, straight from the ring. After sendmsg(),
 * account() moves the cursor and the queue by what the socket took. If it took half a frame of
 * the backlog, the other half is copied to the front of the queue: the ring may drop the frame,
 * the stream must not. */

/* Bounds the spans of one sendmsg(): 64 iovecs and their bookkeeping are 2.5 KiB on the stack,
 * and the system call costs little for each. */
#define SPANS_MAX 64
_Static_assert(SPANS_MAX <= IOV_MAX, "the kernel takes all spans of a sendmsg()");
/* Bound one slice, so that a worker that lags far behind does not delay others: frames that one
 * scan looks at, and calls of sendmsg(). A worker that keeps up needs one of them. */
#define SCAN_MAX 1024
#define SENDS_MAX 4
/* Bytes. Nearly all answers are smaller. */
#define SMALL_FRAME 512

static struct diag_limit overrun_limit;

/* Consecutive bytes to send: of the private queue (from is 0), or the frames from..to of the
 * backlog. */
struct span {
	uint64_t from, to;
	size_t len;
};

struct gathered {
	/* Points into the ring and the queue, until either changes. */
	struct iovec iov[SPANS_MAX];
	struct span spans[SPANS_MAX];
	int n;
	uint64_t reached; /* the cursor, once all of it is sent */
	bool whole;       /* nothing more is owed after it */
};

void delivery_mark(struct worker *w)
{
	struct fanout *f = w->fanout;

	if (fanout_is_shared(f)) {
		if (!w->blocked)
			worker_send(w);
		return;
	}
	if (w->dirty)
		return;
	w->dirty = true;
	TAILQ_INSERT_HEAD(&f->dirty, w, next_dirty);
}

void delivery_queue_bytes(struct worker *w, struct wire_str frames)
{
	uint64_t after = w->state == WORKER_LIVE ? w->fanout->backlog.head : 0;

	if (w->ended)
		return;
	if (private_queue_append(&w->private, after, frames.ptr, frames.len) < 0) {
		worker_end(w, WIRE_BYE_NONE, "out of memory");
		return;
	}
	room_account(w);
	delivery_mark(w);
}

/* Not inlined: so much stack costs time, each page of it is touched. */
static __attribute__((noinline)) void queue_large(struct worker *w, const struct wire_frame *frame)
{
	char buf[WIRE_FRAME_MAX];
	int len = wire_encode(frame, buf, sizeof buf);

	assert(len > 0);
	delivery_queue_bytes(w, (struct wire_str){buf, (uint32_t)len});
}

void delivery_queue(struct worker *w, const struct wire_frame *frame)
{
	char buf[SMALL_FRAME];
	int len = wire_encode(frame, buf, sizeof buf);

	if (len < 0)
		queue_large(w, frame);
	else
		delivery_queue_bytes(w, (struct wire_str){buf, (uint32_t)len});
}

void delivery_error(struct worker *w, bool has_id, uint64_t id, enum wire_error_code code, const char *text)
{
	w->fanout->n_errors[code]++;
	delivery_queue(w, &(struct wire_frame){.type = WIRE_ERROR,
				  .error = {has_id, id, wire_str(wire_error_names[code]), wire_str(text)}});
}

void delivery_ok(struct worker *w, uint64_t request)
{
	const struct backlog *backlog = &w->fanout->backlog;
	uint64_t seq = w->state == WORKER_CATCHING_UP ? w->cursor : backlog->head;

	/* It is not known yet after which frame the worker will go live: that of its cursor, or the last
	 * before its question, which may have been asked for others already. No OK may be beyond. */
	if (w->state == WORKER_RESUMING)
		seq = w->resume_in_epoch && w->resume_seq <= seq ? w->resume_seq : backlog->first - 1;
	delivery_queue(w, &(struct wire_frame){.type = WIRE_OK, .ok = {request, seq}});
}

/* What is owed of the backlog */

/* The cursor as it should be. If wanted_whole, nothing before the list's first frame is owed,
 * so the cursor of an idle worker follows the head. */
static uint64_t cursor_of(const struct worker *w)
{
	uint64_t next = w->wanted_whole ? wanted_first(&w->wanted, w->fanout->backlog.head + 1) : 0;

	return w->cursor + 1 < next ? next - 1 : w->cursor;
}

static void advance(struct worker *w)
{
	if (w->wanted_whole)
		w->cursor = cursor_of(w);
}

void delivery_scan(struct worker *w)
{
	advance(w);
	wanted_clear(&w->wanted);
	if (w->wanted_whole) {
		w->wanted_whole = false;
		TAILQ_INSERT_HEAD(&w->fanout->scanners, w, next_scanner);
	}
}

/* The scan has reached the head: from here on, the router finds what the worker is owed. */
static void follow(struct worker *w)
{
	if (w->wanted_whole || w->state != WORKER_LIVE || w->all_mask != 1u << TOPIC_ALL ||
		w->cursor != w->fanout->backlog.head)
		return;
	w->wanted_whole = true;
	TAILQ_REMOVE(&w->fanout->scanners, w, next_scanner);
}

void delivery_want(struct worker *w, uint64_t seq)
{
	if (!w->wanted_whole)
		return;
	if (wanted_add(&w->wanted, seq) < 0)
		delivery_scan(w);
	else
		delivery_mark(w);
}

/* The router's key of a frame of the backlog. 0: it has no pubkey. */
static uint64_t key_of(const struct fanout *f, uint64_t seq)
{
	const struct backlog_entry *e = backlog_entry(&f->backlog, seq);
	struct wire_change change;

	if (e->key || e->topic == TOPIC_ALL || f->config->channels[e->topic - 1].kind != CHANNEL_CHANGES)
		return e->key;
	/* When it was appended, no worker subscribed by pubkey, so its key was not computed. */
	size_t len = backlog_end_of(&f->backlog, seq) - e->start;
	size_t read = wire_change_read(backlog_bytes(&f->backlog, e->start), len, &change);
	assert(read == len);
	(void)read;
	return router_key(&f->router, e->topic, change.pubkey);
}

static bool matches(const struct worker *w, uint64_t seq)
{
	const struct fanout *f = w->fanout;

	if (w->all_mask >> backlog_entry(&f->backlog, seq)->topic & 1)
		return true;
	uint64_t key = w->n_edges > 0 ? key_of(f, seq) : 0;
	return key && router_has(&f->router, key, w->slot);
}

/* Adds the frames from seq to last. False: there is no room for another span. */
static bool gather_frames(struct gathered *g, const struct backlog *b, uint64_t seq, uint64_t last)
{
	uint64_t start = backlog_entry(b, seq)->start, end = backlog_end_of(b, last);
	struct span *span = g->n > 0 ? &g->spans[g->n - 1] : NULL;

	if (span && span->from && span->to + 1 == seq) {
		span->to = last;
		span->len += end - start;
		g->iov[g->n - 1].iov_len = span->len;
		return true;
	}
	if (g->n == SPANS_MAX)
		return false;
	/* iov_base is not const, but sendmsg() only reads. */
	g->iov[g->n] = (struct iovec){(void *)(uintptr_t)backlog_bytes(b, start), end - start};
	g->spans[g->n++] = (struct span){seq, last, end - start};
	return true;
}

/* Adds what is owed of the frames after g->reached up to last. False: it had to stop before
 * last. */
static bool gather_backlog(struct worker *w, struct gathered *g, uint64_t last)
{
	const struct backlog *b = &w->fanout->backlog;
	/* Where a channel was removed, no mask has its bit: its frames are left out. */
	uint64_t all = w->fanout->config->n_channels == 63
			       ? UINT64_MAX
			       : (UINT64_C(2) << w->fanout->config->n_channels) - 1;

	if (g->reached >= last)
		return true;
	if (w->all_mask == all) {
		if (!gather_frames(g, b, g->reached + 1, last))
			return false;
		g->reached = last;
		return true;
	}
	if (w->wanted_whole) {
		for (uint32_t i = 0; i < w->wanted.n && w->wanted.seqs[w->wanted.first + i] <= last; i++) {
			uint64_t seq = w->wanted.seqs[w->wanted.first + i];
			if (seq <= g->reached)
				continue;
			if (!gather_frames(g, b, seq, seq))
				return false;
			g->reached = seq;
		}
		g->reached = last;
		return true;
	}
	for (uint64_t seq = g->reached + 1, stop = seq + SCAN_MAX; seq <= last; seq++) {
		if (seq == stop || (matches(w, seq) && !gather_frames(g, b, seq, seq)))
			return false;
		g->reached = seq;
	}
	return true;
}

static void gather(struct worker *w, struct gathered *g)
{
	const struct private_queue *q = &w->private;
	const struct backlog *b = &w->fanout->backlog;
	size_t offset = q->start;

	g->n = 0;
	g->reached = w->cursor;
	g->whole = false;
	for (uint32_t i = q->first; i < q->first + q->n; i++) {
		const struct private_stretch *s = &q->stretches[i];
		if (w->state == WORKER_LIVE && !gather_backlog(w, g, s->after))
			return;
		if (g->n == SPANS_MAX)
			return;
		g->iov[g->n] = (struct iovec){q->bytes + offset, s->len};
		g->spans[g->n++] = (struct span){.len = s->len};
		offset += s->len;
	}
	g->whole = w->state != WORKER_LIVE || gather_backlog(w, g, b->head);
}

/* The socket took only n bytes of the span. 0 or -ENOMEM. */
static int account_part(struct worker *w, const struct span *span, size_t n)
{
	const struct backlog *b = &w->fanout->backlog;
	uint64_t position = backlog_entry(b, span->from)->start + n;
	uint64_t seq = span->from, last = span->to;

	/* A binary search for the first frame that was not sent whole, which is one of
	 * seq..last. */
	while (seq < last) {
		uint64_t middle = seq + (last - seq) / 2;
		if (backlog_end_of(b, middle) <= position)
			seq = middle + 1;
		else
			last = middle;
	}
	uint64_t start = backlog_entry(b, seq)->start, end = backlog_end_of(b, seq);
	w->n_sent += seq - span->from;
	if (position == start) {
		w->cursor = seq - 1 > w->cursor ? seq - 1 : w->cursor;
		return 0;
	}
	w->n_sent++;
	w->cursor = seq;
	int r = private_queue_prepend(&w->private, backlog_bytes(b, position), end - position);
	room_account(w);
	return r;
}

static void take_from_queue(struct worker *w, size_t n)
{
	private_queue_sent(&w->private, n);
	if (w->private.n == 0)
		room_account(w);
}

/* The socket took n bytes. 0 or -ENOMEM. */
static int account(struct worker *w, const struct gathered *g, size_t n)
{
	for (int i = 0; i < g->n; i++) {
		const struct span *span = &g->spans[i];
		size_t part = n < span->len ? n : span->len;
		n -= part;
		if (!span->from)
			take_from_queue(w, part);
		else if (part < span->len)
			return account_part(w, span, part);
		else {
			w->n_sent += span->to - span->from + 1;
			w->cursor = span->to;
		}
		if (part < span->len)
			return 0;
	}
	w->cursor = g->reached;
	return 0;
}

static void block(struct worker *w)
{
	w->blocked = true;
	ev_io_start(w->fanout->loop, &w->writer);
}

static void unblock(struct worker *w)
{
	w->blocked = false;
	ev_io_stop(w->fanout->loop, &w->writer);
}

/* The slice is used up. */
static void go_on_later(struct worker *w)
{
	w->blocked = true;
	worker_send(w);
}

/* The backlog dropped frames that the worker is owed: it catches up, from the newest checkpoint
 * that it has passed. */
static void overrun(struct worker *w)
{
	w->n_overruns++;
	w->n_dropped += w->fanout->backlog.first - 1 - w->cursor;
	w->fanout->n_overruns++;
	diag_limited(&overrun_limit, DIAG_NOTICE,
		"a worker fell out of the backlog, and began to catch up worker=%llu pid=%d name=\"%s\"",
		(unsigned long long)w->id, (int)w->pid, w->name);
	delivery_scan(w);
	worker_note_checkpoint(w);
	w->state = WORKER_CATCHING_UP;
	w->fanout->requests->catch_up(w->fanout->requests_context, w);
}

static void send_what_is_owed(struct worker *w)
{
	struct fanout *f = w->fanout;
	struct gathered g;
	bool more = true;

	advance(w);
	for (int sends = 0; more; sends++) {
		if (w->ended)
			return;
		if (w->state == WORKER_LIVE && w->cursor + 1 < f->backlog.first) {
			overrun(w);
			continue;
		}
		gather(w, &g);
		if (g.n == 0) {
			w->cursor = g.reached;
			if (g.whole)
				break;
			go_on_later(w);
			return;
		}
		if (sends == SENDS_MAX) {
			go_on_later(w);
			return;
		}
		struct msghdr message = {.msg_iov = g.iov, .msg_iovlen = (size_t)g.n};
		ssize_t n = sendmsg(w->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN) {
				worker_end(w, WIRE_BYE_NONE, strerrordesc_np(errno));
				return;
			}
			n = 0;
		}
		size_t offered = 0;
		for (int i = 0; i < g.n; i++)
			offered += g.iov[i].iov_len;
		if (n > 0) {
			f->n_wakes++;
			w->progress = clock_now();
		}
		uint64_t sent = w->n_sent;
		int r = account(w, &g, (size_t)n);
		f->n_deliveries += w->n_sent - sent;
		if (r < 0) {
			worker_end(w, WIRE_BYE_NONE, "out of memory");
			return;
		}
		wanted_drop_to(&w->wanted, w->cursor);
		if ((size_t)n < offered) {
			block(w);
			return;
		}
		more = !g.whole;
	}
	wanted_drop_to(&w->wanted, w->cursor);
	if (w->blocked)
		unblock(w);
	follow(w);
	if (!w->reading)
		worker_resume_reading(w);
}

void delivery_flush(struct worker *w)
{
	const struct fanout *f = w->fanout;

	send_what_is_owed(w);
	if (w->catch_up && room_takes_more(w))
		f->requests->takes_more(f->requests_context, w);
}

uint32_t delivery_send(struct worker *w, struct wire_str frames)
{
	assert(w->state == WORKER_CATCHING_UP);
	if (w->private.n > 0 && !w->blocked)
		send_what_is_owed(w);
	if (w->ended || w->blocked || w->private.n > 0)
		return 0;
	ssize_t n = send(w->fd, frames.ptr, frames.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		worker_end(w, WIRE_BYE_NONE, strerrordesc_np(errno));
		return 0;
	}
	if (n > 0) {
		w->fanout->n_wakes++;
		w->progress = clock_now();
	}
	if (n < (ssize_t)frames.len)
		block(w);
	return n > 0 ? (uint32_t)n : 0;
}

void delivery_rest(struct worker *w, struct wire_str rest)
{
	if (private_queue_prepend(&w->private, rest.ptr, rest.len) < 0)
		worker_end(w, WIRE_BYE_NONE, "out of memory");
	room_account(w);
}

struct delivery_lag delivery_lag(const struct worker *w)
{
	const struct backlog *b = &w->fanout->backlog;
	struct delivery_lag lag = {.bytes = w->private.end - w->private.start};
	uint64_t cursor = cursor_of(w), from = cursor + 1 < b->first ? b->first : cursor + 1;

	if (w->state == WORKER_LIVE && from <= b->head) {
		lag.frames = b->head - cursor;
		lag.bytes += b->end - backlog_entry(b, from)->start;
	}
	return lag;
}

void delivery_free(struct worker *w)
{
	private_queue_free(&w->private);
	wanted_clear(&w->wanted);
}
