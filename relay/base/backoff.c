#include "base/backoff.h"

#include <stdint.h>
#include <sys/random.h>

double jittered(double seconds)
{
	uint32_t random;

	if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
		return seconds;
	return seconds * (0.8 + 0.4 * random / UINT32_MAX);
}

void backoff_live(struct backoff *b, double now)
{
	b->live_since = now;
}

double backoff_failed(struct backoff *b, double now)
{
	double lasted = b->live_since > 0 ? now - b->live_since : 0;
	bool healthy = b->prompt && lasted >= BACKOFF_HEALTHY_SECONDS;

	b->live_since = 0;
	if (b->next == 0 || healthy || lasted >= BACKOFF_STABLE_SECONDS)
		b->next = b->first;
	if (healthy)
		return 0;
	double wait = jittered(b->next);
	b->next = b->next * 2 < b->max ? b->next * 2 : b->max;
	return wait;
}
