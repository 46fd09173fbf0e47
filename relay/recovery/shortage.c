#include "recovery/shortage.h"

bool shortage_lasts(const struct catch_up *c)
{
	const struct catch_up_user *u;

	TAILQ_FOREACH (u, &c->users, link)
		if ((u->refused && !TAILQ_EMPTY(&u->waiting)) || (u->lane && catch_up_is_paused(u->lane)))
			return true;
	return false;
}

/* Whether a worker waits for a lane, or for rows of a paused lane. */
static bool others_wait(const struct catch_up *c)
{
	const struct catch_up_user *u;

	TAILQ_FOREACH (u, &c->users, link)
		if (!TAILQ_EMPTY(&u->waiting) ||
			(u->lane && catch_up_is_paused(u->lane) && !TAILQ_EMPTY(&u->lane->question->hungry)))
			return true;
	return false;
}

static struct catch_up_user *heaviest_user(const struct catch_up *c)
{
	struct catch_up_user *u, *heaviest = NULL;

	TAILQ_FOREACH (u, &c->users, link)
		if (!heaviest || u->kept > heaviest->kept)
			heaviest = u;
	return heaviest;
}

/* Whether the oldest chunk of the spool is kept for this waiter, and its socket is full. A
 * waiter that is in a list or scheduled waits for the relay, and is not stalled. */
static bool is_stalled(const struct catch_up_waiter *m)
{
	return !m->list && !m->feeding.waits && spool_is_kept_for(&m->question->spool, &m->reader);
}

/* Adds up the seconds for which it has kept memory. While no one waits, taking a row resets
 * them. */
static void look_at(struct catch_up_waiter *m, bool waited_for)
{
	bool took_some = m->reader.n_rows != m->seen_rows;

	m->seen_rows = m->reader.n_rows;
	if (took_some && !waited_for)
		m->stalled_for = 0;
	else if (is_stalled(m))
		m->stalled_for += SHORTAGE_LOOK_SECONDS;
	m->overdue = is_stalled(m) &&
		     m->stalled_for >= (waited_for ? SHORTAGE_PATIENCE_SECONDS : SHORTAGE_STALL_SECONDS);
}

static uint64_t bytes_left(const struct catch_up_waiter *m)
{
	return m->question->spool.n_bytes - m->reader.n_bytes;
}

struct catch_up_question *shortage_mark_overdue(struct catch_up *c)
{
	bool waited_for = others_wait(c);
	struct catch_up_user *u = heaviest_user(c);
	struct catch_up_question *q;
	struct catch_up_waiter *m, *heaviest = NULL;

	if (!u)
		return NULL;
	TAILQ_FOREACH (q, &u->questions, link)
		TAILQ_FOREACH (m, &q->waiters, sibling) {
			look_at(m, waited_for);
			if (m->overdue && (!heaviest || bytes_left(m) > bytes_left(heaviest)))
				heaviest = m;
		}
	return heaviest ? heaviest->question : NULL;
}
