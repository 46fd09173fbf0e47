#include "bench.h"

#include <string.h>

static unsigned bucket_of(uint64_t ns)
{
	unsigned shift = ns < 128 ? 0 : 57u - (unsigned)__builtin_clzll(ns);
	uint64_t bucket = ns < 64 ? ns : (uint64_t)(shift + 1) * 64 + (ns >> shift) - 64;

	return bucket < LATENCY_BUCKETS ? (unsigned)bucket : LATENCY_BUCKETS - 1;
}

static uint64_t middle_of(unsigned bucket)
{
	unsigned shift = bucket < 64 ? 0 : bucket / 64 - 1;

	return bucket < 64 ? bucket : ((uint64_t)(bucket % 64 + 64) << shift) + (UINT64_C(1) << shift) / 2;
}

static uint64_t stamp_of(const char *client_id)
{
	uint64_t stamp = 0;

	for (int i = 0; i < 16; i++)
		stamp = stamp << 4 |
			(uint64_t)(client_id[i] <= '9' ? client_id[i] - '0' : client_id[i] - 'a' + 10);
	return stamp;
}

void record_latency(const struct page *page, struct slot *slot, uint64_t sent, uint64_t now)
{
	uint64_t from = atomic_load_explicit(&page->record_from, memory_order_relaxed);

	if (sent >= from)
		slot->latency[bucket_of(now - sent)]++;
}

void count_heard(const struct page *page, struct slot *slot, const char *client_id)
{
	if (atomic_load_explicit(&page->record_from, memory_order_relaxed) != UINT64_MAX)
		record_latency(page, slot, stamp_of(client_id), clock_ns());
	uint64_t count = atomic_load_explicit(&slot->count, memory_order_relaxed);
	atomic_store_explicit(&slot->count, count + 1, memory_order_relaxed);
}

void clear_latency(struct page *page)
{
	for (unsigned i = 0; i < page->n; i++)
		memset(page->slots[i].latency, 0, sizeof page->slots[i].latency);
}

uint64_t latency_percentile(const struct page *page, unsigned n, double percent)
{
	uint64_t total = 0, below = 0;

	for (unsigned i = 0; i < n; i++)
		for (unsigned b = 0; b < LATENCY_BUCKETS; b++)
			total += page->slots[i].latency[b];
	for (unsigned b = 0; b < LATENCY_BUCKETS && total > 0; b++) {
		for (unsigned i = 0; i < n; i++)
			below += page->slots[i].latency[b];
		if ((double)below >= (double)total * percent / 100)
			return middle_of(b);
	}
	return 0;
}
