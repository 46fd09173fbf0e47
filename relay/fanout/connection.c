#include "fanout/connection.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/peer.h"
#include "fanout/delivery.h"
#include "fanout/reader.h"
#include "fanout/room.h"
#include "wire_change.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Seconds from connecting until HELLO must have come. A worker sends it at once; ten seconds
 * leave time for one that was stopped just then. */
#define HELLO_SECONDS 10.
/* Bounds the subscriptions of a disconnected worker that one slice removes: each takes about
 * 300 ns, so 64 take as long as any other slice. */
#define FORGET_MAX 64

static struct diag_limit close_limit;

/* Ending */

/* BYE may be lost: the socket may be full, and the relay does not wait. */
static void send_bye(struct worker *w, enum wire_bye_code code, const char *reason)
{
	unsigned char buf[512];
	int len = wire_encode(&(struct wire_frame){.type = WIRE_BYE,
				      .bye = {wire_str(wire_bye_names[code]), wire_str(reason)}},
		buf, sizeof buf);

	/* Without this, BYE could land in the middle of a frame. */
	delivery_flush(w);
	if (len > 0 && !w->ended && w->private.n == 0)
		(void)!send(w->fd, buf, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void log_close(const struct worker *w, enum wire_bye_code code, const char *reason)
{
	if (code == WIRE_BYE_NONE)
		diag(DIAG_DEBUG, "a worker left: %s worker=%llu pid=%d", reason, (unsigned long long)w->id,
			(int)w->pid);
	else if (code != WIRE_BYE_SHUTDOWN)
		diag_limited(&close_limit, DIAG_WARNING,
			"disconnected a worker: %s code=%s worker=%llu pid=%d uid=%u name=\"%s\"", reason,
			wire_bye_names[code], (unsigned long long)w->id, (int)w->pid, (unsigned)w->uid,
			w->name);
}

/* Takes it out of all lists except workers.leaving. */
static void unlink_worker(struct worker *w)
{
	struct fanout *f = w->fanout;

	if (!w->wanted_whole)
		TAILQ_REMOVE(&f->scanners, w, next_scanner);
	if (w->dirty)
		TAILQ_REMOVE(&f->dirty, w, next_dirty);
	fanout_leave_round(f, w);
	room_leave(w);
	schedule_remove(&f->sending, &w->sending);
	workers_leave(&f->workers, w);
	f->asking.n_users -= --w->user->n_workers == 0;
}

void connection_close(struct worker *w, enum wire_bye_code code, const char *reason)
{
	struct fanout *f = w->fanout;

	if (w->state == WORKER_DEAD)
		return;
	log_close(w, code, reason);
	if (code != WIRE_BYE_NONE) {
		/* worker_end() may have set it, and then nothing more would be sent. */
		w->ended = false;
		send_bye(w, code, reason);
	}
	w->ended = true;
	w->state = WORKER_DEAD;
	f->n_closed[code]++;
	ev_io_stop(f->loop, &w->reader);
	ev_io_stop(f->loop, &w->writer);
	ev_timer_stop(f->loop, &w->hello_deadline);
	if (w->catch_up)
		f->requests->forget(f->requests_context, w);
	w->user->n_subscriptions -= w->subscribing.n_reserved;
	f->n_subscriptions -= w->subscribing.n_reserved;
	w->subscribing.n_reserved = 0;
	pace_forget(&f->pace, w->fd);
	close(w->fd);
	unlink_worker(w);
	worker_ask(w);
}

static void close_ended(struct worker *w)
{
	if (w->ended)
		connection_close(w, w->end_code, w->end_reason);
}

/* Frees what it holds, except its subscriptions. */
static void release(struct worker *w)
{
	delivery_free(w);
	reader_free(w);
	room_account(w);
}

static void free_worker(struct worker *w)
{
	struct fanout *f = w->fanout;

	release(w);
	schedule_remove(&f->asking, &w->asking);
	workers_bury(&f->workers, w);
	users_put(&f->users, w->user);
	checkpoint_unref(w->passed);
	free(w);
}

/* Removes its subscriptions in portions, because there may be many thousand. */
static void take_apart(struct worker *w)
{
	struct fanout *f = w->fanout;

	release(w);
	uint32_t n = router_forget(&f->router, w->slot, FORGET_MAX);
	w->user->n_subscriptions -= n;
	f->n_subscriptions -= n;
	if (n < FORGET_MAX)
		free_worker(w);
	else
		worker_ask(w);
}

void connection_close_all(struct fanout *f, enum wire_bye_code code, const char *reason)
{
	struct worker *w;

	while ((w = TAILQ_FIRST(&f->workers.all)))
		connection_close(w, code, reason);
	while ((w = TAILQ_FIRST(&f->workers.leaving)))
		free_worker(w);
}

/* Serving */

static void serve_asking(struct ready *ready)
{
	struct worker *w = (struct worker *)((char *)ready - offsetof(struct worker, asking));

	if (w->state == WORKER_DEAD) {
		take_apart(w);
		return;
	}
	reader_serve(w);
	/* After reader_serve(): its HELLO may have waited in the socket while others were
	 * served. */
	if (w->overdue && w->state == WORKER_NEW && (!w->input.more || w->parked))
		worker_end(w, WIRE_BYE_PROTOCOL, "HELLO did not come in time");
	close_ended(w);
}

static void serve_sending(struct ready *ready)
{
	struct worker *w = (struct worker *)((char *)ready - offsetof(struct worker, sending));

	if (w->in_round)
		fanout_flush_in_round(w->fanout, w);
	else
		delivery_flush(w);
	close_ended(w);
}

/* libev could not add the socket to its epoll: fs.epoll.max_user_watches is reached. */
static void unwatched(struct worker *w)
{
	connection_close(w, WIRE_BYE_LIMIT, "the kernel watches no more sockets for the relay");
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
		connection_close(w, WIRE_BYE_DENIED, "PGHERALD_ALLOW has no rule for this user");
	} else if (f->workers.n > config->workers_max) {
		f->n_limited[LIMIT_WORKERS]++;
		connection_close(
			w, WIRE_BYE_LIMIT, "the relay has as many workers as PGHERALD_WORKERS_MAX allows");
	} else if (w->user->n_workers > config->workers_per_uid_max) {
		f->n_limited[LIMIT_WORKERS_PER_UID]++;
		connection_close(w, WIRE_BYE_LIMIT,
			"this user has as many workers as PGHERALD_WORKERS_PER_UID_MAX allows");
	}
}

void connection_review(struct fanout *f, uint64_t gone)
{
	for (struct worker *w = TAILQ_FIRST(&f->workers.all), *next; w; w = next) {
		uint64_t heard = (w->all_mask & ~(UINT64_C(1) << TOPIC_ALL)) | w->edge_topics;
		struct ucred peer = peer_of(w->fd);
		next = TAILQ_NEXT(w, next);
		w->rights = access_of_peer(&f->config->access, w->fd, peer.uid, peer.gid);
		if (heard & gone)
			connection_close(w, WIRE_BYE_EVICTED,
				"a channel that this worker hears was removed from PGHERALD_CHANNELS");
		else if (!w->rights.listen && !w->rights.publish)
			connection_close(w, WIRE_BYE_DENIED, "PGHERALD_ALLOW has no rule for this user");
		else if (heard & ~w->rights.listen)
			connection_close(w, WIRE_BYE_DENIED,
				"PGHERALD_ALLOW no longer lets this worker listen to a channel that it hears");
	}
}

/* 0 or -ENOMEM. */
static int add(struct fanout *f, struct worker *w, uid_t uid)
{
	w->user = users_get(&f->users, uid);
	if (!w->user)
		return -ENOMEM;
	if (workers_add(&f->workers, w) < 0) {
		users_put(&f->users, w->user);
		return -ENOMEM;
	}
	f->asking.n_users += w->user->n_workers++ == 0;
	f->n_accepted++;
	TAILQ_INSERT_HEAD(&f->scanners, w, next_scanner);
	return 0;
}

struct worker *connection_open(struct fanout *f, int fd)
{
	struct worker *w = calloc(1, sizeof *w);
	struct ucred peer = peer_of(fd);

	if (!w || add(f, w, peer.uid) < 0) {
		diag_limited(&close_limit, DIAG_WARNING, "refused a worker: out of memory");
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
	timer_arm(f->loop, &w->hello_deadline, HELLO_SECONDS);
	admit(w);
	return w->state == WORKER_DEAD ? NULL : w;
}

/* Answers of the publisher and of catch_up.c */

void connection_published(struct fanout *f, struct worker_ref ref, uint64_t request,
	enum wire_error_code code, const char *text)
{
	struct worker *w = workers_find(&f->workers, ref);

	if (!w)
		return;
	w->n_publishing--;
	if (code != WIRE_ERROR_NONE)
		delivery_error(w, true, request, code, text);
	else
		delivery_ok(w, request);
}

bool connection_wants_all(const struct worker *w, uint64_t topics)
{
	return (topics & ~w->all_mask) == 0;
}

static bool subscribed(const struct worker *w, unsigned topic, uint64_t key, struct wire_str frame)
{
	const struct router *router = &w->fanout->router;
	struct wire_change change;

	if (w->all_mask >> topic & 1)
		return true;
	if (w->n_edges == 0)
		return false;
	/* Of a message there is no key. */
	if (!key && wire_change_read(frame.ptr, frame.len, &change) == frame.len)
		key = router_key(router, topic, change.pubkey);
	return key && router_has(router, key, w->slot);
}

bool connection_recovered(struct worker *w, unsigned topic, uint64_t key, struct wire_str frame)
{
	if (!subscribed(w, topic, key, frame))
		return false;
	delivery_queue_bytes(w, frame);
	return true;
}

void connection_caught_up(
	struct worker *w, uint64_t seq, const char *token, enum wire_gap_cause cause, const char *text)
{
	/* One frame must bring the worker's cursor to seq: the OK to BEGIN does on a resume,
	 * otherwise this one. */
	uint64_t frame_seq = w->begun ? WIRE_SEQ_NIL : seq;
	const struct fanout *f = w->fanout;
	uint64_t knows = w->begun ? w->welcome_seq : w->cursor; /* the upstream's state as of this */
	bool skips_upstream = f->upstream_seq > knows && f->upstream_seq <= seq;

	w->cursor = seq;
	if (cause != WIRE_GAP_NONE) {
		struct checkpoint *latest = checkpoint_history_latest(&w->fanout->checkpoints);
		delivery_queue(
			w, &(struct wire_frame){.type = WIRE_GAP,
				   .gap = {frame_seq, wire_str(wire_gap_names[cause]), wire_str(text)}});
		/* After a GAP the application reads everything, so the worker continues from
		 * the latest checkpoint, as a new worker does. */
		if (!token && latest)
			token = latest->token;
	}
	/* Otherwise it would believe the state of before for as long as that does not change. */
	if (skips_upstream)
		delivery_queue(
			w, &(struct wire_frame){.type = WIRE_UPSTREAM,
				   .upstream = {WIRE_SEQ_NIL, wire_str(f->upstream_live ? "live" : "down"),
					   wire_str("it changed while this worker fell behind")}});
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
	/* delivery_queue() ends the worker when out of memory. */
	if (w->ended)
		return;
	w->state = WORKER_LIVE;
	delivery_mark(w);
}
