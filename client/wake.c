#include "wake.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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

static int watch(struct wake *wake, int fd, int op, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	return epoll_ctl(wake->epoll, op, fd, &event) < 0 ? -errno : 0;
}

static int open_doorbell(struct wake *wake)
{
	wake->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (wake->doorbell < 0)
		return -errno;
	int r = watch(wake, wake->doorbell, EPOLL_CTL_ADD, EPOLLIN);
	if (r < 0)
		close(wake->doorbell);
	return r;
}

static int open_timer(struct wake *wake)
{
	wake->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (wake->timer < 0)
		return -errno;
	int r = watch(wake, wake->timer, EPOLL_CTL_ADD, EPOLLIN);
	if (r == 0)
		r = open_doorbell(wake);
	if (r < 0)
		close(wake->timer);
	return r;
}

int wake_open(struct wake *wake)
{
	*wake = (struct wake){.due = WAKE_NEVER};
	wake->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (wake->epoll < 0)
		return -errno;
	int r = open_timer(wake);
	if (r < 0)
		close(wake->epoll);
	return r;
}

void wake_close(struct wake *wake)
{
	close(wake->doorbell);
	close(wake->timer);
	close(wake->epoll);
}

static void ring(struct wake *wake)
{
	uint64_t one = 1;

	wake->rung = write(wake->doorbell, &one, sizeof one) == sizeof one;
}

static void silence(struct wake *wake)
{
	uint64_t count;

	if (wake->rung)
		wake->rung = read(wake->doorbell, &count, sizeof count) < 0;
}

/* Setting the timer also clears its expiry, so it need not be read. */
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
	if (when != WAKE_NOW && when < wake->due)
		set_timer(wake, when);
	if (when != WAKE_NOW)
		return;
	if (!wake->watched)
		wake->asked = true;
	else if (!wake->rung)
		ring(wake);
}

void wake_watched(struct wake *wake)
{
	if (wake->watched)
		return;
	wake->watched = true;
	if (wake->asked)
		ring(wake);
	wake->asked = false;
}

void wake_settle(struct wake *wake, uint64_t next)
{
	/* Ring again even if it was rung already: otherwise an edge-triggered loop does not
	 * wake. */
	if (next == WAKE_NOW) {
		ring(wake);
		return;
	}
	silence(wake);
	/* A timer that fires too early costs one empty dispatch. That is less than setting
	 * it each time the next deadline is later. */
	if (next < wake->due || (wake->due != WAKE_NEVER && wake->due <= wake_clock()))
		set_timer(wake, next);
}

int wake_wait(struct wake *wake, int timeout_ms, enum wake_socket *socket)
{
	struct epoll_event events[3];
	bool asked = wake->asked;

	*socket = WAKE_QUIET;
	wake->asked = false;
	/* What the socket has is for the next wait. A dispatch must look at it now: an app may
	 * queue something before each. */
	if (asked && timeout_ms != 0)
		return 0;
	int n = epoll_wait(wake->epoll, events, 3, timeout_ms);

	for (int i = 0; i < n; i++) {
		if (events[i].data.fd == wake->timer || events[i].data.fd == wake->doorbell)
			continue;
		if (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			*socket = WAKE_ENDED;
		else if (events[i].events & EPOLLIN)
			*socket = WAKE_INPUT;
	}
	return n < 0 ? -errno : 0;
}

int wake_watch(struct wake *wake, int fd)
{
	return watch(wake, fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
}

void wake_on_output(struct wake *wake, int fd, bool wanted)
{
	watch(wake, fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP | (wanted ? (uint32_t)EPOLLOUT : 0));
}

void wake_forget(struct wake *wake, int fd)
{
	epoll_ctl(wake->epoll, EPOLL_CTL_DEL, fd, NULL);
}
