#include "ops/metrics_socket.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/outbox.h"
#include "ops/metrics.h"
#include "ops/parts.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct metrics_connection {
	struct metrics_socket *socket;
	struct place place;
	struct user *user;
	struct ready ready;
	struct ev_io reader, writer;
	struct ev_timer deadline;
	int fd;
	bool answered; /* what else comes is thrown away */
	bool ended;    /* nothing comes any more, and the answer is not sent whole yet */
	size_t len;
	char request[METRICS_REQUEST_MAX + 1];
	struct outbox outbox;
	/* While the page is made. */
	bool printing, head;
	struct metrics_page page;
	struct outbox body;
};

static struct diag_limit refusal_limit;

static struct metrics_connection *connection_of(struct place *place)
{
	return (struct metrics_connection *)((char *)place - offsetof(struct metrics_connection, place));
}

static void close_connection(struct metrics_connection *c)
{
	struct metrics_socket *s = c->socket;

	ev_io_stop(s->parts->loop, &c->reader);
	ev_io_stop(s->parts->loop, &c->writer);
	ev_timer_stop(s->parts->loop, &c->deadline);
	schedule_remove(&s->parts->fanout->asking, &c->ready);
	close(c->fd);
	places_give_up(&s->places, &c->place);
	users_put(&s->parts->fanout->users, c->user);
	metrics_page_end(&c->page);
	outbox_free(&c->body);
	outbox_free(&c->outbox);
	free(c);
}

/* Pages */

static const char *unhealthy(const struct parts *r)
{
	if (r->stopping)
		return "stopping";
	if (r->config->mode == MODE_POSTGRES && r->upstream->state != UPSTREAM_LIVE)
		return upstream_state_name(r->upstream->state);
	return NULL;
}

static void print_health(const struct parts *r, FILE *out)
{
	const char *why = unhealthy(r);

	fprintf(out, why ? "the upstream is not live: %s\n" : "%s\n", why ? why : "ok");
}

static void print_index(const struct parts *r, FILE *out)
{
	(void)r;
	fprintf(out, "There are /metrics and /healthz.\n");
}

struct answer {
	const char *status; /* what the status line says */
	const char *type;
	void (*print)(const struct parts *parts, FILE *out); /* NULL: the metrics, in portions */
};

#define TEXT "text/plain; charset=utf-8"

static const struct answer metrics_answer = {"200 OK", "text/plain; version=0.0.4; charset=utf-8", NULL};

static struct answer answer_to(const struct parts *r, const char *method, const char *path)
{
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return (struct answer){"405 Method Not Allowed", TEXT, print_index};
	if (strcmp(path, "/metrics") == 0)
		return metrics_answer;
	if (strcmp(path, "/healthz") == 0)
		return (struct answer){
			unhealthy(r) ? "503 Service Unavailable" : "200 OK", TEXT, print_health};
	return (struct answer){"404 Not Found", TEXT, print_index};
}

/* The header, and the body unless it was only asked for its size. 0 or -ENOMEM. */
static int put_answer(struct metrics_connection *c, const struct answer *a)
{
	char header[256];
	int n = snprintf(header, sizeof header,
		"HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
		a->status, a->type, outbox_waiting(&c->body));

	int r = outbox_add(&c->outbox, header, (size_t)n);
	if (r == 0 && !c->head)
		r = outbox_add(&c->outbox, c->body.bytes, outbox_waiting(&c->body));
	outbox_free(&c->body);
	return r;
}

/* 0 or -ENOMEM. */
static int print_answer(struct metrics_connection *c, const struct answer *a)
{
	FILE *out = outbox_stream(&c->body);

	if (!out)
		return -ENOMEM;
	a->print(c->socket->parts, out);
	int r = outbox_end_stream(out);
	return r < 0 ? r : put_answer(c, a);
}

/* The next portion of the metrics. 0 or -ENOMEM. */
static int print_portion(struct metrics_connection *c)
{
	FILE *out = outbox_stream(&c->body);

	if (!out)
		return -ENOMEM;
	c->printing = !metrics_print(c->socket->parts, out, false, &c->page);
	int r = outbox_end_stream(out);
	if (r < 0 || c->printing)
		return r;
	metrics_page_end(&c->page);
	return put_answer(c, &metrics_answer);
}

/* The request has come whole. 0 or -ENOMEM. */
static int answer(struct metrics_connection *c)
{
	char method[8], path[64], version[16];
	struct answer a = {"400 Bad Request", TEXT, print_index};

	c->answered = true;
	c->socket->n_requests++;
	if (sscanf(c->request, "%7[A-Z]%*1[ ]%63[^ \r\n]%*1[ ]%15[^\r\n]", method, path, version) == 3 &&
		strncmp(version, "HTTP/1.", 7) == 0) {
		path[strcspn(path, "?")] = '\0';
		c->head = strcmp(method, "HEAD") == 0;
		a = answer_to(c->socket->parts, method, path);
	}
	c->printing = !a.print;
	return c->printing ? 0 : print_answer(c, &a);
}

/* 0 or a negative errno; after -EAGAIN the writer goes on. */
static int flush(struct metrics_connection *c)
{
	size_t before = outbox_waiting(&c->outbox);
	int r = outbox_send(&c->outbox, c->fd);

	if (outbox_waiting(&c->outbox) < before)
		c->place.active = clock_now();
	if (r == -EAGAIN)
		ev_io_start(c->socket->parts->loop, &c->writer);
	/* Closed by the peer: to close before all is read could take the answer from it. */
	if (r == 0 && before > 0)
		shutdown(c->fd, SHUT_WR);
	return r == 0 && c->ended ? -EPIPE : r;
}

static bool is_whole(const char *request, size_t len)
{
	return memmem(request, len, "\r\n\r\n", 4) || memmem(request, len, "\n\n", 2);
}

/* What it sent. 0; -EAGAIN: nothing; another negative errno: it is gone, or memory is short. */
static int take_bytes(struct metrics_connection *c)
{
	/* Once it is answered, the same bytes are written over and over. */
	if (c->answered)
		c->len = 0;
	ssize_t n = recv(c->fd, c->request + c->len, METRICS_REQUEST_MAX - c->len, MSG_DONTWAIT);
	if (n == 0 && outbox_waiting(&c->outbox) > 0) {
		c->ended = true;
		return -EAGAIN;
	}
	if (n <= 0)
		return n == 0 ? -EPIPE : errno == EINTR ? -EAGAIN : -errno;
	c->len += (size_t)n;
	c->request[c->len] = '\0';
	if (c->answered)
		return 0;
	c->place.active = clock_now();
	if (is_whole(c->request, c->len))
		return answer(c);
	if (c->len < METRICS_REQUEST_MAX)
		return 0;
	c->answered = true;
	return print_answer(c, &(struct answer){"431 Request Header Fields Too Large", TEXT, print_index});
}

static void schedule(struct metrics_connection *c)
{
	schedule_add(&c->socket->parts->fanout->asking, &c->ready);
}

/* 0 or a negative errno; but for -EAGAIN it is to be closed then. */
static int go_on(struct metrics_connection *c)
{
	int r = c->printing ? print_portion(c) : take_bytes(c);

	if ((r < 0 && r != -EAGAIN) || c->printing || !c->answered)
		return r;
	return flush(c);
}

static void serve(struct ready *ready)
{
	struct metrics_connection *c =
		(struct metrics_connection *)((char *)ready - offsetof(struct metrics_connection, ready));
	int r = go_on(c);

	if (r < 0 && r != -EAGAIN)
		close_connection(c);
	else if (c->printing)
		schedule(c);
	else if (!c->ended)
		ev_io_start(c->socket->parts->loop, &c->reader);
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct metrics_connection *c = watcher->data;

	if (events & EV_ERROR) {
		close_connection(c);
		return;
	}
	ev_io_stop(loop, watcher);
	schedule(c);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)events;
	ev_io_stop(loop, watcher);
	schedule(watcher->data);
}

static void on_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	close_connection(timer->data);
}

static void refuse(struct metrics_socket *s, int fd)
{
	s->n_refused++;
	diag_limited(&refusal_limit, DIAG_WARNING, "the metrics socket refuses a connection: it has %u",
		s->places.n);
	close(fd);
}

static struct metrics_connection *make_connection(struct metrics_socket *s, uid_t uid)
{
	struct place *victim;

	if (!places_room(&s->places, uid, &victim))
		return NULL;
	if (victim) {
		s->n_refused++;
		close_connection(connection_of(victim));
	}
	struct metrics_connection *c = calloc(1, sizeof *c);
	struct user *user = c ? users_get(&s->parts->fanout->users, uid) : NULL;
	if (!user) {
		free(c);
		return NULL;
	}
	c->socket = s;
	c->user = user;
	ready_init(&c->ready, &user->asking, serve);
	places_take(&s->places, &c->place, uid);
	return c;
}

void metrics_socket_accepted(void *context, int fd)
{
	struct metrics_socket *s = context;
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof peer;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	struct metrics_connection *c = make_connection(s, peer.uid);
	if (!c) {
		refuse(s, fd);
		return;
	}
	c->fd = fd;
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	timer_init(&c->deadline, on_deadline, c);
	c->reader.data = c->writer.data = c;
	ev_io_start(s->parts->loop, &c->reader);
	timer_arm(s->parts->loop, &c->deadline, METRICS_SECONDS);
}

void metrics_socket_init(struct metrics_socket *s, struct parts *parts)
{
	*s = (struct metrics_socket){.parts = parts};
	places_open(&s->places, METRICS_CONNECTIONS_MAX, METRICS_KEPT, METRICS_IDLE_SECONDS);
}

void metrics_socket_close(struct metrics_socket *s)
{
	for (struct place *first; (first = TAILQ_FIRST(&s->places.all));)
		close_connection(connection_of(first));
}
