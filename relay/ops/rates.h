/* How fast a few counters go, over the last 1 s, 10 s and 1 min: a sample of each a second, for as long.
 * main's timer takes them, the status shows them. */
#pragma once

#include <stdint.h>

enum rate { RATE_HEARD, RATE_PUBLISHED, RATE_DELIVERED, RATES_N };

#define RATES_SECONDS 60

struct rates_sample {
	double at;
	uint64_t counts[RATES_N];
};

struct rates {
	struct rates_sample samples[RATES_SECONDS + 1];
	unsigned n, newest;
};

void rates_sample(struct rates *rates, const uint64_t counts[RATES_N]);
/* A second, over the last so many, or as many as there are samples of. */
double rates_over(const struct rates *rates, enum rate rate, unsigned seconds);
