#include "bench.h"

#include <dirent.h>
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

bool process_ended(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) != 0;
}

void await_ready(struct page *page)
{
	uint64_t deadline = clock_ns() + DEADLINE_SECONDS * NSEC_PER_SEC;

	for (unsigned i = 0; i < page->n; i++)
		while (!page->slots[i].ready) {
			if (clock_ns() > deadline || process_ended(page->slots[i].pid))
				die("process %u of %u did not become ready", i, page->n);
			sleep_until(clock_ns() + NSEC_PER_SEC / 1000);
		}
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

void print_rate(struct page *page, double seconds)
{
	await_ready(page);
	sleep_until(clock_ns() + (uint64_t)(seconds / 4 * NSEC_PER_SEC));
	uint64_t start = clock_ns(), before = total_count(page);
	sleep_until(start + (uint64_t)(seconds * NSEC_PER_SEC));
	uint64_t elapsed = clock_ns() - start, changes = total_count(page) - before;
	/* A process that died has printed why. One that hangs has counted less. */
	for (unsigned i = 0; i < page->n; i++)
		if (process_ended(page->slots[i].pid))
			die("process %u of %u ended", i, page->n);
	printf("{\"seconds\": %.6f, \"changes\": %llu}\n", (double)elapsed / NSEC_PER_SEC,
		(unsigned long long)changes);
}

/* Payloads */

static char *put_hex(char *out, uint64_t value, unsigned digits)
{
	static const char hex[] = "0123456789abcdef";

	for (unsigned i = digits; i-- > 0;)
		*out++ = hex[value >> (4 * i) & 15];
	return out;
}

/* splitmix64 */
uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void user_pubkey(uint64_t user, char *out)
{
	uint64_t state = user * 4;

	*out++ = '0';
	*out++ = '2';
	for (int i = 0; i < 4; i++)
		out = put_hex(out, next_random(&state), 16);
	*out = '\0';
}

void stamped_client_id(uint64_t now, char *out)
{
	static uint64_t serial;

	out = put_hex(out, now, 16);
	memcpy(out, "-4000-8000-", 11);
	out = put_hex(out + 11, serial++, 9);
	*out = '\0';
}

void make_payload(uint64_t user, uint64_t now, char *out)
{
	memcpy(out, "{\"p\":\"", 6);
	user_pubkey(user, out + 6);
	memcpy(out + 6 + PUBKEY_LEN, "\",\"c\":\"", 7);
	stamped_client_id(now, out + 13 + PUBKEY_LEN);
	memcpy(out + 13 + PUBKEY_LEN + CLIENT_ID_LEN, "\"}", 3);
}

/* Latencies */

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

void count_heard(const struct page *page, struct slot *slot, const char *client_id)
{
	uint64_t from = atomic_load_explicit(&page->record_from, memory_order_relaxed);

	if (from != UINT64_MAX) {
		uint64_t stamp = stamp_of(client_id);
		if (stamp >= from)
			slot->latency[bucket_of(clock_ns() - stamp)]++;
	}
	uint64_t count = atomic_load_explicit(&slot->count, memory_order_relaxed);
	atomic_store_explicit(&slot->count, count + 1, memory_order_relaxed);
}

uint64_t latency_percentile(const struct page *page, double percent)
{
	uint64_t total = 0, below = 0;

	for (unsigned i = 0; i < page->n; i++)
		for (unsigned b = 0; b < LATENCY_BUCKETS; b++)
			total += page->slots[i].latency[b];
	for (unsigned b = 0; b < LATENCY_BUCKETS && total > 0; b++) {
		for (unsigned i = 0; i < page->n; i++)
			below += page->slots[i].latency[b];
		if ((double)below >= (double)total * percent / 100)
			return middle_of(b);
	}
	return 0;
}

/* CPU time */

/* The scheduler's own account, which is not rounded to ticks. */
static uint64_t task_cpu_ns(const char *tasks, const char *task)
{
	char path[320];
	unsigned long long ns = 0;

	snprintf(path, sizeof path, "%s/%s/schedstat", tasks, task);
	FILE *file = fopen(path, "r");
	if (!file)
		return 0;
	if (fscanf(file, "%llu", &ns) != 1)
		ns = 0;
	fclose(file);
	return ns;
}

/* Of all its threads. */
static uint64_t process_cpu_ns(pid_t pid)
{
	char tasks[32];
	const struct dirent *task;
	uint64_t ns = 0;

	snprintf(tasks, sizeof tasks, "/proc/%d/task", (int)pid);
	DIR *directory = opendir(tasks);
	if (!directory)
		return 0;
	while ((task = readdir(directory)))
		if (task->d_name[0] != '.')
			ns += task_cpu_ns(tasks, task->d_name);
	closedir(directory);
	return ns;
}

uint64_t processes_cpu_ns(const pid_t *pids, unsigned n, bool tree)
{
	uint64_t sum = 0;
	char path[64];
	int child;

	for (unsigned i = 0; i < n; i++)
		sum += process_cpu_ns(pids[i]);
	if (!tree || n == 0)
		return sum;
	snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pids[n - 1], (int)pids[n - 1]);
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
