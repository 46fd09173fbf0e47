#include "postgres/publisher.h"

#include "base/clock.h"
#include "base/diag.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* src/include/catalog/pg_type_d.h: TEXTOID, TEXTARRAYOID */
#define TEXT_OID 25
#define TEXT_ARRAY_OID 1009

/* Each name is qualified: the role's search_path may contain functions of strangers. */
#define BATCH_SQL                                                                                            \
	"SELECT pg_catalog.count(pg_catalog.pg_notify(c, p))"                                                \
	" FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]),"                                         \
	" pg_catalog.unnest($2::pg_catalog.text[])) AS n (c, p)"

/* Batches up to this size go as NOTIFY statements, which PostgreSQL parses and does not plan: a
 * single one takes half the time. */
#define STATEMENTS_MAX 8
/* Bounds how many requests expire in one iteration of the loop: the rest of the loop waits
 * meanwhile. */
#define EXPIRE_MAX 512

static struct diag_limit refusal_limit, full_limit, share_limit;

static void work(struct publisher *p);
static void need_connection(struct publisher *p);
static void on_lost(void *context, enum session_failure failure, const char *error);

/* Requests that were taken from the queue */

static void batch_clear(struct publish_batch *b)
{
	*b = (struct publish_batch){.requests = TAILQ_HEAD_INITIALIZER(b->requests)};
}

static void batch_add(struct publish_batch *b, struct publish_request *r)
{
	TAILQ_INSERT_TAIL(&b->requests, r, next);
	r->batch = b;
	b->n++;
	b->bytes += r->len;
}

static void batch_remove(struct publish_request *r)
{
	struct publish_batch *b = r->batch;

	TAILQ_REMOVE(&b->requests, r, next);
	r->batch = NULL;
	b->n--;
	b->bytes -= r->len;
}

static void answer(
	struct publisher *p, struct publish_request *r, enum wire_error_code code, const char *text)
{
	if (r->answered)
		return;
	p->n_failed += code != WIRE_ERROR_NONE;
	publish_queue_answered(&p->queue, r);
	p->events->published(p->context, &r->origin, code, text);
}

/* The request must not be waiting. */
static void finish(
	struct publisher *p, struct publish_request *r, enum wire_error_code code, const char *text)
{
	answer(p, r, code, text);
	publish_queue_free(&p->queue, r);
}

/* Deadlines */

static void watch_expiry(struct publisher *p)
{
	const struct publish_request *oldest = publish_queue_oldest(&p->queue);

	ev_timer_stop(p->session.loop, &p->expiry);
	if (!oldest)
		return;
	double wait = oldest->since + PUBLISHER_REQUEST_SECONDS - clock_now();
	timer_arm(p->session.loop, &p->expiry, wait > 0.001 ? wait : 0.001);
}

/* A request in flight is answered here, and freed when its statement is over. */
static void expire(struct publisher *p, struct publish_request *r)
{
	if (r->waits) {
		publish_queue_withdraw(r);
		finish(p, r, WIRE_ERROR_TIMEOUT, "PostgreSQL could not be reached in time");
		return;
	}
	answer(p, r, WIRE_ERROR_TIMEOUT,
		"PostgreSQL did not confirm it in time; it may have been published nevertheless");
	if (r->batch == &p->again) {
		batch_remove(r);
		publish_queue_free(&p->queue, r);
	}
}

static void on_expiry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct publisher *p = timer->data;
	double limit = clock_now() - PUBLISHER_REQUEST_SECONDS;
	struct publish_request *oldest;

	(void)loop;
	(void)events;
	for (int n = 0;
		n < EXPIRE_MAX && (oldest = publish_queue_oldest(&p->queue)) && oldest->since <= limit; n++)
		expire(p, oldest);
	watch_expiry(p);
}

/* Batches */

/* A text[] in PostgreSQL's binary form (array_recv in arrayfuncs.c), which needs no
 * escaping. */
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

/* At most half of the queue. Requests in flight cannot be evicted, so the other half stays for
 * users that have less. */
static unsigned batch_max(const struct publisher *p)
{
	unsigned max = p->shared ? PUBLISHER_SHARED_BATCH_MAX : PUBLISHER_BATCH_MAX;

	if (p->alone)
		return 1;
	return max < p->queue.n_max / 2 ? max : p->queue.n_max / 2 + 1;
}

static void take_batch(struct publisher *p)
{
	size_t bytes_max = p->shared ? PUBLISHER_SHARED_BATCH_BYTES_MAX : PUBLISHER_BATCH_BYTES_MAX;
	unsigned max = batch_max(p);

	while (p->in_flight.n < max && p->in_flight.bytes < bytes_max) {
		struct publish_request *r = TAILQ_FIRST(&p->again.requests);
		if (r)
			batch_remove(r);
		else if (!(r = publish_queue_take(&p->queue)))
			break;
		batch_add(&p->in_flight, r);
	}
	if (p->alone)
		p->alone--;
	if (p->shared && p->in_flight.n > 0 && publish_queue_waits(&p->queue)) {
		publish_queue_rest(&p->queue);
		p->rested = true;
	}
}

static void on_rest_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct publisher *p = timer->data;

	(void)loop;
	(void)events;
	publish_queue_rest_over(&p->queue);
	work(p);
}

/* The statement with the batch is over. */
static void begin_rest(struct publisher *p)
{
	if (p->rested)
		timer_arm(p->session.loop, &p->rest, PUBLISHER_REST_SECONDS);
	p->rested = false;
}

static bool something_waits(const struct publisher *p)
{
	return p->again.n > 0 || publish_queue_waits(&p->queue);
}

/* The requests in flight were not published, or it is not known whether they were. They go out
 * again, before all others. */
static void put_back(struct publisher *p)
{
	for (struct publish_request *r; (r = TAILQ_LAST(&p->in_flight.requests, publish_list));) {
		batch_remove(r);
		if (r->answered) {
			publish_queue_free(&p->queue, r);
			continue;
		}
		TAILQ_INSERT_HEAD(&p->again.requests, r, next);
		r->batch = &p->again;
		p->again.n++;
		p->again.bytes += r->len;
	}
}

/* Whether a request in the statement made it fail (class 22, data exceptions), and not the
 * server's state: a standby after a failover, or a full notification queue. */
static bool at_fault(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return state && strncmp(state, "22", 2) == 0;
}

static void count_published(struct publisher *p)
{
	const struct publish_request *r;
	double now = clock_now();

	p->n_published += p->in_flight.n;
	TAILQ_FOREACH (r, &p->in_flight.requests, next) {
		histogram_observe(&p->to_commit, now - r->since);
		if (r->origin.source)
			crowd_answered(&p->crowd, r->origin.slot, now);
	}
}

/* Has the loop wait while there is a crowd. What else arrives waits as long. */
static void await_crowd(struct publisher *p, double now)
{
	/* Requests that go one by one would take a wait each. */
	double wait = p->alone ? 0 : crowd_wait(&p->crowd, now);

	ev_set_io_collect_interval(p->session.loop, wait);
	if (wait > 0 && !ev_is_active(&p->crowd_over))
		timer_arm(p->session.loop, &p->crowd_over, CROWD_WINDOW);
}

static void on_crowd_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	await_crowd(timer->data, clock_now());
}

/* A pooler passed on only some of the statements, or none: the requests in flight may not be
 * published. They go out again as one statement; if that was one, it is refused. */
static void distrust_way(struct publisher *p)
{
	snprintf(p->refusal.text, sizeof p->refusal.text,
		"the server or a pooler completed %u of %u statements", p->n_completed, p->n_sent);
	if (p->n_sent == 1) {
		p->refused = true;
		return;
	}
	p->only_arrays = true;
	diag(DIAG_WARNING,
		"what stands at DATABASE_URL completed %u of %u statements that were sent together; they "
		"are published again, one statement at a time from now on",
		p->n_completed, p->n_sent);
}

static void on_batch(void *context, PGresult *result)
{
	struct publisher *p = context;
	struct publish_request *r;

	if (result) {
		p->refused = !session_succeeded(result);
		if (!p->refused) {
			p->n_completed++;
			return;
		}
		p->refusal = session_error(&p->session, result);
		p->unfit = at_fault(result);
		if (!p->unfit) {
			/* A new connection may reach a server that accepts it. */
			session_close(&p->session);
			on_lost(p, SESSION_STARTING, p->refusal.text);
		}
		return;
	}
	if (!p->refused && p->n_completed != p->n_sent)
		distrust_way(p);
	if (p->refused && p->in_flight.n > 1) {
		p->alone = p->in_flight.n;
		await_crowd(p, clock_now());
		put_back(p);
	} else if (!p->refused && p->n_completed != p->n_sent) {
		put_back(p);
	} else {
		r = TAILQ_FIRST(&p->in_flight.requests);
		if (p->refused)
			diag_limited(&refusal_limit, DIAG_WARNING,
				"PostgreSQL refuses a notification: %s channel=\"%s\" length=%u",
				p->refusal.text, r->channel, r->len);
		else
			count_published(p);
		while ((r = TAILQ_FIRST(&p->in_flight.requests))) {
			batch_remove(r);
			finish(p, r, p->refused ? WIRE_ERROR_REJECTED : WIRE_ERROR_NONE, p->refusal.text);
		}
	}
	p->refused = p->unfit = false;
	watch_expiry(p);
	begin_rest(p);
	work(p);
}

static bool send_arrays(struct publisher *p)
{
	struct text_array channels, payloads;
	const struct publish_request *r;
	size_t channel_bytes = 0;

	TAILQ_FOREACH (r, &p->in_flight.requests, next) {
		channel_bytes += strlen(r->channel);
	}
	if (array_open(&channels, p->in_flight.n, channel_bytes) < 0 ||
		array_open(&payloads, p->in_flight.n, p->in_flight.bytes) < 0) {
		free(channels.bytes);
		return false;
	}
	TAILQ_FOREACH (r, &p->in_flight.requests, next) {
		put_text(&channels, r->channel, (uint32_t)strlen(r->channel));
		put_text(&payloads, r->payload, r->len);
	}
	p->n_sent = 1;
	p->n_completed = 0;
	struct session_param params[] = {
		{channels.bytes, (int)channels.len, TEXT_ARRAY_OID, true},
		{payloads.bytes, (int)payloads.len, TEXT_ARRAY_OID, true},
	};
	session_query(&p->session,
		&(struct session_statement){.sql = BATCH_SQL,
			.params = params,
			.n_params = 2,
			.seconds = PUBLISHER_STATEMENT_SECONDS},
		on_batch);
	free(channels.bytes);
	free(payloads.bytes);
	return true;
}

/* The statements of the requests in flight, as one string. NULL: out of memory. */
static char *statements(struct publisher *p)
{
	/* Of each request its channel, then its payload. */
	char *parts[2 * STATEMENTS_MAX], *sql = NULL;
	const struct publish_request *r;
	size_t len = 0;
	int n = 0;
	bool good = true;

	TAILQ_FOREACH (r, &p->in_flight.requests, next) {
		parts[n++] = PQescapeIdentifier(p->session.conn, r->channel, strlen(r->channel));
		parts[n++] = PQescapeLiteral(p->session.conn, r->payload, r->len);
		good = good && parts[n - 2] && parts[n - 1];
		if (good)
			len += strlen("NOTIFY , ;") + strlen(parts[n - 2]) + strlen(parts[n - 1]);
	}
	if (good)
		sql = malloc(len + 1);
	char *end = sql;
	for (int i = 0; sql && i < n; i += 2)
		end = stpcpy(
			stpcpy(stpcpy(stpcpy(stpcpy(end, "NOTIFY "), parts[i]), ", "), parts[i + 1]), ";");
	for (int i = 0; i < n; i++)
		PQfreemem(parts[i]);
	return sql;
}

/* A string of statements is one transaction. */
static bool send_statements(struct publisher *p)
{
	char *sql = statements(p);

	if (!sql)
		return false;
	p->n_sent = p->in_flight.n;
	p->n_completed = 0;
	session_query(&p->session,
		&(struct session_statement){.sql = sql, .seconds = PUBLISHER_STATEMENT_SECONDS}, on_batch);
	free(sql);
	return true;
}

static void send_batch(struct publisher *p)
{
	take_batch(p);
	if (p->in_flight.n == 0)
		return;
	p->n_batches++;
	if (!p->only_arrays && p->in_flight.n <= STATEMENTS_MAX && send_statements(p))
		return;
	if (send_arrays(p))
		return;
	/* Out of memory: they go out with a later batch, or expire. */
	p->n_batches--;
	put_back(p);
	begin_rest(p);
}

/* Statements between two batches */

static void forget_statement(struct publisher *p)
{
	p->statement = (struct publisher_statement){0};
	p->statement_sent = false;
}

static void on_statement_result(void *context, PGresult *result)
{
	struct publisher *p = context;
	struct publisher_statement statement = p->statement;

	if (!result)
		forget_statement(p);
	statement.on_result(statement.context, result, NULL);
	if (!result)
		work(p);
}

static void fail_statement(struct publisher *p, const char *error)
{
	struct publisher_statement statement = p->statement;

	if (!statement.sql)
		return;
	forget_statement(p);
	statement.on_result(statement.context, NULL, error);
}

void publisher_ask(struct publisher *p, const struct publisher_statement *statement)
{
	assert(!p->statement.sql);
	p->statement = *statement;
	need_connection(p);
	work(p);
}

static void work(struct publisher *p)
{
	if (!session_idle(&p->session))
		return;
	p->used = p->used || p->statement.sql || something_waits(p);
	if (p->statement.sql && !p->statement_sent) {
		p->statement_sent = true;
		session_query(&p->session,
			&(struct session_statement){.sql = p->statement.sql,
				.params = p->statement.params,
				.n_params = p->statement.n_params,
				.seconds = PUBLISHER_STATEMENT_SECONDS},
			on_statement_result);
	} else if (something_waits(p)) {
		send_batch(p);
	}
}

/* The connection */

static void on_lost(void *context, enum session_failure failure, const char *error)
{
	struct publisher *p = context;
	bool was_live = p->backoff.live_since > 0, was_idle = p->in_flight.n == 0 && !p->statement_sent,
	     starting = failure == SESSION_STARTING;
	double retry = backoff_failed(&p->backoff, clock_now());

	p->idled = was_live && was_idle;
	p->prompt = p->idled || retry == 0;
	/* Unless it was for nothing: then it waits until it is needed. */
	if (p->idled)
		retry = p->used ? 0 : p->backoff.max;

	snprintf(p->last_error, sizeof p->last_error,
		was_live ? "the publishing connection (%s) is lost: %s"
			 : "%s cannot be connected to; check the URL and the server: %s",
		config_url_name(p->config, p->session.url), error);
	p->last_error_at = clock_now();
	timer_arm(p->session.loop, &p->retry, retry);
	/* It is unknown whether the batch in flight was committed. It goes out again: better
	 * twice than never. */
	put_back(p);
	begin_rest(p);
	p->refused = p->unfit = false;
	fail_statement(p, p->last_error);
	watch_expiry(p);
	p->events->lost(p->context, p->last_error,
		starting || (config_is_patient(p->config) && session_may_heal(failure, error)), retry);
}

static void on_ready(void *context)
{
	struct publisher *p = context;

	backoff_live(&p->backoff, clock_now());
	p->used = false;
	p->events->connected(p->context);
	p->idled = p->prompt = false;
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

/* The connection was healthy and is gone, maybe for long: no backoff. */
static void need_connection(struct publisher *p)
{
	if (p->prompt && ev_is_active(&p->retry))
		connect_now(p);
}

static void on_iteration_end(struct ev_loop *loop, struct ev_prepare *watcher, int events)
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
		.backoff = {.first = 1., .max = PUBLISHER_BACKOFF_MAX, .prompt = true}};
	publish_queue_open(&p->queue, config->publish_queue_max, config->publishes_per_uid_max,
		config->publish_queue_size);
	batch_clear(&p->in_flight);
	batch_clear(&p->again);
	session_init(&p->session, loop, config->publish_url, "pgherald publisher", &session_events, p);
	timer_init(&p->retry, on_retry, p);
	timer_init(&p->expiry, on_expiry, p);
	timer_init(&p->rest, on_rest_over, p);
	timer_init(&p->crowd_over, on_crowd_over, p);
	ev_prepare_init(&p->iteration_end, on_iteration_end);
	p->iteration_end.data = p;
	connect_now(p);
}

/* Takes out any request; NULL when there is none. */
static struct publish_request *take_any(struct publisher *p)
{
	put_back(p);
	publish_queue_rest_over(&p->queue);
	struct publish_request *r = TAILQ_FIRST(&p->again.requests);

	if (!r)
		return publish_queue_take(&p->queue);
	batch_remove(r);
	return r;
}

void publisher_stop(struct publisher *p)
{
	ev_timer_stop(p->session.loop, &p->retry);
	ev_timer_stop(p->session.loop, &p->expiry);
	ev_timer_stop(p->session.loop, &p->rest);
	ev_timer_stop(p->session.loop, &p->crowd_over);
	ev_prepare_stop(p->session.loop, &p->iteration_end);
	session_close(&p->session);
	for (struct publish_request *r; (r = take_any(p));)
		publish_queue_free(&p->queue, r);
	publish_queue_close(&p->queue);
}

void publisher_hurry(struct publisher *p)
{
	if (ev_is_active(&p->retry))
		connect_now(p);
}

double publisher_next_attempt(const struct publisher *p)
{
	struct ev_timer retry = p->retry; /* libev only reads it */

	return ev_is_active(&retry) ? ev_timer_remaining(p->session.loop, &retry) : -1;
}

bool publisher_idle(const struct publisher *p)
{
	return p->queue.n == 0;
}

void publisher_abandon(struct publisher *p, enum wire_error_code code, const char *text)
{
	for (struct publish_request *r; (r = take_any(p));)
		finish(p, r, code, text);
}

static void log_full(struct publisher *p)
{
	p->n_full++;
	diag_limited(&full_limit, DIAG_WARNING,
		"the publish queue is full, so requests are refused; PostgreSQL is away or slow requests=%u bytes=%zu",
		p->queue.n, p->queue.bytes);
}

/* 0 or -EBUSY. */
static int make_room(struct publisher *p, uid_t uid, size_t len)
{
	struct publish_request *evicted;

	for (;;) {
		switch (publish_queue_make_room(&p->queue, uid, len, &evicted)) {
		case PUBLISH_ROOM:
			return 0;
		case PUBLISH_ROOM_BY_EVICTION:
			p->n_evicted++;
			log_full(p);
			finish(p, evicted, WIRE_ERROR_BUSY,
				"the relay's publish queue is full, and others have less in it");
			break;
		case PUBLISH_FULL_FOR_USER:
			p->n_full_for_user++;
			diag_limited(&share_limit, DIAG_WARNING,
				"a user's share of the publish queue is full, so its requests are refused uid=%u",
				(unsigned)uid);
			return -EBUSY;
		default:
			log_full(p);
			return -EBUSY;
		}
	}
}

int publisher_submit(struct publisher *p, const struct publish_origin *origin, const char *channel,
	struct wire_str payload)
{
	static const struct publish_origin own = {.uid = (uid_t)-1};

	double now = clock_now();
	if (!origin)
		origin = &own;
	int r = make_room(p, origin->uid, payload.len);
	if (r == 0)
		r = publish_queue_add(&p->queue, origin, channel, payload.ptr, payload.len, now);
	if (r < 0)
		return r;
	if (origin->source)
		crowd_request(&p->crowd, origin->slot, now);
	await_crowd(p, now);
	if (!ev_is_active(&p->expiry))
		watch_expiry(p);
	/* Sent at the end of the iteration, so that requests that arrived together go out
	 * together. */
	ev_prepare_start(p->session.loop, &p->iteration_end);
	need_connection(p);
	return 0;
}

void publisher_limit(struct publisher *p)
{
	p->queue.n_max = p->config->publish_queue_max;
	p->queue.n_per_uid_max = p->config->publishes_per_uid_max;
	p->queue.size_max = p->config->publish_queue_size;
}
