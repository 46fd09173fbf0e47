/* The one descriptor that an app polls: an epoll that holds the relay's socket and a timer, so that it
 * stays the same while sockets come and go. What the timer is for, and when it is to fire, is the callers'
 * business.
 *
 * After a fork both processes share the epoll's interest list and the timer. Only wake_close() is safe in
 * the child. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NSEC_PER_MSEC UINT64_C(1000000)

/* Times, beside those of wake_clock(). Now is a nanosecond after boot: long over, so a timer set to it
 * fires. */
#define WAKE_NOW UINT64_C(1)
#define WAKE_NEVER UINT64_MAX

struct wake {
	int epoll, timer;
	uint64_t due; /* when the timer fires; WAKE_NEVER: it is off, or was read as fired */
};

/* Nanoseconds of the clock that all times here are of; it does not jump. */
uint64_t wake_clock(void);

/* 0, -EMFILE, -ENFILE or -ENOMEM */
int wake_open(struct wake *wake);
void wake_close(struct wake *wake);

/* Make the descriptor readable at this time at the latest. */
void wake_at(struct wake *wake, uint64_t when);

/* At the end of a dispatch: what the timer fired for so far is done; next (or WAKE_NEVER) is what to fire
 * for. */
void wake_settle(struct wake *wake, uint64_t next);

/* 0, -ENOMEM or -ENOSPC */
int wake_watch(struct wake *wake, int fd);
void wake_on_output(struct wake *wake, int fd, bool wanted);
void wake_forget(struct wake *wake, int fd);
