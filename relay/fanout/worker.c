#include "fanout/worker.h"

#include "base/clock.h"
#include "base/diag.h"
#include "fanout/fanout.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct diag_limit close_limit;

/* Of a worker that is gone, as many as make a slice. */
#define FORGET_MAX 64

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

const char *worker_limit_name(enum worker_limit limit)
{
	static const char *const names[LIMITS_N] = {
		[LIMIT_WORKERS] = "workers",
		[LIMIT_WORKERS_PER_UID] = "workers_per_uid",
		[LIMIT_SUBSCRIPTIONS] = "subscriptions",
		[LIMIT_SUBSCRIPTIONS_PER_UID] = "subscriptions_per_uid",
		[LIMIT_SUBSCRIPTIONS_TOTAL] = "subscriptions_total",
		[LIMIT_WORKER_QUEUE] = "worker_queue",
		[LIMIT_WORKER_QUEUES] = "worker_queues",
		[LIMIT_WORKER_PUBLISHES] = "worker_publishes",
		[LIMIT_FRAME] = "frame",
	};

	return names[limit];
}

void worker_error(struct worker *w, bool has_id, uint64_t id, enum wire_error_code code, const char *text)
{
	w->fanout->n_errors[code]++;
	delivery_queue(w, &(struct wire_frame){.type = WIRE_ERROR,
				  .error = {has_id, id, wire_str(wire_error_name(code)), wire_str(text)}});
}

void worker_protocol_error(struct worker *w, const char *what)
{
	worker_close(w, WIRE_BYE_PROTOCOL, what);
}

/* Ending */

/* The socket may be full; BYE is a courtesy, not a promise. */
static void send_bye(struct worker *w, enum wire_bye_code code, const char *reason)
{
	unsigned char buf[512];
	int len = wire_encode(&(struct wire_frame){.type = WIRE_BYE,
				      .bye = {wire_str(wire_bye_name(code)), wire_str(reason)}},
		buf, sizeof buf);

	/* Whoever is in the middle of a frame could not read it. */
	delivery_flush(w);
	if (len > 0 && w->state != WORKER_DEAD && w->private.n == 0)
		(void)!send(w->fd, buf, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void worker_close(struct worker *w, enum wire_bye_code code, const char *reason)
{
	struct fanout *f = w->fanout;

	if (w->state == WORKER_DEAD)
		return;
	if (code != WIRE_BYE_NONE && code != WIRE_BYE_SHUTDOWN)
		diag_limited(&close_limit, DIAG_WARNING,
			"a worker was sent away: %s code=%s worker=%llu pid=%d uid=%u name=\"%s\"", reason,
			wire_bye_name(code), (unsigned long long)w->id, (int)w->pid, (unsigned)w->uid,
			w->name);
	else if (code == WIRE_BYE_NONE)
		diag(DIAG_DEBUG, "a worker left: %s worker=%llu pid=%d", reason, (unsigned long long)w->id,
			(int)w->pid);
	if (code != WIRE_BYE_NONE) {
		send_bye(w, code, reason);
		if (w->state == WORKER_DEAD)
			return;
	}
	w->state = WORKER_DEAD;
	f->n_closed[code]++;
	ev_io_stop(f->loop, &w->reader);
	ev_io_stop(f->loop, &w->writer);
	ev_timer_stop(f->loop, &w->hello_deadline);
	if (w->catch_up)
		f->requests.forget(f->requests.context, w);
	w->user->n_subscriptions -= w->subscribing.n_reserved;
	f->n_subscriptions -= w->subscribing.n_reserved;
	w->subscribing.n_reserved = 0;
	pace_forget(&f->pace, w->fd);
	close(w->fd);
	fanout_remove(f, w);
	schedule_remove(&f->sending, &w->sending);
	worker_ask(w);
}

void worker_free(struct worker *w)
{
	delivery_free(w);
	reader_free(w);
	worker_account(w);
	schedule_remove(&w->fanout->asking, &w->asking);
	users_put(&w->fanout->users, w->user);
	checkpoint_unref(w->passed);
	free(w);
}

/* Its turn */

void worker_ask(struct worker *w)
{
	schedule_add(&w->fanout->asking, &w->asking);
}

void worker_send(struct worker *w)
{
	schedule_add(&w->fanout->sending, &w->sending);
}

void worker_account(struct worker *w)
{
	const struct private_queue *q = &w->private;
	size_t now = q->size + q->max * sizeof *q->stretches + w->input.size, before = w->queued;

	w->queued = now;
	w->user->queued += now - before;
	w->fanout->queued += now - before;
	if (now < before)
		reader_wake(w->fanout);
}

/* It is gone; what it held goes in portions. */
static void take_apart(struct worker *w)
{
	struct fanout *f = w->fanout;

	delivery_free(w);
	reader_free(w);
	worker_account(w);
	uint32_t n = router_forget(&f->router, w->slot, FORGET_MAX);
	w->user->n_subscriptions -= n;
	f->n_subscriptions -= n;
	if (n < FORGET_MAX)
		fanout_bury(f, w);
	else
		worker_ask(w);
}

static void serve_asking(struct ready *ready)
{
	struct worker *w = (struct worker *)((char *)ready - offsetof(struct worker, asking));

	if (w->state == WORKER_DEAD) {
		take_apart(w);
		return;
	}
	reader_serve(w);
	/* After what it sent, which may be late only because others were served. */
	if (w->overdue && w->state == WORKER_NEW && (!w->input.more || w->parked))
		worker_protocol_error(w, "HELLO did not come in time");
}

static void serve_sending(struct ready *ready)
{
	struct worker *w = (struct worker *)((char *)ready - offsetof(struct worker, sending));

	if (w->in_round)
		fanout_flush_in_round(w->fanout, w);
	else
		delivery_flush(w);
}

/* libev has given its socket up: the kernel has no room for it in the epoll. */
static void unwatched(struct worker *w)
{
	worker_close(w, WIRE_BYE_LIMIT, "the kernel watches no more sockets for the relay");
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	if (events & EV_ERROR)
		unwatched(watcher->data);
	else
		reader_ready(watcher->data);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct worker *w = watcher->data;

	ev_io_stop(loop, watcher);
	if (events & EV_ERROR) {
		unwatched(w);
		return;
	}
	worker_send(w);
}

static void on_hello_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct worker *w = timer->data;

	(void)loop;
	(void)events;
	w->overdue = true;
	worker_ask(w);
}

static void admit(struct worker *w)
{
	struct fanout *f = w->fanout;
	const struct config *config = f->config;

	if (!w->rights.listen && !w->rights.publish) {
		worker_close(w, WIRE_BYE_DENIED, "PGHERALD_ALLOW has no rule for this user");
	} else if (f->n_workers > config->workers_max) {
		f->n_limited[LIMIT_WORKERS]++;
		worker_close(
			w, WIRE_BYE_LIMIT, "the relay has as many workers as PGHERALD_WORKERS_MAX allows");
	} else if (w->user->n_workers > config->workers_per_uid_max) {
		f->n_limited[LIMIT_WORKERS_PER_UID]++;
		worker_close(w, WIRE_BYE_LIMIT,
			"this user has as many workers as PGHERALD_WORKERS_PER_UID_MAX allows");
	}
}

struct worker *worker_open(struct fanout *f, int fd)
{
	struct worker *w = calloc(1, sizeof *w);
	struct ucred peer = {.uid = (uid_t)-1, .gid = (gid_t)-1};
	socklen_t len = sizeof peer;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	if (!w || fanout_add(f, w, peer.uid) < 0) {
		diag_limited(&close_limit, DIAG_WARNING, "a worker is turned away: memory is short");
		free(w);
		close(fd);
		return NULL;
	}
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
	ready_init(&w->asking, &w->user->asking, serve_asking);
	ready_init(&w->sending, &w->user->sending, serve_sending);
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

void worker_published(struct fanout *f, struct worker_ref ref, uint64_t request, enum wire_error_code code,
	const char *text)
{
	struct worker *w = fanout_worker(f, ref);

	if (!w)
		return;
	w->n_publishing--;
	if (code != WIRE_ERROR_NONE)
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

void worker_recovered(struct worker *w, struct decoded *d)
{
	struct wire_frame frame;

	if (subscribed(w, d)) {
		fanout_frame(d, WIRE_SEQ_NIL, WIRE_RECOVERED, &frame);
		delivery_queue(w, &frame);
	}
}

void worker_caught_up(
	struct worker *w, uint64_t seq, const char *token, enum wire_gap_cause cause, const char *text)
{
	/* On a resume, the OK to BEGIN carries the seq; else this frame does, to bring the worker's cursor to
	 * it. */
	uint64_t frame_seq = w->begun ? WIRE_SEQ_NIL : seq;

	w->cursor = seq;
	if (cause != WIRE_GAP_NONE) {
		struct checkpoint *latest = checkpoint_history_latest(&w->fanout->checkpoints);
		delivery_queue(
			w, &(struct wire_frame){.type = WIRE_GAP,
				   .gap = {frame_seq, wire_str(wire_gap_name(cause)), wire_str(text)}});
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
