#include "postgres/upstream.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/printable.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One iteration reads at most one part in this many of the backlog's size, so that it cannot
 * push workers out of the backlog. */
#define READ_ON_SHARE 64
/* Bounds each statement that sets a connection up. Well under the 12 s of a start. */
#define SETUP_SECONDS 5.
#define SERVER_VERSION_MIN 130000
/* Seconds between two attempts, at most. Workers hear nothing meanwhile, and a pooler that stays up
 * hides from the publisher when PostgreSQL is back. */
#define BACKOFF_MAX 5.
/* Bytes: bounds a channel's name in a LISTEN. An escape has 8 bytes for each byte of the name;
 * quotes, at most 2. */
#define LISTEN_NAME_MAX ((size_t)8 * CHANNEL_NAME_MAX + sizeof "U&\"\"")

/* Server settings that could end a quiet session, or keep a dead one. Those that this version
 * of PostgreSQL does not have are left out. A statement sets them and not the startup packet,
 * since poolers refuse unknown startup parameters with a message that explains nothing. */
#define SETTINGS_SQL                                                                                                         \
	"SELECT pg_catalog.count(pg_catalog.set_config(s.name, v.value, false)) FROM (VALUES ('idle_session_timeout', '0')," \
	" ('statement_timeout', '0'), ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '3'),"                      \
	" ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '15000')) AS v (name, value),"                                 \
	" pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) v.name"

#define ANSWERED_NOTHING "the LISTEN connection is answered with nothing"

#define QUEUE_SQL "SELECT pg_catalog.pg_notification_queue_usage()"
#define KEY_SQL SESSION_PRIMARY "SELECT key FROM pgherald.relay_key"
/* Must reach the backend that answered the check. */
#define ROUTE_SQL SESSION_PRIMARY "SELECT pg_catalog.pg_backend_pid()"
/* A format for the SQL of the standby, the identity, the process id, and the token: that one only
 * to see whether it works, for recovery. */
#define CHECK_FORMAT                                                                                         \
	SESSION_PRIMARY                                                                                      \
	"SELECT %s, pg_catalog.current_database(), %s, %s, %s, " UPSTREAM_CHANGES_SINCE_OWNER_SQL            \
	", " UPSTREAM_NOTE_RUN_OWNER_SQL ", " UPSTREAM_RELAY_KEY_OWNER_SQL ", " UPSTREAM_FOLD_OWNER_SQL      \
	", " UPSTREAM_PROBLEM_OWNER_SQL
enum {
	CHECK_STANDBY,
	CHECK_DATABASE,
	CHECK_IDENTITY,
	CHECK_PID,
	CHECK_TOKEN,
	CHECK_RECOVERABLE,
	CHECK_NOTES_RUNS,
	CHECK_READS_KEY,
	CHECK_TRACKS,
	CHECK_KNOWS_PROBLEMS,
	CHECK_FIELDS
};

/* A format for the snapshot's SQL; the owners' of changes_since() and note_run(), until both are
 * there; the rights; and whether there is a fold(), until it is there. */
#define PROBE_FORMAT SESSION_PRIMARY "SELECT %s, %s, %s, %s, %s"
enum { PROBE_SNAPSHOT, PROBE_RECOVERABLE, PROBE_NOTES_RUNS, PROBE_RIGHTS, PROBE_TRACKS, PROBE_FIELDS };

static struct diag_limit unknown_limit;

static void enter(struct upstream *u, enum upstream_state state)
{
	u->state = state;
	u->state_since = clock_now();
}

const char *const upstream_state_names[] = {
	[UPSTREAM_WAITING] = "waiting",
	[UPSTREAM_CONNECTING] = "connecting",
	[UPSTREAM_CHECKING] = "checking",
	[UPSTREAM_LISTENING] = "listening",
	[UPSTREAM_LIVE] = "live",
};

static void end_listening_more(struct upstream *u, const char *why)
{
	/* why may be in it. */
	struct upstream_more more = u->more;

	if (why)
		snprintf(more.why.text, sizeof more.why.text, "%s", why);
	u->more = (struct upstream_more){0};
	if (more.done)
		more.done(more.context, why ? more.why.text : NULL);
}

static void fail(struct upstream *u, bool heals, const char *error)
{
	double retry = backoff_failed(&u->backoff, clock_now());

	session_close(&u->session);
	u->identity[0] = '\0';
	u->n_losses++;
	snprintf(u->last_error, sizeof u->last_error, "%s", error);
	u->last_error_at = clock_now();
	u->retry_at = clock_now() + retry;
	enter(u, UPSTREAM_WAITING);
	timer_arm(u->session.loop, &u->retry, retry);
	/* The next connection LISTENs to what is configured then. */
	end_listening_more(u, NULL);
	u->unlistens = false;
	u->events->lost(u->context, u->last_error, heals, retry);
}

__attribute__((format(printf, 3, 4))) static void failf(
	struct upstream *u, bool heals, const char *format, ...)
{
	char text[sizeof(struct session_text) + 200];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	fail(u, heals, text);
}

static const char *url_name(const struct upstream *u)
{
	return config_url_name(u->config, u->session.url);
}

static void on_lost(void *context, enum session_failure failure, const char *error)
{
	struct upstream *u = context;
	bool starting = failure == SESSION_STARTING,
	     heals = starting || (config_is_patient(u->config) && session_may_heal(failure, error));

	if (u->state > UPSTREAM_CONNECTING)
		failf(u, heals, "the LISTEN connection (%s) is lost: %s", url_name(u), error);
	else if (starting)
		failf(u, true, "%s reaches a server that is not ready yet: %s", url_name(u), error);
	else
		failf(u, heals, "%s cannot be connected to; check the URL and the server: %s", url_name(u),
			error);
}

static void set_up(struct upstream *u, const char *sql, session_result_fn *on_result)
{
	session_query(
		&u->session, &(struct session_statement){.sql = sql, .seconds = SETUP_SECONDS}, on_result);
}

static void go_on(struct upstream *u);

static void on_settings(void *context, PGresult *result)
{
	if (!result)
		go_on(context);
}

static void not_listening(struct upstream *u, bool heals, const char *why)
{
	failf(u, heals, "LISTEN on %s is refused: %s", url_name(u), why);
}

static void send_listen(struct upstream *u);

static void on_queue(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (result)
		return;
	u->queue_is_stale = false;
	send_listen(u);
}

/* A LISTEN reads what is in the queue, and fails at a notification of a transaction whose status
 * PostgreSQL no longer has: undefined_file. Asking for the queue's usage drops what every
 * listener has read. */
static bool is_of_stale_queue(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return state && strcmp(state, "58P01") == 0;
}

static void on_listen(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (result && is_of_stale_queue(result) && !u->asked_usage) {
		u->queue_is_stale = u->asked_usage = true;
		diag(DIAG_NOTICE,
			"PostgreSQL's queue of notifications was asked for its usage, since LISTEN failed at an old "
			"one: %s",
			session_error(&u->session, result).text);
	} else if (result && PQresultStatus(result) != PGRES_COMMAND_OK) {
		not_listening(u, false, session_error(&u->session, result).text);
	} else if (!result && u->queue_is_stale) {
		set_up(u, QUEUE_SQL, on_queue);
	} else if (!result) {
		enter(u, UPSTREAM_LISTENING);
		u->events->listening(u->context);
		go_on(u);
	}
}

/* Writes a channel's name as the server reads it whatever its encoding: in ASCII, with an escape
 * for every character but letters and digits of ASCII (U&"..."). */
static void escape_name(char *out, size_t size, const char *name)
{
	size_t len = strlen(name), n = (size_t)snprintf(out, size, "U&\"");
	struct printable_char c;

	for (size_t i = 0; i < len; i += c.len) {
		printable_char_at(name + i, len - i, &c);
		bool plain = c.code < 0x80 && (isalnum((int)c.code) || c.code == '_');
		n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "\\+%06x", c.code);
	}
	snprintf(out + n, size - n, "\"");
}

struct listen_sql {
	char text[(CHANNELS_MAX + 1) * (LISTEN_NAME_MAX + sizeof "UNLISTEN ;")];
};

/* False: out of memory. */
static bool add_statement(
	struct listen_sql *sql, const struct session *s, const char *verb, const char *channel)
{
	size_t len = strlen(sql->text), room = sizeof sql->text - len;
	char escaped[LISTEN_NAME_MAX + 1];

	if (s->encoding) {
		escape_name(escaped, sizeof escaped, channel);
		snprintf(sql->text + len, room, "%s %s;", verb, escaped);
		return true;
	}
	char *quoted = PQescapeIdentifier(s->conn, channel, strlen(channel));
	if (quoted)
		snprintf(sql->text + len, room, "%s %s;", verb, quoted);
	PQfreemem(quoted);
	return quoted != NULL;
}

/* Each channel that wanted() wants. False: out of memory. */
static bool add_statements(struct listen_sql *sql, const struct upstream *u, const struct config *config,
	const char *verb, bool (*wanted)(const struct upstream *u, const struct config *config, unsigned i))
{
	for (unsigned i = 0; i < config->n_channels; i++)
		if (wanted(u, config, i) && !add_statement(sql, &u->session, verb, config->channels[i].name))
			return false;
	return true;
}

static bool is_there(const struct upstream *u, const struct config *config, unsigned i)
{
	(void)u;
	return !config->channels[i].gone;
}

static bool is_gone(const struct upstream *u, const struct config *config, unsigned i)
{
	return !is_there(u, config, i);
}

/* In the configuration that is not in force yet. */
static bool is_new(const struct upstream *u, const struct config *config, unsigned i)
{
	return is_there(u, config, i) && (i >= u->config->n_channels || u->config->channels[i].gone);
}

static void send_listen(struct upstream *u)
{
	struct listen_sql sql = {0};

	if (!add_statement(&sql, &u->session, "LISTEN", CANARY_CHANNEL) ||
		!add_statements(&sql, u, u->config, "LISTEN", is_there))
		not_listening(u, true, "out of memory");
	else
		set_up(u, sql.text, on_listen);
}

/* Channels that change while it listens */

static void on_unlisten(void *context, PGresult *result)
{
	if (!result)
		go_on(context);
}

static void on_listen_more(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (result && PQresultStatus(result) != PGRES_COMMAND_OK) {
		u->more.why = session_error(&u->session, result);
	} else if (!result) {
		end_listening_more(u, *u->more.why.text ? u->more.why.text : NULL);
		go_on(u);
	}
}

static void go_on(struct upstream *u)
{
	struct listen_sql sql = {0};

	if (u->state < UPSTREAM_LISTENING || !session_idle(&u->session))
		return;
	if (u->more.done) {
		if (!add_statements(&sql, u, u->more.config, "LISTEN", is_new))
			end_listening_more(u, "out of memory");
		else if (*sql.text)
			set_up(u, sql.text, on_listen_more);
		else
			end_listening_more(u, NULL);
	} else if (u->unlistens) {
		u->unlistens = false;
		if (add_statements(&sql, u, u->config, "UNLISTEN", is_gone) && *sql.text)
			set_up(u, sql.text, on_unlisten);
	}
}

void upstream_listen_more(struct upstream *u, const struct config *config,
	void (*done)(void *context, const char *why), void *context)
{
	u->more = (struct upstream_more){.config = config, .done = done, .context = context};
	if (u->state <= UPSTREAM_CONNECTING)
		end_listening_more(u, NULL);
	else
		go_on(u);
}

void upstream_forget_more(struct upstream *u)
{
	u->more = (struct upstream_more){0};
}

void upstream_unlisten(struct upstream *u)
{
	u->unlistens = true;
	go_on(u);
}

static void on_route(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (!result) {
		send_listen(u);
	} else if (!session_is_row(result, 1) ||
		   strtol(PQgetvalue(result, 0, 0), NULL, 10) != (long)u->backend_pid) {
		failf(u, false,
			"%s sends statements to several sessions: a pooler or a load balancer stands in between; "
			"let it name PostgreSQL itself",
			url_name(u));
	}
}

static void check_route(struct upstream *u)
{
	if (rights_have(&u->rights, RIGHT_PID))
		set_up(u, ROUTE_SQL, on_route);
	else
		send_listen(u);
}

/* The key comes as a bytea in text form. Without a key the relay believes only its own
 * canaries. */
static void on_key(void *context, PGresult *result)
{
	struct upstream *u = context;
	size_t len = 0;

	if (!result) {
		check_route(u);
		return;
	}
	if (!session_is_row(result, 1))
		return;
	unsigned char *bytes = PQunescapeBytea((const unsigned char *)PQgetvalue(result, 0, 0), &len);
	u->has_key = bytes && len == sizeof u->key;
	if (u->has_key)
		memcpy(u->key, bytes, len);
	PQfreemem(bytes);
}

/* Whether the object is there and we trust its owners. */
static bool is_trusted(const PGresult *result, int field)
{
	return !PQgetisnull(result, 0, field) && !*PQgetvalue(result, 0, field);
}

/* Returns whether the object is there and we trust its owners. Logs and notes an owner that we
 * do not trust. */
static bool check_owner(struct upstream *u, const PGresult *result, int field, const char *object)
{
	static struct diag_limit limit;
	const char *owner = encoding_name(u->session.encoding, PQgetvalue(result, 0, field));

	if (is_trusted(result, field))
		return true;
	if (PQgetisnull(result, 0, field))
		return false;
	u->distrusts = true;
	diag_limited(&limit, DIAG_WARNING,
		"pgherald.%s is not used, since it or the schema pgherald belongs to %s, who is neither a superuser "
		"nor the owner of the database or of all tables that this role may read; drop it, or change its owner",
		object, owner);
	return false;
}

static void unusable(struct upstream *u, const PGresult *result)
{
	failf(u, false, "%s reaches a server that cannot be used: %s", url_name(u),
		session_error(&u->session, result).text);
}

static void on_trial(void *context, PGresult *result);

static void on_check(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (!result) {
		if (u->tries)
			set_up(u, rights_trial_sql(), on_trial);
		else if (!u->identity[0])
			fail(u, true, ANSWERED_NOTHING);
		else if (u->reads_key)
			set_up(u, KEY_SQL, on_key);
		else
			check_route(u);
		return;
	}
	if (!u->tried && rights_lacks(PQresultErrorField(result, PG_DIAG_SQLSTATE))) {
		/* The NULL that follows tries each function, and checks again. */
		u->tries = u->tried = true;
		return;
	}
	if (!session_is_row(result, CHECK_FIELDS)) {
		unusable(u, result);
		return;
	}
	u->backend_pid = rights_have(&u->rights, RIGHT_PID)
				 ? (int)strtol(PQgetvalue(result, 0, CHECK_PID), NULL, 10)
				 : PQbackendPID(u->session.conn);
	u->distrusts = false;
	u->recoverable = check_owner(u, result, CHECK_RECOVERABLE, "changes_since()");
	u->notes_runs = check_owner(u, result, CHECK_NOTES_RUNS, "note_run()");
	u->reads_key = check_owner(u, result, CHECK_READS_KEY, "relay_key");
	u->tracks = is_trusted(result, CHECK_TRACKS);
	u->knows_problems = is_trusted(result, CHECK_KNOWS_PROBLEMS);
	u->has_key = false;
	snprintf(u->database, sizeof u->database, "%s",
		encoding_name(u->session.encoding, PQgetvalue(result, 0, CHECK_DATABASE)));
	snprintf(u->identity, sizeof u->identity, "%s", PQgetvalue(result, 0, CHECK_IDENTITY));
	if (PQgetvalue(result, 0, CHECK_STANDBY)[0] == 't')
		failf(u, false,
			"%s reaches a standby, which hears no NOTIFY; name the primary, or list all hosts and add "
			"target_session_attrs=read-write",
			url_name(u));
}

static void ask_check(struct upstream *u)
{
	const struct rights *rights = &u->rights;
	char sql[sizeof CHECK_FORMAT + 4 * RIGHTS_SQL_MAX];

	snprintf(sql, sizeof sql, CHECK_FORMAT, rights_sql(rights, RIGHT_STANDBY),
		rights_identity_sql(rights).text, rights_sql(rights, RIGHT_PID),
		rights_moment_sql(rights).text);
	set_up(u, sql, on_check);
}

static void on_trial(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (!result) {
		u->tries = false;
		ask_check(u);
	} else if (session_is_row(result, RIGHTS_TRIAL_FIELDS)) {
		rights_read_trial(&u->rights, PQgetvalue(result, 0, RIGHTS_TRIAL_OUTCOME));
	}
}

static void on_rights(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (!result) {
		if (u->rights.role[0])
			ask_check(u);
		else
			fail(u, true, ANSWERED_NOTHING);
	} else if (!session_is_row(result, 1) ||
		   rights_read(&u->rights, encoding_name(u->session.encoding, PQgetvalue(result, 0, 0))) <
			   0) {
		unusable(u, result);
	}
}

static void on_ready(void *context)
{
	struct upstream *u = context;
	int version = PQserverVersion(u->session.conn);
	const char *unknown = session_converted_by_server(&u->session);

	enter(u, UPSTREAM_CHECKING);
	if (unknown)
		diag_limited(&unknown_limit, DIAG_WARNING,
			"the server converts what the relay hears, and ends the LISTEN connection when it cannot, "
			"since iconv(3) does not know the encoding; install the C library's conversion modules "
			"(gconv) encoding=%s",
			unknown);
	if (version < SERVER_VERSION_MIN) {
		failf(u, false, "%s reaches PostgreSQL %d; 13 is the oldest that has what pgherald needs",
			url_name(u), version / 10000);
		return;
	}
	u->rights = (struct rights){0};
	u->tries = u->tried = u->queue_is_stale = u->asked_usage = false;
	set_up(u, SESSION_PRIMARY "SELECT " RIGHTS_SQL, on_rights);
}

static void on_heard(void *context, const PGnotify *notify)
{
	struct upstream *u = context;
	struct encoding *e = u->session.encoding;

	u->events->heard(
		u->context, encoding_name(e, notify->relname), encoding_text(e, wire_str(notify->extra)));
}

static const struct session_events session_events = {on_ready, on_lost, on_heard};

static void connect_now(struct upstream *u)
{
	ev_timer_stop(u->session.loop, &u->retry);
	enter(u, UPSTREAM_CONNECTING);
	int r = session_connect(&u->session);
	if (r < 0)
		on_lost(u, SESSION_STARTING, strerror(-r));
	else
		u->n_connects++;
}

static void on_retry(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	connect_now(timer->data);
}

void upstream_start(struct upstream *u, struct ev_loop *loop, const struct config *config,
	const struct upstream_events *events, void *context)
{
	*u = (struct upstream){.config = config,
		.events = events,
		.context = context,
		.backoff = {.first = 1., .max = BACKOFF_MAX, .prompt = true}};
	session_init(&u->session, loop, config->direct_url, "pgherald upstream", &session_events, u);
	u->session.takes_raw = true;
	session_read_on(&u->session, config->backlog_size / READ_ON_SHARE);
	timer_init(&u->retry, on_retry, u);
	connect_now(u);
}

void upstream_stop(struct upstream *u)
{
	ev_timer_stop(u->session.loop, &u->retry);
	session_close(&u->session);
}

void upstream_live(struct upstream *u)
{
	enter(u, UPSTREAM_LIVE);
	backoff_live(&u->backoff, clock_now());
}

void upstream_settle(struct upstream *u)
{
	if (session_idle(&u->session))
		set_up(u, SETTINGS_SQL, on_settings);
}

void upstream_drop(struct upstream *u, const char *why)
{
	fail(u, true, why);
}

void upstream_reconnect(struct upstream *u)
{
	u->by_operator = true;
	fail(u, true, "an operator asked to reconnect");
	u->by_operator = false;
}

void upstream_hurry(struct upstream *u)
{
	if (u->state == UPSTREAM_WAITING)
		connect_now(u);
}

/* Looks whether what was missing is there now. */
static void note_equipment(struct upstream *u, const PGresult *result)
{
	rights_read(&u->rights, encoding_name(u->session.encoding, PQgetvalue(result, 0, PROBE_RIGHTS)));
	bool recoverable = u->recoverable || is_trusted(result, PROBE_RECOVERABLE);
	bool notes_runs = u->notes_runs || is_trusted(result, PROBE_NOTES_RUNS);
	bool tracks = u->tracks || is_trusted(result, PROBE_TRACKS);

	if (recoverable == u->recoverable && notes_runs == u->notes_runs && tracks == u->tracks)
		return;
	u->recoverable = recoverable;
	u->notes_runs = notes_runs;
	u->tracks = tracks;
	u->events->equipped(u->context);
}

static void on_probe_result(void *context, PGresult *result)
{
	struct upstream *u = context;

	if (!result) {
		go_on(u);
		return;
	}
	/* When a probe fails because the connection does, the session reports that. */
	bool good = session_is_row(result, PROBE_FIELDS);
	if (good)
		note_equipment(u, result);
	u->on_probe(u->probe_context, good ? PQgetvalue(result, 0, PROBE_SNAPSHOT) : "");
}

int upstream_probe(struct upstream *u, double seconds, void (*on_probe)(void *context, const char *snapshot),
	void *context)
{
	bool equipped = u->recoverable && u->notes_runs;
	char sql[sizeof PROBE_FORMAT UPSTREAM_CHANGES_SINCE_OWNER_SQL UPSTREAM_NOTE_RUN_OWNER_SQL RIGHTS_SQL
			 UPSTREAM_FOLD_OWNER_SQL +
		 RIGHTS_SQL_MAX];

	if (!session_idle(&u->session))
		return -EBUSY;
	u->on_probe = on_probe;
	u->probe_context = context;
	snprintf(sql, sizeof sql, PROBE_FORMAT, rights_sql(&u->rights, RIGHT_SNAPSHOT),
		equipped ? "NULL" : UPSTREAM_CHANGES_SINCE_OWNER_SQL,
		equipped ? "NULL" : UPSTREAM_NOTE_RUN_OWNER_SQL, RIGHTS_SQL,
		u->tracks ? "NULL" : UPSTREAM_FOLD_OWNER_SQL);
	session_query(
		&u->session, &(struct session_statement){.sql = sql, .seconds = seconds}, on_probe_result);
	return 0;
}
