#include "recovery/changes_since.h"

#include "base/clock.h"
#include "base/diag.h"
#include "fanout/change.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds each statement but the one that returns the rows. */
#define PLAN_SECONDS 5.
/* Seconds between two attempts, at most. Shorter than the upstream's 30: a worker waits for the
 * answer while all others hear. */
#define RETRY_MAX 5.
/* Where the rate limits the rows, they come in bursts of this many seconds' worth. */
#define RATE_PAUSE_SECONDS 0.05
/* How many checkpoint intervals an unused connection stays open. Reconciliation asks once an
 * interval, and so keeps it. */
#define IDLE_INTERVALS 3.

/* src/include/catalog/pg_type_d.h */
#define TEXT_OID 25
#define VARCHAR_OID 1043

/* Repeatable read, so that the token and the rows are of one snapshot.
 * client_connection_check_interval, where the version has it, ends a function that hangs after
 * its client is gone. Timeouts that a role or a database has are for other statements; here
 * recovery_timeout decides. A statement's own begins before it, so one before it sets that. */
#define BEGIN_SQL "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0;"
/* A format for the token's and the identity's SQL, the kind of question and the channels. */
#define PLAN_FORMAT                                                                                          \
	"SELECT %s, " UPSTREAM_CHANGES_SINCE_OWNER_SQL                                                       \
	", %s, (SELECT pg_catalog.count(pg_catalog.set_config(s.name, v.value, true))"                       \
	" FROM (VALUES ('client_connection_check_interval', '1s'), ('transaction_timeout', '0'),"            \
	" ('idle_in_transaction_session_timeout', '0')) AS v (name, value),"                                 \
	" pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) v.name),"                          \
	" pg_catalog.set_config('pgherald.question', '%s', true),"                                           \
	" pg_catalog.set_config('pgherald.channels', '%s', true)"
enum { PLAN_TOKEN, PLAN_OWNER, PLAN_IDENTITY, PLAN_SETTINGS, PLAN_QUESTION, PLAN_CHANNELS, PLAN_FIELDS };

/* How far the server's history contains the token's run. */
#define RUN_SQL                                                                                              \
	SESSION_PRIMARY "SELECT pg_catalog.max(upto) FROM pgherald.server_run"                               \
			" WHERE started OPERATOR(pg_catalog.=) $1::pg_catalog.int8"

/* The SQLSTATE by which the function says that it no longer knows all that changed since. */
#define FORGOTTEN "PH001"

#define NO_ANSWER "the server ended a statement without an answer"

/* libpq keeps a row whole, so a text of many megabytes, which a role may write into a table, would
 * fill the relay's memory. What stands in its place is too long for a NOTIFY, or for the name of a
 * channel. left() fails on some texts in some minor versions of PostgreSQL. */
#define SHORT(column, length)                                                                                \
	"CASE WHEN pg_catalog.octet_length(" column ") OPERATOR(pg_catalog.>) 4194304"                       \
	" THEN pg_catalog.repeat('?', " length ") ELSE " column " END"
#define CHANNEL_SQL SHORT("channel", "64")
#define VALUE_SQL SHORT("value", "1048576")
#define ROWS_SQL                                                                                             \
	SESSION_PRIMARY "SELECT " CHANNEL_SQL ", " VALUE_SQL                                                 \
			" FROM pgherald.changes_since($1::pg_catalog.pg_snapshot)"

_Static_assert(sizeof(char[ENCODING_UTF8_MAX]) <= CHANGE_UTF8_MAX, "what was converted is not too long");

static struct diag_limit null_limit;

static void trouble(struct changes_since *c, const char *what)
{
	if (!c->trouble[0])
		snprintf(c->trouble, sizeof c->trouble, "%s", what);
}

static void stop_timers(struct changes_since *c)
{
	ev_timer_stop(c->session.loop, &c->retry);
	ev_timer_stop(c->session.loop, &c->silence);
	ev_timer_stop(c->session.loop, &c->allowed);
}

static void forget(struct changes_since *c)
{
	free(c->since);
	c->since = NULL;
}

static void forget_plan(struct changes_since *c)
{
	free(c->token);
	c->token = NULL;
	c->snapshot[0] = c->trouble[0] = '\0';
	c->asks_run = false;
}

static void finish(struct changes_since *c, enum changes_outcome outcome)
{
	char *token = c->token;

	stop_timers(c);
	forget(c);
	if (c->session.conn)
		timer_arm(c->session.loop, &c->idle, c->config->checkpoint_interval * IDLE_INTERVALS);
	c->token = NULL;
	c->events->done(c->context, outcome, token, c->trouble);
	free(token);
}

/* Ends the question. The connection goes with it, since its transaction is still open. */
static void fail(struct changes_since *c, enum changes_outcome outcome)
{
	session_close(&c->session);
	finish(c, outcome);
}

/* Whether this server is there, and recovery has not worked there for as long as a query may take. */
static bool fails_for_good(const struct changes_since *c)
{
	return c->failed && c->upstream->state >= UPSTREAM_LISTENING &&
	       clock_now() - c->failed_at > c->config->recovery_timeout;
}

/* The failure may heal: asks the same again later. */
static void try_again(struct changes_since *c, const char *error)
{
	double wait = backoff_failed(&c->backoff, clock_now());

	session_close(&c->session);
	stop_timers(c);
	if (!changes_question(c))
		return;
	if (fails_for_good(c)) {
		trouble(c, error);
		fail(c, CHANGES_WRONG);
		return;
	}
	if (!c->failed || c->upstream->state < UPSTREAM_LISTENING)
		c->failed_at = clock_now();
	c->failed = true;
	diag(DIAG_WARNING, "recovery of missed changes failed and is tried again in %.1f s: %s", wait, error);
	timer_arm(c->session.loop, &c->retry, wait);
}

/* SQLSTATE classes 08 (connection), 40 (rollback), 53 (resources), 55 (not ready), 57P
 * (shutdown). */
static bool heals(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return !state || strncmp(state, "08", 2) == 0 || strncmp(state, "40", 2) == 0 ||
	       strncmp(state, "53", 2) == 0 || strncmp(state, "55", 2) == 0 || strncmp(state, "57P", 3) == 0;
}

/* The server answered a statement with an error, or with something else than was asked. */
static void refused(struct changes_since *c, const PGresult *result, const char *what)
{
	char text[sizeof c->trouble];

	if (heals(result)) {
		try_again(c, session_error(&c->session, result).text);
		return;
	}
	snprintf(text, sizeof text, "%s: %.200s", what, session_error(&c->session, result).text);
	trouble(c, text);
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	fail(c, state && strcmp(state, FORGOTTEN) == 0 ? CHANGES_OTHER_TIME : CHANGES_WRONG);
}

/* The rate */

static void watch_silence(struct changes_since *c)
{
	c->row_at = clock_now();
	timer_arm(c->session.loop, &c->silence, c->config->recovery_timeout);
}

static void read_on(struct changes_since *c)
{
	if (c->wants_pause || ev_is_active(&c->allowed))
		return;
	session_pause(&c->session, false);
	watch_silence(c);
}

static void stop_reading(struct changes_since *c)
{
	session_pause(&c->session, true);
	ev_timer_stop(c->session.loop, &c->silence);
}

static void on_allowed(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	read_on(timer->data);
}

static void spend(struct changes_since *c)
{
	double rate = c->rate, now = c->row_at;

	if (rate <= 0)
		return;
	c->allowance += (now - c->allowance_at) * rate;
	c->allowance_at = now;
	if (c->allowance > rate * RATE_PAUSE_SECONDS + 1)
		c->allowance = rate * RATE_PAUSE_SECONDS + 1;
	c->allowance -= 1;
	if (c->allowance >= 1)
		return;
	double wait = (1 - c->allowance) / rate;
	timer_arm(c->session.loop, &c->allowed, wait > RATE_PAUSE_SECONDS ? wait : RATE_PAUSE_SECONDS);
	stop_reading(c);
}

static void on_silence(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct changes_since *c = timer->data;
	double left = c->row_at + c->config->recovery_timeout - clock_now();

	(void)events;
	if (left > 0) {
		timer_arm(loop, timer, left);
		return;
	}
	trouble(c, "pgherald.changes_since() gave no row in time (PGHERALD_RECOVERY_TIMEOUT)");
	fail(c, CHANGES_WRONG);
}

/* Rows */

static void on_row(struct changes_since *c, const PGresult *result)
{
	if (PQnfields(result) != 2 || (PQftype(result, 0) != TEXT_OID && PQftype(result, 0) != VARCHAR_OID) ||
		(PQftype(result, 1) != TEXT_OID && PQftype(result, 1) != VARCHAR_OID)) {
		trouble(c, "pgherald.changes_since() must return TABLE (channel text, value text)");
		c->n_bad_rows++;
		return;
	}
	for (int i = 0; i < PQntuples(result); i++) {
		c->n_rows++;
		if (PQgetisnull(result, i, 0)) {
			trouble(c, "pgherald.changes_since() returned a channel that is NULL");
			c->n_bad_rows++;
			continue;
		}
		const char *channel = encoding_name(c->session.encoding, PQgetvalue(result, i, 0));
		/* A NOTIFY could not have carried it either. */
		if (PQgetisnull(result, i, 1)) {
			diag_limited(&null_limit, DIAG_WARNING,
				"a recovered row is skipped, since its value is NULL; mend the row or the function "
				"channel=\"%s\"",
				channel);
			continue;
		}
		struct wire_str stored = {PQgetvalue(result, i, 1), (uint32_t)PQgetlength(result, i, 1)};
		c->wants_pause = !c->events->row(
			c->context, channel, encoding_text(c->session.encoding, stored), stored.len);
	}
}

static void on_commit(void *context, PGresult *result)
{
	struct changes_since *c = context;

	if (!result)
		finish(c, c->n_bad_rows ? CHANGES_WRONG : CHANGES_COMPLETE);
}

static void on_rows(void *context, PGresult *result)
{
	struct changes_since *c = context;

	if (!result) {
		ev_timer_stop(c->session.loop, &c->silence);
		session_query(&c->session,
			&(struct session_statement){.sql = "COMMIT", .seconds = PLAN_SECONDS}, on_commit);
		return;
	}
	switch (PQresultStatus(result)) {
	case PGRES_SINGLE_TUPLE:
		c->row_at = clock_now();
		on_row(c, result);
		if (c->wants_pause)
			stop_reading(c);
		spend(c);
		break;
	case PGRES_TUPLES_OK:
		break;
	default:
		refused(c, result, "pgherald.changes_since() failed");
	}
}

static void ask_rows(struct changes_since *c)
{
	struct checkpoint_parts since;

	/* Cannot fail: compare_runs() has parsed it. */
	if (checkpoint_parse(c->since, &since) < 0)
		return;
	struct session_param params[] = {{.value = c->snapshot[0] ? c->snapshot : since.snapshot}};

	c->wants_pause = false;
	c->n_rows = c->n_bad_rows = 0;
	c->allowance = 1;
	c->allowance_at = clock_now();
	watch_silence(c);
	session_query(&c->session,
		&(struct session_statement){
			.sql = ROWS_SQL, .params = params, .n_params = 1, .any_rows = true},
		on_rows);
}

/* The plan */

/* The server's history contains the token's run up to this LSN. If the token is later, choose
 * the newest checkpoint of the relay that is not. It must not see more than the token:
 * comparing LSNs does not tell that. */
static bool choose_snapshot(struct changes_since *c, uint64_t upto)
{
	struct checkpoint_parts since, older;

	if (checkpoint_parse(c->since, &since) < 0)
		return false;
	if (since.lsn <= upto)
		return true;
	for (unsigned i = c->history->n; i-- > 0;) {
		const char *token = c->history->items[i]->token;
		if (checkpoint_covers(c->since, token) && checkpoint_parse(token, &older) == 0 &&
			older.lsn != 0 && older.lsn <= upto) {
			snprintf(c->snapshot, sizeof c->snapshot, "%s", older.snapshot);
			return true;
		}
	}
	return false;
}

static void compare_positions(
	struct changes_since *c, const struct checkpoint_parts *since, const struct checkpoint_parts *here)
{
	if (since->lsn == 0 || here->lsn == 0 || since->lsn <= here->lsn)
		return;
	trouble(c, "the checkpoint is of a future that this server does not have");
	fail(c, CHANGES_OTHER_TIME);
}

/* Transaction ids mean the same only within one history. After a failover or a restore the
 * server gives ids to other transactions than before. Within one run there is one history. For
 * another run, ask the server what it kept of it. */
static void compare_runs(struct changes_since *c)
{
	struct checkpoint_parts since, here;

	if (checkpoint_parse(c->token, &here) < 0) {
		trouble(c, "the server's own moment cannot be read");
		fail(c, CHANGES_WRONG);
	} else if (checkpoint_parse(c->since, &since) < 0) {
		trouble(c, "the checkpoint cannot be read; an older version may have made it");
		fail(c, CHANGES_OTHER_TIME);
	} else if (since.system_identifier != here.system_identifier && since.system_identifier != 0 &&
		   here.system_identifier != 0) {
		trouble(c, "the checkpoint is of another PostgreSQL cluster");
		fail(c, CHANGES_OTHER_TIME);
	} else if (since.run == 0 || here.run == 0) {
		trouble(c,
			"the server does not tell what a checkpoint needs; see \"missing functions\" in the status");
		fail(c, CHANGES_OTHER_TIME);
	} else if (since.run == here.run) {
		compare_positions(c, &since, &here);
	} else if (since.system_identifier == 0 || here.system_identifier == 0 || since.lsn == 0) {
		trouble(c,
			"PostgreSQL was restarted or failed over since the checkpoint, and does not tell what it "
			"takes to compare; see \"missing functions\" in the status");
		fail(c, CHANGES_OTHER_TIME);
	} else {
		c->asks_run = true;
	}
}

static void on_run(void *context, PGresult *result)
{
	struct changes_since *c = context;
	uint64_t upto;

	if (!result) {
		if (c->asks_run)
			try_again(c, NO_ANSWER);
		else
			ask_rows(c);
		return;
	}
	if (!session_succeeded(result)) {
		if (heals(result)) {
			try_again(c, session_error(&c->session, result).text);
			return;
		}
		trouble(c,
			"PostgreSQL was restarted or failed over since the checkpoint, and this role cannot read "
			"pgherald.server_run, which would tell what it kept; run recovery.sql");
		fail(c, CHANGES_OTHER_TIME);
	} else if (!session_is_row(result, 1) || checkpoint_parse_lsn(PQgetvalue(result, 0, 0), &upto) < 0) {
		trouble(c,
			"PostgreSQL was restarted or failed over since the checkpoint, and knows nothing of the "
			"time before");
		fail(c, CHANGES_OTHER_TIME);
	} else if (choose_snapshot(c, upto)) {
		c->asks_run = false;
	} else {
		trouble(c,
			"PostgreSQL failed over or was set back, and every checkpoint known is beyond what it "
			"kept");
		fail(c, CHANGES_OTHER_TIME);
	}
}

static void ask_run(struct changes_since *c)
{
	struct checkpoint_parts since;
	char run[24];

	if (checkpoint_parse(c->since, &since) < 0)
		return;
	snprintf(run, sizeof run, "%" PRIu64, since.run);
	struct session_param params[] = {{.value = run}};
	session_query(&c->session,
		&(struct session_statement){
			.sql = RUN_SQL, .params = params, .n_params = 1, .seconds = PLAN_SECONDS},
		on_run);
}

static void on_plan(void *context, PGresult *result)
{
	struct changes_since *c = context;

	if (!result) {
		if (!c->token)
			try_again(c, NO_ANSWER);
		else if (c->asks_run)
			ask_run(c);
		else
			ask_rows(c);
		return;
	}
	if (PQresultStatus(result) == PGRES_COMMAND_OK)
		return;
	if (!session_is_row(result, PLAN_FIELDS)) {
		refused(c, result, "the server's moment cannot be read");
		return;
	}
	/* During a failover two servers may be up. The rows must come from the one that the
	 * upstream hears, which tells what comes after them. While the upstream hears no
	 * server, any will do: the upstream recovers what it missed once it is back, for all
	 * workers. */
	if (c->upstream->identity[0] &&
		!rights_same_identity(c->upstream->identity, PQgetvalue(result, 0, PLAN_IDENTITY))) {
		try_again(c, "it reached another server than the LISTEN connection");
		return;
	}
	c->token = strdup(PQgetvalue(result, 0, PLAN_TOKEN));
	if (!c->token) {
		try_again(c, "out of memory");
	} else if (PQgetisnull(result, 0, PLAN_OWNER)) {
		trouble(c, "there is no function pgherald.changes_since(pg_snapshot) that this role may see");
		fail(c, CHANGES_NO_FUNCTION);
	} else if (*PQgetvalue(result, 0, PLAN_OWNER)) {
		char text[200];
		snprintf(text, sizeof text,
			"pgherald.changes_since() is not used, since it or the schema pgherald belongs to %s",
			encoding_name(c->session.encoding, PQgetvalue(result, 0, PLAN_OWNER)));
		trouble(c, text);
		fail(c, CHANGES_NO_FUNCTION);
	} else {
		compare_runs(c);
	}
}

static void ask_plan(struct changes_since *c)
{
	/* The role is the same. */
	const struct rights *rights = &c->upstream->rights;
	char sql[sizeof BEGIN_SQL PLAN_FORMAT + 2 * RIGHTS_SQL_MAX + CHANGES_CHANNELS_MAX];

	forget_plan(c);
	c->events->asking(c->context);
	snprintf(sql, sizeof sql, BEGIN_SQL PLAN_FORMAT, rights_moment_sql(rights).text,
		rights_identity_sql(rights).text, c->unheard ? "unheard" : "missed",
		changes_channels(c->config).text);
	session_query(&c->session, &(struct session_statement){.sql = sql, .seconds = PLAN_SECONDS}, on_plan);
}

struct changes_channels changes_channels(const struct config *config)
{
	struct changes_channels out = {""};
	size_t n = 0;

	for (unsigned i = 0; i < config->n_channels; i++) {
		const struct channel *channel = &config->channels[i];
		if (channel->gone)
			continue;
		size_t len = strlen(channel->name);
		n += (size_t)snprintf(out.text + n, sizeof out.text - n, "%s%s", n > 0 ? "," : "",
			channel->kind == CHANNEL_CHANGES ? "c:" : "t:");
		sodium_bin2hex(out.text + n, sizeof out.text - n, (const unsigned char *)channel->name, len);
		n += 2 * len;
	}
	return out;
}

/* The connection */

static void on_ready(void *context)
{
	struct changes_since *c = context;

	backoff_live(&c->backoff, clock_now());
	if (changes_question(c))
		ask_plan(c);
}

static void on_lost(void *context, enum session_failure failure, const char *error)
{
	(void)failure;
	try_again(context, error);
}

static const struct session_events session_events = {on_ready, on_lost, NULL};

static void connect_now(struct changes_since *c)
{
	ev_timer_stop(c->session.loop, &c->retry);
	int r = session_connect(&c->session);
	if (r < 0)
		try_again(c, strerror(-r));
}

static void on_retry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	connect_now(timer->data);
}

static void on_idle(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct changes_since *c = timer->data;

	(void)loop;
	(void)events;
	session_close(&c->session);
}

void changes_init(struct changes_since *c, const struct changes_uses *uses,
	const struct changes_events *events, void *context)
{
	*c = (struct changes_since){.config = uses->config,
		.history = uses->history,
		.upstream = uses->upstream,
		.events = events,
		.context = context,
		.backoff = {.first = 0.5, .max = RETRY_MAX}};
	session_init(
		&c->session, uses->loop, uses->config->direct_url, "pgherald recovery", &session_events, c);
	c->session.cancels = c->session.takes_raw = true;
	timer_init(&c->retry, on_retry, c);
	timer_init(&c->silence, on_silence, c);
	timer_init(&c->allowed, on_allowed, c);
	timer_init(&c->idle, on_idle, c);
}

void changes_ask(struct changes_since *c, const struct changes_request *request)
{
	ev_timer_stop(c->session.loop, &c->idle);
	c->rate = request->rate;
	c->unheard = request->unheard;
	c->failed = false;
	c->since = strdup(request->since);
	forget_plan(c);
	if (!c->since) {
		trouble(c, "out of memory");
		finish(c, CHANGES_WRONG);
	} else if (c->session.conn) {
		ask_plan(c);
	} else if (!c->session.attempt) {
		connect_now(c);
	}
}

bool changes_is_paused(const struct changes_since *c)
{
	return c->wants_pause && c->session.conn;
}

void changes_more(struct changes_since *c)
{
	c->wants_pause = false;
	if (changes_question(c) && c->session.paused)
		read_on(c);
}

void changes_abort(struct changes_since *c)
{
	forget(c);
	forget_plan(c);
	stop_timers(c);
	session_close(&c->session);
}

void changes_close(struct changes_since *c)
{
	changes_abort(c);
	ev_timer_stop(c->session.loop, &c->idle);
}
