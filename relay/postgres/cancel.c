#include "postgres/cancel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* A server that does not answer holds a thread for as long as the kernel tries to connect. A few
 * statements run at a time; more threads than these would all wait for the same server. */
#define CANCELS_MAX 8

static atomic_uint running;

unsigned cancel_running(void)
{
	return running;
}

static void *run(void *arg)
{
	char error[256];

	/* Whether it succeeds or not, the relay does not wait for the statement any more. */
	(void)PQcancel(arg, error, sizeof error);
	PQfreeCancel(arg);
	running--;
	return NULL;
}

static bool start(PGcancel *cancel)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, cancel) != 0)
		return false;
	pthread_detach(thread);
	return true;
}

void cancel_statement(PGconn *conn)
{
	PGcancel *cancel = running < CANCELS_MAX ? PQgetCancel(conn) : NULL;

	if (!cancel)
		return;
	running++;
	if (start(cancel))
		return;
	running--;
	PQfreeCancel(cancel);
}
