#include "recovery/tracking.h"

#include "base/clock.h"
#include "base/diag.h"
#include "recovery/changes_since.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Seconds between two attempts to connect, at most. */
#define RETRY_MAX 30.
/* How many checkpoint intervals an unused connection stays open. */
#define IDLE_INTERVALS 3.

/* Formats. A function runs only if its owner is still one that we trust: the condition depends on
 * the outer row, so PostgreSQL checks it first (a one-time filter). Results are told apart by their
 * numbers of columns. If the fold were serializable, it could make writers fail. */
#define SETTINGS_FORMAT                                                                                      \
	SESSION_PRIMARY "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"                                    \
			" SELECT pg_catalog.concat(pg_catalog.set_config('pgherald.channels', '%s', false)," \
			" pg_catalog.set_config('statement_timeout', '0', false));"
#define TRUST_FORMAT                                                                                         \
	" FROM (SELECT coalesce(%s OPERATOR(pg_catalog.=) '', false) AS trusted OFFSET 0) AS trust"
#define FOLD_FORMAT                                                                                          \
	SESSION_PRIMARY                                                                                      \
		"SELECT folded, more" TRUST_FORMAT                                                           \
		", LATERAL (SELECT folded, more FROM pgherald.fold() WHERE trust.trusted OFFSET 0) AS f;"
#define LOOK_FORMAT                                                                                          \
	SESSION_PRIMARY "SELECT tables, unserved, fold_lag, problem" TRUST_FORMAT                            \
			", LATERAL (SELECT %s WHERE trust.trusted OFFSET 0) AS t,"                           \
			" LATERAL (SELECT pgherald.problem() AS problem WHERE trust.trusted OFFSET 0) AS p"
#define TABLES_SQL "tables, unserved, fold_lag FROM pgherald.tracking()"
#define NO_TABLES_SQL "0 AS tables, NULL AS unserved, 0 AS fold_lag"
enum { FOLD_FOLDED, FOLD_MORE, FOLD_FIELDS };
enum { LOOK_TABLES, LOOK_UNSERVED, LOOK_LAG, LOOK_PROBLEM, LOOK_FIELDS };

static void ask(struct tracking *t);

static void fail(struct tracking *t, const char *error)
{
	static struct diag_limit limit;

	snprintf(t->trouble.text, sizeof t->trouble.text, "%s", error);
	diag_limited(&limit, DIAG_WARNING, "what is tracked could not be folded or asked about: %s", error);
}

static void on_lost(void *context, enum session_failure failure, const char *error)
{
	struct tracking *t = context;

	(void)failure;
	fail(t, error);
	if (t->due)
		timer_arm(t->session.loop, &t->retry, backoff_failed(&t->backoff, clock_now()));
}

/* Copies the text. Returns whether it is new and not empty. */
static bool note(char *out, size_t size, const char *text)
{
	bool same = strncmp(out, text, size - 1) == 0;

	snprintf(out, size, "%s", text);
	return !same && *text;
}

static void read_fold(struct tracking *t, const PGresult *result)
{
	t->again = PQgetvalue(result, 0, FOLD_MORE)[0] == 't';
	t->n_folded += strtoull(PQgetvalue(result, 0, FOLD_FOLDED), NULL, 10);
}

static void read_look(struct tracking *t, const PGresult *result)
{
	struct encoding *e = t->session.encoding;

	t->n_tables = strtoull(PQgetvalue(result, 0, LOOK_TABLES), NULL, 10);
	t->fold_lag = strtod(PQgetvalue(result, 0, LOOK_LAG), NULL);
	t->trouble.text[0] = '\0';
	if (note(t->unserved, sizeof t->unserved, encoding_name(e, PQgetvalue(result, 0, LOOK_UNSERVED))))
		diag(DIAG_WARNING,
			"a table is tracked for a channel that this relay is not configured for, so its workers "
			"hear nothing of it; add the channel to PGHERALD_CHANNELS channel=\"%s\"",
			t->unserved);
	if (note(t->problem, sizeof t->problem, encoding_name(e, PQgetvalue(result, 0, LOOK_PROBLEM))))
		diag(DIAG_WARNING, "changes may be missed: %s", t->problem);
}

static void on_answer(void *context, PGresult *result)
{
	struct tracking *t = context;

	if (!result) {
		if (t->due || t->again) {
			t->due_folds |= t->again;
			ask(t);
		} else {
			timer_arm(t->session.loop, &t->idle, t->config->checkpoint_interval * IDLE_INTERVALS);
		}
		return;
	}
	if (session_is_row(result, FOLD_FIELDS))
		read_fold(t, result);
	else if (session_is_row(result, LOOK_FIELDS))
		read_look(t, result);
	else if (!session_succeeded(result))
		fail(t, session_error(&t->session, result).text);
}

static void ask(struct tracking *t)
{
	char sql[sizeof SETTINGS_FORMAT FOLD_FORMAT LOOK_FORMAT TABLES_SQL + CHANGES_CHANNELS_MAX +
		 2 * sizeof UPSTREAM_FOLD_OWNER_SQL + sizeof UPSTREAM_PROBLEM_OWNER_SQL];
	bool tracks = t->upstream->tracks;
	size_t n = (size_t)snprintf(sql, sizeof sql, SETTINGS_FORMAT, changes_channels(t->config).text);

	if (tracks && t->due_folds)
		n += (size_t)snprintf(sql + n, sizeof sql - n, FOLD_FORMAT, UPSTREAM_FOLD_OWNER_SQL);
	snprintf(sql + n, sizeof sql - n, LOOK_FORMAT,
		tracks ? UPSTREAM_FOLD_OWNER_SQL : UPSTREAM_PROBLEM_OWNER_SQL,
		tracks ? TABLES_SQL : NO_TABLES_SQL);
	t->due = t->due_folds = t->again = false;
	session_query(&t->session,
		&(struct session_statement){.sql = sql, .seconds = t->config->recovery_timeout}, on_answer);
}

static void on_ready(void *context)
{
	struct tracking *t = context;

	backoff_live(&t->backoff, clock_now());
	ask(t);
}

static void connect_now(struct tracking *t)
{
	int r = session_connect(&t->session);

	if (r < 0)
		on_lost(t, SESSION_UNREACHABLE, strerror(-r));
}

static void on_retry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	connect_now(timer->data);
}

static void on_idle(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct tracking *t = timer->data;

	(void)loop;
	(void)events;
	session_close(&t->session);
}

static void begin(struct tracking *t)
{
	t->due = true;
	ev_timer_stop(t->session.loop, &t->idle);
	if (session_idle(&t->session))
		ask(t);
	else if (!t->session.conn && !t->session.attempt && !ev_is_active(&t->retry))
		connect_now(t);
}

void tracking_look(struct tracking *t)
{
	if (t->upstream->tracks || t->upstream->knows_problems)
		begin(t);
}

void tracking_fold(struct tracking *t)
{
	if (!t->upstream->tracks)
		return;
	t->due_folds = true;
	begin(t);
}

void tracking_stop(struct tracking *t)
{
	t->due = t->due_folds = t->again = false;
	ev_timer_stop(t->session.loop, &t->retry);
	ev_timer_stop(t->session.loop, &t->idle);
	session_close(&t->session);
}

bool tracking_is_asking(const struct tracking *t)
{
	return t->due || t->session.on_result;
}

double tracking_fold_lag(const struct tracking *t)
{
	double limit = t->config->checkpoint_interval * TRACKING_LAG_INTERVALS;

	return t->fold_lag > limit && t->fold_lag > TRACKING_LAG_SECONDS ? t->fold_lag : 0;
}

void tracking_init(struct tracking *t, struct ev_loop *loop, const struct config *config,
	const struct upstream *upstream)
{
	static const struct session_events session_events = {on_ready, on_lost, NULL};

	*t = (struct tracking){
		.config = config, .upstream = upstream, .backoff = {.first = 1., .max = RETRY_MAX}};
	session_init(&t->session, loop, config->direct_url, "pgherald tracking", &session_events, t);
	t->session.cancels = t->session.takes_raw = true;
	timer_init(&t->retry, on_retry, t);
	timer_init(&t->idle, on_idle, t);
}
