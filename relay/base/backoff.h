/* How long to wait before the next attempt to connect: doubling, jittered so that a fleet does not come back
 * as one, and back at the start after a connection that lasted. Called by whoever connects to PostgreSQL. */
#pragma once

struct backoff {
	double first, max; /* seconds */
	double next;       /* 0 before the first attempt */
	double live_since; /* 0 while not connected */
};

/* A connection that lasted this long counts as stable. */
#define BACKOFF_STABLE_SECONDS 120.

void backoff_live(struct backoff *backoff, double now);
/* The connection, or the attempt, failed: seconds to wait, +-20 %. */
double backoff_failed(struct backoff *backoff, double now);
/* seconds, +-20 % */
double jittered(double seconds);
