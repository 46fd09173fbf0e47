#include "request.h"

#include "api.h"
#include "asked.h"
#include "http.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY_FIRST 4096

struct request {
	struct job job; /* first, so that its pointer is the request's */
	struct http *http;
	struct MHD_Connection *connection;
	struct asked asked;
	enum { RECEIVING, WORKING, DONE } state;
	char *body;
	size_t size, capacity, discarded;
	size_t held; /* bytes, its part of http->held */
	bool stream;
	struct api_reply reply;
};

static void refuse(struct request *r, unsigned status, const char *why)
{
	asked_refuse(&r->asked, status, why);
}

/* Answering */

static enum MHD_Result queue(struct request *r, unsigned status, struct MHD_Response *response, size_t size)
{
	if (!response)
		return MHD_NO;
	http_add_headers(r->http, response);
	if (status == MHD_HTTP_SERVICE_UNAVAILABLE || status == MHD_HTTP_TOO_MANY_REQUESTS)
		MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, r->asked.route.methods);
	if (r->asked.last)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	enum MHD_Result queued = MHD_queue_response(r->connection, status, response);
	http_set_deadline(r->http, r->connection, REQUEST_SECONDS + (double)size / ANSWER_BYTES_PER_SECOND);
	MHD_destroy_response(response);
	return queued;
}

/* Takes over body, which malloc() made. NULL means out of memory: the connection is closed. */
static enum MHD_Result answer_json(struct request *r, unsigned status, char *body)
{
	size_t size = body ? strlen(body) : 0;
	struct MHD_Response *response =
		body ? MHD_create_response_from_buffer(size, body, MHD_RESPMEM_MUST_FREE) : NULL;

	if (!response) {
		free(body);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	return queue(r, status, response, size);
}

static enum MHD_Result answer_refused(struct request *r)
{
	return answer_json(r, r->asked.refused, api_error(r->asked.why));
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
	return queue(r, MHD_HTTP_OK, response, page_html_size);
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
	/* Others may have come while the body of this one arrived. */
	int error = events_may_join(h->events, r->asked.route.user);

	if (error == -EDQUOT)
		refuse(r, MHD_HTTP_TOO_MANY_REQUESTS, "this user has too many streams");
	else if (error < 0)
		refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "there are too many streams");
	if (r->asked.refused)
		return answer_refused(r);
	struct stream *stream = stream_open(&h->events->streams, r->connection);
	if (!stream)
		return MHD_NO;
	r->stream = true;
	http_set_deadline(h, r->connection, 0);
	h->n_requests--;
	if (h->stopping || events_join(h->events, stream, r->asked.route.user) < 0)
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
	if (r->asked.route.endpoint == ENDPOINT_RECORD && r->size + size > BODY_MAX)
		refuse(r, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too large: data has at most 1 MiB");
	if (r->asked.refused || r->asked.route.endpoint != ENDPOINT_RECORD) {
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

	if (r->asked.route.endpoint == ENDPOINT_RECORD)
		api_put(kind, store, r->asked.route.user, r->asked.route.id, r->body ? r->body : "", r->size,
			&r->reply);
	else
		api_changes(kind, store, r->asked.route.user, r->asked.since, &r->reply);
}

/* The answer does not wait for the announcement. The change is committed in any case, and
 * while the relay is away waiting would not help the writer. If this process dies between
 * the two, reconciliation announces the change. */
static void on_done(struct job *job)
{
	struct request *r = (struct request *)job;

	release(r);
	if (r->reply.changed)
		events_publish(r->http->events, r->asked.route.user,
			*r->asked.client_id ? r->asked.client_id : NULL);
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
	http_set_deadline(r->http, r->connection, 0);
	MHD_suspend_connection(r->connection);
	return MHD_YES;
}

/* From the headers to the end of the request */

static const char *header(const struct request *r, const char *name)
{
	return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static struct request *begin(
	struct http *h, struct MHD_Connection *connection, const char *path, const char *method)
{
	struct request *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->http = h;
	r->connection = connection;
	h->n_requests++;
	http_set_deadline(h, connection, REQUEST_SECONDS);
	asked_check(&r->asked, connection, path, method);
	return r;
}

/* A client that asks before it sends the body (Expect: 100-continue) is refused at once. So
 * is one that would send too much, or whose body has no certain end. */
static bool answer_early(const struct request *r)
{
	const char *length = header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	unsigned long long size = length ? strtoull(length, NULL, 10) : 0;

	return size > DISCARD_MAX || r->asked.last || (r->asked.refused && header(r, MHD_HTTP_HEADER_EXPECT));
}

static enum MHD_Result answer(struct request *r)
{
	if (r->asked.refused)
		return answer_refused(r);
	switch (r->asked.route.endpoint) {
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

/* libmicrohttpd calls this when the headers have arrived, for each piece of the body, at its
 * end, and when a suspended connection is resumed. */
enum MHD_Result request_handle(void *context, struct MHD_Connection *connection, const char *url,
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

void request_completed(
	void *context, struct MHD_Connection *connection, void **con_cls, enum MHD_RequestTerminationCode how)
{
	struct http *h = context;
	struct request *r = *con_cls;

	(void)how;
	if (!r)
		return;
	http_set_deadline(h, connection, REQUEST_SECONDS);
	if (!r->stream)
		h->n_requests--;
	release(r);
	free(r->reply.body);
	free(r);
	*con_cls = NULL;
}
