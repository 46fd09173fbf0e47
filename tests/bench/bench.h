/* What the load generators share: the page of counters, payloads, clocks, CPU times. Each program is one
 * measurement: it forks its processes, kills them, and prints one line of JSON for cases.py. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_CHANNEL "data_sync_changes"
#define NSEC_PER_SEC UINT64_C(1000000000)
/* Seconds, for what should take far less: starting all processes, hearing what was sent. */
#define DEADLINE_SECONDS 60

#define PUBKEY_LEN 66
#define CLIENT_ID_LEN 36
/* {"p":"...","c":"..."} */
#define PAYLOAD_LEN (6 + PUBKEY_LEN + 7 + CLIENT_ID_LEN + 2)

/* 64 buckets for each power of two: a bucket is 1.6 % wide at most. */
#define LATENCY_BUCKETS 2048

/* The counters of one process, which alone writes them. */
struct slot {
	_Alignas(64) _Atomic uint64_t count; /* changes heard, or published */
	_Atomic uint64_t faults;             /* gaps, errors: a measurement with any is void */
	_Atomic bool ready;
	pid_t pid;
	uint32_t latency[LATENCY_BUCKETS];
};

struct page {
	_Atomic uint64_t record_from; /* record latencies of changes sent since; UINT64_MAX: none */
	_Atomic bool end;
	unsigned n;
	int file; /* the descriptor of this memory */
	struct slot slots[];
};

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

uint64_t clock_ns(void);
uint64_t thread_cpu_ns(void);
void sleep_until(uint64_t when);

/* Fork n processes that run(context, page, index); they die with this one. */
struct page *fork_processes(
	unsigned n, void (*run)(void *context, struct page *page, unsigned index), void *context);
void await_ready(struct page *page);
bool process_ended(pid_t pid);
void end_processes(struct page *page);
uint64_t total_count(const struct page *page);
uint64_t least_count(const struct page *page);
uint64_t total_faults(const struct page *page);
/* Wait until all are ready and have warmed up, then print what they count in this many seconds, as a line of
 * JSON. */
void print_rate(struct page *page, double seconds);

/* The pubkey of a user, PUBKEY_LEN bytes and a NUL. */
void user_pubkey(uint64_t user, char *out);
/* CLIENT_ID_LEN bytes and a NUL: unique, and contains the time. */
void stamped_client_id(uint64_t now, char *out);
/* PAYLOAD_LEN bytes and a NUL. */
void make_payload(uint64_t user, uint64_t now, char *out);
uint64_t next_random(uint64_t *state);

/* A listener heard of a change. client_id as stamped. */
void count_heard(const struct page *page, struct slot *slot, const char *client_id);
/* Over all listeners, in nanoseconds. 0 if nothing was recorded. */
uint64_t latency_percentile(const struct page *page, double percent);

/* CPU time of these processes; if tree is set, of the last one's children too. */
uint64_t processes_cpu_ns(const pid_t *pids, unsigned n, bool tree);
uint64_t page_cpu_ns(const struct page *page);

/* A list like "a,b,c": its nth part modulo their number, as a new string. */
char *nth_of(const char *list, unsigned n);
unsigned pids_of(const char *list, pid_t *out, unsigned max);
