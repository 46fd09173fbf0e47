/* All workers accept from one socket, inherited from the parent. With a socket for each
 * (SO_REUSEPORT) the kernel would assign connections to workers at once, and reset those in
 * the queue of a worker that is killed. Here they wait for any worker. For the same reason a
 * worker accepts one connection in an iteration of its loop, and none when it is full. */
#include "worker.h"

#include "events.h"
#include "http.h"
#include "log.h"
#include "pool.h"

#include <errno.h>
#include <ev.h>
#include <pgherald.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_PAUSE_SECONDS 0.1
#define STOP_TICK_SECONDS 0.05

struct worker {
	struct ev_loop *loop;
	int listen_fd;
	ev_io acceptor;
	ev_timer accept_pause, stop_tick;
	ev_signal sigterm, sigint;
	ev_tstamp stopping; /* since when, seconds of ev_now(); 0 if it is not stopping */
	struct events events;
	struct pool pool;
	struct http http;
	struct log_limit accept_limit;
};

/* Returns false if there is nothing to accept now. */
static bool accept_one(struct worker *w)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof address;
	int fd = http_has_room(&w->http) ? accept4(w->listen_fd, (struct sockaddr *)&address, &len,
						   SOCK_CLOEXEC | SOCK_NONBLOCK)
					 : -1;

	if (fd >= 0) {
		http_add(&w->http, fd, (struct sockaddr *)&address, len);
		return true;
	}
	if (!http_has_room(&w->http) || errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
		errno == ENOMEM) {
		/* The connection stays in the queue for another worker. Without a pause this
		 * one would spin. */
		log_limited(&w->accept_limit, LOG_LEVEL_WARNING, "no connection can be accepted now: %s",
			http_has_room(&w->http) ? strerror(errno) : "there are as many as there may be");
		ev_io_stop(w->loop, &w->acceptor);
		ev_timer_again(w->loop, &w->accept_pause);
	}
	return false;
}

static void on_acceptable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	(void)events;
	accept_one(watcher->data);
}

static void on_pause_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct worker *w = timer->data;

	(void)events;
	ev_timer_stop(loop, timer);
	if (!w->stopping)
		ev_io_start(loop, &w->acceptor);
}

/* Whether requests are running that may still finish. */
static bool is_busy(const struct worker *w)
{
	ev_tstamp since = ev_now(w->loop) - w->stopping;
	bool streams = w->events.streams.n > 0 && since < STOP_STREAMS_SECONDS;

	return since < STOP_SECONDS && (w->http.n_requests > 0 || w->events.n_publishing > 0 || streams);
}

static void on_stop_tick(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct worker *w = timer->data;

	(void)events;
	/* A request that was sent before we stopped counts, even if it is not read yet. */
	http_run(&w->http);
	if (!is_busy(w))
		ev_break(loop, EVBREAK_ALL);
}

/* Accept no new connections, except those that are complete already. End the streams; their
 * clients reconnect to a worker that serves. */
static void on_signal(struct ev_loop *loop, struct ev_signal *watcher, int events)
{
	struct worker *w = watcher->data;

	(void)events;
	if (w->stopping)
		return;
	w->stopping = ev_now(loop);
	while (accept_one(w))
		;
	ev_io_stop(loop, &w->acceptor);
	close(w->listen_fd);
	w->http.stopping = true;
	streams_end_all(&w->events.streams);
	ev_timer_start(loop, &w->stop_tick);
}

static void watch(struct worker *w)
{
	sigset_t signals;

	ev_signal_init(&w->sigterm, on_signal, SIGTERM);
	ev_signal_init(&w->sigint, on_signal, SIGINT);
	ev_io_init(&w->acceptor, on_acceptable, w->listen_fd, EV_READ);
	ev_init(&w->accept_pause, on_pause_over);
	w->accept_pause.repeat = ACCEPT_PAUSE_SECONDS;
	ev_timer_init(&w->stop_tick, on_stop_tick, STOP_TICK_SECONDS, STOP_TICK_SECONDS);
	w->sigterm.data = w->sigint.data = w->acceptor.data = w->accept_pause.data = w->stop_tick.data = w;
	ev_signal_start(w->loop, &w->sigterm);
	ev_signal_start(w->loop, &w->sigint);
	ev_io_start(w->loop, &w->acceptor);
	/* Blocked since before the fork, so a signal that came meanwhile ends this worker
	 * too. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_UNBLOCK, &signals, NULL);
}

/* Start the parts in order. Errors are logged. */
static int assemble(struct worker *w, const struct settings *settings)
{
	w->loop = ev_default_loop(EVFLAG_AUTO | EVFLAG_NOENV);
	if (!w->loop) {
		log_line(LOG_LEVEL_ERROR, "no event loop can be had from the kernel");
		return -ENOMEM;
	}
	int r = events_open(&w->events, w->loop, settings, &w->http);
	if (r < 0) {
		log_line(LOG_LEVEL_ERROR, "PGHERALD_SOCKET (--relay) cannot work: %s socket=%s",
			pgherald_strerror(r), settings->relay);
		return r;
	}
	r = pool_start(&w->pool, w->loop, settings);
	if (r == 0)
		r = http_start(&w->http, w->loop, settings, &w->events, &w->pool);
	if (r < 0)
		log_line(LOG_LEVEL_ERROR, "a worker cannot start: %s", strerror(-r));
	return r;
}

int worker_run(const struct settings *settings, int listen_fd, int ready_fd)
{
	static struct worker worker;
	struct worker *w = &worker;

	w->listen_fd = listen_fd;
	if (assemble(w, settings) < 0)
		return EXIT_FAILURE;
	watch(w);
	if (write(ready_fd, "", 1) != 1)
		return EXIT_FAILURE; /* the parent is gone */
	close(ready_fd);
	do
		ev_run(w->loop, 0);
	while (w->stopping && is_busy(w)); /* for what came in the loop's last iteration */

	/* Jobs that are still with the database would outlive the parts that are freed here.
	 * The end of the process frees everything. */
	if (w->http.n_requests > 0)
		_exit(w->stopping ? EXIT_SUCCESS : EXIT_FAILURE);
	streams_end_all(&w->events.streams);
	http_stop(&w->http);
	pool_stop(&w->pool);
	events_close(&w->events);
	ev_loop_destroy(w->loop);
	return w->stopping ? EXIT_SUCCESS : EXIT_FAILURE;
}
