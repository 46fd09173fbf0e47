#include "http.h"

#include "request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void http_add_headers(const struct http *h, struct MHD_Response *response)
{
	MHD_add_response_header(response, "X-Syncd-Worker", h->pid);
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	if (h->stopping)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
}

static struct client *client_of(struct MHD_Connection *connection)
{
	return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
	enum MHD_ConnectionNotificationCode what)
{
	struct http *h = context;
	struct client *c = *socket_context;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		h->n_connections++;
		*socket_context = c = calloc(1, sizeof *c);
		if (!c)
			return;
		c->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
		c->by = ev_now(h->loop) + REQUEST_SECONDS;
		TAILQ_INSERT_TAIL(&h->clients, c, link);
		return;
	}
	h->n_connections--;
	if (c)
		TAILQ_REMOVE(&h->clients, c, link);
	free(c);
}

void http_set_deadline(struct http *h, struct MHD_Connection *connection, double seconds)
{
	struct client *c = client_of(connection);

	/* Out of memory when it connected: only CONNECTION_SECONDS applies. */
	if (c)
		c->by = seconds > 0 ? ev_now(h->loop) + seconds : 0;
}

/* libmicrohttpd sees the end of a connection that was shut down, and closes it as one that
 * the client ended. */
static void on_second(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct http *h = timer->data;
	struct client *c;

	(void)events;
	TAILQ_FOREACH (c, &h->clients, link)
		if (c->by > 0 && c->by <= ev_now(loop)) {
			shutdown(c->fd, SHUT_RDWR);
			c->by = 0;
		}
}

/* The path is split before it is decoded: an encoded slash does not separate. */
static size_t leave_encoded(void *context, struct MHD_Connection *connection, char *text)
{
	(void)context;
	(void)connection;
	return strlen(text);
}

void http_run(struct http *h)
{
	h->events->streams.turn++;
	MHD_run(h->daemon);
}

void http_resume(struct http *h, struct MHD_Connection *connection)
{
	MHD_resume_connection(connection);
	/* libmicrohttpd wakes only its own threads, not our loop. */
	ev_feed_event(h->loop, &h->readable, EV_READ);
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	(void)events;
	http_run(watcher->data);
}

static void on_timeout(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	http_run(timer->data);
}

static void on_prepare(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct http *h = watcher->data;
	MHD_UNSIGNED_LONG_LONG ms;

	(void)events;
	ev_timer_stop(loop, &h->timeout);
	if (MHD_get_timeout(h->daemon, &ms) == MHD_NO)
		return;
	ev_timer_set(&h->timeout, (double)ms / 1000, 0.);
	ev_timer_start(loop, &h->timeout);
}

bool http_has_room(const struct http *h)
{
	return h->n_connections < h->settings->streams_max + REQUESTS_MAX;
}

void http_add(struct http *h, int fd, const struct sockaddr *address, socklen_t len)
{
	/* If it refuses, it has closed the socket. */
	MHD_add_connection(h->daemon, fd, address, len);
}

int http_start(struct http *h, struct ev_loop *loop, const struct settings *settings, struct events *events,
	struct pool *pool)
{
	*h = (struct http){.loop = loop, .settings = settings, .events = events, .pool = pool};
	TAILQ_INIT(&h->clients);
	snprintf(h->pid, sizeof h->pid, "%d", (int)getpid());
	page_init(&h->page);
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET, 0,
		NULL, NULL, request_handle, h, MHD_OPTION_NOTIFY_COMPLETED, request_completed, h,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_UNESCAPE_CALLBACK, leave_encoded,
		h, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_SECONDS,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT,
		settings->streams_max + REQUESTS_MAX, MHD_OPTION_END);
	if (!h->daemon)
		return -ENOMEM;
	ev_io_init(&h->readable, on_readable,
		MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, EV_READ);
	ev_prepare_init(&h->prepare, on_prepare);
	ev_init(&h->timeout, on_timeout);
	ev_timer_init(&h->second, on_second, 1., 1.);
	h->readable.data = h->prepare.data = h->timeout.data = h->second.data = h;
	ev_io_start(loop, &h->readable);
	ev_prepare_start(loop, &h->prepare);
	ev_timer_start(loop, &h->second);
	return 0;
}

void http_stop(struct http *h)
{
	ev_io_stop(h->loop, &h->readable);
	ev_prepare_stop(h->loop, &h->prepare);
	ev_timer_stop(h->loop, &h->timeout);
	ev_timer_stop(h->loop, &h->second);
	MHD_stop_daemon(h->daemon);
}
