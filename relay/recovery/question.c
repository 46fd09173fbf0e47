#include "recovery/question.h"

#include <stdlib.h>
#include <string.h>

/* Memory */

/* A user may have three times as much memory as is left free. So a single user gets three
 * quarters, and two users three sevenths each. However much one takes, another still finds
 * some. */
static bool may_take_more(const struct catch_up *c, const struct catch_up_user *u)
{
	size_t size = c->config->recovery_size, kept = c->kept + SPOOL_CHUNK;

	return kept <= size && u->kept + SPOOL_CHUNK <= 3 * (size - kept);
}

void question_account(struct catch_up *c, struct catch_up_question *q)
{
	if (q->spool.kept < q->kept)
		catch_up_wake(c);
	c->kept += q->spool.kept - q->kept;
	q->user->kept += q->spool.kept - q->kept;
	q->kept = q->spool.kept;
}

static void trim(struct catch_up *c, struct catch_up_question *q)
{
	spool_trim(&q->spool);
	question_account(c, q);
}

bool question_make_room(struct catch_up *c, struct catch_up_question *q)
{
	if (spool_has_room(&q->spool))
		return true;
	/* What it keeps for workers that come later must not hold up its rows. */
	if (!may_take_more(c, q->user))
		trim(c, q);
	if (may_take_more(c, q->user) && spool_reserve(&q->spool) == 0)
		question_account(c, q);
	return spool_has_room(&q->spool);
}

void question_trim_all(struct catch_up *c)
{
	struct catch_up_user *u;
	struct catch_up_question *q;

	TAILQ_FOREACH (u, &c->users, link)
		TAILQ_FOREACH (q, &u->questions, link)
			trim(c, q);
}

/* Users */

struct catch_up_user *question_make_user(struct catch_up *c, uid_t uid)
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

void question_drop_idle_user(struct catch_up *c, struct catch_up_user *u)
{
	if (!TAILQ_EMPTY(&u->waiting) || !TAILQ_EMPTY(&u->questions))
		return;
	TAILQ_REMOVE(&c->users, u, link);
	free(u);
}

/* Waiters */

void question_place(struct catch_up_waiter *m, struct catch_up_waiters *list)
{
	if (m->list)
		TAILQ_REMOVE(m->list, m, link);
	schedule_remove(&m->worker->fanout->asking, &m->feeding);
	if (list)
		TAILQ_INSERT_TAIL(list, m, link);
	m->list = list;
}

static bool asks_the_same(const struct catch_up_question *q, const struct catch_up_waiter *m)
{
	return strcmp(m->worker->passed->token, q->since->token) == 0;
}

static void join(struct catch_up_question *q, struct catch_up_waiter *m)
{
	m->question = q;
	TAILQ_INSERT_TAIL(&q->waiters, m, sibling);
	q->n_waiters++;
	spool_join(&q->spool, &m->reader);
	question_place(m, &q->hungry);
	if (q->asked)
		m->worker->cursor = q->head;
}

void question_join_all(struct catch_up_question *q)
{
	for (struct catch_up_waiter *m = TAILQ_FIRST(&q->user->waiting), *next; m; m = next) {
		next = TAILQ_NEXT(m, link);
		if (asks_the_same(q, m))
			join(q, m);
	}
}

/* The question tells nothing of a channel that was added since. */
static bool asks_all_channels(const struct catch_up_question *q, const struct fanout *f)
{
	for (unsigned topic = 1; topic <= f->config->n_channels; topic++)
		if (f->heard_since[topic] > q->head)
			return false;
	return true;
}

/* After its rows the backlog goes on, from where the question was asked. */
static bool serves_late(const struct catch_up_question *q, const struct fanout *f)
{
	return !q->asked ||
	       (!q->spool.is_partial && q->head + 1 >= f->backlog.first && asks_all_channels(q, f));
}

bool question_join_any(const struct catch_up *c, struct catch_up_waiter *m)
{
	struct catch_up_question *q;

	TAILQ_FOREACH (q, &m->user->questions, link)
		if (asks_the_same(q, m) && serves_late(q, c->fanout)) {
			join(q, m);
			return true;
		}
	return false;
}

void question_remove(struct catch_up *c, struct catch_up_waiter *m)
{
	struct catch_up_question *q = m->question;

	question_place(m, NULL);
	if (q) {
		TAILQ_REMOVE(&q->waiters, m, sibling);
		q->n_waiters--;
		spool_leave(&q->spool, &m->reader);
		question_account(c, q);
	}
	m->worker->catch_up = NULL;
	c->n_workers--;
	free(m);
}

/* Questions */

struct catch_up_question *question_new(struct catch_up *c, struct catch_up_user *u, struct checkpoint *since)
{
	struct catch_up_question *q = may_take_more(c, u) ? calloc(1, sizeof *q) : NULL;

	if (!q)
		return NULL;
	if (spool_open(&q->spool) < 0) {
		free(q);
		return NULL;
	}
	q->user = u;
	q->since = checkpoint_ref(since);
	TAILQ_INIT(&q->waiters);
	TAILQ_INIT(&q->hungry);
	TAILQ_INSERT_TAIL(&u->questions, q, link);
	question_account(c, q);
	return q;
}

void question_free(struct catch_up *c, struct catch_up_question *q)
{
	struct catch_up_user *u = q->user;

	spool_close(&q->spool);
	question_account(c, q);
	checkpoint_unref(q->since);
	checkpoint_unref(q->latest);
	TAILQ_REMOVE(&u->questions, q, link);
	free(q);
	question_drop_idle_user(c, u);
}

static struct catch_up_question *find_idle(const struct catch_up *c)
{
	struct catch_up_user *u;
	struct catch_up_question *q;

	TAILQ_FOREACH (u, &c->users, link)
		TAILQ_FOREACH (q, &u->questions, link)
			if (!q->lane && TAILQ_EMPTY(&q->waiters))
				return q;
	return NULL;
}

void question_free_idle(struct catch_up *c)
{
	for (struct catch_up_question *q; (q = find_idle(c));)
		question_free(c, q);
}

bool question_is_of_run(const struct checkpoint *latest, const char *moment)
{
	return latest && moment && checkpoint_precedes(latest->token, moment);
}

/* The moment of the answer may not be on disk yet. So prefer the relay's checkpoint from when
 * the question was asked, if it is of the same run. Otherwise keep the worker's, except after a
 * gap: then it may mean nothing on this server. */
const char *question_passed(const struct catch_up_question *q, const struct worker *w, bool gap)
{
	bool counts =
		q->lane ? question_is_of_run(q->latest, changes_moment(&q->lane->changes)) : q->latest_counts;

	if (counts && (gap || checkpoint_is_newer(q->latest->token, w->passed->token)))
		return q->latest->token;
	return gap ? NULL : w->passed->token;
}
