/* Time that never jumps, and timers that are armed for once. For every module of the relay that waits or
 * measures; libev's own ev_now() follows the wall clock. */
#pragma once

#include <ev.h>
#include <time.h>

/* Seconds since some moment. */
static inline double clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A deadline gives way to what has already come: a relay that was stopped for a while would otherwise find
 * overdue what waits in its sockets. */
static inline void timer_init(
	struct ev_timer *timer, void (*fired)(struct ev_loop *, struct ev_timer *, int), void *data)
{
	ev_init(timer, fired);
	ev_set_priority(timer, EV_MINPRI);
	timer->data = data;
}

/* Once, so many seconds from now, and no earlier time that it was armed for. */
static inline void timer_arm(struct ev_loop *loop, struct ev_timer *timer, double seconds)
{
	ev_timer_stop(loop, timer);
	ev_now_update(loop);
	ev_timer_set(timer, seconds, 0.);
	ev_timer_start(loop, timer);
}
