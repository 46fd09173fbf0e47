#include "ops/rates.h"

#include "base/clock.h"

#include <string.h>

#define KEPT (RATES_SECONDS + 1)

void rates_open(struct rates *r)
{
	*r = (struct rates){.since = (int64_t)clock_now()};
}

void rates_note(struct rates *r, const uint64_t counts[RATES_N])
{
	if (memcmp(counts, r->counts, sizeof r->counts) == 0)
		return;
	int64_t now = (int64_t)clock_now();
	struct rates_second *second = &r->seconds[now % KEPT];

	if (second->at != now)
		*second = (struct rates_second){.at = now};
	for (unsigned i = 0; i < RATES_N; i++)
		second->growth[i] += counts[i] - r->counts[i];
	memcpy(r->counts, counts, sizeof r->counts);
}

double rates_over(const struct rates *r, enum rate rate, unsigned seconds)
{
	int64_t now = (int64_t)clock_now(), from = now - seconds > r->since ? now - seconds : r->since;
	uint64_t growth = 0;

	for (unsigned i = 0; i < KEPT; i++)
		if (r->seconds[i].at >= from && r->seconds[i].at < now)
			growth += r->seconds[i].growth[rate];
	return now > from ? (double)growth / (double)(now - from) : 0;
}
