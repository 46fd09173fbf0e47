#include "changes_since.h"

#include "clock.h"
#include "diag.h"
#include "upstream.h"

#include <stdio.h>
#include <string.h>

#define PLAN_SECONDS 5.
/* A worker waits for this, where everybody else hears already. */
#define RETRY_MAX 5.
/* The longest that the rate makes rows wait at once. */
#define PACE_SECONDS 0.05
/* Often enough for reconciliation to keep it; then the connection goes. */
#define IDLE_INTERVALS 3.

/* src/include/catalog/pg_type_d.h */
#define TEXT_OID 25
#define VARCHAR_OID 1043

/* One snapshot for the token and for the rows. Where the server left the timeline that it had followed is the
 * end of what it replayed, unless that was crash recovery after its promotion: then it has no memory of
 * having received anything. A backend whose client is gone must not go on with a function that hangs:
 * client_connection_check_interval, where the version has it. */
#define PLAN_SQL                                                                                             \
	"BEGIN ISOLATION LEVEL REPEATABLE READ;"                                                             \
	"SELECT " CHECKPOINT_TOKEN_SQL ","                                                                   \
	" CASE WHEN pg_last_wal_receive_lsn() IS NOT NULL THEN pg_last_wal_replay_lsn() END,"                \
	" to_regprocedure('pgherald.changes_since(pg_snapshot)') IS NOT NULL, " UPSTREAM_IDENTITY_SQL ","    \
	" (SELECT set_config(name, '1s', true) FROM pg_settings"                                             \
	"  WHERE name = 'client_connection_check_interval')"
#define ROWS_SQL "SELECT channel, value FROM pgherald.changes_since($1::pg_snapshot)"

static void trouble(struct changes_since *c, const char *what)
{
	if (!c->trouble[0])
		snprintf(c->trouble, sizeof c->trouble, "%s", what);
}

static void stop_timers(struct changes_since *c)
{
	ev_timer_stop(c->session.loop, &c->retry);
	ev_timer_stop(c->session.loop, &c->silence);
	ev_timer_stop(c->session.loop, &c->pace);
}

static void finish(struct changes_since *c, enum changes_outcome outcome)
{
	stop_timers(c);
	c->since[0] = '\0';
	if (c->session.conn) {
		timer_arm(c->session.loop, &c->idle, c->config->checkpoint_interval * IDLE_INTERVALS);
	}
	c->events->done(c->context, outcome, c->token[0] ? c->token : NULL, c->trouble);
}

/* The server answered what it should not have: the connection's transaction is void too. */
static void fail(struct changes_since *c, enum changes_outcome outcome)
{
	session_close(&c->session);
	finish(c, outcome);
}

/* A failure that will heal: ask the same again. */
static void try_again(struct changes_since *c, const char *error)
{
	double wait = backoff_failed(&c->backoff, clock_now());

	session_close(&c->session);
	stop_timers(c);
	if (!changes_busy(c))
		return;
	diag(DIAG_WARNING, "recovery of missed changes failed and is tried again in %.1f s: %s", wait, error);
	timer_arm(c->session.loop, &c->retry, wait);
}

/* Classes 08 (connection), 40 (rollback), 53 (resources), 55 (a server not ready), 57P (shutdown). */
static bool heals(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return !state || strncmp(state, "08", 2) == 0 || strncmp(state, "40", 2) == 0 ||
	       strncmp(state, "53", 2) == 0 || strncmp(state, "55", 2) == 0 || strncmp(state, "57P", 3) == 0;
}

/* Pace */

static void watch_silence(struct changes_since *c)
{
	timer_arm(c->session.loop, &c->silence, c->config->recovery_timeout);
}

static void read_on(struct changes_since *c)
{
	if (c->wants_pause || ev_is_active(&c->pace))
		return;
	session_pause(&c->session, false);
	watch_silence(c);
}

static void hold(struct changes_since *c)
{
	session_pause(&c->session, true);
	ev_timer_stop(c->session.loop, &c->silence);
}

static void on_pace(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	read_on(timer->data);
}

static void spend(struct changes_since *c)
{
	double rate = c->config->recovery_rate, now = clock_now();

	if (rate <= 0)
		return;
	c->allowance += (now - c->allowance_at) * rate;
	c->allowance_at = now;
	if (c->allowance > rate * PACE_SECONDS + 1)
		c->allowance = rate * PACE_SECONDS + 1;
	c->allowance -= 1;
	if (c->allowance >= 1)
		return;
	double wait = (1 - c->allowance) / rate;
	timer_arm(c->session.loop, &c->pace, wait > PACE_SECONDS ? wait : PACE_SECONDS);
	hold(c);
}

static void on_silence(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct changes_since *c = timer->data;

	(void)loop;
	(void)events;
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
		if (PQgetisnull(result, i, 0) || PQgetisnull(result, i, 1)) {
			trouble(c, "pgherald.changes_since() returned a NULL");
			c->n_bad_rows++;
			continue;
		}
		struct wire_str value = {PQgetvalue(result, i, 1), (uint32_t)PQgetlength(result, i, 1)};
		c->wants_pause = !c->events->row(c->context, PQgetvalue(result, i, 0), value);
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
		session_query(&c->session, "COMMIT", NULL, 0, false, PLAN_SECONDS, on_commit);
		return;
	}
	switch (PQresultStatus(result)) {
	case PGRES_SINGLE_TUPLE:
		watch_silence(c);
		on_row(c, result);
		if (c->wants_pause)
			hold(c);
		spend(c);
		break;
	case PGRES_TUPLES_OK:
		break;
	default:
		if (heals(result)) {
			try_again(c, session_error(result));
		} else {
			char text[256];
			snprintf(text, sizeof text, "pgherald.changes_since() failed: %s",
				session_error(result));
			trouble(c, text);
			fail(c, CHANGES_WRONG);
		}
	}
}

static void ask_rows(struct changes_since *c)
{
	struct session_param params[] = {{.value = c->snapshot}};

	c->wants_pause = false;
	c->n_rows = c->n_bad_rows = 0;
	c->allowance = 1;
	c->allowance_at = clock_now();
	watch_silence(c);
	session_query(&c->session, ROWS_SQL, params, 1, true, 0, on_rows);
}

/* The plan */

/* A snapshot counts transaction ids, and after a failover the new primary counts some of them anew. So on
 * another timeline only a checkpoint will do whose LSN is not beyond the fork: of the one in question and
 * those of the history, the newest. Where the fork was, the new primary knows as the end of what it replayed,
 * until it is restarted. It tells of the last fork only, so the checkpoint must be of the timeline before. */
static bool find_snapshot(struct changes_since *c, const char *fork_text)
{
	struct checkpoint_parts since, here, older;
	uint64_t fork;

	if (checkpoint_parse(c->since, &since) < 0 || checkpoint_parse(c->token, &here) < 0) {
		trouble(c, "the checkpoint is none");
		return false;
	}
	if (since.system_identifier != here.system_identifier) {
		trouble(c, "the checkpoint is of another PostgreSQL cluster");
		return false;
	}
	if (since.timeline == here.timeline) {
		if (since.lsn > here.lsn) {
			trouble(c, "the checkpoint is of a future that this server does not have");
			return false;
		}
		snprintf(c->snapshot, sizeof c->snapshot, "%s", since.snapshot);
		return true;
	}
	if (since.timeline + 1 != here.timeline || !fork_text || checkpoint_parse_lsn(fork_text, &fork) < 0) {
		trouble(c,
			"there was a failover, and this server does not know where its timeline left the checkpoint's");
		return false;
	}
	if (since.lsn <= fork) {
		snprintf(c->snapshot, sizeof c->snapshot, "%s", since.snapshot);
		return true;
	}
	for (unsigned i = c->history->n; i-- > 0;) {
		if (checkpoint_parse(c->history->items[i]->token, &older) == 0 &&
			older.system_identifier == since.system_identifier &&
			older.timeline == since.timeline && older.lsn <= fork) {
			snprintf(c->snapshot, sizeof c->snapshot, "%s", older.snapshot);
			return true;
		}
	}
	trouble(c,
		"there was a failover, and every checkpoint known is beyond what the new primary had received");
	return false;
}

static void on_plan(void *context, PGresult *result)
{
	struct changes_since *c = context;

	if (!result) {
		ask_rows(c);
		return;
	}
	if (PQresultStatus(result) == PGRES_COMMAND_OK)
		return;
	if (PQresultStatus(result) != PGRES_TUPLES_OK) {
		try_again(c, session_error(result));
		return;
	}
	/* What the other server has is not what the upstream hears of from now on. Where the upstream hears
	 * none, it will recover what it missed of whichever it comes to, for all. */
	if (c->identity[0] && strcmp(c->identity, PQgetvalue(result, 0, 3)) != 0) {
		try_again(c, "it reached another server than the LISTEN connection");
		return;
	}
	snprintf(c->token, sizeof c->token, "%s", PQgetvalue(result, 0, 0));
	if (PQgetvalue(result, 0, 2)[0] != 't') {
		trouble(c, "there is no function pgherald.changes_since(pg_snapshot)");
		fail(c, CHANGES_NO_FUNCTION);
	} else if (!find_snapshot(c, PQgetisnull(result, 0, 1) ? NULL : PQgetvalue(result, 0, 1))) {
		fail(c, CHANGES_OTHER_TIME);
	}
}

static void ask_plan(struct changes_since *c)
{
	c->token[0] = c->trouble[0] = '\0';
	c->events->asking(c->context);
	session_query(&c->session, PLAN_SQL, NULL, 0, false, PLAN_SECONDS, on_plan);
}

/* The connection */

static void on_ready(void *context)
{
	struct changes_since *c = context;

	backoff_live(&c->backoff, clock_now());
	if (changes_busy(c))
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

void changes_init(struct changes_since *c, struct ev_loop *loop, const struct config *config,
	const struct checkpoint_history *history, const char *identity, const struct changes_events *events,
	void *context)
{
	*c = (struct changes_since){.config = config,
		.history = history,
		.identity = identity,
		.events = events,
		.context = context,
		.backoff = {.first = 0.5, .max = RETRY_MAX}};
	session_init(&c->session, loop, config->direct_url, "pgherald recovery", &session_events, c);
	timer_init(&c->retry, on_retry, c);
	timer_init(&c->silence, on_silence, c);
	timer_init(&c->pace, on_pace, c);
	timer_init(&c->idle, on_idle, c);
}

void changes_ask(struct changes_since *c, const char *since)
{
	ev_timer_stop(c->session.loop, &c->idle);
	snprintf(c->since, sizeof c->since, "%s", since);
	if (c->session.conn)
		ask_plan(c);
	else if (!c->session.attempt)
		connect_now(c);
}

void changes_more(struct changes_since *c)
{
	c->wants_pause = false;
	if (changes_busy(c) && c->session.paused)
		read_on(c);
}

void changes_abort(struct changes_since *c)
{
	c->since[0] = '\0';
	stop_timers(c);
	session_close(&c->session);
}

void changes_close(struct changes_since *c)
{
	changes_abort(c);
	ev_timer_stop(c->session.loop, &c->idle);
}
