#include "pool.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void *run_thread(void *context)
{
	struct pool *p = context;
	const struct store_kind *kind = store_kind(p->settings);
	struct store *store;

	/* The settings worked before the fork. What made them fail since is logged; a new
	 * process may succeed. */
	int r = kind->open(p->settings, &store);
	if (r < 0 && r != -ENOTCONN)
		_exit(EXIT_FAILURE);
	pthread_mutex_lock(&p->mutex);
	for (;;) {
		struct job *job = STAILQ_FIRST(&p->waiting);
		if (!job && p->ending)
			break;
		if (!job) {
			pthread_cond_wait(&p->wanted, &p->mutex);
			continue;
		}
		STAILQ_REMOVE_HEAD(&p->waiting, link);
		p->n_waiting--;
		pthread_mutex_unlock(&p->mutex);
		job->work(job, kind, store);
		pthread_mutex_lock(&p->mutex);
		STAILQ_INSERT_TAIL(&p->finished, job, link);
		ev_async_send(p->loop, &p->finished_async);
	}
	pthread_mutex_unlock(&p->mutex);
	kind->close(store);
	return NULL;
}

static void on_finished(struct ev_loop *loop, struct ev_async *watcher, int events)
{
	struct pool *p = watcher->data;
	struct job_queue finished = STAILQ_HEAD_INITIALIZER(finished);
	struct job *job;

	(void)loop;
	(void)events;
	pthread_mutex_lock(&p->mutex);
	STAILQ_CONCAT(&finished, &p->finished);
	pthread_mutex_unlock(&p->mutex);
	while ((job = STAILQ_FIRST(&finished)) != NULL) {
		STAILQ_REMOVE_HEAD(&finished, link);
		job->done(job);
	}
}

int pool_start(struct pool *p, struct ev_loop *loop, const struct settings *settings)
{
	sigset_t all, before;
	int r = 0;

	p->loop = loop;
	p->settings = settings;
	STAILQ_INIT(&p->waiting);
	STAILQ_INIT(&p->finished);
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->wanted, NULL);
	ev_async_init(&p->finished_async, on_finished);
	p->finished_async.data = p;
	ev_async_start(loop, &p->finished_async);
	p->threads = calloc(settings->connections, sizeof *p->threads);
	if (!p->threads)
		return -ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (r == 0 && p->n_threads < settings->connections) {
		r = pthread_create(&p->threads[p->n_threads], NULL, run_thread, p);
		if (r == 0)
			p->n_threads++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

int pool_submit(struct pool *p, struct job *job)
{
	int r = -EBUSY;

	pthread_mutex_lock(&p->mutex);
	if (p->n_waiting < POOL_JOBS_MAX) {
		STAILQ_INSERT_TAIL(&p->waiting, job, link);
		p->n_waiting++;
		pthread_cond_signal(&p->wanted);
		r = 0;
	}
	pthread_mutex_unlock(&p->mutex);
	return r;
}

void pool_stop(struct pool *p)
{
	pthread_mutex_lock(&p->mutex);
	p->ending = true;
	pthread_cond_broadcast(&p->wanted);
	pthread_mutex_unlock(&p->mutex);
	for (unsigned i = 0; i < p->n_threads; i++)
		pthread_join(p->threads[i], NULL);
	free(p->threads);
	ev_async_stop(p->loop, &p->finished_async);
	pthread_cond_destroy(&p->wanted);
	pthread_mutex_destroy(&p->mutex);
}
