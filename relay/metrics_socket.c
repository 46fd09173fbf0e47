#include "metrics_socket.h"

#include "clock.h"
#include "diag.h"
#include "metrics.h"
#include "outbox.h"
#include "relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct metrics_connection {
	struct metrics_socket *socket;
	struct metrics_connection *next, *prev;
	struct ev_io reader, writer;
	struct ev_timer deadline;
	int fd;
	bool answered; /* what else comes is thrown away */
	size_t len;
	char request[METRICS_REQUEST_MAX + 1];
	struct outbox outbox;
};

static struct diag_limit refusal_limit;

static void close_connection(struct metrics_connection *c)
{
	struct metrics_socket *s = c->socket;

	ev_io_stop(s->relay->loop, &c->reader);
	ev_io_stop(s->relay->loop, &c->writer);
	ev_timer_stop(s->relay->loop, &c->deadline);
	close(c->fd);
	if (c->next)
		c->next->prev = c->prev;
	if (c->prev)
		c->prev->next = c->next;
	else
		s->connections = c->next;
	s->n_connections--;
	outbox_free(&c->outbox);
	free(c);
}

/* Pages */

static void print_metrics(const struct relay *r, FILE *out)
{
	metrics_print(r, out, false);
}

static const char *unhealthy(const struct relay *r)
{
	if (r->stopping)
		return "stopping";
	if (r->config.mode == MODE_POSTGRES && r->upstream.state != UPSTREAM_LIVE)
		return upstream_state_name(r->upstream.state);
	return NULL;
}

static void print_health(const struct relay *r, FILE *out)
{
	const char *why = unhealthy(r);

	fprintf(out, why ? "the upstream is not live: %s\n" : "%s\n", why ? why : "ok");
}

static void print_index(const struct relay *r, FILE *out)
{
	(void)r;
	fprintf(out, "There are /metrics and /healthz.\n");
}

/* What the status line says. */
struct answer {
	const char *status;
	const char *type;
	void (*print)(const struct relay *relay, FILE *out);
};

#define TEXT "text/plain; charset=utf-8"

static struct answer answer_to(const struct relay *r, const char *method, const char *path)
{
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return (struct answer){"405 Method Not Allowed", TEXT, print_index};
	if (strcmp(path, "/metrics") == 0)
		return (struct answer){"200 OK", "text/plain; version=0.0.4; charset=utf-8", print_metrics};
	if (strcmp(path, "/healthz") == 0)
		return (struct answer){
			unhealthy(r) ? "503 Service Unavailable" : "200 OK", TEXT, print_health};
	return (struct answer){"404 Not Found", TEXT, print_index};
}

/* 0 or -ENOMEM. */
static int put_answer(struct metrics_connection *c, const struct answer *a, bool head)
{
	struct outbox body = {0};
	char header[256];
	FILE *out = outbox_stream(&body);

	if (!out)
		return -ENOMEM;
	a->print(c->socket->relay, out);
	int r = outbox_end_stream(out);
	int n = snprintf(header, sizeof header,
		"HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
		a->status, a->type, outbox_waiting(&body));
	if (r == 0)
		r = outbox_add(&c->outbox, header, (size_t)n);
	if (r == 0 && !head)
		r = outbox_add(&c->outbox, body.bytes, outbox_waiting(&body));
	outbox_free(&body);
	return r;
}

/* The request has come whole. */
static int answer(struct metrics_connection *c)
{
	char method[8], path[64], version[16];
	struct answer a = {"400 Bad Request", TEXT, print_index};
	bool head = false;

	c->answered = true;
	c->socket->n_requests++;
	if (sscanf(c->request, "%7[A-Z]%*1[ ]%63[^ \r\n]%*1[ ]%15[^\r\n]", method, path, version) == 3 &&
		strncmp(version, "HTTP/1.", 7) == 0) {
		path[strcspn(path, "?")] = '\0';
		head = strcmp(method, "HEAD") == 0;
		a = answer_to(c->socket->relay, method, path);
	}
	return put_answer(c, &a, head);
}

/* The connection may be gone after this. */
static void flush(struct metrics_connection *c)
{
	int r = outbox_send(&c->outbox, c->fd);

	if (r == -EAGAIN) {
		ev_io_start(c->socket->relay->loop, &c->writer);
		return;
	}
	if (r < 0) {
		close_connection(c);
		return;
	}
	ev_io_stop(c->socket->relay->loop, &c->writer);
	/* Closed by the peer: to close before all is read could take the answer from it. */
	shutdown(c->fd, SHUT_WR);
}

static bool is_whole(const char *request, size_t len)
{
	return memmem(request, len, "\r\n\r\n", 4) || memmem(request, len, "\n\n", 2);
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct metrics_connection *c = watcher->data;

	(void)loop;
	if (events & EV_ERROR) {
		close_connection(c);
		return;
	}
	/* Once it is answered, the same bytes are written over and over. */
	if (c->answered)
		c->len = 0;
	ssize_t n = recv(c->fd, c->request + c->len, METRICS_REQUEST_MAX - c->len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_connection(c);
		return;
	}
	c->len += (size_t)n;
	c->request[c->len] = '\0';
	if (c->answered)
		return;
	int r = 0;
	if (is_whole(c->request, c->len)) {
		r = answer(c);
	} else if (c->len == METRICS_REQUEST_MAX) {
		c->answered = true;
		r = put_answer(
			c, &(struct answer){"431 Request Header Fields Too Large", TEXT, print_index}, false);
	}
	if (r < 0)
		close_connection(c);
	else if (c->answered)
		flush(c);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	(void)events;
	flush(watcher->data);
}

static void on_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	close_connection(timer->data);
}

void metrics_socket_accepted(void *context, int fd)
{
	struct metrics_socket *s = context;
	struct metrics_connection *c =
		s->n_connections < METRICS_CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;

	if (!c) {
		s->n_refused++;
		diag_limited(&refusal_limit, DIAG_WARNING,
			"the metrics socket refuses a connection: it has %d", METRICS_CONNECTIONS_MAX);
		close(fd);
		return;
	}
	c->socket = s;
	c->fd = fd;
	c->next = s->connections;
	if (c->next)
		c->next->prev = c;
	s->connections = c;
	s->n_connections++;
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	timer_init(&c->deadline, on_deadline, c);
	c->reader.data = c->writer.data = c;
	ev_io_start(s->relay->loop, &c->reader);
	timer_arm(s->relay->loop, &c->deadline, METRICS_SECONDS);
}

void metrics_socket_init(struct metrics_socket *s, const struct relay *relay)
{
	*s = (struct metrics_socket){.relay = relay};
}

void metrics_socket_close(struct metrics_socket *s)
{
	while (s->connections)
		close_connection(s->connections);
}
