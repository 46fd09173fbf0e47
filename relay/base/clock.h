/* A clock that never jumps: libev's ev_now() follows the wall clock. And timers that fire once,
 * for deadlines. */
#pragma once

#include <ev.h>

/* Seconds of CLOCK_MONOTONIC. */
double clock_now(void);
/* Seconds of processor time that this thread has used. It stands still while other processes have the
 * processor. A system call, which clock_now() is not. */
double clock_processor(void);

/* Timers have the lowest priority, so input that has arrived is handled before a deadline.
 * Otherwise a process that was stopped for a while would give up on answers that already wait
 * in its sockets. */
static inline void timer_init(
	struct ev_timer *timer, void (*fired)(struct ev_loop *, struct ev_timer *, int), void *data)
{
	ev_init(timer, fired);
	ev_set_priority(timer, EV_MINPRI);
	timer->data = data;
}

/* Fire once, this many seconds from now. An earlier arming is cancelled. */
static inline void timer_arm(struct ev_loop *loop, struct ev_timer *timer, double seconds)
{
	ev_timer_stop(loop, timer);
	ev_now_update(loop);
	ev_timer_set(timer, seconds, 0.);
	ev_timer_start(loop, timer);
}
