#include "fanout/schedule.h"

#include "base/clock.h"

static void leave(struct schedule *s, struct share *share)
{
	TAILQ_REMOVE(share->in, share, next);
	share->in = NULL;
	if (!schedule_is_idle(s))
		return;
	ev_idle_stop(s->loop, &s->busy);
	/* All were served. */
	if (TAILQ_EMPTY(&s->resting))
		s->round++;
}

void schedule_add(struct schedule *s, struct ready *ready)
{
	struct share *share = ready->share;

	if (ready->waits)
		return;
	ready->waits = true;
	TAILQ_INSERT_TAIL(&share->ready, ready, next);
	if (share->in)
		return;
	share->in = share->round == s->round ? &s->ring : &s->fresh;
	TAILQ_INSERT_TAIL(share->in, share, next);
	ev_idle_start(s->loop, &s->busy);
}

void schedule_remove(struct schedule *s, struct ready *ready)
{
	struct share *share = ready->share;

	if (!ready->waits)
		return;
	ready->waits = false;
	TAILQ_REMOVE(&share->ready, ready, next);
	if (TAILQ_EMPTY(&share->ready))
		leave(s, share);
}

static struct share *next_share(struct schedule *s)
{
	struct share *share = TAILQ_FIRST(&s->fresh);

	if (share)
		return share;
	share = TAILQ_FIRST(&s->ring);
	if (share->round == s->round && TAILQ_EMPTY(&s->resting))
		s->round++;
	return share;
}

static void serve_next(struct schedule *s)
{
	struct share *share = next_share(s);
	struct ready *ready = TAILQ_FIRST(&share->ready);

	/* Goes after the others before serve(), which may free it. */
	TAILQ_REMOVE(share->in, share, next);
	share->in = &s->ring;
	TAILQ_INSERT_TAIL(share->in, share, next);
	share->round = s->round;
	schedule_remove(s, ready);
	ready->serve(ready);
}

/* Before those that are there. */
static void move_all(struct shares *from, struct shares *to)
{
	for (struct share *share; (share = TAILQ_LAST(from, shares));) {
		TAILQ_REMOVE(from, share, next);
		share->in = to;
		TAILQ_INSERT_HEAD(to, share, next);
	}
}

/* All that are left. */
static void begin_rest(struct schedule *s)
{
	move_all(&s->ring, &s->resting);
	move_all(&s->fresh, &s->resting);
	ev_idle_stop(s->loop, &s->busy);
	if (!ev_is_active(&s->rest))
		timer_arm(s->loop, &s->rest, s->rest_seconds);
}

static void on_rest_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct schedule *s = timer->data;

	(void)events;
	move_all(&s->resting, &s->ring);
	if (!schedule_is_idle(s))
		ev_idle_start(loop, &s->busy);
}

static void on_check(struct ev_loop *loop, struct ev_check *watcher, int events)
{
	struct schedule *s = watcher->data;

	(void)loop;
	(void)events;
	if (schedule_is_idle(s))
		return;
	/* Less processor time than time has passed, and only clock_processor() is a system call. */
	double end = clock_processor() + SCHEDULE_SECONDS, soonest_end = clock_now() + SCHEDULE_SECONDS;
	do
		serve_next(s);
	while (!schedule_is_idle(s) && (clock_now() < soonest_end || clock_processor() < end));
	if (!schedule_is_idle(s) && s->rest_seconds > 0 && s->n_users > 1)
		begin_rest(s);
}

static void on_idle(struct ev_loop *loop, struct ev_idle *watcher, int events)
{
	(void)loop;
	(void)watcher;
	(void)events;
}

void schedule_open(struct schedule *s, struct ev_loop *loop, int priority, double rest_seconds)
{
	*s = (struct schedule){.loop = loop,
		.rest_seconds = rest_seconds,
		.round = 1,
		.fresh = TAILQ_HEAD_INITIALIZER(s->fresh),
		.ring = TAILQ_HEAD_INITIALIZER(s->ring),
		.resting = TAILQ_HEAD_INITIALIZER(s->resting)};
	ev_check_init(&s->serving, on_check);
	ev_set_priority(&s->serving, priority);
	ev_idle_init(&s->busy, on_idle);
	ev_set_priority(&s->busy, EV_MINPRI);
	timer_init(&s->rest, on_rest_over, s);
	s->serving.data = s;
	ev_check_start(loop, &s->serving);
}

void schedule_close(struct schedule *s)
{
	ev_check_stop(s->loop, &s->serving);
	ev_idle_stop(s->loop, &s->busy);
	ev_timer_stop(s->loop, &s->rest);
}

void share_init(struct share *share)
{
	*share = (struct share){.ready = TAILQ_HEAD_INITIALIZER(share->ready)};
}
