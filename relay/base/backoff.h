/* How long to wait before the next attempt to connect: it doubles, and starts again after a
 * connection that lasted. Jitter keeps the relays of a fleet from reconnecting at one moment.
 * All that connect to PostgreSQL call this. */
#pragma once

#include <stdbool.h>

struct backoff {
	double first, max; /* seconds */
	bool prompt;       /* the first attempt after a healthy connection is made at once */
	double next;       /* seconds; 0 before the first attempt */
	double live_since; /* by clock_now(); 0 while not connected */
};

/* A connection that lasted this long was stable: longer than the longest wait before an
 * attempt. */
#define BACKOFF_STABLE_SECONDS 120.
/* One that lasted this long was healthy, for those that are prompt. As long as the first wait: a
 * server that ends each connection is asked no more often than one that refuses each. */
#define BACKOFF_HEALTHY_SECONDS 1.

void backoff_live(struct backoff *backoff, double now);
/* The connection, or the attempt, failed. Returns the seconds to wait, +-20 %; 0: at once. */
double backoff_failed(struct backoff *backoff, double now);
/* seconds, +-20 % */
double jittered(double seconds);
