#include "bench.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* Clocks */

static uint64_t ns_of(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

uint64_t clock_ns(void)
{
	return ns_of(CLOCK_MONOTONIC);
}

uint64_t thread_cpu_ns(void)
{
	return ns_of(CLOCK_THREAD_CPUTIME_ID);
}

void sleep_until(uint64_t when)
{
	struct timespec t = {(time_t)(when / NSEC_PER_SEC), (long)(when % NSEC_PER_SEC)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
		;
}

/* Processes */

struct page *fork_processes(
	unsigned n, void (*run)(void *context, struct page *page, unsigned index), void *context)
{
	pid_t parent = getpid();

	/* A file, so that a process that becomes another program can map it again. */
	size_t size = sizeof(struct page) + n * sizeof(struct slot);
	int file = memfd_create("bench", 0);
	if (file < 0 || ftruncate(file, (off_t)size) < 0)
		die("memfd_create: %m");
	struct page *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (page == MAP_FAILED)
		die("mmap: %m");
	page->n = n;
	page->file = file;
	page->record_from = UINT64_MAX;
	for (unsigned i = 0; i < n; i++) {
		if (sem_init(&page->slots[i].go, 1, 0) < 0)
			die("sem_init: %m");
		pid_t pid = fork();
		if (pid < 0)
			die("fork: %m");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == parent)
				run(context, page, i);
			_exit(0);
		}
		page->slots[i].pid = pid;
	}
	return page;
}

static bool has_ended(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) != 0;
}

void await_each(struct page *page, bool (*is_so)(const struct slot *slot), const char *what)
{
	uint64_t deadline = clock_ns() + DEADLINE_SECONDS * NSEC_PER_SEC;

	for (unsigned i = 0; i < page->n; i++)
		while (!is_so(&page->slots[i])) {
			/* A process that died has printed why. */
			if (clock_ns() > deadline || has_ended(page->slots[i].pid))
				die("process %u of %u did not %s", i, page->n, what);
			sleep_until(clock_ns() + NSEC_PER_SEC / 1000);
		}
}

static bool is_ready(const struct slot *slot)
{
	return slot->ready;
}

void await_ready(struct page *page)
{
	await_each(page, is_ready, "become ready");
}

void end_processes(struct page *page)
{
	for (unsigned i = 0; i < page->n; i++)
		kill(page->slots[i].pid, SIGKILL);
	for (unsigned i = 0; i < page->n; i++)
		waitpid(page->slots[i].pid, NULL, 0);
}

uint64_t total_count(const struct page *page)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < page->n; i++)
		sum += atomic_load_explicit(&page->slots[i].count, memory_order_relaxed);
	return sum;
}

uint64_t least_count(const struct page *page)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < page->n; i++) {
		uint64_t count = atomic_load_explicit(&page->slots[i].count, memory_order_relaxed);
		if (count < least)
			least = count;
	}
	return least;
}

uint64_t total_faults(const struct page *page)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < page->n; i++)
		sum += page->slots[i].faults;
	return sum;
}

/* Arguments */

char *nth_of(const char *list, unsigned n)
{
	unsigned parts = 1;

	for (const char *p = list; *p; p++)
		parts += *p == ',';
	for (n %= parts; n > 0; n--)
		list = strchr(list, ',') + 1;
	char *part = strndup(list, strcspn(list, ","));
	if (!part)
		die("out of memory");
	return part;
}

unsigned pids_of(const char *list, pid_t *out, unsigned max)
{
	unsigned n = 0;
	char *end;

	while (list && *list && n < max) {
		out[n++] = (pid_t)strtol(list, &end, 10);
		list = *end == ',' ? end + 1 : NULL;
	}
	return n;
}
