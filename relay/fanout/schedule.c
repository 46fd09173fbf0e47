#include "fanout/schedule.h"

#include "base/clock.h"

static void leave(struct schedule *s, struct share *share)
{
	TAILQ_REMOVE(share->in, share, next);
	share->in = NULL;
	if (TAILQ_EMPTY(&s->ring))
		ev_idle_stop(s->loop, &s->busy);
}

static void enter(struct schedule *s, struct share *share, struct shares *list)
{
	share->in = list;
	TAILQ_INSERT_TAIL(list, share, next);
	if (list == &s->ring)
		ev_idle_start(s->loop, &s->busy);
}

void schedule_add(struct schedule *s, struct ready *ready)
{
	struct share *share = ready->share;

	if (ready->waits)
		return;
	ready->waits = true;
	TAILQ_INSERT_TAIL(&share->ready, ready, next);
	if (!share->in)
		enter(s, share, &s->ring);
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

static void serve_next(struct schedule *s)
{
	struct share *share = TAILQ_FIRST(&s->ring);
	struct ready *ready = TAILQ_FIRST(&share->ready);

	/* Goes after the others before serve(), which may free it. */
	TAILQ_REMOVE(&s->ring, share, next);
	TAILQ_INSERT_TAIL(&s->ring, share, next);
	schedule_remove(s, ready);
	ready->serve(ready);
}

/* All that are left in the ring. */
static void begin_rest(struct schedule *s)
{
	for (struct share *share; (share = TAILQ_FIRST(&s->ring));) {
		leave(s, share);
		enter(s, share, &s->resting);
	}
	if (!ev_is_active(&s->rest))
		timer_arm(s->loop, &s->rest, s->rest_seconds);
}

static void on_rest_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct schedule *s = timer->data;

	(void)loop;
	(void)events;
	for (struct share *share; (share = TAILQ_FIRST(&s->resting));) {
		leave(s, share);
		enter(s, share, &s->ring);
	}
}

static void on_check(struct ev_loop *loop, struct ev_check *watcher, int events)
{
	struct schedule *s = watcher->data;

	(void)loop;
	(void)events;
	if (TAILQ_EMPTY(&s->ring))
		return;
	/* Less processor time than time has passed, and only clock_processor() is a system call. */
	double end = clock_processor() + SCHEDULE_SECONDS, soonest_end = clock_now() + SCHEDULE_SECONDS;
	do
		serve_next(s);
	while (!TAILQ_EMPTY(&s->ring) && (clock_now() < soonest_end || clock_processor() < end));
	if (!TAILQ_EMPTY(&s->ring) && s->rest_seconds > 0 && s->n_users > 1)
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
