#include "http.h"

#include "api.h"
#include "log.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY_FIRST 4096

struct request {
	struct job job; /* first: a job is its request */
	struct http *http;
	struct MHD_Connection *connection;
	struct route route;
	enum { RECEIVING, WORKING, DONE } state;
	unsigned refused; /* the status, and why: answered when its body is in; 0: not so far */
	const char *why;
	char client_id[CLIENT_ID_MAX + 1];
	int64_t since;
	char *body;
	size_t size, capacity, discarded;
	size_t held; /* its part of http->held */
	bool stream;
	struct api_reply reply;
};

static void refuse(struct request *r, unsigned status, const char *why)
{
	if (r->refused)
		return;
	r->refused = status;
	r->why = why;
}

/* Answering */

void http_add_headers(const struct http *h, struct MHD_Response *response)
{
	MHD_add_response_header(response, "X-Syncd-Worker", h->pid);
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	if (h->stopping)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
}

static enum MHD_Result queue(struct request *r, unsigned status, struct MHD_Response *response)
{
	if (!response)
		return MHD_NO;
	http_add_headers(r->http, response);
	if (status == MHD_HTTP_SERVICE_UNAVAILABLE || status == MHD_HTTP_TOO_MANY_REQUESTS)
		MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, r->route.methods);
	enum MHD_Result queued = MHD_queue_response(r->connection, status, response);
	MHD_destroy_response(response);
	return queued;
}

/* Takes over body, of malloc(); NULL: memory is short, and the connection is closed. */
static enum MHD_Result answer_json(struct request *r, unsigned status, char *body)
{
	struct MHD_Response *response =
		body ? MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE) : NULL;

	if (!response) {
		free(body);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	return queue(r, status, response);
}

static enum MHD_Result answer_refused(struct request *r)
{
	return answer_json(r, r->refused, api_error(r->why));
}

static enum MHD_Result answer_page(struct request *r)
{
	const struct page *page = &r->http->page;
	struct MHD_Response *response = MHD_create_response_from_buffer(
		page_html_size, (void *)(uintptr_t)page_html, MHD_RESPMEM_PERSISTENT);

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/html; charset=utf-8");
	MHD_add_response_header(response, "Content-Security-Policy", page->policy);
	MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
	return queue(r, MHD_HTTP_OK, response);
}

static enum MHD_Result answer_health(struct request *r)
{
	const struct events *e = r->http->events;
	json_t *health = json_pack("{s:i, s:s, s:i, s:i}", "worker", (int)getpid(), "relay",
		*e->relay ? e->relay : "away", "streams", (int)e->streams.n, "users", (int)e->n_topics);
	char *text = json_dumps(health, JSON_COMPACT);

	json_decref(health);
	return answer_json(r, MHD_HTTP_OK, text);
}

static enum MHD_Result answer_stream(struct request *r)
{
	struct http *h = r->http;
	/* Others may have come while this one's body did. */
	int error = events_may_join(h->events, r->route.user);

	if (error == -EDQUOT)
		refuse(r, MHD_HTTP_TOO_MANY_REQUESTS, "this user has too many streams");
	else if (error < 0)
		refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "there are too many streams");
	if (r->refused)
		return answer_refused(r);
	struct stream *stream = stream_open(&h->events->streams, r->connection);
	if (!stream)
		return MHD_NO;
	r->stream = true;
	h->n_requests--;
	if (h->stopping || events_join(h->events, stream, r->route.user) < 0)
		stream_end(stream);
	return MHD_YES;
}

/* Bodies */

static bool hold(struct request *r, size_t size)
{
	if (r->http->held + size > HELD_MAX)
		return false;
	r->http->held += size;
	r->held += size;
	return true;
}

static void release(struct request *r)
{
	r->http->held -= r->held;
	r->held = 0;
	free(r->body);
	r->body = NULL;
}

static void take_body(struct request *r, const char *data, size_t size)
{
	if (r->route.endpoint == ENDPOINT_RECORD && r->size + size > BODY_MAX)
		refuse(r, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large: data has 1 MiB at the most");
	if (r->refused || r->route.endpoint != ENDPOINT_RECORD) {
		release(r);
		r->discarded += size;
		return;
	}
	if (r->size + size > r->capacity) {
		size_t capacity = r->capacity ? r->capacity : BODY_FIRST;
		while (capacity < r->size + size)
			capacity *= 2;
		char *body = hold(r, capacity - r->capacity) ? realloc(r->body, capacity) : NULL;
		if (!body) {
			refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is busy");
			release(r);
			return;
		}
		r->body = body;
		r->capacity = capacity;
	}
	memcpy(r->body + r->size, data, size);
	r->size += size;
}

/* With the database threads */

static void work(struct job *job, const struct store_kind *kind, struct store *store)
{
	struct request *r = (struct request *)job;

	if (r->route.endpoint == ENDPOINT_RECORD)
		api_put(kind, store, r->route.user, r->route.id, r->body ? r->body : "", r->size, &r->reply);
	else
		api_changes(kind, store, r->route.user, r->since, &r->reply);
}

/* The answer does not wait for the announcement: the change is committed whatever becomes of that, and while
 * the relay is away a writer would wait for nothing that helps it. What dies here between the two is made
 * good by reconciliation. */
static void on_done(struct job *job)
{
	struct request *r = (struct request *)job;

	release(r);
	if (r->reply.changed)
		events_publish(r->http->events, r->route.user, *r->client_id ? r->client_id : NULL);
	if (r->reply.body && !hold(r, strlen(r->reply.body))) {
		free(r->reply.body);
		r->reply = (struct api_reply){
			MHD_HTTP_SERVICE_UNAVAILABLE, api_error("the server is busy"), false};
	}
	r->state = DONE;
	http_resume(r->http, r->connection);
}

static enum MHD_Result submit(struct request *r)
{
	r->job = (struct job){.work = work, .done = on_done};
	if (pool_submit(r->http->pool, &r->job) < 0) {
		refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is busy");
		return answer_refused(r);
	}
	r->state = WORKING;
	MHD_suspend_connection(r->connection);
	return MHD_YES;
}

/* Checking */

struct identity {
	const char *user;
	unsigned n;
};

static enum MHD_Result take_identity(
	void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct identity *identity = context;

	(void)kind;
	if (strcasecmp(name, "X-User") == 0) {
		identity->user = value ? value : "";
		identity->n++;
	}
	return MHD_YES;
}

/* A second X-User would be the client's own, beside the proxy's. */
static void check_identity(struct request *r)
{
	struct identity identity = {0};

	MHD_get_connection_values(r->connection, MHD_HEADER_KIND, take_identity, &identity);
	if (identity.n == 0 || !*identity.user)
		refuse(r, MHD_HTTP_UNAUTHORIZED, "there is no X-User: the front proxy sets it");
	else if (identity.n > 1)
		refuse(r, MHD_HTTP_BAD_REQUEST, "X-User stands there more than once");
	else if (strcmp(identity.user, r->route.user) != 0)
		refuse(r, MHD_HTTP_FORBIDDEN, "the path is another user's");
}

static bool is_one_of(const char *methods, const char *method)
{
	const char *found = strstr(methods, method);
	size_t len = strlen(method);

	return found && (found == methods || found[-1] == ' ') && (found[len] == ',' || !found[len]);
}

static const char *header(const struct request *r, const char *name)
{
	return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static void check(struct request *r, const char *path, const char *method)
{
	const char *why = route_parse(&r->route, path);
	const char *client_id = header(r, "X-Client-Id");
	const char *since = MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, "since");

	if (why)
		refuse(r, MHD_HTTP_BAD_REQUEST, why);
	else if (r->route.endpoint == ENDPOINT_NONE)
		refuse(r, MHD_HTTP_NOT_FOUND, "there is nothing at this path");
	else if (!is_one_of(r->route.methods, method))
		refuse(r, MHD_HTTP_METHOD_NOT_ALLOWED, "this path has no such method");
	if (r->refused || r->route.endpoint == ENDPOINT_PAGE || r->route.endpoint == ENDPOINT_HEALTH)
		return;
	check_identity(r);
	if (r->route.endpoint == ENDPOINT_CHANGES && since && !revision_parse(since, &r->since))
		refuse(r, MHD_HTTP_BAD_REQUEST, "since is not an integer from 0 to 2^53 - 1");
	if (r->route.endpoint == ENDPOINT_RECORD && client_id) {
		if (name_valid(client_id, CLIENT_ID_MAX))
			strcpy(r->client_id, client_id);
		else
			refuse(r, MHD_HTTP_BAD_REQUEST,
				"X-Client-Id is not 1 to 128 bytes of UTF-8 without control characters");
	}
}

/* Requests */

static struct request *begin(
	struct http *h, struct MHD_Connection *connection, const char *path, const char *method)
{
	struct request *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->http = h;
	r->connection = connection;
	h->n_requests++;
	check(r, path, method);
	return r;
}

/* Whoever asks before sending the body is told at once, and one who would send too much. */
static bool answer_early(const struct request *r)
{
	const char *length = header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	unsigned long long size = length ? strtoull(length, NULL, 10) : 0;

	return size > DISCARD_MAX || (r->refused && header(r, MHD_HTTP_HEADER_EXPECT));
}

static enum MHD_Result answer(struct request *r)
{
	if (r->refused)
		return answer_refused(r);
	switch (r->route.endpoint) {
	case ENDPOINT_PAGE:
		return answer_page(r);
	case ENDPOINT_HEALTH:
		return answer_health(r);
	case ENDPOINT_LISTEN:
		return answer_stream(r);
	default:
		return submit(r);
	}
}

/* libmicrohttpd calls this when the headers are in, for each piece of the body, at its end, and when a
 * suspended connection is resumed. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *data, size_t *size, void **con_cls)
{
	struct request *r = *con_cls;

	(void)version;
	if (!r) {
		*con_cls = r = begin(context, connection, url, method);
		if (!r)
			return MHD_NO;
		if (!answer_early(r))
			return MHD_YES;
		refuse(r, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large");
		return answer_refused(r);
	}
	if (*size > 0) {
		take_body(r, data, *size);
		*size = 0;
		return r->discarded > DISCARD_MAX ? MHD_NO : MHD_YES;
	}
	if (r->state == RECEIVING)
		return answer(r);
	char *body = r->reply.body;
	r->reply.body = NULL;
	return answer_json(r, r->reply.status, body);
}

static void on_completed(
	void *context, struct MHD_Connection *connection, void **con_cls, enum MHD_RequestTerminationCode how)
{
	struct http *h = context;
	struct request *r = *con_cls;

	(void)connection;
	(void)how;
	if (!r)
		return;
	if (!r->stream)
		h->n_requests--;
	release(r);
	free(r->reply.body);
	free(r);
	*con_cls = NULL;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
	enum MHD_ConnectionNotificationCode what)
{
	struct http *h = context;

	(void)connection;
	(void)socket_context;
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		h->n_connections++;
	else
		h->n_connections--;
}

/* The path is taken apart before it is decoded: a slash that was encoded separates nothing. */
static size_t leave_encoded(void *context, struct MHD_Connection *connection, char *text)
{
	(void)context;
	(void)connection;
	return strlen(text);
}

/* The loop */

void http_run(struct http *h)
{
	h->events->streams.turn++;
	MHD_run(h->daemon);
}

void http_resume(struct http *h, struct MHD_Connection *connection)
{
	MHD_resume_connection(connection);
	/* It wakes threads of libmicrohttpd's own, and no loop of ours. */
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
	/* It has closed the socket when it refuses. */
	MHD_add_connection(h->daemon, fd, address, len);
}

int http_start(struct http *h, struct ev_loop *loop, const struct settings *settings, struct events *events,
	struct pool *pool)
{
	*h = (struct http){.loop = loop, .settings = settings, .events = events, .pool = pool};
	snprintf(h->pid, sizeof h->pid, "%d", (int)getpid());
	page_init(&h->page);
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET, 0,
		NULL, NULL, on_request, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
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
	h->readable.data = h->prepare.data = h->timeout.data = h;
	ev_io_start(loop, &h->readable);
	ev_prepare_start(loop, &h->prepare);
	return 0;
}

void http_stop(struct http *h)
{
	ev_io_stop(h->loop, &h->readable);
	ev_prepare_stop(h->loop, &h->prepare);
	ev_timer_stop(h->loop, &h->timeout);
	MHD_stop_daemon(h->daemon);
}
