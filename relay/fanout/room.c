#include "fanout/room.h"

#include "base/diag.h"
#include "fanout/fanout.h"

static struct diag_limit pause_limit, user_limit;

static bool user_has_room(const struct worker *w)
{
	const struct fanout *f = w->fanout;
	const struct config *config = f->config;
	size_t total = config->worker_queues_total_size, left = total > f->queued ? total - f->queued : 0;

	/* No user may have more than is left for all others, so there is always room for
	 * another user. */
	return w->user->queued <= config->worker_queues_per_uid_size && w->user->queued <= left;
}

bool room_for_answer(const struct worker *w)
{
	return private_queue_waiting(&w->private) <= w->fanout->config->worker_queue_size && user_has_room(w);
}

static void count_parked(struct fanout *f)
{
	if (f->n_parked++ == 0)
		ev_timer_again(f->loop, &f->parked_check);
}

bool room_takes_more(struct worker *w)
{
	if (w->ended || w->blocked)
		return false;
	/* delivery_flush() asks again after the worker has read. */
	if (private_queue_waiting(&w->private) > w->fanout->config->worker_queue_size / 2)
		return false;
	if (user_has_room(w))
		return true;
	if (!w->starved) {
		w->starved = true;
		TAILQ_INSERT_TAIL(&w->user->starved, w, next_starved);
		count_parked(w->fanout);
	}
	return false;
}

static void wait_until_it_reads(struct worker *w)
{
	w->reading = false;
	w->fanout->n_limited[LIMIT_WORKER_QUEUE]++;
	diag_limited(&pause_limit, DIAG_NOTICE,
		"stopped reading a worker that does not read its answers worker=%llu pid=%d name=\"%s\"",
		(unsigned long long)w->id, (int)w->pid, w->name);
}

static void park(struct worker *w)
{
	struct fanout *f = w->fanout;

	w->parked = true;
	TAILQ_INSERT_TAIL(&w->user->parked, w, next_parked);
	count_parked(f);
	f->n_limited[LIMIT_WORKER_QUEUES]++;
	diag_limited(&user_limit, DIAG_NOTICE,
		"stopped reading a user's workers that do not read their answers uid=%u bytes=%zu of_all=%zu",
		(unsigned)w->user->uid, w->user->queued, f->queued);
}

static void unpark(struct worker *w)
{
	w->parked = false;
	TAILQ_REMOVE(&w->user->parked, w, next_parked);
	w->fanout->n_parked--;
}

void room_look_after_parked(struct fanout *f)
{
	struct worker *w;
	struct user *user;

	for (unsigned i = 0; i < USERS_BUCKETS; i++)
		LIST_FOREACH(user, &f->users.buckets[i], next)
	TAILQ_FOREACH (w, &user->parked, next_parked)
		worker_ask(w);
}

/* reader.c calls it again after it has served this one. All at once would overshoot the
 * limit. */
void room_wake_one(struct user *user)
{
	struct worker *first = TAILQ_FIRST(&user->parked);

	if (!first || !user_has_room(first))
		return;
	unpark(first);
	worker_ask(first);
}

static void end_starving(struct worker *w)
{
	w->starved = false;
	TAILQ_REMOVE(&w->user->starved, w, next_starved);
	w->fanout->n_parked--;
}

static void feed(struct user *user)
{
	struct worker *w;

	while ((w = TAILQ_FIRST(&user->starved)) && user_has_room(w)) {
		const struct fanout *f = w->fanout;
		end_starving(w);
		if (w->catch_up)
			f->requests->takes_more(f->requests_context, w);
	}
}

static void wake_all(struct fanout *f)
{
	struct user *user;

	if (f->n_parked == 0)
		return;
	for (unsigned i = 0; i < USERS_BUCKETS; i++) {
		LIST_FOREACH(user, &f->users.buckets[i], next)
		{
			room_wake_one(user);
			feed(user);
		}
	}
}

void room_account(struct worker *w)
{
	size_t now = private_queue_memory(&w->private) + w->input.size, before = w->queued;

	w->queued = now;
	w->user->queued += now - before;
	w->fanout->queued += now - before;
	if (now < before)
		wake_all(w->fanout);
}

void room_wait(struct worker *w)
{
	if (private_queue_waiting(&w->private) > w->fanout->config->worker_queue_size)
		wait_until_it_reads(w);
	else
		park(w);
}

void room_leave(struct worker *w)
{
	if (w->parked)
		unpark(w);
	if (w->starved)
		end_starving(w);
}
