#include "fanout/fanout.h"

#include "base/clock.h"
#include "wire_change.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* A worker that took nothing for so long is stalled. */
#define STALLED_SECONDS 1.
/* Of the backlog, what may wait for a round. */
#define ROUND_SHARE 8
/* When two turns of the loop bring less than this, some ten changes, waking for them is most of the work. */
#define FEW_BYTES 1024

/* How often it is seen after those whose requests wait for others. */
#define PARKED_CHECK_SECONDS 1.

static void reap(struct fanout *f)
{
	while (f->dead) {
		struct worker *w = f->dead;
		f->dead = w->next;
		worker_free(w);
	}
}

static void on_parked_check(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	reader_look_after_parked(timer->data);
}

/* Nobody may fall out of the backlog because a round is held back: when so much more has come, it gives way.
 */
static size_t round_room(const struct fanout *f)
{
	uint64_t unsent = f->backlog.end - f->flushed_end, share = f->backlog.size / ROUND_SHARE;

	return unsent < share ? share - unsent : 0;
}

/* While a round waits, each change that comes would wake the relay, and to no end. Where many come at a time
 * that is cheap, and PostgreSQL must not be held up. Those who subscribe by pubkey wait for no round. */
static bool wakes_in_vain(const struct fanout *f)
{
	return fanout_round_waits(f) && f->backlog.end - f->turn_ends[1] < FEW_BYTES &&
	       f->router.n_edges == 0 && f->round_left == 0 && !f->stopping;
}

static void hold(struct fanout *f, bool held)
{
	if (!f->hold || f->held == held)
		return;
	f->held = held;
	f->n_holds += held;
	f->hold(f->hold_context, held, round_room(f));
}

/* What waited is read in this turn still, so that the pace knows of it, and goes out with the round that may
 * be due at its end. */
static void on_alarm(void *context)
{
	struct fanout *f = context;

	if (f->held && !pace_waits_for_readers(&f->pace))
		hold(f, false);
}

static bool round_is_due(struct fanout *f)
{
	if (!fanout_round_waits(f) || f->round_left > 0)
		return false;
	return round_room(f) == 0 || (!f->held && pace_allows(&f->pace, f->backlog.head - f->flushed_head));
}

static void flush_walker(struct fanout *f, struct worker *w)
{
	uint64_t wakes = f->n_wakes;

	delivery_flush(w);
	if (f->n_wakes != wakes && w->state != WORKER_DEAD)
		pace_sent(&f->pace, w->fd);
}

static void flush_all_walkers(struct fanout *f)
{
	for (struct worker *w = f->walkers, *next; w; w = next) {
		next = w->next_walker;
		if (!w->blocked)
			flush_walker(f, w);
		if (next && next->state == WORKER_DEAD)
			next = f->walkers;
	}
}

/* Each when its turn comes. */
static void schedule_walkers(struct fanout *f)
{
	for (struct worker *w = f->walkers; w; w = w->next_walker) {
		if (w->blocked)
			continue;
		w->in_round = true;
		f->round_left++;
		worker_send(w);
	}
}

static void flush_walkers(struct fanout *f)
{
	pace_begin(&f->pace);
	f->flushed_end = f->backlog.end;
	f->flushed_head = f->backlog.head;
	if (fanout_is_shared(f))
		schedule_walkers(f);
	else
		flush_all_walkers(f);
	if (f->round_left == 0)
		pace_end(&f->pace);
}

static void leave_round(struct fanout *f, struct worker *w)
{
	if (!w->in_round)
		return;
	w->in_round = false;
	if (--f->round_left == 0)
		pace_end(&f->pace);
}

void fanout_flush_in_round(struct fanout *f, struct worker *w)
{
	flush_walker(f, w);
	leave_round(f, w);
}

/* The end of the loop's turn: whatever it appended goes out now, to each worker at once. A flush may kill
 * workers, even other than its own, but it frees none. */
static void on_prepare(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct fanout *f = watcher->data;

	(void)loop;
	(void)events;
	if (round_is_due(f))
		flush_walkers(f);
	else if (wakes_in_vain(f))
		hold(f, true);
	f->turn_ends[1] = f->turn_ends[0];
	f->turn_ends[0] = f->backlog.end;
	while (f->dirty) {
		struct worker *w = f->dirty;
		f->dirty = w->next_dirty;
		w->dirty = false;
		if (!w->blocked && w->state != WORKER_DEAD)
			delivery_flush(w);
	}
	reap(f);
}

int fanout_open(struct fanout *f, struct ev_loop *loop, const struct config *config,
	const struct worker_requests *requests)
{
	unsigned char random[EPOCH_LEN / 2];
	int r;

	*f = (struct fanout){.loop = loop, .config = config, .requests = *requests, .next_id = 1};
	if (getrandom(random, sizeof random, 0) != sizeof random)
		return -errno;
	for (size_t i = 0; i < sizeof random; i++)
		snprintf(f->epoch + 2 * i, 3, "%02x", random[i]);
	f->upstream_live = config->mode == MODE_LOCAL;
	f->scratch = malloc(FANOUT_SCRATCH);
	if (!f->scratch)
		return -ENOMEM;
	if ((r = backlog_open(&f->backlog, config->backlog_size)) < 0 || (r = router_open(&f->router)) < 0 ||
		(r = pace_open(&f->pace, loop, on_alarm, f)) < 0)
		return r;
	users_open(&f->users);
	/* Requests after all sockets' events, before any deadline. What is there to be sent goes before. */
	schedule_open(&f->asking, loop, -1, SCHEDULE_REST_SECONDS);
	schedule_open(&f->sending, loop, 0, 0);
	ev_timer_init(&f->parked_check, on_parked_check, PARKED_CHECK_SECONDS, PARKED_CHECK_SECONDS);
	f->parked_check.data = f;
	ev_timer_start(loop, &f->parked_check);
	ev_prepare_init(&f->flush, on_prepare);
	f->flush.data = f;
	ev_prepare_start(loop, &f->flush);
	return 0;
}

void fanout_close(struct fanout *f)
{
	assert(!f->workers);
	ev_prepare_stop(f->loop, &f->flush);
	ev_timer_stop(f->loop, &f->parked_check);
	while (f->leaving)
		fanout_bury(f, f->leaving);
	reap(f);
	schedule_close(&f->asking);
	schedule_close(&f->sending);
	checkpoint_history_clear(&f->checkpoints);
	pace_close(&f->pace);
	router_close(&f->router);
	backlog_close(&f->backlog);
	free(f->slots);
	free(f->free_slots);
	free(f->scratch);
}

/* The table of workers */

static int more_slots(struct fanout *f)
{
	uint32_t max = f->slots_max ? f->slots_max * 2 : 64;
	struct worker **slots = reallocarray(f->slots, max, sizeof *slots);

	if (!slots)
		return -ENOMEM;
	f->slots = slots;
	uint32_t *free_slots = reallocarray(f->free_slots, max, sizeof *free_slots);
	if (!free_slots)
		return -ENOMEM;
	f->free_slots = free_slots;
	f->slots_max = max;
	return 0;
}

static void link_worker(struct worker **list, struct worker *w)
{
	w->prev = NULL;
	w->next = *list;
	if (w->next)
		w->next->prev = w;
	*list = w;
}

static void unlink_worker(struct worker **list, struct worker *w)
{
	if (w->next)
		w->next->prev = w->prev;
	if (w->prev)
		w->prev->next = w->next;
	else
		*list = w->next;
}

int fanout_add(struct fanout *f, struct worker *w, uid_t uid)
{
	if (f->n_free_slots == 0 && f->n_slots == f->slots_max && more_slots(f) < 0)
		return -ENOMEM;
	w->user = users_get(&f->users, uid);
	if (!w->user)
		return -ENOMEM;
	w->slot = f->n_free_slots > 0 ? f->free_slots[--f->n_free_slots] : f->n_slots++;
	f->slots[w->slot] = w;
	w->id = f->next_id++;
	link_worker(&f->workers, w);
	f->n_workers++;
	f->asking.n_users += w->user->n_workers++ == 0;
	f->n_accepted++;
	fanout_add_walker(f, w);
	return 0;
}

void fanout_remove(struct fanout *f, struct worker *w)
{
	if (!w->wanted_whole)
		fanout_remove_walker(f, w);
	leave_round(f, w);
	f->slots[w->slot] = NULL;
	unlink_worker(&f->workers, w);
	link_worker(&f->leaving, w);
	f->n_workers--;
	f->asking.n_users -= --w->user->n_workers == 0;
}

void fanout_bury(struct fanout *f, struct worker *w)
{
	f->free_slots[f->n_free_slots++] = w->slot;
	unlink_worker(&f->leaving, w);
	w->next = f->dead;
	f->dead = w;
}

struct worker *fanout_worker(struct fanout *f, struct worker_ref ref)
{
	struct worker *w = ref.slot < f->n_slots ? f->slots[ref.slot] : NULL;

	return w && w->id == ref.id ? w : NULL;
}

struct worker *fanout_worker_by_id(struct fanout *f, uint64_t id)
{
	struct worker *w = f->workers;

	while (w && w->id != id)
		w = w->next;
	return w;
}

void fanout_add_walker(struct fanout *f, struct worker *w)
{
	w->prev_walker = NULL;
	w->next_walker = f->walkers;
	if (w->next_walker)
		w->next_walker->prev_walker = w;
	f->walkers = w;
}

void fanout_remove_walker(struct fanout *f, struct worker *w)
{
	if (w->next_walker)
		w->next_walker->prev_walker = w->prev_walker;
	if (w->prev_walker)
		w->prev_walker->next_walker = w->next_walker;
	else
		f->walkers = w->next_walker;
}

void fanout_mark(struct fanout *f, struct worker *w)
{
	if (fanout_is_shared(f)) {
		if (!w->blocked)
			worker_send(w);
		return;
	}
	if (w->dirty)
		return;
	w->dirty = true;
	w->next_dirty = f->dirty;
	f->dirty = w;
}

bool fanout_crowded(struct fanout *f)
{
	double now = clock_now();
	uint64_t bytes;

	for (struct worker *w = f->workers; w; w = w->next)
		if (w->state == WORKER_LIVE && now - w->progress < STALLED_SECONDS &&
			delivery_lag(w, &bytes) > 0 && bytes > f->backlog.size / 2)
			return true;
	return false;
}

void fanout_stop_reading(struct fanout *f)
{
	f->stopping = true;
	hold(f, false);
	for (struct worker *w = f->workers; w; w = w->next)
		reader_stop(w);
}

void fanout_close_workers(struct fanout *f, enum wire_bye_code code, const char *reason)
{
	while (f->workers)
		worker_close(f->workers, code, reason);
}

/* Appending */

void fanout_frame(const struct decoded *d, uint64_t seq, unsigned flags, struct wire_frame *out)
{
	struct wire_str channel = wire_str(d->channel->name);

	if (d->channel->kind == CHANNEL_CHANGES)
		*out = (struct wire_frame){.type = WIRE_CHANGE,
			.change = {seq, channel, d->change.pubkey, d->change.client_id, flags}};
	else
		*out = (struct wire_frame){.type = WIRE_MESSAGE,
			.message = {seq, channel, d->payload, flags,
				.binary = !wire_utf8_valid(d->payload.ptr, d->payload.len)}};
}

static uint64_t append(struct fanout *f, const struct wire_frame *frame, unsigned topic, uint64_t key)
{
	int len = wire_encode(frame, backlog_reserve(&f->backlog), BACKLOG_FRAME_MAX);

	assert(len > 0);
	if (f->tap)
		f->tap(f->tap_context, frame);
	return backlog_commit(&f->backlog, (size_t)len, topic, key);
}

uint64_t fanout_key(const struct fanout *f, struct decoded *d)
{
	if (!d->key)
		d->key = router_key(&f->router, d->topic,
			d->channel->kind == CHANNEL_CHANGES ? d->change.pubkey : d->payload);
	return d->key;
}

uint64_t fanout_key_of_frame(const struct fanout *f, uint64_t seq)
{
	const struct backlog_entry *e = backlog_entry(&f->backlog, seq);
	struct wire_change change;

	if (e->key || e->topic == TOPIC_ALL || f->config->channels[e->topic - 1].kind != CHANNEL_CHANGES)
		return e->key;
	/* It came when nobody subscribed by pubkey. */
	size_t len = backlog_end_of(&f->backlog, seq) - e->start;
	size_t read = wire_change_read(backlog_bytes(&f->backlog, e->start), len, &change);
	assert(read == len);
	(void)read;
	return router_key(&f->router, e->topic, change.pubkey);
}

void fanout_decoded(struct fanout *f, struct decoded *d, unsigned flags)
{
	struct wire_frame frame;
	uint64_t key = 0;

	fanout_frame(d, f->backlog.head + 1, flags, &frame);
	f->n_appended[d->topic]++;
	f->n_recovered += flags & WIRE_RECOVERED;
	if (d->channel->kind == CHANNEL_CHANGES && f->router.n_edges > 0)
		key = fanout_key(f, d);
	uint64_t seq = append(f, &frame, d->topic, key);
	if (!key)
		return;
	for (uint32_t e = router_find(&f->router, key); e != ROUTER_END;) {
		const struct router_edge *edge = router_edge(&f->router, e);
		struct worker *w = f->slots[edge->slot];
		/* One that has left may still have subscriptions. */
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

	for (struct worker *w = f->workers; w; w = w->next)
		delivery_want(w, seq);
}

void fanout_checkpoint(struct fanout *f, const char *token)
{
	struct checkpoint *c = checkpoint_new(wire_str(token), f->backlog.head + 1);

	/* Without memory for it there is no checkpoint now; the next one will do. */
	if (!c)
		return;
	for (struct worker *w = f->workers; w; w = w->next)
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
			   .gap = {f->backlog.head + 1, wire_str(wire_gap_name(cause)), wire_str(text)}});
}

void fanout_upstream(struct fanout *f, bool live, const char *text)
{
	f->upstream_live = live;
	append_for_all(f,
		&(struct wire_frame){.type = WIRE_UPSTREAM,
			.upstream = {f->backlog.head + 1, wire_str(live ? "live" : "down"), wire_str(text)}});
}
