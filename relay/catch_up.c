#include "catch_up.h"

#include "clock.h"
#include "diag.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Workers that ask from the same checkpoint, as after a restart of the relay, come at about the same time. */
#define GATHER_SECONDS 0.005
/* Rows that are looked at in one iteration of the loop, about a millisecond's work, and for one member before
 * the next has its turn. */
#define ROWS_AN_ITERATION 4096
#define ROWS_A_MEMBER 256
/* How often to look again while there is no room. */
#define LOOK_SECONDS 0.5

static void assign(struct catch_up *c);

static void wake(struct catch_up *c)
{
	if (!ev_is_active(&c->turn))
		timer_arm(c->loop, &c->turn, 0);
}

static void watch_shortage(struct catch_up *c)
{
	if (!ev_is_active(&c->shortage))
		timer_arm(c->loop, &c->shortage, LOOK_SECONDS);
}

/* Memory */

/* A user may hold three times as much as it leaves free. So one alone gets three quarters, and of two each
 * three sevenths; and however much one takes, another that comes finds some. */
static bool may_take_more(const struct catch_up *c, const struct catch_up_user *u)
{
	size_t size = c->config->recovery_size, held = c->held + SPOOL_CHUNK;

	return held <= size && u->held + SPOOL_CHUNK <= 3 * (size - held);
}

/* After whatever changes how much the question's spool holds. */
static void account(struct catch_up *c, struct catch_up_question *q)
{
	if (q->spool.held < q->held)
		wake(c);
	c->held += q->spool.held - q->held;
	q->user->held += q->spool.held - q->held;
	q->held = q->spool.held;
}

/* Whether the next row may come. */
static bool make_room(struct catch_up *c, struct catch_up_question *q)
{
	if (!spool_has_room(&q->spool) && may_take_more(c, q->user) && spool_reserve(&q->spool) == 0)
		account(c, q);
	return spool_has_room(&q->spool);
}

/* Users */

/* NULL: memory is short. */
static struct catch_up_user *user_of(struct catch_up *c, uid_t uid)
{
	struct catch_up_user *u;

	TAILQ_FOREACH (u, &c->users, link)
		if (u->uid == uid)
			return u;
	u = calloc(1, sizeof *u);
	if (!u)
		return NULL;
	u->uid = uid;
	TAILQ_INIT(&u->waiting);
	TAILQ_INIT(&u->questions);
	TAILQ_INSERT_TAIL(&c->users, u, link);
	return u;
}

static void drop_idle_user(struct catch_up *c, struct catch_up_user *u)
{
	if (!TAILQ_EMPTY(&u->waiting) || !TAILQ_EMPTY(&u->questions))
		return;
	TAILQ_REMOVE(&c->users, u, link);
	free(u);
}

/* Members */

static void place(struct catch_up_member *m, struct catch_up_members *list)
{
	if (m->list)
		TAILQ_REMOVE(m->list, m, link);
	if (list)
		TAILQ_INSERT_TAIL(list, m, link);
	m->list = list;
}

static void join(struct catch_up_question *q, struct catch_up_member *m)
{
	m->question = q;
	TAILQ_INSERT_TAIL(&q->members, m, sibling);
	q->n_members++;
	spool_join(&q->spool, &m->reader);
	place(m, &q->hungry);
}

/* All that wait and ask from the same checkpoint. */
static void join_all(struct catch_up_question *q, const char *token)
{
	for (struct catch_up_member *m = TAILQ_FIRST(&q->user->waiting), *next; m; m = next) {
		next = TAILQ_NEXT(m, link);
		if (strcmp(m->worker->passed->token, token) == 0)
			join(q, m);
	}
}

/* The worker is no longer a member. Its question stays, even if nobody is left. */
static void remove_member(struct catch_up *c, struct catch_up_member *m)
{
	struct catch_up_question *q = m->question;

	place(m, NULL);
	if (q) {
		TAILQ_REMOVE(&q->members, m, sibling);
		q->n_members--;
		spool_leave(&q->spool, &m->reader);
		account(c, q);
	}
	m->worker->catch_up = NULL;
	c->n_workers--;
	free(m);
}

/* Questions */

/* NULL: there is no memory for it now. */
static struct catch_up_question *new_question(struct catch_up *c, struct catch_up_user *u)
{
	struct catch_up_question *q = may_take_more(c, u) ? calloc(1, sizeof *q) : NULL;

	if (!q)
		return NULL;
	if (spool_open(&q->spool) < 0) {
		free(q);
		return NULL;
	}
	q->user = u;
	TAILQ_INIT(&q->members);
	TAILQ_INIT(&q->hungry);
	TAILQ_INSERT_TAIL(&u->questions, q, link);
	account(c, q);
	return q;
}

static void leave_lane(struct catch_up_question *q)
{
	q->lane->question = NULL;
	q->user->lane = NULL;
	q->lane = NULL;
}

/* The last member may be gone. */
static void drop_idle_question(struct catch_up *c, struct catch_up_question *q)
{
	struct catch_up_user *u = q->user;

	if (!TAILQ_EMPTY(&q->members))
		return;
	if (q->lane) {
		changes_abort(&q->lane->changes);
		leave_lane(q);
		timer_arm(c->loop, &c->gather, GATHER_SECONDS);
	}
	spool_close(&q->spool);
	account(c, q);
	checkpoint_unref(q->latest);
	TAILQ_REMOVE(&u->questions, q, link);
	free(q);
	drop_idle_user(c, u);
}

/* moment: what the server said it is asked about. */
static bool is_of_run(const struct checkpoint *latest, const char *moment)
{
	return latest && moment && checkpoint_precedes(latest->token, moment);
}

/* The checkpoint that a worker continues from. The moment that was asked about may not be on disk yet. So it
 * is the relay's own of the time when the question was asked, if that is of the same run; else the worker's,
 * but after a gap that one may mean nothing: NULL. */
static const char *passed_by(const struct catch_up_question *q, const struct worker *w, bool gap)
{
	bool counts = q->lane ? is_of_run(q->latest, q->lane->changes.token) : q->latest_counts;

	if (counts && (gap || checkpoint_is_newer(q->latest->token, w->passed->token)))
		return q->latest->token;
	return gap ? NULL : w->passed->token;
}

/* The member has been given all. */
static void finish(struct catch_up *c, struct catch_up_member *m)
{
	struct catch_up_question *q = m->question;
	struct worker *w = m->worker;

	remove_member(c, m);
	worker_caught_up(w, q->head, passed_by(q, w, false), NULL, NULL);
	drop_idle_question(c, q);
}

/* Gaps */

static void tell_gap(struct catch_up *c, struct worker *w, uint64_t seq, const char *token, const char *cause,
	const char *text)
{
	c->n_gaps++;
	diag_limited(&c->limit, DIAG_WARNING, "a worker is told of a gap: %s cause=%s worker=%llu pid=%d",
		text, cause, (unsigned long long)w->id, (int)w->pid);
	worker_caught_up(w, seq, token, cause, text);
}

/* It goes live from where the question was asked, or from now if that is out of the backlog. */
static void give_up(struct catch_up *c, struct catch_up_member *m, const char *cause, const char *text)
{
	struct catch_up_question *q = m->question;
	const struct backlog *backlog = &c->fanout->backlog;
	bool kept = q->asked && q->head + 1 >= backlog->first;
	struct worker *w = m->worker;

	remove_member(c, m);
	tell_gap(c, w, kept ? q->head : backlog->head, passed_by(q, w, true), cause, text);
	drop_idle_question(c, q);
}

/* What a worker is told of that resumed from another epoch, or fell out of the backlog. */
static const char *own_cause(const struct worker *w)
{
	return w->begun ? "restart" : "overrun";
}

static void give_up_all(
	struct catch_up *c, struct catch_up_question *q, enum changes_outcome outcome, const char *text)
{
	for (unsigned n = q->n_members; n > 0; n--) {
		struct catch_up_member *m = TAILQ_FIRST(&q->members);
		give_up(c, m, outcome == CHANGES_WRONG ? "recovery" : own_cause(m->worker), text);
	}
}

/* Feeding */

/* Returns how many rows were looked at, or a little more. */
static int feed(struct catch_up *c, struct catch_up_member *m)
{
	struct catch_up_question *q = m->question;
	struct worker *w = m->worker;
	struct spool_row row;
	int n;

	for (n = 0; n < ROWS_A_MEMBER; n++) {
		if (!worker_takes_more(w)) {
			place(m, NULL);
			break;
		}
		if (!spool_next(&q->spool, &m->reader, &row)) {
			if (q->lane) {
				place(m, &q->hungry);
				break;
			}
			finish(c, m);
			return n + 1;
		}
		struct decoded decoded = {
			.topic = row.topic, .channel = &c->config->channels[row.topic - 1], .key = row.key};
		if (decoded.channel->kind == CHANNEL_CHANGES)
			decoded.change.pubkey = row.value;
		else
			decoded.payload = row.value;
		worker_recovered(w, &decoded);
		/* There was no memory for it: so the member is gone, and perhaps the question. */
		if (w->state == WORKER_DEAD)
			return n + 1;
	}
	account(c, q);
	/* The others' turn. */
	if (m->list == &c->ready)
		place(m, &c->ready);
	return n + 1;
}

static bool is_paused(const struct catch_up_lane *lane)
{
	/* Once its connection is lost, it asks anew. */
	return lane->question && lane->changes.wants_pause && lane->changes.session.conn;
}

static void use_room(struct catch_up *c)
{
	for (int i = 0; i < CATCH_UP_LANES; i++) {
		struct catch_up_lane *lane = &c->lanes[i];
		if (is_paused(lane) && make_room(c, lane->question))
			changes_more(&lane->changes);
	}
	assign(c);
}

static void on_turn(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct catch_up *c = timer->data;
	struct catch_up_member *m;

	(void)loop;
	(void)events;
	for (int n = 0; n < ROWS_AN_ITERATION && (m = TAILQ_FIRST(&c->ready));)
		n += feed(c, m);
	use_room(c);
	if (!TAILQ_EMPTY(&c->ready))
		wake(c);
}

/* Shortage */

static bool is_short(const struct catch_up_user *u)
{
	return (u->refused && !TAILQ_EMPTY(&u->waiting)) || (u->lane && is_paused(u->lane));
}

/* For a lane, or for the rows of one that is paused. */
static bool somebody_waits(const struct catch_up *c)
{
	const struct catch_up_user *u;

	TAILQ_FOREACH (u, &c->users, link)
		if (!TAILQ_EMPTY(&u->waiting) ||
			(u->lane && is_paused(u->lane) && !TAILQ_EMPTY(&u->lane->question->hungry)))
			return true;
	return false;
}

/* first: any of them. */
static struct catch_up_user *heaviest_user(const struct catch_up *c, struct catch_up_user *first)
{
	struct catch_up_user *u, *heaviest = first;

	TAILQ_FOREACH (u, &c->users, link)
		if (u->held > heaviest->held)
			heaviest = u;
	return heaviest;
}

/* Memory is kept for its sake, and it is its socket that takes nothing: the relay is not behind with feeding
 * it. */
static bool is_stalled(const struct catch_up_member *m)
{
	return !m->list && spool_is_held_by(&m->question->spool, &m->reader);
}

/* Adds up for how long it has stood in the way. While nobody waits, whoever takes something begins anew. */
static void blame(struct catch_up_member *m, bool others_wait)
{
	bool took_some = m->reader.n_rows != m->seen_rows;

	m->seen_rows = m->reader.n_rows;
	if (took_some && !others_wait)
		m->stalled_for = 0;
	else if (is_stalled(m))
		m->stalled_for += LOOK_SECONDS;
}

static bool is_overdue(const struct catch_up_member *m, double limit)
{
	return is_stalled(m) && m->stalled_for >= limit;
}

static uint64_t bytes_left(const struct catch_up_member *m)
{
	return m->question->spool.n_bytes - m->reader.n_bytes;
}

/* Of the members of the user that holds most, the question of the overdue one for which most is kept. NULL:
 * none is overdue. */
static struct catch_up_question *blame_user(struct catch_up_user *u, bool others_wait, double limit)
{
	struct catch_up_question *q;
	struct catch_up_member *m, *heaviest = NULL;

	TAILQ_FOREACH (q, &u->questions, link)
		TAILQ_FOREACH (m, &q->members, sibling) {
			blame(m, others_wait);
			if (is_overdue(m, limit) && (!heaviest || bytes_left(m) > bytes_left(heaviest)))
				heaviest = m;
		}
	return heaviest ? heaviest->question : NULL;
}

static void evict_overdue(struct catch_up *c, struct catch_up_question *q, double limit)
{
	struct catch_up_member *m = TAILQ_FIRST(&q->members), *next;

	/* The question goes with its last member, and then there is no next. */
	for (; m; m = next) {
		next = TAILQ_NEXT(m, sibling);
		if (!is_overdue(m, limit))
			continue;
		c->n_evicted++;
		give_up(c, m, "overrun",
			"it took what it missed too slowly, and there is no room for more "
			"(PGHERALD_RECOVERY_SIZE)");
	}
}

static void on_shortage(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct catch_up *c = timer->data;
	struct catch_up_user *u;

	(void)loop;
	(void)events;
	/* Where memory itself was short, it may be there again. */
	use_room(c);
	TAILQ_FOREACH (u, &c->users, link)
		if (is_short(u))
			break;
	if (!u)
		return;
	watch_shortage(c);
	bool others_wait = somebody_waits(c);
	double limit = others_wait ? CATCH_UP_PATIENCE_SECONDS : CATCH_UP_STALL_SECONDS;
	struct catch_up_question *q = blame_user(heaviest_user(c, u), others_wait, limit);
	if (q)
		evict_overdue(c, q, limit);
}

/* The lanes */

static void on_asking(void *context)
{
	struct catch_up_lane *lane = context;
	struct catch_up *c = lane->catch_up;
	struct catch_up_question *q = lane->question;
	struct catch_up_member *m;

	q->asked = true;
	q->head = c->fanout->backlog.head;
	checkpoint_unref(q->latest);
	q->latest = checkpoint_ref(checkpoint_history_latest(&c->fanout->checkpoints));
	c->recovery->n_questions++;
	/* When it is asked again, the whole answer comes again, and has all that the first had. */
	spool_clear(&q->spool);
	account(c, q);
	TAILQ_FOREACH (m, &q->members, sibling) {
		m->worker->cursor = q->head;
		spool_join(&q->spool, &m->reader);
	}
}

static bool on_row(void *context, const char *channel, struct wire_str value)
{
	struct catch_up_lane *lane = context;
	struct catch_up *c = lane->catch_up;
	struct catch_up_question *q = lane->question;
	struct catch_up_member *m;
	struct decoded decoded;

	if (!recovery_decode(c->recovery, channel, value, &decoded))
		return true;
	struct spool_row row = {.topic = decoded.topic, .value = value};
	if (decoded.channel->kind == CHANNEL_CHANGES)
		row.key = fanout_key(c->fanout, &decoded);
	spool_add(&q->spool, &row);
	account(c, q);
	while ((m = TAILQ_FIRST(&q->hungry))) {
		place(m, &c->ready);
		wake(c);
	}
	if (make_room(c, q))
		return true;
	watch_shortage(c);
	return false;
}

static void on_done(void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct catch_up_lane *lane = context;
	struct catch_up *c = lane->catch_up;
	struct catch_up_question *q = lane->question;
	struct catch_up_member *m;

	q->latest_counts = is_of_run(q->latest, token);
	leave_lane(q);
	if (outcome == CHANGES_COMPLETE) {
		spool_end(&q->spool);
		account(c, q);
		while ((m = TAILQ_FIRST(&q->hungry)))
			place(m, &c->ready);
		wake(c);
	} else {
		give_up_all(c, q, outcome, text);
	}
	assign(c);
}

static const struct changes_events lane_events = {on_asking, on_row, on_done};

static struct catch_up_lane *free_lane(struct catch_up *c)
{
	for (int i = 0; i < CATCH_UP_LANES; i++)
		if (!c->lanes[i].question)
			return &c->lanes[i];
	return NULL;
}

/* False: there is no memory for it now. */
static bool ask(struct catch_up *c, struct catch_up_user *u, struct catch_up_lane *lane)
{
	const char *token = TAILQ_FIRST(&u->waiting)->worker->passed->token;
	struct catch_up_question *q = new_question(c, u);

	if (!q)
		return false;
	q->lane = u->lane = lane;
	lane->question = q;
	join_all(q, token);
	TAILQ_REMOVE(&c->users, u, link);
	TAILQ_INSERT_TAIL(&c->users, u, link);
	changes_ask(&lane->changes, token, c->config->recovery_rate);
	return true;
}

/* To each user that waits and has no lane a free one, to those first who had theirs the longest ago. */
static void assign(struct catch_up *c)
{
	struct catch_up_user *last = TAILQ_LAST(&c->users, catch_up_users), *next;
	struct catch_up_lane *lane;

	for (struct catch_up_user *u = TAILQ_FIRST(&c->users); u; u = next) {
		next = u == last ? NULL : TAILQ_NEXT(u, link);
		u->refused = false;
		if (TAILQ_EMPTY(&u->waiting))
			continue;
		if (u->lane) {
			if (!u->lane->question->asked)
				join_all(u->lane->question, u->lane->changes.since);
			continue;
		}
		if (!(lane = free_lane(c)))
			continue;
		if (ask(c, u, lane))
			continue;
		u->refused = true;
		watch_shortage(c);
	}
}

static void on_gather(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	assign(timer->data);
}

void catch_up_begin(struct catch_up *c, struct worker *w, bool recoverable)
{
	struct catch_up_user *u = recoverable && w->passed ? user_of(c, w->uid) : NULL;
	struct catch_up_member *m = u ? calloc(1, sizeof *m) : NULL;

	if (!m) {
		if (u)
			drop_idle_user(c, u);
		tell_gap(c, w, c->fanout->backlog.head, NULL, own_cause(w),
			!recoverable
				? "what it missed is no longer in the backlog, and there is no recovery function"
			: !w->passed ? "what it missed is no longer in the backlog, and it has no checkpoint"
				     : "what it missed is no longer in the backlog, and memory is short");
		return;
	}
	m->worker = w;
	m->user = u;
	w->catch_up = m;
	c->n_workers++;
	place(m, &u->waiting);
	if (!ev_is_active(&c->gather))
		timer_arm(c->loop, &c->gather, GATHER_SECONDS);
}

void catch_up_takes_more(struct catch_up *c, struct worker *w)
{
	if (w->catch_up->list)
		return;
	place(w->catch_up, &c->ready);
	wake(c);
}

void catch_up_forget(struct catch_up *c, struct worker *w)
{
	struct catch_up_question *q = w->catch_up->question;
	struct catch_up_user *u = w->catch_up->user;

	remove_member(c, w->catch_up);
	if (q)
		drop_idle_question(c, q);
	else
		drop_idle_user(c, u);
}

uint64_t catch_up_rows_left(const struct worker *w)
{
	const struct catch_up_member *m = w->catch_up;

	return m && m->question ? m->question->spool.n_rows - m->reader.n_rows : 0;
}

void catch_up_init(struct catch_up *c, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct recovery *recovery, const struct upstream *upstream)
{
	*c = (struct catch_up){.loop = loop, .config = config, .fanout = fanout, .recovery = recovery};
	for (int i = 0; i < CATCH_UP_LANES; i++) {
		c->lanes[i].catch_up = c;
		changes_init(&c->lanes[i].changes, loop, config, &fanout->checkpoints, upstream->identity,
			&lane_events, &c->lanes[i]);
	}
	TAILQ_INIT(&c->users);
	TAILQ_INIT(&c->ready);
	timer_init(&c->gather, on_gather, c);
	timer_init(&c->turn, on_turn, c);
	timer_init(&c->shortage, on_shortage, c);
}

void catch_up_close(struct catch_up *c)
{
	assert(TAILQ_EMPTY(&c->users));
	ev_timer_stop(c->loop, &c->gather);
	ev_timer_stop(c->loop, &c->turn);
	ev_timer_stop(c->loop, &c->shortage);
	for (int i = 0; i < CATCH_UP_LANES; i++)
		changes_close(&c->lanes[i].changes);
}
