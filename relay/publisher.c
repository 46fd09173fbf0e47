#include "publisher.h"

#include "clock.h"
#include "diag.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* src/include/catalog/pg_type_d.h: TEXTOID, TEXTARRAYOID */
#define TEXT_OID 25
#define TEXT_ARRAY_OID 1009

/* Each name is qualified: the role's search_path may hold others' functions. */
#define BATCH_SQL                                                                                            \
	"SELECT pg_catalog.count(pg_catalog.pg_notify(c, p))"                                                \
	" FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]),"                                         \
	" pg_catalog.unnest($2::pg_catalog.text[])) AS n (c, p)"

/* Up to so many go as NOTIFY statements, which PostgreSQL parses and does not plan: for a single one, half
 * the time. */
#define STATEMENTS_MAX 8

static struct diag_limit refusal_limit, full_limit;

static void work(struct publisher *p);
static void on_lost(void *context, enum session_failure failure, const char *error);

/* Lists */

static void list_clear(struct publish_list *l)
{
	*l = (struct publish_list){.end = &l->first};
}

static void list_append(struct publish_list *l, struct publish_request *r)
{
	r->next = NULL;
	*l->end = r;
	l->end = &r->next;
	l->n++;
	l->bytes += r->len;
}

static struct publish_request *list_pop(struct publish_list *l)
{
	struct publish_request *r = l->first;

	l->first = r->next;
	if (!l->first)
		l->end = &l->first;
	l->n--;
	l->bytes -= r->len;
	return r;
}

/* All of front goes before what is in l. */
static void list_put_back(struct publish_list *l, struct publish_list *front)
{
	while (l->first)
		list_append(front, list_pop(l));
	list_clear(l);
	while (front->first)
		list_append(l, list_pop(front));
}

static void answer(struct publisher *p, struct publish_request *r, const char *code, const char *text)
{
	if (!r->answered)
		p->events->published(p->context, r->source, r->slot, r->request, code, text);
	if (code && !r->answered)
		p->n_failed++;
	r->answered = true;
}

/* Deadlines: requests of both lists are in the order of their arrival. */

static void watch_expiry(struct publisher *p)
{
	const struct publish_request *oldest = p->in_flight.first;

	while (oldest && oldest->answered)
		oldest = oldest->next;
	if (!oldest)
		oldest = p->queue.first;
	ev_timer_stop(p->session.loop, &p->expiry);
	if (!oldest)
		return;
	double wait = oldest->since + PUBLISHER_REQUEST_SECONDS - clock_now();
	timer_arm(p->session.loop, &p->expiry, wait > 0.001 ? wait : 0.001);
}

static void on_expiry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct publisher *p = timer->data;
	double limit = clock_now() - PUBLISHER_REQUEST_SECONDS;

	(void)loop;
	(void)events;
	for (struct publish_request *r = p->in_flight.first; r && r->since <= limit; r = r->next)
		answer(p, r, "timeout",
			"PostgreSQL did not confirm it in time; it may have been published all the same");
	while (p->queue.first && p->queue.first->since <= limit) {
		struct publish_request *r = list_pop(&p->queue);
		answer(p, r, "timeout", "PostgreSQL could not be reached in time");
		free(r);
	}
	watch_expiry(p);
}

/* Batches */

/* A text[] in PostgreSQL's binary form (array_recv in arrayfuncs.c), which needs no escaping. */
struct text_array {
	char *bytes;
	size_t len;
};

static void put_int32(struct text_array *a, uint32_t value)
{
	uint32_t big = htonl(value);

	memcpy(a->bytes + a->len, &big, 4);
	a->len += 4;
}

static void put_text(struct text_array *a, const char *text, uint32_t len)
{
	put_int32(a, len);
	memcpy(a->bytes + a->len, text, len);
	a->len += len;
}

static int array_open(struct text_array *a, uint32_t n, size_t bytes)
{
	*a = (struct text_array){.bytes = malloc(20 + 4 * (size_t)n + bytes)};
	if (!a->bytes)
		return -ENOMEM;
	put_int32(a, 1); /* dimensions */
	put_int32(a, 0); /* no NULLs */
	put_int32(a, TEXT_OID);
	put_int32(a, n);
	put_int32(a, 1); /* first subscript */
	return 0;
}

static void take_batch(struct publisher *p)
{
	while (p->queue.first && p->in_flight.n < (p->alone ? 1 : PUBLISHER_BATCH_MAX) &&
		p->in_flight.bytes < PUBLISHER_BATCH_BYTES_MAX)
		list_append(&p->in_flight, list_pop(&p->queue));
	if (p->alone)
		p->alone--;
}

/* Whether the statement failed for what is in it (class 22, data exceptions) and not for the state of the
 * server, such as a standby after a failover or a full notification queue. */
static bool at_fault(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return state && strncmp(state, "22", 2) == 0;
}

static void count_published(struct publisher *p)
{
	double now = clock_now();

	p->n_published += p->in_flight.n;
	for (const struct publish_request *r = p->in_flight.first; r; r = r->next)
		histogram_observe(&p->to_commit, now - r->since);
}

static void on_batch(void *context, PGresult *result)
{
	struct publisher *p = context;

	if (result) {
		p->refused = PQresultStatus(result) != PGRES_TUPLES_OK &&
			     PQresultStatus(result) != PGRES_COMMAND_OK;
		if (!p->refused)
			return;
		snprintf(p->refusal, sizeof p->refusal, "%s", session_error(result));
		if (!at_fault(result)) {
			/* Another connection may reach a server that takes it. */
			session_close(&p->session);
			on_lost(p, SESSION_STARTING, p->refusal);
		}
		return;
	}
	if (p->refused && p->in_flight.n > 1) {
		p->alone = p->in_flight.n;
		list_put_back(&p->queue, &p->in_flight);
	} else {
		if (p->refused)
			diag_limited(&refusal_limit, DIAG_WARNING,
				"PostgreSQL refuses a notification: %s channel=\"%s\" length=%u", p->refusal,
				p->in_flight.first->channel, p->in_flight.first->len);
		else
			count_published(p);
		while (p->in_flight.first) {
			struct publish_request *r = list_pop(&p->in_flight);
			answer(p, r, p->refused ? "rejected" : NULL, p->refusal);
			free(r);
		}
	}
	p->refused = false;
	watch_expiry(p);
	work(p);
}

static bool send_arrays(struct publisher *p)
{
	struct text_array channels, payloads;
	size_t channel_bytes = 0;

	for (struct publish_request *r = p->in_flight.first; r; r = r->next)
		channel_bytes += strlen(r->channel);
	if (array_open(&channels, p->in_flight.n, channel_bytes) < 0 ||
		array_open(&payloads, p->in_flight.n, p->in_flight.bytes) < 0) {
		free(channels.bytes);
		return false;
	}
	for (struct publish_request *r = p->in_flight.first; r; r = r->next) {
		put_text(&channels, r->channel, (uint32_t)strlen(r->channel));
		put_text(&payloads, r->payload, r->len);
	}
	struct session_param params[] = {
		{channels.bytes, (int)channels.len, TEXT_ARRAY_OID, true},
		{payloads.bytes, (int)payloads.len, TEXT_ARRAY_OID, true},
	};
	session_query(&p->session, BATCH_SQL, params, 2, false, PUBLISHER_STATEMENT_SECONDS, on_batch);
	free(channels.bytes);
	free(payloads.bytes);
	return true;
}

/* A string of statements is one transaction. */
static bool send_statements(struct publisher *p)
{
	char *sql = NULL;
	size_t size;
	FILE *out = open_memstream(&sql, &size);
	bool good = out != NULL;

	for (struct publish_request *r = p->in_flight.first; r && good; r = r->next) {
		char *channel = PQescapeIdentifier(p->session.conn, r->channel, strlen(r->channel));
		char *payload = PQescapeLiteral(p->session.conn, r->payload, r->len);
		good = channel && payload && fprintf(out, "NOTIFY %s, %s;", channel, payload) > 0;
		PQfreemem(channel);
		PQfreemem(payload);
	}
	if (out && (fclose(out) != 0 || !sql))
		good = false;
	if (good)
		session_query(&p->session, sql, NULL, 0, false, PUBLISHER_STATEMENT_SECONDS, on_batch);
	free(sql);
	return good;
}

static void send_batch(struct publisher *p)
{
	take_batch(p);
	p->n_batches++;
	if (p->in_flight.n <= STATEMENTS_MAX && send_statements(p))
		return;
	if (send_arrays(p))
		return;
	/* No memory: they expire, or go out with a later batch. */
	p->n_batches--;
	list_put_back(&p->queue, &p->in_flight);
}

/* The statement in between */

static void on_statement_result(void *context, PGresult *result)
{
	struct publisher *p = context;
	publisher_statement_fn *on_statement = p->on_statement;

	if (!result) {
		p->statement = NULL;
		p->statement_sent = false;
	}
	on_statement(p->statement_context, result, NULL);
	if (!result)
		work(p);
}

static void fail_statement(struct publisher *p, const char *error)
{
	if (!p->statement)
		return;
	p->statement = NULL;
	p->statement_sent = false;
	p->on_statement(p->statement_context, NULL, error);
}

int publisher_ask(struct publisher *p, const char *sql, const struct session_param *params, int n_params,
	publisher_statement_fn *on_statement, void *context)
{
	if (p->statement)
		return -EBUSY;
	p->statement = sql;
	p->statement_sent = false;
	memcpy(p->params, params, (size_t)n_params * sizeof *params);
	p->n_params = n_params;
	p->on_statement = on_statement;
	p->statement_context = context;
	work(p);
	return 0;
}

static void work(struct publisher *p)
{
	if (!session_idle(&p->session))
		return;
	if (p->statement && !p->statement_sent) {
		p->statement_sent = true;
		session_query(&p->session, p->statement, p->params, p->n_params, false,
			PUBLISHER_STATEMENT_SECONDS, on_statement_result);
	} else if (p->queue.first) {
		send_batch(p);
	}
}

/* The connection */

static void on_lost(void *context, enum session_failure failure, const char *error)
{
	struct publisher *p = context;
	bool was_live = p->backoff.live_since > 0;
	double retry = backoff_failed(&p->backoff, clock_now());

	snprintf(p->last_error, sizeof p->last_error,
		was_live ? "the publishing connection (%s) is lost: %s"
			 : "%s cannot be connected to; check the URL and the server: %s",
		config_url_name(p->config, p->session.url), error);
	timer_arm(p->session.loop, &p->retry, retry);
	/* Whether the batch in flight was committed is unknown. It goes out again: better twice than never.
	 */
	struct publish_list unanswered;
	list_clear(&unanswered);
	while (p->in_flight.first) {
		struct publish_request *r = list_pop(&p->in_flight);
		if (r->answered)
			free(r);
		else
			list_append(&unanswered, r);
	}
	list_put_back(&p->queue, &unanswered);
	p->refused = false;
	fail_statement(p, p->last_error);
	watch_expiry(p);
	p->events->lost(p->context, p->last_error, failure == SESSION_STARTING, retry);
}

static void on_ready(void *context)
{
	struct publisher *p = context;

	backoff_live(&p->backoff, clock_now());
	p->events->connected(p->context);
	work(p);
}

static const struct session_events session_events = {on_ready, on_lost, NULL};

static void connect_now(struct publisher *p)
{
	ev_timer_stop(p->session.loop, &p->retry);
	int r = session_connect(&p->session);
	if (r < 0)
		on_lost(p, SESSION_STARTING, strerror(-r));
}

static void on_turn_end(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	(void)events;
	ev_prepare_stop(loop, watcher);
	work(watcher->data);
}

static void on_retry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	connect_now(timer->data);
}

void publisher_start(struct publisher *p, struct ev_loop *loop, const struct config *config,
	const struct publisher_events *events, void *context)
{
	*p = (struct publisher){.config = config,
		.events = events,
		.context = context,
		.backoff = {.first = 1., .max = PUBLISHER_BACKOFF_MAX}};
	list_clear(&p->queue);
	list_clear(&p->in_flight);
	session_init(&p->session, loop, config->publish_url, "pgherald publisher", &session_events, p);
	timer_init(&p->retry, on_retry, p);
	timer_init(&p->expiry, on_expiry, p);
	ev_prepare_init(&p->turn_end, on_turn_end);
	p->turn_end.data = p;
	connect_now(p);
}

void publisher_stop(struct publisher *p)
{
	ev_timer_stop(p->session.loop, &p->retry);
	ev_timer_stop(p->session.loop, &p->expiry);
	ev_prepare_stop(p->session.loop, &p->turn_end);
	session_close(&p->session);
	list_put_back(&p->queue, &p->in_flight);
	while (p->queue.first)
		free(list_pop(&p->queue));
}

void publisher_hurry(struct publisher *p)
{
	if (ev_is_active(&p->retry))
		connect_now(p);
}

bool publisher_idle(const struct publisher *p)
{
	return !p->queue.first && !p->in_flight.first;
}

void publisher_abandon(struct publisher *p, const char *code, const char *text)
{
	list_put_back(&p->queue, &p->in_flight);
	while (p->queue.first) {
		struct publish_request *r = list_pop(&p->queue);
		answer(p, r, code, text);
		free(r);
	}
}

int publisher_submit(struct publisher *p, uint64_t source, uint32_t slot, uint64_t request,
	const char *channel, struct wire_str payload)
{
	if (p->queue.n + p->in_flight.n >= p->config->publish_queue_max ||
		p->queue.bytes + p->in_flight.bytes + payload.len > p->config->publish_queue_size) {
		p->n_full++;
		diag_limited(&full_limit, DIAG_WARNING,
			"the publish queue is full, so requests are refused; PostgreSQL is away or slow requests=%u bytes=%zu",
			p->queue.n + p->in_flight.n, p->queue.bytes + p->in_flight.bytes);
		return -EBUSY;
	}
	struct publish_request *r = malloc(sizeof *r + payload.len);
	if (!r)
		return -ENOMEM;
	*r = (struct publish_request){.source = source,
		.slot = slot,
		.request = request,
		.since = clock_now(),
		.channel = channel,
		.len = payload.len};
	memcpy(r->payload, payload.ptr, payload.len);
	list_append(&p->queue, r);
	if (!ev_is_active(&p->expiry))
		watch_expiry(p);
	/* At the end of the loop's turn, so that what arrived together goes out together. */
	ev_prepare_start(p->session.loop, &p->turn_end);
	return 0;
}
