#include "bench.h"

#include <stdio.h>

/* The part of a measurement's time that warms it up before. */
#define WARM_UP 0.25

void await_go(struct slot *slot)
{
	slot->idle = true;
	while (sem_wait(&slot->go) < 0)
		;
}

static bool is_idle(const struct slot *slot)
{
	return slot->idle;
}

void measure_burst(struct page *page, const struct parties *parties, double seconds)
{
	await_each(page, is_idle, "come to rest");
	clear_latency(page);
	page->running = true;
	for (unsigned i = 0; i < page->n; i++) {
		page->slots[i].idle = false;
		sem_post(&page->slots[i].go);
	}
	sleep_until(clock_ns() + (uint64_t)(seconds * WARM_UP * NSEC_PER_SEC));
	struct account before = account(parties, page);
	uint64_t start = clock_ns(), count = total_count(page);
	page->record_from = start;
	sleep_until(start + (uint64_t)(seconds * NSEC_PER_SEC));
	struct account after = account(parties, page);
	uint64_t elapsed = clock_ns() - start, changes = total_count(page) - count;
	page->record_from = UINT64_MAX;
	page->running = false;
	await_each(page, is_idle, "come to rest");
	printf("{\"seconds\": %.6f, \"changes\": %llu, \"p50\": %llu, ", (double)elapsed / NSEC_PER_SEC,
		(unsigned long long)changes, (unsigned long long)latency_percentile(page, page->n, 50));
	print_account(&before, &after);
	puts("}");
}
