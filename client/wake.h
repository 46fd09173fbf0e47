/* The one descriptor that an app polls: an epoll that holds the relay's socket, a timer and a doorbell, so
 * that it stays the same while sockets come and go. What the timer is for, and when it is to fire, is the
 * callers' business. The doorbell, an eventfd, is a timer for now: each request rings it, and to set a
 * timer costs several times as much.
 *
 * After a fork both processes share the epoll's interest list, the timer and the doorbell. Only
 * wake_close() is safe in the child. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NSEC_PER_MSEC UINT64_C(1000000)

/* Times, beside those of wake_clock(). */
#define WAKE_NOW UINT64_C(0)
#define WAKE_NEVER UINT64_MAX

struct wake {
	int epoll, timer, doorbell;
	bool rung;
	uint64_t due; /* when the timer fires; WAKE_NEVER: it is off */
};

/* What is known of a watched socket. */
enum wake_socket {
	WAKE_QUIET, /* nothing to read */
	WAKE_INPUT, /* a read that takes less than it could has taken all */
	WAKE_ENDED, /* the same, but then comes the end, or an error */
};

/* Nanoseconds of the clock that all times here are of; it does not jump. */
uint64_t wake_clock(void);

/* 0, -EMFILE, -ENFILE, -ENOMEM or -ENOSPC */
int wake_open(struct wake *wake);
void wake_close(struct wake *wake);

/* Make the descriptor readable at this time at the latest. */
void wake_at(struct wake *wake, uint64_t when);

/* At the end of a dispatch: what the timer fired for so far is done; next (or WAKE_NEVER) is what to fire
 * for. */
void wake_settle(struct wake *wake, uint64_t next);

/* Wait until the descriptor is readable, or timeout_ms milliseconds have passed (negative: no limit), and
 * tell of the socket. 0, or -EINTR. */
int wake_wait(struct wake *wake, int timeout_ms, enum wake_socket *socket);

/* One socket at a time. 0, -ENOMEM or -ENOSPC */
int wake_watch(struct wake *wake, int fd);
void wake_on_output(struct wake *wake, int fd, bool wanted);
void wake_forget(struct wake *wake, int fd);
