#include "bench.h"

#include <stdio.h>
#include <time.h>

/* The kernel's clock of a process: what the scheduler measured of all its threads, those that have ended
 * included, in nanoseconds. Neither the ticks of /proc/PID/stat, nor the main thread alone, of which
 * /proc/PID/schedstat tells. A process that has ended used nothing: so a measurement lies within the life of
 * what it measures. */
static uint64_t process_cpu_ns(pid_t pid)
{
	clockid_t clock;
	struct timespec used;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
		return 0;
	return (uint64_t)used.tv_sec * NSEC_PER_SEC + (uint64_t)used.tv_nsec;
}

uint64_t processes_cpu_ns(const pid_t *pids, unsigned n)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += process_cpu_ns(pids[i]);
	return sum;
}

uint64_t tree_cpu_ns(pid_t parent)
{
	uint64_t sum = process_cpu_ns(parent);
	char path[64];
	int child;

	snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
	FILE *file = fopen(path, "r");
	if (!file)
		die("%s: %m", path);
	while (fscanf(file, "%d", &child) == 1)
		sum += process_cpu_ns(child);
	fclose(file);
	return sum;
}

uint64_t page_cpu_ns(const struct page *page)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < page->n; i++)
		sum += process_cpu_ns(page->slots[i].pid);
	return sum;
}

struct account account(const struct parties *parties, const struct page *page)
{
	return (struct account){.source = thread_cpu_ns(),
		.processes = page ? page_cpu_ns(page) : 0,
		.relays = processes_cpu_ns(parties->relays, parties->n_relays),
		.postgres = parties->postmaster ? tree_cpu_ns(parties->postmaster) : 0};
}

void print_account(const struct account *from, const struct account *to)
{
	printf("\"cpu_source\": %llu, \"cpu_processes\": %llu, \"cpu_relays\": %llu, \"cpu_postgres\": %llu",
		(unsigned long long)(to->source - from->source),
		(unsigned long long)(to->processes - from->processes),
		(unsigned long long)(to->relays - from->relays),
		(unsigned long long)(to->postgres - from->postgres));
}
