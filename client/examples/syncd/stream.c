#include "stream.h"

#include "http.h"

#include <errno.h>
#include <jansson.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Bytes of the longest event: a client id with each byte escaped. */
#define EVENT_MAX (6 * CLIENT_ID_MAX + 64)
#define RETRY_MS 2000
/* Milliseconds after which a peer counts as gone whose machine has vanished. */
#define TCP_TIMEOUT_MS 30000

static void wake(struct stream *s)
{
	if (!s->suspended)
		return;
	s->suspended = false;
	http_resume(s->streams->http, s->connection);
}

/* The socket is readable. Bytes that the client sent show in its buffer; an end or an error
 * shows as no bytes. The bytes are not read: a stream is the last request of its connection. */
static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct stream *s = watcher->data;
	char byte;

	(void)events;
	ssize_t n = recv(watcher->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	ev_io_stop(loop, watcher);
	if (n > 0)
		return;
	s->gone = true;
	wake(s);
}

static int write_event(struct stream *s, char *buf, size_t size)
{
	json_t *client_id;
	int n;

	switch (s->hint) {
	case HINT_CHANGED:
		client_id = *s->client_id ? json_string(s->client_id) : json_null();
		n = snprintf(buf, size, "event: changed\ndata: {\"client_id\":");
		n += (int)json_dumpb(client_id, buf + n, size - (size_t)n, JSON_ENCODE_ANY);
		n += snprintf(buf + n, size - (size_t)n, "}\n\n");
		json_decref(client_id);
		return n;
	case HINT_START:
	case HINT_GAP:
		return snprintf(buf, size, "event: pull\ndata: {\"reason\":\"%s\"}\n\n",
			s->hint == HINT_START ? "start" : "gap");
	default:
		return snprintf(buf, size, ":\n\n");
	}
}

static void told(struct stream *s)
{
	s->told = ev_now(s->streams->loop);
	TAILQ_REMOVE(&s->streams->by_told, s, link);
	TAILQ_INSERT_TAIL(&s->streams->by_told, s, link);
}

/* The socket has room: write what waits. */
static ssize_t read_stream(void *context, uint64_t position, char *buf, size_t size)
{
	struct stream *s = context;
	int n;

	(void)position;
	if (s->gone || size < EVENT_MAX)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (!s->greeted) {
		/* A comment, so that the headers are sent even while the relay is away. */
		n = snprintf(buf, size, "retry: %d\n\n", RETRY_MS);
		s->greeted = true;
	} else if (s->hint != HINT_NONE || s->keepalive) {
		n = write_event(s, buf, size);
		s->hint = HINT_NONE;
		s->keepalive = false;
	} else if (s->ending) {
		return MHD_CONTENT_READER_END_OF_STREAM;
	} else {
		s->suspended = true;
		MHD_suspend_connection(s->connection);
		return 0;
	}
	told(s);
	return n;
}

static void free_stream(void *context)
{
	struct stream *s = context;

	s->streams->left(s->streams->context, s);
	ev_io_stop(s->streams->loop, &s->gone_watcher);
	TAILQ_REMOVE(&s->streams->by_told, s, link);
	s->streams->n--;
	free(s);
}

struct stream *stream_open(struct streams *streams, struct MHD_Connection *connection)
{
	const int send_buffer = STREAM_SEND_BUFFER, timeout = TCP_TIMEOUT_MS;
	int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	struct stream *s = calloc(1, sizeof *s);
	struct MHD_Response *response = s ? MHD_create_response_from_callback(
						    MHD_SIZE_UNKNOWN, EVENT_MAX, read_stream, s, free_stream)
					  : NULL;

	if (!response) {
		free(s);
		return NULL;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout,
		sizeof timeout); /* has no effect on a Unix socket */
	s->streams = streams;
	s->connection = connection;
	s->told = ev_now(streams->loop);
	TAILQ_INSERT_TAIL(&streams->by_told, s, link);
	streams->n++;
	ev_io_init(&s->gone_watcher, on_readable, fd, EV_READ);
	s->gone_watcher.data = s;
	ev_io_start(streams->loop, &s->gone_watcher);
	http_add_headers(streams->http, response);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* for nginx */
	enum MHD_Result queued = MHD_queue_response(connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return queued == MHD_YES ? s : NULL;
}

void stream_tell(struct stream *s, enum hint hint, const char *client_id)
{
	if (!client_id || strlen(client_id) > CLIENT_ID_MAX)
		client_id = "";
	/* If one event stands for changes of two clients, it names neither: neither may take
	 * the other's change for its own echo. */
	if (s->hint == HINT_NONE) {
		strcpy(s->client_id, client_id);
		s->told_in = s->streams->turn;
	} else if (strcmp(s->client_id, client_id) != 0) {
		*s->client_id = '\0';
	}
	if (hint > s->hint)
		s->hint = hint;
	wake(s);
}

void stream_end(struct stream *s)
{
	s->ending = true;
	wake(s);
}

void streams_end_all(struct streams *streams)
{
	struct stream *s;

	TAILQ_FOREACH (s, &streams->by_told, link)
		stream_end(s);
}

/* A stream that does not read is due each time, and costs nothing else. */
static void on_second(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct streams *streams = timer->data;
	struct stream *s;

	(void)events;
	while ((s = TAILQ_FIRST(&streams->by_told)) && s->told + KEEPALIVE_SECONDS <= ev_now(loop)) {
		s->keepalive = true;
		told(s);
		wake(s);
	}
}

void streams_start(struct streams *streams, struct ev_loop *loop, struct http *http,
	void (*left)(void *context, struct stream *stream), void *context)
{
	*streams = (struct streams){.loop = loop, .http = http, .left = left, .context = context};
	TAILQ_INIT(&streams->by_told);
	ev_timer_init(&streams->second, on_second, 1., 1.);
	streams->second.data = streams;
	ev_timer_start(loop, &streams->second);
}

void streams_stop(struct streams *streams)
{
	ev_timer_stop(streams->loop, &streams->second);
}
