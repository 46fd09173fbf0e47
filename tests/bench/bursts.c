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

static void await_idle(struct page *page)
{
	uint64_t deadline = clock_ns() + DEADLINE_SECONDS * NSEC_PER_SEC;

	for (unsigned i = 0; i < page->n; i++)
		while (!page->slots[i].idle) {
			/* A process that died has printed why. */
			if (clock_ns() > deadline || process_ended(page->slots[i].pid))
				die("process %u of %u does not come to rest", i, page->n);
			sleep_until(clock_ns() + NSEC_PER_SEC / 1000);
		}
}

void measure_burst(struct page *page, const struct parties *parties, double seconds)
{
	await_idle(page);
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
	await_idle(page);
	printf("{\"seconds\": %.6f, \"changes\": %llu, \"p50\": %llu, ", (double)elapsed / NSEC_PER_SEC,
		(unsigned long long)changes, (unsigned long long)latency_percentile(page, page->n, 50));
	print_account(&before, &after);
	puts("}");
}
