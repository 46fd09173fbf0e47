/* How fast some counters grow, over the last 1 s, 10 s and 1 min: how much each grew in each of
 * these seconds. relay.c notes the counters when they have changed, so an idle relay does not
 * wake for them; the status shows the rates. */
#pragma once

#include <stdint.h>

enum rate { RATE_HEARD, RATE_PUBLISHED, RATE_DELIVERED, RATES_N };

#define RATES_SECONDS 60

/* One second, by clock_now(). */
struct rates_second {
	int64_t at;
	uint64_t growth[RATES_N];
};

struct rates {
	struct rates_second seconds[RATES_SECONDS + 1];
	uint64_t counts[RATES_N]; /* when they were noted */
	int64_t since;
};

void rates_open(struct rates *rates);
/* The counters, at the end of each iteration of the loop. */
void rates_note(struct rates *rates, const uint64_t counts[RATES_N]);
/* Events a second, over this many whole seconds, or fewer if the relay is younger. */
double rates_over(const struct rates *rates, enum rate rate, unsigned seconds);
