#include "worker.h"

#include "clock.h"
#include "diag.h"
#include "fanout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct diag_limit close_limit, pause_limit;

const char *worker_state_name(enum worker_state state)
{
	static const char *const names[] = {
		[WORKER_NEW] = "new",
		[WORKER_RESUMING] = "resuming",
		[WORKER_CATCHING_UP] = "catching-up",
		[WORKER_LIVE] = "live",
		[WORKER_DEAD] = "dead",
	};

	return names[state];
}

static const char *const error_codes[WORKER_ERRORS] = {
	"channel", "invalid", "too-long", "limit", "busy", "timeout", "rejected", "unknown-type", "denied"};
static const char *const close_codes[WORKER_CLOSES] = {
	"left", "shutdown", "evicted", "protocol", "denied", "limit"};

const char *worker_error_code(unsigned i)
{
	return error_codes[i];
}

const char *worker_close_code(unsigned i)
{
	return close_codes[i];
}

const char *worker_limit_name(enum worker_limit limit)
{
	static const char *const names[LIMITS_N] = {
		[LIMIT_WORKERS] = "workers",
		[LIMIT_WORKERS_PER_UID] = "workers_per_uid",
		[LIMIT_SUBSCRIPTIONS] = "subscriptions",
		[LIMIT_WORKER_QUEUE] = "worker_queue",
		[LIMIT_WORKER_PUBLISHES] = "worker_publishes",
		[LIMIT_FRAME] = "frame",
	};

	return names[limit];
}

static unsigned index_of(const char *const *codes, const char *code)
{
	unsigned i = 0;

	while (strcmp(codes[i], code) != 0)
		i++;
	return i;
}

void worker_error(struct worker *w, bool has_id, uint64_t id, const char *code, const char *text)
{
	w->fanout->n_errors[index_of(error_codes, code)]++;
	delivery_queue(w, &(struct wire_frame){
				  .type = WIRE_ERROR, .error = {has_id, id, wire_str(code), wire_str(text)}});
}

static void protocol_error(struct worker *w, const char *what)
{
	worker_close(w, "protocol", what);
}

/* Ending */

/* The socket may be full; BYE is a courtesy, not a promise. */
static void send_bye(struct worker *w, const char *code, const char *reason)
{
	unsigned char buf[512];
	int len =
		wire_encode(&(struct wire_frame){.type = WIRE_BYE, .bye = {wire_str(code), wire_str(reason)}},
			buf, sizeof buf);

	/* Whoever is in the middle of a frame could not read it. */
	delivery_flush(w);
	if (len > 0 && w->state != WORKER_DEAD && w->private.n == 0)
		(void)!send(w->fd, buf, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void worker_close(struct worker *w, const char *code, const char *reason)
{
	struct fanout *f = w->fanout;

	if (w->state == WORKER_DEAD)
		return;
	if (code && strcmp(code, "shutdown") != 0)
		diag_limited(&close_limit, DIAG_WARNING,
			"a worker was sent away: %s code=%s worker=%llu pid=%d uid=%u name=\"%s\"", reason,
			code, (unsigned long long)w->id, (int)w->pid, (unsigned)w->uid, w->name);
	else if (!code)
		diag(DIAG_DEBUG, "a worker left: %s worker=%llu pid=%d", reason, (unsigned long long)w->id,
			(int)w->pid);
	if (code) {
		send_bye(w, code, reason);
		if (w->state == WORKER_DEAD)
			return;
	}
	w->state = WORKER_DEAD;
	f->n_closed[index_of(close_codes, code ? code : "left")]++;
	ev_io_stop(f->loop, &w->reader);
	ev_io_stop(f->loop, &w->writer);
	ev_timer_stop(f->loop, &w->hello_deadline);
	if (w->catch_up)
		f->requests.forget(f->requests.context, w);
	router_forget(&f->router, w->slot, UINT32_MAX);
	pace_forget(&f->pace, w->fd);
	close(w->fd);
	fanout_remove(f, w);
}

void worker_free(struct worker *w)
{
	delivery_free(w);
	checkpoint_unref(w->passed);
	free(w->partial);
	free(w);
}

/* Reading */

/* error: wire_next()'s */
static void unreadable(struct worker *w, int error)
{
	switch (error) {
	case -EMSGSIZE:
		w->fanout->n_limited[LIMIT_FRAME]++;
		protocol_error(w, "a frame is larger than 65536 bytes");
		break;
	case -EBADMSG:
		protocol_error(w, "this is no msgpack array");
		break;
	case -ENOMEM:
		worker_close(w, NULL, "out of memory");
		break;
	default:
		protocol_error(w, "a frame's elements are not what its type says");
	}
}

/* Takes whole frames from bytes; returns how many bytes they were. */
static size_t take_frames(struct worker *w, const unsigned char *bytes, size_t len)
{
	size_t taken = 0;

	while (taken < len) {
		struct wire_frame frame;
		size_t frame_len;
		int r = wire_next(
			&w->scanner, w->fanout->decoder, bytes + taken, len - taken, &frame, &frame_len);
		if (r == -EAGAIN)
			break;
		if (r == 0)
			worker_request(w, &frame);
		else if (r == -ENOTSUP && w->state != WORKER_NEW)
			worker_error(w, false, 0, "unknown-type",
				"a frame of a type that this relay does not know");
		else
			unreadable(w, r);
		if (w->state == WORKER_DEAD)
			break;
		taken += frame_len;
	}
	return taken;
}

/* Bytes of answers and recovered frames. */
static size_t queued(const struct worker *w)
{
	return w->private.end - w->private.start;
}

static void keep_partial(struct worker *w, const unsigned char *bytes, size_t len)
{
	free(w->partial);
	w->partial = NULL;
	w->partial_len = 0;
	if (len == 0)
		return;
	w->partial = malloc(len);
	if (!w->partial) {
		worker_close(w, NULL, "out of memory");
		return;
	}
	memcpy(w->partial, bytes, len);
	w->partial_len = (uint32_t)len;
}

/* libev has given its socket up: the kernel has no room for it in the epoll. */
static void unwatched(struct worker *w)
{
	worker_close(w, "limit", "the kernel watches no more sockets for the relay");
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct worker *w = watcher->data;
	unsigned char *scratch = w->fanout->scratch;

	(void)loop;
	if (events & EV_ERROR) {
		unwatched(w);
		return;
	}
	/* wire_scan() lets no frame grow beyond WIRE_FRAME_MAX, so there is always room behind the partial
	 * one. */
	if (w->partial_len > 0)
		memcpy(scratch, w->partial, w->partial_len);
	ssize_t n = recv(w->fd, scratch + w->partial_len, FANOUT_SCRATCH - w->partial_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		worker_close(w, NULL, n == 0 ? "it closed the connection" : strerror(errno));
		return;
	}
	size_t len = w->partial_len + (size_t)n;
	size_t taken = take_frames(w, scratch, len);
	if (w->state == WORKER_DEAD)
		return;
	keep_partial(w, scratch + taken, len - taken);
	if (queued(w) <= w->fanout->config->worker_queue_size)
		return;
	/* What its socket takes does not count. */
	delivery_flush(w);
	if (w->state == WORKER_DEAD || queued(w) <= w->fanout->config->worker_queue_size)
		return;
	w->fanout->n_limited[LIMIT_WORKER_QUEUE]++;
	diag_limited(&pause_limit, DIAG_NOTICE,
		"a worker does not read its answers, so its requests wait worker=%llu pid=%d name=\"%s\"",
		(unsigned long long)w->id, (int)w->pid, w->name);
	worker_stop_reading(w);
}

void worker_resume_reading(struct worker *w)
{
	if (w->reading || w->state == WORKER_DEAD || w->fanout->stopping)
		return;
	w->reading = true;
	ev_io_start(w->fanout->loop, &w->reader);
}

void worker_stop_reading(struct worker *w)
{
	w->reading = false;
	ev_io_stop(w->fanout->loop, &w->reader);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	if (events & EV_ERROR)
		unwatched(watcher->data);
	else
		delivery_flush(watcher->data);
}

static void on_hello_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	protocol_error(timer->data, "HELLO did not come in time");
}

/* It counts itself. */
static unsigned workers_of(const struct fanout *f, uid_t uid)
{
	unsigned n = 0;

	for (const struct worker *w = f->workers; w; w = w->next)
		n += w->uid == uid;
	return n;
}

static void admit(struct worker *w)
{
	struct fanout *f = w->fanout;
	const struct config *config = f->config;

	if (!w->rights.listen && !w->rights.publish) {
		worker_close(w, "denied", "PGHERALD_ALLOW has no rule for this user");
	} else if (f->n_workers > config->workers_max) {
		f->n_limited[LIMIT_WORKERS]++;
		worker_close(w, "limit", "the relay has as many workers as PGHERALD_WORKERS_MAX allows");
	} else if (f->n_workers > config->workers_per_uid_max &&
		   workers_of(f, w->uid) > config->workers_per_uid_max) {
		f->n_limited[LIMIT_WORKERS_PER_UID]++;
		worker_close(
			w, "limit", "this user has as many workers as PGHERALD_WORKERS_PER_UID_MAX allows");
	}
}

struct worker *worker_open(struct fanout *f, int fd)
{
	struct worker *w = calloc(1, sizeof *w);
	struct ucred peer = {.uid = (uid_t)-1, .gid = (gid_t)-1};
	socklen_t len = sizeof peer;

	if (!w || fanout_add(f, w) < 0) {
		diag_limited(&close_limit, DIAG_WARNING, "a worker is turned away: memory is short");
		free(w);
		close(fd);
		return NULL;
	}
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	w->fanout = f;
	w->fd = fd;
	w->pid = peer.pid;
	w->uid = peer.uid;
	w->rights = access_of_peer(&f->config->access, fd, peer.uid, peer.gid);
	w->since = clock_now();
	w->all_mask = 1u << TOPIC_ALL;
	ev_io_init(&w->reader, on_readable, fd, EV_READ);
	ev_io_init(&w->writer, on_writable, fd, EV_WRITE);
	timer_init(&w->hello_deadline, on_hello_deadline, w);
	w->reader.data = w->writer.data = w;
	w->reading = true;
	ev_io_start(f->loop, &w->reader);
	timer_arm(f->loop, &w->hello_deadline, WORKER_HELLO_SECONDS);
	admit(w);
	return w->state == WORKER_DEAD ? NULL : w;
}

void worker_note_checkpoint(struct worker *w)
{
	struct checkpoint *at =
		w->state == WORKER_LIVE ? checkpoint_history_at(&w->fanout->checkpoints, w->cursor) : NULL;

	if (at && (!w->passed || w->passed->seq < at->seq)) {
		checkpoint_unref(w->passed);
		w->passed = checkpoint_ref(at);
	}
}

/* Answers from elsewhere */

void worker_published(
	struct fanout *f, struct worker_ref ref, uint64_t request, const char *code, const char *text)
{
	struct worker *w = fanout_worker(f, ref);

	if (!w)
		return;
	w->n_publishing--;
	if (code)
		worker_error(w, true, request, code, text);
	else
		delivery_ok(w, request);
}

static bool subscribed(const struct worker *w, struct decoded *d)
{
	return (w->all_mask >> d->topic & 1) ||
	       (w->n_edges > 0 && d->change.pubkey.ptr &&
		       router_has(&w->fanout->router, fanout_key(w->fanout, d), w->slot));
}

bool worker_recovered(struct worker *w, struct decoded *d)
{
	struct wire_frame frame;

	if (subscribed(w, d)) {
		fanout_frame(d, WIRE_SEQ_NIL, WIRE_RECOVERED, &frame);
		delivery_queue(w, &frame);
	}
	return worker_takes_more(w);
}

bool worker_takes_more(const struct worker *w)
{
	return queued(w) <= w->fanout->config->worker_queue_size / 2;
}

void worker_caught_up(struct worker *w, uint64_t seq, const char *token, const char *cause, const char *text)
{
	/* On a resume, the OK to BEGIN carries the seq; else this frame does, to bring the worker's cursor to
	 * it. */
	uint64_t frame_seq = w->begun ? WIRE_SEQ_NIL : seq;

	w->cursor = seq;
	if (cause) {
		struct checkpoint *latest = checkpoint_history_latest(&w->fanout->checkpoints);
		delivery_queue(w, &(struct wire_frame){.type = WIRE_GAP,
					  .gap = {frame_seq, wire_str(cause), wire_str(text)}});
		/* Whoever was told of a gap reads all there is, so it starts from now as a new worker does.
		 */
		if (!token && latest)
			token = latest->token;
	}
	if (w->begun)
		delivery_ok(w, w->begin_id);
	w->begun = false;
	if (token) {
		struct checkpoint *passed = checkpoint_new(wire_str(token), seq);
		if (passed) {
			checkpoint_unref(w->passed);
			w->passed = passed;
			delivery_queue(w, &(struct wire_frame){.type = WIRE_CHECKPOINT,
						  .checkpoint = {seq, {passed->token, passed->len}}});
		}
	}
	/* There may have been no memory for one of these. */
	if (w->state == WORKER_DEAD)
		return;
	w->state = WORKER_LIVE;
	fanout_mark(w->fanout, w);
}
