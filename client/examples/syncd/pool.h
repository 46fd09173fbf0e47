/* The database threads of one worker: a bounded queue of jobs, which each thread works at with a store of its
 * own.
 *
 * Why threads, where all else here is one loop: SQLite only blocks, PostgreSQL's answers may take seconds,
 * and a store that may block is plain code from top to bottom. A few threads keep that away from the loop,
 * which streams depend on. They touch nothing but the job that they hold; HTTP, streams and pgherald are the
 * loop's alone.
 *
 * Used by request.c. Takes no care of order: two jobs of one connection are never in it at once. */
#pragma once

#include "store.h"

#include <ev.h>
#include <pthread.h>
#include <sys/queue.h>

/* Beyond these a job is refused at once: it would wait for longer than its client does. */
#define POOL_JOBS_MAX 1024

struct job {
	void (*work)(struct job *job, const struct store_kind *kind, struct store *store); /* in a thread */
	void (*done)(struct job *job);                                                     /* on the loop */
	STAILQ_ENTRY(job) link;
};
STAILQ_HEAD(job_queue, job);

struct pool {
	struct ev_loop *loop;
	const struct settings *settings;
	pthread_t *threads;
	unsigned n_threads;
	struct ev_async finished_async;
	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t wanted;
	struct job_queue waiting, finished;
	unsigned n_waiting;
	bool ending;
};

/* Starts the threads, which take no signals. 0 or a negative errno. */
int pool_start(struct pool *pool, struct ev_loop *loop, const struct settings *settings);
/* -EBUSY: the queue is full. Else done runs on the loop, once, when the work is done. */
int pool_submit(struct pool *pool, struct job *job);
/* Waits for the threads; nothing may be in the queue. */
void pool_stop(struct pool *pool);
