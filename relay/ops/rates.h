/* How fast some counters grow, over the last 1 s, 10 s and 1 min: a sample of each a second,
 * for a minute. relay.c's timer takes the samples; the status shows the rates. All zero at
 * first. */
#pragma once

#include <stdint.h>

enum rate { RATE_HEARD, RATE_PUBLISHED, RATE_DELIVERED, RATES_N };

#define RATES_SECONDS 60

struct rates_sample {
	double at; /* by clock_now() */
	uint64_t counts[RATES_N];
};

struct rates {
	struct rates_sample samples[RATES_SECONDS + 1];
	unsigned n, newest;
};

void rates_sample(struct rates *rates, const uint64_t counts[RATES_N]);
/* Events a second, over this many seconds, or fewer if there are not enough samples. */
double rates_over(const struct rates *rates, enum rate rate, unsigned seconds);
