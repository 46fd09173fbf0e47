#include "ops/metrics_socket.h"

#include "base/clock.h"
#include "base/diag.h"
#include "ops/metrics.h"
#include "ops/parts.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* Of the connections, for root and the daemon's user. */
#define KEPT 16
_Static_assert(KEPT < METRICS_CONNECTIONS_MAX, "some places are left to unprivileged users");
/* A client that has not asked by then, or takes nothing, makes room for others of the same user. */
#define IDLE_SECONDS 2.
/* Bounds a request, from the connect, or the answer before, to the last byte of its answer. */
#define DEADLINE_SECONDS 10.

struct metrics_client {
	struct ops_connection base;
	struct ev_timer deadline;
	bool answered; /* unless kept, further input is thrown away */
	bool ended;    /* the peer sends no more, and part of the answer still waits */
	size_t len;
	char request[METRICS_REQUEST_MAX + 1];
	size_t request_len; /* of the request that is answered; the rest is the next one */
	int version;        /* of the answer: HTTP/1.0 or 1.1 */
	bool kept;          /* another request may follow on this connection */
	/* While the page is made. */
	bool printing, head;
	struct metrics_page page;
	struct outbox body;
};

static struct diag_limit refusal_limit;

/* Pages */

static const char *unhealthy(const struct parts *r)
{
	if (r->stopping)
		return "stopping";
	if (r->config->mode == MODE_POSTGRES && r->upstream->state != UPSTREAM_LIVE)
		return upstream_state_names[r->upstream->state];
	return NULL;
}

static void print_health(const struct parts *r, FILE *out)
{
	const char *why = unhealthy(r);

	if (!why)
		fprintf(out, "ok, %s mode\n", r->config->mode == MODE_LOCAL ? "local" : "postgres");
	else if (r->stopping)
		fputs("the relay is stopping\n", out);
	else
		fprintf(out, "the upstream is not live: %s\n", why);
}

static void print_index(const struct parts *r, FILE *out)
{
	(void)r;
	fprintf(out, "There are /metrics and /healthz.\n");
}

struct answer {
	const char *status; /* what the status line says */
	const char *type;
	/* NULL: the metrics, in portions. */
	void (*print)(const struct parts *parts, FILE *out);
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

/* The header, and unless the request was HEAD the body. 0 or -ENOMEM. */
static int put_answer(struct metrics_client *c, const struct answer *a)
{
	char header[256];
	int n = snprintf(header, sizeof header,
		"HTTP/1.%d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n",
		c->version, a->status, a->type, outbox_waiting(&c->body), c->kept ? "keep-alive" : "close");

	int r = outbox_add(&c->base.outbox, header, (size_t)n);
	if (r == 0 && !c->head)
		r = outbox_add(&c->base.outbox, c->body.bytes, outbox_waiting(&c->body));
	outbox_free(&c->body);
	return r;
}

/* 0 or -ENOMEM. */
static int print_answer(struct metrics_client *c, const struct answer *a)
{
	FILE *out = outbox_stream(&c->body);

	if (!out)
		return -ENOMEM;
	a->print(c->base.all->parts, out);
	int r = outbox_end_stream(out);
	return r < 0 ? r : put_answer(c, a);
}

/* The next portion of the metrics. 0 or -ENOMEM. */
static int print_portion(struct metrics_client *c)
{
	FILE *out = outbox_stream(&c->body);

	if (!out)
		return -ENOMEM;
	c->printing = !metrics_print(c->base.all->parts, out, false, &c->page);
	int r = outbox_end_stream(out);
	if (r < 0 || c->printing)
		return r;
	metrics_page_end(&c->page);
	return put_answer(c, &metrics_answer);
}

/* Requests */

/* Cuts the path out of a target: "/metrics?x" or, as proxies ask, "http://host/metrics?x". */
static const char *path_of(char *target)
{
	static const char scheme[] = "http://";
	char *path = target;

	if (strncasecmp(target, scheme, sizeof scheme - 1) == 0) {
		path += sizeof scheme - 1;
		path += strcspn(path, "/?#");
	}
	path[strcspn(path, "?#")] = '\0';
	return *path ? path : "/";
}

/* Whether the comma-separated value, up to the end of its line, has this word. */
static bool has_word(const char *value, const char *word)
{
	size_t len = strlen(word);

	while (*value && *value != '\r' && *value != '\n') {
		value += strspn(value, " \t,");
		size_t n = strcspn(value, " \t,\r\n");
		if (n == len && strncasecmp(value, word, len) == 0)
			return true;
		value += n;
	}
	return false;
}

/* The value of a header field, up to the end of the request; NULL: the request has no such field. */
static const char *field(const char *fields, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = fields; (line = strchr(line, '\n'));) {
		line++;
		if (strncasecmp(line, name, len) == 0 && line[len] == ':')
			return line + len + 1;
	}
	return NULL;
}

/* Whether the client asks to keep the connection. One with a body is closed: the relay does not read that. */
static bool wants_to_keep(const char *fields)
{
	const char *connection = field(fields, "Connection");

	return connection && has_word(connection, "keep-alive") && !has_word(connection, "close") &&
	       !field(fields, "Content-Length") && !field(fields, "Transfer-Encoding");
}

/* Cuts "METHOD TARGET HTTP/1.N" and the fields that follow. False: it is malformed. */
static bool split(char *request, char **method, char **target, int *version, const char **fields)
{
	char *line_end = request + strcspn(request, "\r\n"), *space, *protocol;

	*fields = *line_end == '\r' ? line_end + 1 : line_end;
	*method = request;
	space = memchr(request, ' ', (size_t)(line_end - request));
	if (!space || space == request ||
		strspn(request, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") < (size_t)(space - request))
		return false;
	*target = space + 1;
	protocol = memchr(*target, ' ', (size_t)(line_end - *target));
	if (!protocol || protocol == *target || strncmp(protocol + 1, "HTTP/1.", 7) != 0)
		return false;
	*version = protocol[8] == '0' ? 0 : 1;
	*space = *protocol = '\0';
	return true;
}

/* Answer the request, which is whole. 0 or -ENOMEM. */
static int answer(struct metrics_client *c)
{
	struct answer a = {"400 Bad Request", TEXT, print_index};
	char *method, *target;
	const char *fields;
	int version;

	c->answered = true;
	((struct metrics_socket *)c->base.all)->n_requests++;
	char next = c->request[c->request_len];
	c->request[c->request_len] = '\0';
	if (split(c->request, &method, &target, &version, &fields)) {
		c->head = strcmp(method, "HEAD") == 0;
		a = answer_to(c->base.all->parts, method, path_of(target));
		c->kept = (c->head || strcmp(method, "GET") == 0) && wants_to_keep(fields);
		c->version = c->kept ? version : 0;
	}
	c->request[c->request_len] = next;
	c->printing = !a.print;
	return c->printing ? 0 : print_answer(c, &a);
}

/* What came after the request is the beginning of the next one. */
static void begin_next(struct metrics_client *c)
{
	c->len -= c->request_len;
	memmove(c->request, c->request + c->request_len, c->len);
	c->request[c->len] = '\0';
	c->answered = c->head = c->kept = false;
	c->version = 0;
	c->request_len = 0;
	timer_arm(c->base.all->parts->loop, &c->deadline, DEADLINE_SECONDS);
}

/* 0 or a negative errno. */
static int flush(struct metrics_client *c)
{
	size_t before = outbox_waiting(&c->base.outbox);
	int r = ops_connection_send(&c->base);

	/* The peer closes: if the relay closed before it has read all, it could take the answer
	 * from it. */
	if (r == 0 && before > 0 && !c->kept)
		shutdown(c->base.fd, SHUT_WR);
	if (r == 0 && c->ended)
		return -EPIPE;
	if (r == 0 && c->kept)
		begin_next(c);
	return r;
}

/* Bytes of the request with its end; 0: it has none yet. */
static size_t find_end(const char *request, size_t len)
{
	const char *crlf = memmem(request, len, "\r\n\r\n", 4), *lf = memmem(request, len, "\n\n", 2);

	if (crlf && (!lf || crlf < lf))
		return (size_t)(crlf + 4 - request);
	return lf ? (size_t)(lf + 2 - request) : 0;
}

/* Read, and answer once the request is whole. 0; -EAGAIN: there was nothing to read; another
 * negative errno: the peer is gone, or -ENOMEM. */
static int take_bytes(struct metrics_client *c)
{
	/* After the answer, further input overwrites the request. */
	if (c->answered)
		c->len = 0;
	ssize_t n = recv(c->base.fd, c->request + c->len, METRICS_REQUEST_MAX - c->len, MSG_DONTWAIT);
	if (n == 0 && outbox_waiting(&c->base.outbox) > 0) {
		c->ended = true;
		return -EAGAIN;
	}
	if (n <= 0)
		return n == 0 ? -EPIPE : errno == EINTR ? -EAGAIN : -errno;
	c->len += (size_t)n;
	c->request[c->len] = '\0';
	if (c->answered)
		return 0;
	c->base.place.active = clock_now();
	if ((c->request_len = find_end(c->request, c->len)) > 0)
		return answer(c);
	if (c->len < METRICS_REQUEST_MAX)
		return 0;
	c->answered = true;
	return print_answer(c, &(struct answer){"431 Request Header Fields Too Large", TEXT, print_index});
}

/* Whether it came together with the previous one. */
static bool has_next_request(struct metrics_client *c)
{
	return !c->answered && (c->request_len = find_end(c->request, c->len)) > 0;
}

/* 0 or a negative errno; the connection must be closed unless it is -EAGAIN. */
static int go_on(struct metrics_client *c)
{
	int r = c->printing           ? print_portion(c)
		: c->kept             ? 0
		: has_next_request(c) ? answer(c)
				      : take_bytes(c);

	if ((r < 0 && r != -EAGAIN) || c->printing || !c->answered)
		return r;
	return flush(c);
}

static void serve(struct ops_connection *connection)
{
	struct metrics_client *c = (struct metrics_client *)connection;
	int r = go_on(c);

	if (r < 0 && r != -EAGAIN)
		ops_connection_close(connection);
	else if (c->printing || has_next_request(c))
		ops_connection_schedule(connection);
	else
		ops_connection_watch(connection, !c->ended && !c->kept);
}

/* Connections */

static void on_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	ops_connection_close(timer->data);
}

static void on_opened(struct ops_connection *connection)
{
	struct metrics_client *c = (struct metrics_client *)connection;

	timer_init(&c->deadline, on_deadline, c);
	timer_arm(connection->all->parts->loop, &c->deadline, DEADLINE_SECONDS);
}

static void on_closed(struct ops_connection *connection)
{
	struct metrics_client *c = (struct metrics_client *)connection;

	ev_timer_stop(connection->all->parts->loop, &c->deadline);
	metrics_page_end(&c->page);
	outbox_free(&c->body);
}

static void on_refused(const struct ops_connections *all, int fd)
{
	(void)fd;
	diag_limited(&refusal_limit, DIAG_WARNING, "refused a connection to the metrics socket, which has %u",
		all->places.n);
}

void metrics_socket_init(struct metrics_socket *s, struct parts *parts)
{
	static const struct ops_connection_kind kind = {
		.size = sizeof(struct metrics_client),
		.n_max = METRICS_CONNECTIONS_MAX,
		.n_kept = KEPT,
		.idle_seconds = IDLE_SECONDS,
		.opened = on_opened,
		.serve = serve,
		.closed = on_closed,
		.refused = on_refused,
	};

	*s = (struct metrics_socket){0};
	ops_connections_open(&s->connections, &kind, parts);
}

void metrics_socket_close(struct metrics_socket *s)
{
	ops_connections_close(&s->connections);
}
