#include "wake.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NSEC_PER_SEC UINT64_C(1000000000)

uint64_t wake_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

int wake_open(struct wake *wake)
{
	wake->due = WAKE_NEVER;
	wake->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (wake->epoll < 0)
		return -errno;
	wake->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (wake->timer < 0) {
		int r = -errno;
		close(wake->epoll);
		return r;
	}
	int r = wake_watch(wake, wake->timer);
	if (r < 0)
		wake_close(wake);
	return r;
}

void wake_close(struct wake *wake)
{
	close(wake->timer);
	close(wake->epoll);
}

/* Setting the timer also takes back that it fired: it need not be read. */
static void set_timer(struct wake *wake, uint64_t when)
{
	struct itimerspec spec = {0};

	if (when != WAKE_NEVER) {
		spec.it_value.tv_sec = (time_t)(when / NSEC_PER_SEC);
		spec.it_value.tv_nsec = (long)(when % NSEC_PER_SEC);
	}
	timerfd_settime(wake->timer, TFD_TIMER_ABSTIME, &spec, NULL);
	wake->due = when;
}

void wake_at(struct wake *wake, uint64_t when)
{
	if (when < wake->due)
		set_timer(wake, when);
}

void wake_settle(struct wake *wake, uint64_t next)
{
	/* A timer that fires too early costs one empty dispatch, less than setting it each time the next is
	 * later. */
	if (next < wake->due || (wake->due != WAKE_NEVER && wake->due <= wake_clock()))
		set_timer(wake, next);
}

int wake_watch(struct wake *wake, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(wake->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void wake_on_output(struct wake *wake, int fd, bool wanted)
{
	struct epoll_event event = {.events = EPOLLIN | (wanted ? (uint32_t)EPOLLOUT : 0)};

	epoll_ctl(wake->epoll, EPOLL_CTL_MOD, fd, &event);
}

void wake_forget(struct wake *wake, int fd)
{
	epoll_ctl(wake->epoll, EPOLL_CTL_DEL, fd, NULL);
}
