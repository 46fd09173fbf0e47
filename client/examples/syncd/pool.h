/* The database threads of one worker, and a bounded queue of jobs. Each thread has its own
 * store.
 *
 * Everything else here is one loop. Threads are used here because SQLite only blocks,
 * PostgreSQL's answers may take seconds, and a store that may block is plain code from top to
 * bottom. Streams depend on the loop, so it must not block. A thread touches nothing but its
 * job; HTTP, streams and pgherald belong to the loop.
 *
 * request.c uses it. Jobs are not ordered: a connection never has two at once. */
#pragma once

#include "store.h"

#include <ev.h>
#include <pthread.h>
#include <sys/queue.h>

/* A job beyond these is refused at once: it would wait longer than its client does. */
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

/* Start the threads, with all signals blocked. Returns 0 or a negative errno. */
int pool_start(struct pool *pool, struct ev_loop *loop, const struct settings *settings);
/* Returns -EBUSY if the queue is full. Otherwise job->done runs once, on the loop, after
 * job->work. The job must stay valid until then. */
int pool_submit(struct pool *pool, struct job *job);
/* Wait for the threads to end. The queue must be empty. */
void pool_stop(struct pool *pool);
