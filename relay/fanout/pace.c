#include "fanout/pace.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

static void on_fired(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct pace *p = watcher->data;
	uint64_t times;

	(void)loop;
	(void)events;
	(void)!read(watcher->fd, &times, sizeof times);
	p->alarm = 0;
}

int pace_open(struct pace *p, struct ev_loop *loop)
{
	*p = (struct pace){.loop = loop};
	p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->timer < 0)
		return -errno;
	ev_io_init(&p->fired, on_fired, p->timer, EV_READ);
	p->fired.data = p;
	ev_io_start(loop, &p->fired);
	return 0;
}

void pace_close(struct pace *p)
{
	ev_io_stop(p->loop, &p->fired);
	close(p->timer);
}

/* An earlier alarm stays. */
static void ask_again_at(struct pace *p, double now, double when)
{
	double seconds = when - now;
	time_t whole = (time_t)seconds;
	struct itimerspec spec = {.it_value = {whole, (long)((seconds - (double)whole) * 1e9) + 1}};

	if (p->alarm > 0 && p->alarm <= when)
		return;
	int r = timerfd_settime(p->timer, 0, &spec, NULL);
	assert(r == 0);
	(void)r;
	p->alarm = when;
}

/* For a Unix socket, SIOCOUTQ counts what the peer has not read yet. */
static bool most_have_read(const struct pace *p)
{
	unsigned n = p->n_sends < PACE_SAMPLE ? p->n_sends : PACE_SAMPLE, unread = 0;
	int left;

	for (unsigned i = 0; i < n; i++)
		unread += p->last[i] >= 0 && ioctl(p->last[i], SIOCOUTQ, &left) == 0 && left > 0;
	return unread * 2 < n;
}

static double lesser(double a, double b)
{
	return a < b ? a : b;
}

/* Also true once they had enough time to read. */
static bool have_read(struct pace *p, double now)
{
	double sending = p->ended - p->began;
	double end = p->began + lesser(PACE_UNREAD_MAX * sending, sending + PACE_WAIT_MAX);

	if (now >= end || most_have_read(p))
		return true;
	ask_again_at(p, now, lesser(now + sending, end));
	return false;
}

bool pace_allows(struct pace *p, uint64_t n_frames)
{
	if (p->n_sends == 0)
		return true;
	double now = clock_now();
	if (p->phase != PACE_RESTING) {
		bool asked_before = p->phase == PACE_UNREAD;
		p->phase = PACE_UNREAD;
		if (!have_read(p, now))
			return false;
		if (!asked_before)
			return true;
		p->phase = PACE_RESTING;
		p->until = now + lesser(PACE_REST * (now - p->began),
					 lesser(PACE_REST_A_FRAME * (double)n_frames, PACE_WAIT_MAX));
	}
	if (now < p->until)
		ask_again_at(p, now, p->until);
	return now >= p->until;
}

void pace_begin(struct pace *p)
{
	p->n_sends = 0;
	p->phase = PACE_SENT;
	p->began = clock_now();
}

void pace_sent(struct pace *p, int fd)
{
	p->last[p->n_sends++ % PACE_SAMPLE] = fd;
}

void pace_end(struct pace *p)
{
	p->ended = clock_now();
}

void pace_forget(struct pace *p, int fd)
{
	for (unsigned i = 0; i < PACE_SAMPLE; i++)
		if (p->last[i] == fd)
			p->last[i] = -1;
}
