#include "recovery/catch_up.h"

#include "fanout/connection.h"
#include "fanout/delivery.h"
#include "fanout/room.h"

#include "base/diag.h"
#include "recovery/question.h"
#include "recovery/shortage.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

/* How long to wait for more workers that ask from the same checkpoint: after a restart of the
 * relay all come at about the same time. */
#define GATHER_SECONDS 0.005
/* What a slice of the schedule may cost: as much as any other slice. A row that the waiter does not
 * want costs 1. A worker that subscribes by pubkey wants few, and must not need a slice for a hundred
 * rows: where many users wait for theirs, each takes milliseconds. */
#define SLICE_COST 512
#define ROW_COST 4
/* Bytes: sending this many of a run takes as long as queueing a row, and costs as much. A send of 32 KiB
 * takes 6 us. */
#define RUN_BYTES_A_ROW 1024
/* Bytes of rows by pubkey that are queued before they are sent: bounds what a worker whose socket
 * is full holds. */
#define QUEUED_MAX 4096
/* Bytes of rows, with what the spool adds, that make it worth waking the waiters, and how many seconds
 * fewer wait at most. A wake costs more than the bytes, and the workers would take the processor from
 * PostgreSQL. */
#define WORTH_A_WAKE SPOOL_WHOLE
#define FEW_ROWS_WAIT 0.01
/* How long a question without waiters is kept: after a restart of the relay others come that ask the
 * same. */
#define IDLE_SECONDS 0.1
/* How long a lane rests after all workers of its question left, and its connection was closed.
 * Workers that come and go all the time must not make PostgreSQL start a process each time. */
#define REST_SECONDS 0.1

static void assign(struct catch_up *c);

static void watch_shortage(struct catch_up *c)
{
	if (!ev_is_active(&c->shortage))
		timer_arm(c->loop, &c->shortage, SHORTAGE_LOOK_SECONDS);
}

static void leave_lane(struct catch_up_question *q)
{
	q->lane->question = NULL;
	q->user->lane = NULL;
	q->lane = NULL;
}

/* Stops asking if no waiter is left, and frees the question, at once or a little later. */
static void drop_idle_question(struct catch_up *c, struct catch_up_question *q)
{
	struct catch_up_lane *lane = q->lane;

	if (!TAILQ_EMPTY(&q->waiters))
		return;
	if (lane) {
		changes_abort(&lane->changes);
		timer_arm(c->loop, &lane->rest, REST_SECONDS);
		leave_lane(q);
	}
	if (!q->complete || q->spool.is_partial)
		question_free(c, q);
	else if (!ev_is_active(&c->idle))
		timer_arm(c->loop, &c->idle, IDLE_SECONDS);
}

static void on_idle(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	question_free_idle(timer->data);
}

/* The waiter has all rows. */
static void finish(struct catch_up *c, struct catch_up_waiter *m)
{
	struct catch_up_question *q = m->question;
	struct worker *w = m->worker;

	question_remove(c, m);
	connection_caught_up(w, q->head, question_passed(q, w, false), WIRE_GAP_NONE, NULL);
	drop_idle_question(c, q);
	/* Now, so that the last rows and this wake it once. */
	delivery_flush(w);
}

/* Gaps */

static void tell_gap(struct catch_up *c, struct worker *w, uint64_t seq, const char *token,
	enum wire_gap_cause cause, const char *text)
{
	c->n_gaps++;
	diag_limited(&c->limit, DIAG_WARNING, "a worker is told of a gap: %s cause=%s worker=%llu pid=%d",
		text, wire_gap_names[cause], (unsigned long long)w->id, (int)w->pid);
	connection_caught_up(w, seq, token, cause, text);
}

/* Tells the worker of a gap. It goes live from where the question was asked, or from now if the
 * backlog no longer has that. */
static void give_up(
	struct catch_up *c, struct catch_up_waiter *m, enum wire_gap_cause cause, const char *text)
{
	struct catch_up_question *q = m->question;
	const struct backlog *backlog = &c->fanout->backlog;
	bool kept = q->asked && q->head + 1 >= backlog->first;
	struct worker *w = m->worker;

	question_remove(c, m);
	tell_gap(c, w, kept ? q->head : backlog->head, question_passed(q, w, true), cause, text);
	drop_idle_question(c, q);
}

/* Why the worker catches up: it resumed from another epoch, or overran the backlog. */
static enum wire_gap_cause own_cause(const struct worker *w)
{
	return w->begun ? WIRE_GAP_RESTART : WIRE_GAP_OVERRUN;
}

static void give_up_all(
	struct catch_up *c, struct catch_up_question *q, enum changes_outcome outcome, const char *text)
{
	for (unsigned n = q->n_waiters; n > 0; n--) {
		struct catch_up_waiter *m = TAILQ_FIRST(&q->waiters);
		give_up(c, m, outcome == CHANGES_WRONG ? WIRE_GAP_RECOVERY : own_cause(m->worker), text);
	}
}

static void evict_overdue(struct catch_up *c, struct catch_up_question *q)
{
	struct catch_up_waiter *m = TAILQ_FIRST(&q->waiters), *next;

	/* The last waiter takes the question with it; then next is NULL. */
	for (; m; m = next) {
		next = TAILQ_NEXT(m, sibling);
		if (!m->overdue)
			continue;
		c->n_evicted++;
		give_up(c, m, WIRE_GAP_OVERRUN,
			"it took what it missed too slowly, and there is no room for more "
			"(PGHERALD_RECOVERY_SIZE)");
	}
}

/* Feeding */

/* Sends frames without a copy. Returns what it cost. */
static int pass_run(struct catch_up_waiter *m, struct wire_str run)
{
	struct worker *w = m->worker;
	uint32_t sent = delivery_send(w, run);
	struct wire_str rest = spool_pass(&m->reader, sent);

	if (rest.len > 0)
		delivery_rest(w, rest);
	return ROW_COST * (1 + (int)(sent / RUN_BYTES_A_ROW));
}

/* Gives the waiter the next row that it subscribes to. Returns what it cost, up to most. */
static int pass_row(struct catch_up_question *q, struct catch_up_waiter *m, int most)
{
	struct worker *w = m->worker;
	struct spool_row row;
	int cost = 0;

	while (cost < most && spool_next(&q->spool, &m->reader, &row)) {
		cost++;
		if (!connection_recovered(w, row.topic, row.key, row.frame))
			continue;
		if (private_queue_waiting(&w->private) > QUEUED_MAX)
			delivery_flush(w);
		return cost + ROW_COST;
	}
	return cost;
}

/* The waiter has rows to take, and room in its socket. */
static void set_ready(struct catch_up_waiter *m)
{
	question_place(m, NULL);
	schedule_add(&m->worker->fanout->asking, &m->feeding);
}

/* A slice of the schedule: gives the waiter rows. */
static void feed(struct ready *ready)
{
	struct catch_up_waiter *m =
		(struct catch_up_waiter *)((char *)ready - offsetof(struct catch_up_waiter, feeding));
	struct catch_up *c = m->catch_up;
	struct catch_up_question *q = m->question;
	struct worker *w = m->worker;
	uint64_t topics;
	bool more = true;

	for (int cost = 0; cost < SLICE_COST;) {
		more = room_takes_more(w);
		if (!more)
			break;
		struct wire_str run = spool_run(&q->spool, &m->reader, &topics);
		if (run.len == 0) {
			if (!q->lane) {
				finish(c, m);
				return;
			}
			question_place(m, &q->hungry);
			more = false;
			break;
		}
		cost += connection_wants_all(w, topics) ? pass_run(m, run)
							: pass_row(q, m, SLICE_COST - cost);
	}
	question_account(c, q);
	/* The others are next. */
	if (more)
		set_ready(m);
}

static void feed_hungry(struct catch_up_question *q)
{
	struct catch_up_waiter *m;

	q->fed = q->spool.n_bytes;
	while ((m = TAILQ_FIRST(&q->hungry)))
		set_ready(m);
}

static void on_few_rows(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct catch_up *c = timer->data;

	(void)loop;
	(void)events;
	for (int i = 0; i < CATCH_UP_LANES; i++)
		if (c->lanes[i].question)
			feed_hungry(c->lanes[i].question);
}

/* The question has a row more. */
static void feed_when_worth(struct catch_up *c, struct catch_up_question *q)
{
	if (q->spool.n_bytes - q->fed >= WORTH_A_WAKE || !spool_has_room(&q->spool))
		feed_hungry(q);
	else if (!ev_is_active(&c->few_rows))
		timer_arm(c->loop, &c->few_rows, FEW_ROWS_WAIT);
}

static void use_room(struct catch_up *c)
{
	for (int i = 0; i < CATCH_UP_LANES; i++) {
		struct catch_up_lane *lane = &c->lanes[i];
		if (catch_up_is_paused(lane) && question_make_room(c, lane->question))
			changes_more(&lane->changes);
	}
	assign(c);
}

static void on_room(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	use_room(timer->data);
}

static void on_shortage(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct catch_up *c = timer->data;

	(void)loop;
	(void)events;
	question_free_idle(c);
	question_trim_all(c);
	/* If malloc() or mmap() failed, it may succeed now. */
	use_room(c);
	if (!shortage_lasts(c))
		return;
	watch_shortage(c);
	struct catch_up_question *q = shortage_mark_overdue(c);
	if (q)
		evict_overdue(c, q);
}

/* The lanes */

static void on_asking(void *context)
{
	struct catch_up_lane *lane = context;
	struct catch_up *c = lane->catch_up;
	struct catch_up_question *q = lane->question;
	struct catch_up_waiter *m;

	q->asked = true;
	q->head = c->fanout->backlog.head;
	checkpoint_unref(q->latest);
	q->latest = checkpoint_ref(checkpoint_history_latest(&c->fanout->checkpoints));
	c->recovery->n_questions++;
	/* When the question is asked again, all rows come again; so drop those of the first
	 * time. */
	spool_clear(&q->spool);
	q->fed = 0;
	question_account(c, q);
	TAILQ_FOREACH (m, &q->waiters, sibling) {
		m->worker->cursor = q->head;
		spool_join(&q->spool, &m->reader);
	}
}

static bool on_row(void *context, const char *channel, struct wire_str value, uint32_t stored)
{
	struct catch_up_lane *lane = context;
	struct catch_up *c = lane->catch_up;
	struct catch_up_question *q = lane->question;
	struct decoded decoded;
	struct wire_frame frame;

	if (!recovery_decode(c->recovery, channel, value, stored, &decoded))
		return true;
	decoded_frame(&decoded, WIRE_SEQ_NIL, WIRE_RECOVERED, &frame);
	int len = wire_encode(&frame, c->frame, sizeof c->frame);
	assert(len > 0);
	struct spool_row row = {.topic = decoded.topic, .frame = {c->frame, (uint32_t)len}};
	if (decoded.channel->kind == CHANNEL_CHANGES && c->fanout->router.n_edges > 0)
		row.key = decoded_key(&decoded, &c->fanout->router);
	spool_add(&q->spool, &row);
	question_account(c, q);
	bool has_room = question_make_room(c, q);
	feed_when_worth(c, q);
	if (has_room)
		return true;
	watch_shortage(c);
	return false;
}

static void on_done(void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct catch_up_lane *lane = context;
	struct catch_up *c = lane->catch_up;
	struct catch_up_question *q = lane->question;

	q->latest_counts = question_is_of_run(q->latest, token);
	leave_lane(q);
	q->complete = outcome == CHANGES_COMPLETE;
	if (q->complete) {
		spool_end(&q->spool);
		question_account(c, q);
		feed_hungry(q);
	} else {
		give_up_all(c, q, outcome, text);
	}
	assign(c);
}

static const struct changes_events lane_events = {on_asking, on_row, on_done};

static struct catch_up_lane *free_lane(struct catch_up *c)
{
	for (int i = 0; i < CATCH_UP_LANES; i++)
		if (!c->lanes[i].question && !ev_is_active(&c->lanes[i].rest))
			return &c->lanes[i];
	return NULL;
}

/* False: there is no memory for the question now. */
static bool ask(struct catch_up *c, struct catch_up_user *u, struct catch_up_lane *lane)
{
	struct catch_up_question *q = question_new(c, u, TAILQ_FIRST(&u->waiting)->worker->passed);

	if (!q)
		return false;
	q->lane = u->lane = lane;
	lane->question = q;
	question_join_all(q);
	TAILQ_REMOVE(&c->users, u, link);
	TAILQ_INSERT_TAIL(&c->users, u, link);
	changes_ask(&lane->changes,
		&(struct changes_request){.since = q->since->token, .rate = c->config->recovery_rate});
	return true;
}

/* Gives free lanes to users that wait and have none. Those whose last lane was longest ago come
 * first. */
static void assign(struct catch_up *c)
{
	struct catch_up_user *last = TAILQ_LAST(&c->users, catch_up_users), *next;
	struct catch_up_lane *lane;

	for (struct catch_up_user *u = TAILQ_FIRST(&c->users); u; u = next) {
		next = u == last ? NULL : TAILQ_NEXT(u, link);
		u->refused = false;
		if (TAILQ_EMPTY(&u->waiting) || u->lane)
			continue;
		if (!(lane = free_lane(c)))
			continue;
		if (ask(c, u, lane))
			continue;
		u->refused = true;
		watch_shortage(c);
	}
}

static void on_rested(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct catch_up_lane *lane = timer->data;

	(void)loop;
	(void)events;
	assign(lane->catch_up);
}

static void on_gather(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	assign(timer->data);
}

void catch_up_begin(struct catch_up *c, struct worker *w, bool recoverable)
{
	struct catch_up_user *u = recoverable && w->passed ? question_make_user(c, w->uid) : NULL;
	struct catch_up_waiter *m = u ? calloc(1, sizeof *m) : NULL;

	if (!m) {
		if (u)
			question_drop_idle_user(c, u);
		tell_gap(c, w, c->fanout->backlog.head, NULL, own_cause(w),
			!recoverable
				? "what it missed is no longer in the backlog, and there is no recovery function"
			: !w->passed
				? "what it missed is no longer in the backlog, and it has no checkpoint"
				: "what it missed is no longer in the backlog, and the relay is out of memory");
		return;
	}
	m->catch_up = c;
	m->worker = w;
	m->user = u;
	ready_init(&m->feeding, &w->user->asking, feed);
	w->catch_up = m;
	c->n_workers++;
	if (question_join_any(c, m)) {
		set_ready(m);
		return;
	}
	question_place(m, &u->waiting);
	if (!ev_is_active(&c->gather))
		timer_arm(c->loop, &c->gather, GATHER_SECONDS);
}

void catch_up_takes_more(struct worker *w)
{
	if (!w->catch_up->list)
		set_ready(w->catch_up);
}

void catch_up_forget(struct catch_up *c, struct worker *w)
{
	struct catch_up_question *q = w->catch_up->question;
	struct catch_up_user *u = w->catch_up->user;

	question_remove(c, w->catch_up);
	if (q)
		drop_idle_question(c, q);
	else
		question_drop_idle_user(c, u);
}

uint64_t catch_up_rows_left(const struct worker *w)
{
	const struct catch_up_waiter *m = w->catch_up;

	return m && m->question ? m->question->spool.n_rows - m->reader.n_rows : 0;
}

void catch_up_init(struct catch_up *c, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct recovery *recovery, const struct upstream *upstream)
{
	*c = (struct catch_up){.loop = loop, .config = config, .fanout = fanout, .recovery = recovery};
	for (int i = 0; i < CATCH_UP_LANES; i++) {
		c->lanes[i].catch_up = c;
		changes_init(&c->lanes[i].changes,
			&(struct changes_uses){loop, config, &fanout->checkpoints, upstream}, &lane_events,
			&c->lanes[i]);
		timer_init(&c->lanes[i].rest, on_rested, &c->lanes[i]);
	}
	TAILQ_INIT(&c->users);
	timer_init(&c->gather, on_gather, c);
	timer_init(&c->room, on_room, c);
	timer_init(&c->shortage, on_shortage, c);
	timer_init(&c->few_rows, on_few_rows, c);
	timer_init(&c->idle, on_idle, c);
}

void catch_up_close(struct catch_up *c)
{
	question_free_idle(c);
	assert(TAILQ_EMPTY(&c->users));
	ev_timer_stop(c->loop, &c->idle);
	ev_timer_stop(c->loop, &c->gather);
	ev_timer_stop(c->loop, &c->room);
	ev_timer_stop(c->loop, &c->shortage);
	ev_timer_stop(c->loop, &c->few_rows);
	for (int i = 0; i < CATCH_UP_LANES; i++) {
		ev_timer_stop(c->loop, &c->lanes[i].rest);
		changes_close(&c->lanes[i].changes);
	}
}
