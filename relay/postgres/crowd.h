/* The crowd: many workers that each publish now and then. To wake for a request alone, and a
 * transaction for it alone, cost several times as much as the request. So while there is a crowd, the
 * loop waits in each iteration, and requests come together. This counts and decides; the publisher,
 * which calls it, has the loop wait. */
#pragma once

#include <stdint.h>

/* Seconds over which workers are counted, by slot modulo 64. */
#define CROWD_WINDOW 0.01
#define CROWD_SLOTS 64
/* How many are a crowd. Of few, not enough requests come together. */
#define CROWD_WORKERS 16
/* Seconds: what each wait may add to the latency of a change. */
#define CROWD_WAIT 0.002
/* Seconds. A worker that publishes again so soon after an answer has waited for it. Such requests come
 * together by themselves, since their workers wait for the same transaction; a longer wait would only
 * slow the workers down. */
#define CROWD_PROMPT (2 * CROWD_WAIT)
/* Requests of each: of workers that send many at a time, they come together too. */
#define CROWD_EACH_MAX 4

struct crowd {
	double answered[CROWD_SLOTS]; /* the last request: seconds of clock_now() */
	double began;                 /* the window: seconds of clock_now() */
	uint64_t slots;               /* that published in it: a bit each */
	unsigned n_requests;          /* in it */
	double wait;                  /* by the window before: seconds, or 0 */
};

static inline void crowd_answered(struct crowd *crowd, uint32_t slot, double now)
{
	crowd->answered[slot % CROWD_SLOTS] = now;
}

static inline void crowd_request(struct crowd *crowd, uint32_t slot, double now)
{
	if (now - crowd->answered[slot % CROWD_SLOTS] > CROWD_PROMPT)
		crowd->slots |= UINT64_C(1) << slot % CROWD_SLOTS;
	crowd->n_requests++;
}

/* How many seconds the loop waits in each iteration, until the next call. */
double crowd_wait(struct crowd *crowd, double now);
