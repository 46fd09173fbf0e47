#include "ops/rates.h"

#include "base/clock.h"

#include <string.h>

#define KEPT (RATES_SECONDS + 1)

void rates_sample(struct rates *r, const uint64_t counts[RATES_N])
{
	r->newest = (r->newest + 1) % KEPT;
	r->samples[r->newest].at = clock_now();
	memcpy(r->samples[r->newest].counts, counts, sizeof r->samples->counts);
	if (r->n < KEPT)
		r->n++;
}

double rates_over(const struct rates *r, enum rate rate, unsigned seconds)
{
	if (r->n < 2)
		return 0;
	unsigned back = seconds < r->n ? seconds : r->n - 1;
	const struct rates_sample *now = &r->samples[r->newest];
	const struct rates_sample *then = &r->samples[(r->newest + KEPT - back) % KEPT];

	/* A loop that was held up takes its samples late, so the clock says how long it
	 * was. */
	return (double)(now->counts[rate] - then->counts[rate]) / (now->at - then->at);
}
