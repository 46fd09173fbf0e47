/* Durations in buckets, as Prometheus wants them. The canary and the publisher observe them;
 * the metrics print them. */
#pragma once

#include <stdint.h>

/* Upper bounds in seconds: from a commit on the same host to the deadline of a request. */
#define HISTOGRAM_BOUNDS                                                                                     \
	{                                                                                                    \
		0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5                        \
	}
#define HISTOGRAM_BUCKETS 13
_Static_assert(
	sizeof((const double[])HISTOGRAM_BOUNDS) == HISTOGRAM_BUCKETS * sizeof(double), "a bucket a bound");

struct histogram {
	/* Not cumulative; the last is beyond all bounds. */
	uint64_t counts[HISTOGRAM_BUCKETS + 1];
	double sum; /* seconds */
};

static inline void histogram_observe(struct histogram *histogram, double seconds)
{
	static const double bounds[HISTOGRAM_BUCKETS] = HISTOGRAM_BOUNDS;
	unsigned i = 0;

	while (i < HISTOGRAM_BUCKETS && seconds > bounds[i])
		i++;
	histogram->counts[i]++;
	histogram->sum += seconds;
}
