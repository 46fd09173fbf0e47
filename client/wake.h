/* The one descriptor that an app polls. It is an epoll that watches the relay's socket, a timer
 * and a doorbell, so it stays the same while sockets come and go. The callers decide when the
 * timer fires. The doorbell is an eventfd. It replaces a timer that fires at once: each request
 * rings it, and setting a timer costs several times as much. While the app has not asked for the
 * descriptor, no loop polls it: a request only notes that there is something to do, and
 * pgherald_wait() does it before it waits.
 *
 * After a fork both processes share the epoll's interest list, the timer and the doorbell.
 * Only wake_close() is safe in the child. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NSEC_PER_MSEC UINT64_C(1000000)

/* Special times; all others are of wake_clock(). */
#define WAKE_NOW UINT64_C(0)
#define WAKE_NEVER UINT64_MAX

struct wake {
	int epoll, timer, doorbell;
	bool rung;
	bool watched; /* the app has the descriptor */
	bool asked;   /* there is something to do now, and the doorbell was not rung for it */
	uint64_t due; /* when the timer fires; WAKE_NEVER if it is off */
};

/* What epoll says of the watched socket. */
enum wake_socket {
	WAKE_QUIET, /* nothing to read */
	WAKE_INPUT, /* bytes: a recv() that does not fill its buffer has taken all */
	WAKE_ENDED, /* perhaps bytes, then the end or an error */
};

/* Nanoseconds of CLOCK_MONOTONIC. All times of the library are of this clock. */
uint64_t wake_clock(void);

/* Returns 0, -EMFILE, -ENFILE, -ENOMEM or -ENOSPC. */
int wake_open(struct wake *wake);
void wake_close(struct wake *wake);

/* Make the descriptor readable at this time, or earlier. */
void wake_at(struct wake *wake, uint64_t when);

/* The app gets the descriptor, and may poll it from now on. */
void wake_watched(struct wake *wake);

/* At the end of a dispatch: the descriptor is no longer readable for what was done. next is
 * when it must be readable again, or WAKE_NEVER. */
void wake_settle(struct wake *wake, uint64_t next);

/* Wait until there is something to do, or timeout_ms milliseconds have passed (negative: no
 * limit). *socket says what happened to the socket. With a timeout of 0 it has always looked at
 * the socket. Returns 0 or -EINTR. */
int wake_wait(struct wake *wake, int timeout_ms, enum wake_socket *socket);

/* Watch this socket, one at a time. Returns 0, -ENOMEM or -ENOSPC. wake_on_output(): whether
 * to watch for room to send too. */
int wake_watch(struct wake *wake, int fd);
void wake_on_output(struct wake *wake, int fd, bool wanted);
void wake_forget(struct wake *wake, int fd);
