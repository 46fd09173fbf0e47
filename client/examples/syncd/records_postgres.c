/* Records in PostgreSQL, through a pooler in transaction mode if there is one: nothing here outlives its
 * transaction, no named statement, no setting, no lock.
 *
 * A write is one serializable transaction, which PostgreSQL may refuse with 40001 when others write the same
 * user's records: it is tried again, a bounded number of times. libpq is used without blocking, since a
 * server that hangs would hold a blocking call for ever: a call that takes longer than STORE_SECONDS drops
 * its connection. */
#include "log.h"
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONNECT_SECONDS "5"
#define ATTEMPTS 20
#define PAUSE_MAX_MS 100

#define BYTEA_OID 17
#define PARAMS_MAX 5

struct store {
	const char *url;
	PGconn *conn;
	int64_t deadline; /* of this call, ms of CLOCK_MONOTONIC */
	bool tables;      /* they were there, on some connection */
	unsigned random;
	struct log_limit limit;
};

/* Internal to this file: beside what store.h lists. */
enum { RETRY = -ERESTART, LOST = -ECONNRESET };

/* It was logged that the database is: once, by whichever thread of this process found it. */
static atomic_bool away;

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void disconnect(struct store *s)
{
	PQfinish(s->conn);
	s->conn = NULL;
}

/* Wait until a result can be had without waiting. False: the connection is lost, or the time is over. */
static bool await(struct store *s)
{
	for (;;) {
		int unsent = PQflush(s->conn);
		if (unsent < 0)
			return false;
		if (!unsent && !PQisBusy(s->conn))
			return true;
		int64_t left = s->deadline - now_ms();
		struct pollfd pfd = {
			.fd = PQsocket(s->conn), .events = (short)(POLLIN | (unsent ? POLLOUT : 0))};
		if (left <= 0 || (poll(&pfd, 1, (int)left) < 0 && errno != EINTR) || !PQconsumeInput(s->conn))
			return false;
	}
}

/* What this result of a failed statement means to its caller. */
static int failure(struct store *s, const PGresult *result, const char *what)
{
	const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

	if (PQstatus(s->conn) != CONNECTION_OK || !state)
		return LOST;
	/* serialization_failure, deadlock_detected */
	if (strcmp(state, "40001") == 0 || strcmp(state, "40P01") == 0)
		return RETRY;
	/* connection_exception, insufficient_resources, operator_intervention, system_error,
	 * read_only_sql_transaction */
	if (strncmp(state, "08", 2) == 0 || strncmp(state, "53", 2) == 0 || strncmp(state, "57", 2) == 0 ||
		strncmp(state, "58", 2) == 0 || strcmp(state, "25006") == 0)
		return LOST;
	log_limited(&s->limit, LOG_LEVEL_ERROR, "PostgreSQL refuses to %s: %s sqlstate=%s", what,
		PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY), state);
	return -EIO;
}

struct params {
	int n;
	Oid types[PARAMS_MAX];
	const char *values[PARAMS_MAX];
	int lengths[PARAMS_MAX], formats[PARAMS_MAX];
};

/* One statement. On success *out, if asked for, is the caller's. The results are text, but for data. */
static int execute(struct store *s, const char *what, const char *sql, const struct params *p, bool binary,
	PGresult **out)
{
	static const struct params none;

	if (!p)
		p = &none;
	if (!PQsendQueryParams(s->conn, sql, p->n, p->types, p->values, p->lengths, p->formats, binary) ||
		!await(s))
		return LOST;
	PGresult *result = PQgetResult(s->conn), *end;
	while (await(s) && (end = PQgetResult(s->conn)) != NULL)
		PQclear(end);
	ExecStatusType status = PQresultStatus(result);
	int r = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : failure(s, result, what);
	if (r == 0 && out)
		*out = result;
	else
		PQclear(result);
	return r;
}

static int execute_plain(struct store *s, const char *what, const char *sql)
{
	return execute(s, what, sql, NULL, false, NULL);
}

/* The first column of the only row, or fallback. */
static int64_t number(PGresult *result, int64_t fallback)
{
	int64_t value = PQntuples(result) > 0 ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : fallback;

	PQclear(result);
	return value;
}

/* The tables of relay/sql/recovery.sql, and of data-sync, which may be there without schema_version. Two
 * processes may find them missing at once: so they are made under a lock, of the transaction alone. */
static int make_tables(struct store *s)
{
	static const char *const make[] = {
		"BEGIN",
		"SELECT pg_advisory_xact_lock(hashtext('syncd tables'))",
		"CREATE TABLE IF NOT EXISTS user_revisions (user_id varchar PRIMARY KEY, revision bigint NOT NULL)",
		"CREATE TABLE IF NOT EXISTS records (user_id varchar NOT NULL, id varchar NOT NULL, data bytea,"
		" revision bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, id))",
		"ALTER TABLE records ADD COLUMN IF NOT EXISTS schema_version varchar NOT NULL DEFAULT '',"
		" ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now()",
		"CREATE INDEX IF NOT EXISTS records_user_revision_idx ON records (user_id, revision)",
		"COMMIT",
	};
	PGresult *result = NULL;

	int r = execute(s, "look for the tables",
		"SELECT count(*) FROM pg_attribute WHERE NOT attisdropped AND"
		" (attrelid = to_regclass('records') AND attname IN ('schema_version', 'updated_at')"
		" OR attrelid = to_regclass('user_revisions') AND attname = 'revision')",
		NULL, false, &result);
	if (r == 0 && number(result, 0) < 3)
		for (unsigned i = 0; r == 0 && i < sizeof make / sizeof *make; i++)
			r = execute_plain(s, "make the tables", make[i]);
	s->tables = r == 0;
	return r;
}

/* What the server remarks on is in its own log. */
static void ignore_notice(void *context, const char *message)
{
	(void)context;
	(void)message;
}

static int connect_again(struct store *s)
{
	/* What stands before the URL is what it may override. */
	static const char *const keywords[] = {"fallback_application_name", "connect_timeout",
		"tcp_user_timeout", "keepalives_idle", "dbname", "client_encoding", NULL};
	const char *const values[] = {"syncd", CONNECT_SECONDS, "10000", "30", s->url, "UTF8", NULL};

	s->conn = PQconnectdbParams(keywords, values, 1);
	int r = PQstatus(s->conn) == CONNECTION_OK && PQsetnonblocking(s->conn, 1) == 0 ? 0 : LOST;
	PQsetNoticeProcessor(s->conn, ignore_notice, NULL);
	if (r < 0 && !atomic_exchange(&away, true)) {
		/* Several lines, of which the first says what; it has no password in it. */
		const char *why = PQerrorMessage(s->conn);
		log_line(LOG_LEVEL_WARNING,
			"PostgreSQL does not answer: %.*s; requests get 503 until it does",
			(int)strcspn(why, "\n"), why);
	} else if (r == 0 && atomic_exchange(&away, false)) {
		log_line(LOG_LEVEL_NOTICE, "PostgreSQL answers again");
	}
	if (r == 0 && !s->tables)
		r = make_tables(s);
	if (r < 0)
		disconnect(s);
	return r;
}

/* Do it, on a connection that may turn out to be dead, and as often as PostgreSQL asks for it. */
static int with_retries(struct store *s, int (*once)(struct store *s, void *context), void *context)
{
	bool reconnected = false;

	s->deadline = now_ms() + STORE_SECONDS * 1000L;
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		int r = 0;
		if (!s->conn) {
			r = connect_again(s);
			reconnected = true;
		}
		if (r == 0)
			r = once(s, context);
		if (r == RETRY && PQtransactionStatus(s->conn) != PQTRANS_IDLE &&
			execute_plain(s, "roll back", "ROLLBACK") < 0)
			r = LOST;
		if (r == RETRY) {
			/* At random, since those who collided would collide again. */
			int bound = 1 << attempt < PAUSE_MAX_MS ? 1 << attempt : PAUSE_MAX_MS;
			poll(NULL, 0, 1 + rand_r(&s->random) % bound);
			if (now_ms() >= s->deadline)
				break;
			continue;
		}
		if (r >= 0)
			return r;
		disconnect(s);
		if (r != LOST)
			return r;
		if (reconnected || now_ms() >= s->deadline)
			return -ENOTCONN;
	}
	return -EAGAIN;
}

struct write {
	const struct record *record;
	int64_t revision;
};

static int write_once(struct store *s, void *context)
{
	struct write *w = context;
	const struct record *record = w->record;
	char revision[24];
	struct params p = {.n = 2, .values = {record->user, record->id}};
	PGresult *result = NULL;

	int r = execute_plain(s, "begin", "BEGIN ISOLATION LEVEL SERIALIZABLE");
	if (r == 0)
		r = execute(s, "read a record", SQL_REVISION, &p, false, &result);
	if (r < 0)
		return r;
	w->revision = number(result, 0);
	if (w->revision != record->revision) {
		r = execute_plain(s, "roll back", "ROLLBACK");
		return r < 0 ? r : STORE_CONFLICT;
	}
	p.n = 1;
	r = execute(s, "count a revision up", SQL_COUNT_UP, &p, false, &result);
	if (r < 0)
		return r;
	w->revision = number(result, 0);
	snprintf(revision, sizeof revision, "%" PRId64, w->revision);
	p = (struct params){.n = 5,
		.types = {[2] = BYTEA_OID},
		.values = {record->user, record->id, record->data, revision, record->schema_version},
		.lengths = {[2] = (int)record->size},
		.formats = {[2] = 1}};
	r = execute(s, "write a record", SQL_WRITE, &p, false, NULL);
	if (r < 0)
		return r;
	r = execute_plain(s, "commit", "COMMIT");
	/* Not to be tried again: it would find its own change, and call that a conflict. */
	return r == LOST ? -EINPROGRESS : r;
}

static int postgres_put(struct store *s, const struct record *record, int64_t *revision)
{
	struct write w = {.record = record};
	int r = with_retries(s, write_once, &w);

	*revision = w.revision;
	return r;
}

struct page {
	const char *user;
	int64_t since;
	PGresult *found;
};

static int read_once(struct store *s, void *context)
{
	struct page *page = context;
	char since[24], candidates[12], records[12], size[12];
	const struct params p = {.n = 5, .values = {page->user, since, candidates, records, size}};

	snprintf(since, sizeof since, "%" PRId64, page->since);
	snprintf(candidates, sizeof candidates, "%d", PAGE_RECORDS_MAX + 1);
	snprintf(records, sizeof records, "%d", PAGE_RECORDS_MAX);
	snprintf(size, sizeof size, "%d", PAGE_SIZE_MAX);
	return execute(s, "read changes", SQL_CHANGES, &p, true, &page->found);
}

/* A bigint as PostgreSQL sends it in binary. */
static int64_t bigint(const PGresult *result, int row, int column)
{
	uint64_t value = 0;
	const char *bytes = PQgetvalue(result, row, column);

	for (int i = 0; i < 8; i++)
		value = value << 8 | (uint8_t)bytes[i];
	return (int64_t)value;
}

static int postgres_changes(struct store *s, const char *user, int64_t since,
	void (*each)(void *context, const struct record *record), void *context, bool *more)
{
	struct page page = {.user = user, .since = since};
	int r = with_retries(s, read_once, &page);

	if (r < 0)
		return r;
	int n = PQntuples(page.found);
	for (int i = 0; i < n; i++)
		each(context, &(struct record){.user = user,
				      .id = PQgetvalue(page.found, i, 0),
				      .revision = bigint(page.found, i, 1),
				      .schema_version = PQgetvalue(page.found, i, 2),
				      .data = PQgetvalue(page.found, i, 3),
				      .size = (size_t)PQgetlength(page.found, i, 3)});
	*more = n > 0 && bigint(page.found, 0, 4) > n;
	PQclear(page.found);
	return 0;
}

static int nothing(struct store *s, void *context)
{
	(void)s;
	(void)context;
	return 0;
}

static void postgres_close(struct store *s)
{
	disconnect(s);
	free(s);
}

static int postgres_open(const struct settings *settings, struct store **out)
{
	struct store *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	s->url = settings->database_url;
	s->random = (unsigned)now_ms() ^ (unsigned)(uintptr_t)s;
	int r = with_retries(s, nothing, NULL);
	if (r == -EIO) {
		postgres_close(s);
		return r;
	}
	*out = s;
	return r < 0 ? -ENOTCONN : 0;
}

const struct store_kind records_postgres = {
	.name = "postgres",
	.open = postgres_open,
	.close = postgres_close,
	.put = postgres_put,
	.changes = postgres_changes,
};
