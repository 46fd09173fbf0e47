#include "schedule.h"

#include "clock.h"

/* Below every socket's, above every deadline's. */
#define PRIORITY (-1)

static void leave_ring(struct schedule *s, struct share *share)
{
	TAILQ_REMOVE(&s->ring, share, next);
	share->in_ring = false;
	if (TAILQ_EMPTY(&s->ring))
		ev_idle_stop(s->loop, &s->busy);
}

void schedule_add(struct schedule *s, struct ready *ready)
{
	struct share *share = ready->share;

	if (ready->waits)
		return;
	ready->waits = true;
	TAILQ_INSERT_TAIL(&share->ready, ready, next);
	if (share->in_ring)
		return;
	if (TAILQ_EMPTY(&s->ring))
		ev_idle_start(s->loop, &s->busy);
	TAILQ_INSERT_TAIL(&s->ring, share, next);
	share->in_ring = true;
}

void schedule_remove(struct schedule *s, struct ready *ready)
{
	struct share *share = ready->share;

	if (!ready->waits)
		return;
	ready->waits = false;
	TAILQ_REMOVE(&share->ready, ready, next);
	if (TAILQ_EMPTY(&share->ready))
		leave_ring(s, share);
}

static void serve_next(struct schedule *s)
{
	struct share *share = TAILQ_FIRST(&s->ring);
	struct ready *ready = TAILQ_FIRST(&share->ready);

	/* The share goes behind the others before anything else happens: serve() may be the end of it. */
	TAILQ_REMOVE(&s->ring, share, next);
	TAILQ_INSERT_TAIL(&s->ring, share, next);
	schedule_remove(s, ready);
	ready->serve(ready);
}

static void on_check(struct ev_loop *loop, struct ev_check *watcher, int events)
{
	struct schedule *s = watcher->data;

	(void)loop;
	(void)events;
	if (TAILQ_EMPTY(&s->ring))
		return;
	double end = clock_now() + SCHEDULE_SECONDS;
	do
		serve_next(s);
	while (!TAILQ_EMPTY(&s->ring) && clock_now() < end);
}

static void on_idle(struct ev_loop *loop, struct ev_idle *watcher, int events)
{
	(void)loop;
	(void)watcher;
	(void)events;
}

void schedule_open(struct schedule *s, struct ev_loop *loop)
{
	*s = (struct schedule){.loop = loop, .ring = TAILQ_HEAD_INITIALIZER(s->ring)};
	ev_check_init(&s->serving, on_check);
	ev_set_priority(&s->serving, PRIORITY);
	ev_idle_init(&s->busy, on_idle);
	ev_set_priority(&s->busy, EV_MINPRI);
	s->serving.data = s;
	ev_check_start(loop, &s->serving);
}

void schedule_close(struct schedule *s)
{
	ev_check_stop(s->loop, &s->serving);
	ev_idle_stop(s->loop, &s->busy);
}

void share_init(struct share *share)
{
	*share = (struct share){.ready = TAILQ_HEAD_INITIALIZER(share->ready)};
}
