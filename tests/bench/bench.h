/* What the load generators share: the page of counters, payloads, clocks, CPU times. Each program is one side
 * of a comparison. It forks its processes, and measures again and again, as often as it is asked
 * (serve_measurements()). */
#pragma once

#include <semaphore.h>
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
	_Atomic bool idle; /* of processes that await_go() */
	sem_t go;
	pid_t pid;
	uint32_t latency[LATENCY_BUCKETS];
};

struct page {
	_Atomic uint64_t record_from; /* record latencies of changes sent since; UINT64_MAX: none */
	_Atomic bool end;
	_Atomic bool running; /* a burst, see measure_burst() */
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
/* Until it is so of each process; otherwise this one ends, and says that one did not do what. */
void await_each(struct page *page, bool (*is_so)(const struct slot *slot), const char *what);
void end_processes(struct page *page);
uint64_t total_count(const struct page *page);
uint64_t least_count(const struct page *page);
uint64_t total_faults(const struct page *page);

/* Whose CPU time a measurement counts. */
#define PIDS_MAX 64
struct parties {
	pid_t relays[PIDS_MAX]; /* or what else is between source and listeners */
	unsigned n_relays;
	pid_t postmaster; /* and all its children; 0: none */
};

/* CPU time used so far, in nanoseconds. */
struct account {
	uint64_t source;    /* this thread */
	uint64_t processes; /* those of the page */
	uint64_t relays, postgres;
};

/* page may be NULL. */
struct account account(const struct parties *parties, const struct page *page);
/* As members of a JSON object. */
void print_account(const struct account *from, const struct account *to);
uint64_t processes_cpu_ns(const pid_t *pids, unsigned n);
uint64_t tree_cpu_ns(pid_t parent); /* of it and its children */
uint64_t page_cpu_ns(const struct page *page);

/* Print "ready". Then measure for each line of standard input, which has 1 to SERVE_NUMBERS_MAX numbers;
 * measure() prints one line of JSON. Returns at the end of the input. */
#define SERVE_NUMBERS_MAX 4
void serve_measurements(void (*measure)(void *context, const double *numbers, unsigned n), void *context);

/* For processes that work as fast as they can while page->running, and sleep between these bursts. A process
 * waits here for the next, with nothing outstanding. */
void await_go(struct slot *slot);
/* Let all work for this many seconds, and print what they counted meanwhile as a line of JSON. */
void measure_burst(struct page *page, const struct parties *parties, double seconds);

/* The pubkey of a user, PUBKEY_LEN bytes and a NUL. */
void user_pubkey(uint64_t user, char *out);
/* CLIENT_ID_LEN bytes and a NUL: unique, and contains the time. */
void stamped_client_id(uint64_t now, char *out);
/* PAYLOAD_LEN bytes and a NUL. */
void make_payload(uint64_t user, uint64_t now, char *out);
uint64_t next_random(uint64_t *state);

/* A listener heard of a change. client_id as stamped. */
void count_heard(const struct page *page, struct slot *slot, const char *client_id);
/* A latency in nanoseconds, if latencies are recorded now. */
void record_latency(const struct page *page, struct slot *slot, uint64_t sent, uint64_t now);
void clear_latency(struct page *page);
/* Over the first n processes, in nanoseconds. 0 if nothing was recorded. */
uint64_t latency_percentile(const struct page *page, unsigned n, double percent);

/* A list like "a,b,c": its nth part modulo their number, as a new string. */
char *nth_of(const char *list, unsigned n);
unsigned pids_of(const char *list, pid_t *out, unsigned max);
