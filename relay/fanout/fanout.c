#include "fanout/fanout.h"

#include "base/clock.h"
#include "fanout/delivery.h"
#include "fanout/room.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Seconds without progress after which a worker counts as stalled. A healthy one reads within
 * milliseconds. */
#define STALLED_SECONDS 1.
/* Bounds the bytes that wait for a round: an eighth of the backlog. A worker that keeps up then
 * has seven eighths to lag. */
#define ROUND_SHARE 8
/* Seconds between two looks for parked workers that are gone. Each holds memory of its user
 * meanwhile. */
#define PARKED_CHECK_SECONDS 1.

static void on_parked_check(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct fanout *f = timer->data;

	(void)events;
	room_look_after_parked(f);
	if (f->n_parked == 0)
		ev_timer_stop(loop, timer);
}

/* Bytes that may still come before the round begins whatever the pace says. Without it, a round
 * that waits could push workers out of the backlog. */
static size_t round_room(const struct fanout *f)
{
	uint64_t unsent = f->backlog.end - f->flushed_end, share = f->backlog.size / ROUND_SHARE;

	return unsent < share ? share - unsent : 0;
}

static bool round_is_due(struct fanout *f)
{
	if (!fanout_round_waits(f) || f->round_left > 0)
		return false;
	return round_room(f) == 0 || pace_allows(&f->pace, f->backlog.head - f->flushed_head);
}

/* Until it is live, it is sent answers only, which wait for no round. */
static bool is_in_round(const struct worker *w)
{
	return w->state == WORKER_LIVE && !w->blocked;
}

static void flush_scanner(struct fanout *f, struct worker *w)
{
	uint64_t wakes = f->n_wakes;

	delivery_flush(w);
	if (f->n_wakes != wakes && !w->ended)
		pace_sent(&f->pace, w->fd);
}

static void flush_all_scanners(struct fanout *f)
{
	/* A flush may take its own worker from the list, and no other. */
	for (struct worker *w = TAILQ_FIRST(&f->scanners), *next; w; w = next) {
		next = TAILQ_NEXT(w, next_scanner);
		if (is_in_round(w))
			flush_scanner(f, w);
	}
}

/* The schedule serves each of them later. */
static void schedule_scanners(struct fanout *f)
{
	struct worker *w;

	TAILQ_FOREACH (w, &f->scanners, next_scanner) {
		if (!is_in_round(w))
			continue;
		w->in_round = true;
		f->round_left++;
		worker_send(w);
	}
}

static void flush_scanners(struct fanout *f)
{
	pace_begin(&f->pace);
	f->flushed_end = f->backlog.end;
	f->flushed_head = f->backlog.head;
	if (fanout_is_shared(f))
		schedule_scanners(f);
	else
		flush_all_scanners(f);
	if (f->round_left == 0)
		pace_end(&f->pace);
}

void fanout_leave_round(struct fanout *f, struct worker *w)
{
	if (!w->in_round)
		return;
	w->in_round = false;
	if (--f->round_left == 0)
		pace_end(&f->pace);
}

void fanout_flush_in_round(struct fanout *f, struct worker *w)
{
	flush_scanner(f, w);
	fanout_leave_round(f, w);
}

/* The end of the iteration: what it appended goes out now, with one flush for each worker. */
static void on_prepare(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct fanout *f = watcher->data;
	struct worker *w;

	(void)loop;
	(void)events;
	if (round_is_due(f))
		flush_scanners(f);
	while ((w = TAILQ_FIRST(&f->dirty))) {
		TAILQ_REMOVE(&f->dirty, w, next_dirty);
		w->dirty = false;
		if (!w->blocked)
			delivery_flush(w);
	}
}

int fanout_open(struct fanout *f, struct ev_loop *loop, const struct config *config,
	const struct worker_requests *requests, void *context)
{
	unsigned char random[EPOCH_LEN / 2];
	int r;

	*f = (struct fanout){
		.loop = loop, .config = config, .requests = requests, .requests_context = context};
	workers_open(&f->workers);
	TAILQ_INIT(&f->scanners);
	TAILQ_INIT(&f->dirty);
	if (getrandom(random, sizeof random, 0) != sizeof random)
		return -errno;
	for (size_t i = 0; i < sizeof random; i++)
		snprintf(f->epoch + 2 * i, 3, "%02x", random[i]);
	f->upstream_live = config->mode == MODE_LOCAL;
	f->scratch = malloc(FANOUT_SCRATCH);
	if (!f->scratch)
		return -ENOMEM;
	if ((r = backlog_open(&f->backlog, config->backlog_size)) < 0 || (r = router_open(&f->router)) < 0 ||
		(r = pace_open(&f->pace, loop)) < 0)
		return r;
	users_open(&f->users);
	/* libev serves the higher priority first: sockets' events and sending (0), then
	 * requests, and deadlines (EV_MINPRI) last. */
	schedule_open(&f->asking, loop, -1, SCHEDULE_REST_SECONDS);
	schedule_open(&f->sending, loop, 0, 0);
	ev_timer_init(&f->parked_check, on_parked_check, PARKED_CHECK_SECONDS, PARKED_CHECK_SECONDS);
	f->parked_check.data = f;
	ev_prepare_init(&f->flush, on_prepare);
	f->flush.data = f;
	ev_prepare_start(loop, &f->flush);
	return 0;
}

void fanout_close(struct fanout *f)
{
	ev_prepare_stop(f->loop, &f->flush);
	ev_timer_stop(f->loop, &f->parked_check);
	schedule_close(&f->asking);
	schedule_close(&f->sending);
	checkpoint_history_clear(&f->checkpoints);
	pace_close(&f->pace);
	router_close(&f->router);
	backlog_close(&f->backlog);
	workers_close(&f->workers);
	free(f->scratch);
}

static bool is_far_behind(const struct worker *w, double now)
{
	if (w->state != WORKER_LIVE || now - w->progress >= STALLED_SECONDS)
		return false;
	struct delivery_lag lag = delivery_lag(w);
	return lag.frames > 0 && lag.bytes > w->fanout->backlog.size / 2;
}

bool fanout_crowded(struct fanout *f)
{
	double now = clock_now();
	const struct worker *w;

	TAILQ_FOREACH (w, &f->workers.all, next)
		if (is_far_behind(w, now))
			return true;
	return false;
}

void fanout_stop_reading(struct fanout *f)
{
	struct worker *w;

	f->stopping = true;
	TAILQ_FOREACH (w, &f->workers.all, next)
		worker_stop_reading(w);
}

/* Appending */

/* Each frame that append() encodes fits, with 64 bytes for its headers and numbers. */
_Static_assert(
	CHANGE_UTF8_MAX + CHANNEL_NAME_MAX + 64 <= BACKLOG_FRAME_MAX, "the backlog takes every change");
_Static_assert(CHECKPOINT_TOKEN_MAX + 64 <= BACKLOG_FRAME_MAX, "the backlog takes every checkpoint");
_Static_assert(BACKLOG_FRAME_MAX <= WIRE_FRAME_MAX, "workers accept every frame");
_Static_assert((size_t)2 * BACKLOG_FRAME_MAX <= BACKLOG_SIZE_MIN, "the smallest backlog keeps two frames");
_Static_assert(CHANNELS_MAX < 1 << BACKLOG_TOPIC_BITS, "each topic fits into an entry of the backlog");

static uint64_t append(struct fanout *f, const struct wire_frame *frame, unsigned topic, uint64_t key)
{
	int len = wire_encode(frame, backlog_reserve(&f->backlog), BACKLOG_FRAME_MAX);

	assert(len > 0);
	if (f->tap)
		f->tap(f->tap_context, frame);
	return backlog_commit(&f->backlog, (size_t)len, topic, key);
}

void fanout_decoded(struct fanout *f, struct decoded *d, unsigned flags)
{
	struct wire_frame frame;
	uint64_t key = 0;

	decoded_frame(d, f->backlog.head + 1, flags, &frame);
	f->n_appended[d->topic]++;
	f->n_recovered += flags & WIRE_RECOVERED;
	if (d->channel->kind == CHANNEL_CHANGES && f->router.n_edges > 0)
		key = decoded_key(d, &f->router);
	uint64_t seq = append(f, &frame, d->topic, key);
	if (!key)
		return;
	for (uint32_t e = router_find(&f->router, key); e != ROUTER_END;) {
		const struct router_edge *edge = router_edge(&f->router, e);
		struct worker *w = f->workers.slots[edge->slot];
		/* A worker that has left may still have subscriptions. */
		if (w)
			delivery_want(w, seq);
		e = edge->next_of_key;
	}
}

uint64_t fanout_n_appended(const struct fanout *f)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < f->config->n_channels; i++)
		n += f->n_appended[i + 1];
	return n;
}

/* A frame for every worker. */
static void append_for_all(struct fanout *f, const struct wire_frame *frame)
{
	uint64_t seq = append(f, frame, TOPIC_ALL, 0);
	struct worker *w;

	TAILQ_FOREACH (w, &f->workers.all, next)
		delivery_want(w, seq);
}

void fanout_checkpoint(struct fanout *f, const char *token)
{
	struct checkpoint *c = checkpoint_new(wire_str(token), f->backlog.head + 1);

	/* Without memory for it there is no checkpoint now; the next one will do. */
	if (!c)
		return;
	struct worker *w;
	TAILQ_FOREACH (w, &f->workers.all, next)
		worker_note_checkpoint(w);
	checkpoint_history_add(&f->checkpoints, c);
	f->checkpoint_at = clock_now();
	append_for_all(
		f, &(struct wire_frame){.type = WIRE_CHECKPOINT, .checkpoint = {c->seq, {c->token, c->len}}});
}

void fanout_gap(struct fanout *f, enum wire_gap_cause cause, const char *text)
{
	f->n_gaps++;
	append_for_all(
		f, &(struct wire_frame){.type = WIRE_GAP,
			   .gap = {f->backlog.head + 1, wire_str(wire_gap_names[cause]), wire_str(text)}});
}

void fanout_upstream(struct fanout *f, bool live, const char *text)
{
	f->upstream_live = live;
	f->upstream_seq = f->backlog.head + 1;
	append_for_all(f,
		&(struct wire_frame){.type = WIRE_UPSTREAM,
			.upstream = {f->backlog.head + 1, wire_str(live ? "live" : "down"), wire_str(text)}});
}
