/* Records in PostgreSQL, perhaps through a pooler in transaction mode: nothing here outlives
 * its transaction, no named statement, no setting, no lock.
 *
 * A write is one serializable transaction. PostgreSQL may refuse it with 40001 when others
 * write the same user's records. Then postgres.c tries it again, a bounded number of times. */
#include "postgres.h"
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BYTEA_OID 17

struct store {
	struct postgres postgres; /* first, so that its pointer is the store's */
	bool tables;              /* the tables were there, on some connection */
};

/* The first column of the only row, or fallback if there is no row. */
static int64_t number(PGresult *result, int64_t fallback)
{
	int64_t value = PQntuples(result) > 0 ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : fallback;

	PQclear(result);
	return value;
}

/* The tables of relay/sql/recovery.sql and of data-sync, unless they exist; those of
 * data-sync may lack schema_version. Two processes may find them missing at once, so a lock
 * of the transaction protects this. */
static int make_tables(struct postgres *p)
{
	struct store *s = (struct store *)p;
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

	if (s->tables)
		return 0;
	int r = postgres_execute(p, "look for the tables",
		"SELECT count(*) FROM pg_attribute WHERE NOT attisdropped AND"
		" (attrelid = to_regclass('records') AND attname IN ('schema_version', 'updated_at')"
		" OR attrelid = to_regclass('user_revisions') AND attname = 'revision')",
		NULL, false, &result);
	if (r == 0 && number(result, 0) < 3)
		for (unsigned i = 0; r == 0 && i < sizeof make / sizeof *make; i++)
			r = postgres_execute_plain(p, "make the tables", make[i]);
	s->tables = r == 0;
	return r;
}

struct write {
	const struct record *record;
	int64_t revision;
};

static int write_once(struct postgres *p, void *context)
{
	struct write *w = context;
	const struct record *record = w->record;
	char revision[24];
	struct params params = {.n = 2, .values = {record->user, record->id}};
	PGresult *result = NULL;

	int r = make_tables(p);
	if (r == 0)
		r = postgres_execute_plain(p, "begin", "BEGIN ISOLATION LEVEL SERIALIZABLE");
	if (r == 0)
		r = postgres_execute(p, "read a record", SQL_REVISION, &params, false, &result);
	if (r < 0)
		return r;
	w->revision = number(result, 0);
	if (w->revision != record->revision) {
		r = postgres_execute_plain(p, "roll back", "ROLLBACK");
		return r < 0 ? r : STORE_CONFLICT;
	}
	params.n = 1;
	r = postgres_execute(p, "count a revision up", SQL_COUNT_UP, &params, false, &result);
	if (r < 0)
		return r;
	w->revision = number(result, 0);
	snprintf(revision, sizeof revision, "%" PRId64, w->revision);
	params = (struct params){.n = 5,
		.types = {[2] = BYTEA_OID},
		.values = {record->user, record->id, record->data, revision, record->schema_version},
		.lengths = {[2] = (int)record->size},
		.formats = {[2] = 1}};
	r = postgres_execute(p, "write a record", SQL_WRITE, &params, false, NULL);
	if (r < 0)
		return r;
	r = postgres_execute_plain(p, "commit", "COMMIT");
	/* Do not try again: it would find its own change, and call that a conflict. */
	return r == POSTGRES_LOST ? -EINPROGRESS : r;
}

static int records_put(struct store *s, const struct record *record, int64_t *revision)
{
	struct write w = {.record = record};
	int r = postgres_with_retries(&s->postgres, write_once, &w);

	*revision = w.revision;
	return r;
}

struct page {
	const char *user;
	int64_t since;
	PGresult *found;
};

static int read_once(struct postgres *p, void *context)
{
	struct page *page = context;
	char since[24], candidates[12], records[12], size[12];
	const struct params params = {.n = 5, .values = {page->user, since, candidates, records, size}};

	snprintf(since, sizeof since, "%" PRId64, page->since);
	snprintf(candidates, sizeof candidates, "%d", PAGE_RECORDS_MAX + 1);
	snprintf(records, sizeof records, "%d", PAGE_RECORDS_MAX);
	snprintf(size, sizeof size, "%d", PAGE_SIZE_MAX);
	int r = make_tables(p);
	return r < 0 ? r : postgres_execute(p, "read changes", SQL_CHANGES, &params, true, &page->found);
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

static int records_changes(struct store *s, const char *user, int64_t since,
	void (*each)(void *context, const struct record *record), void *context, bool *more)
{
	struct page page = {.user = user, .since = since};
	int r = postgres_with_retries(&s->postgres, read_once, &page);

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

static int open_once(struct postgres *p, void *context)
{
	(void)context;
	return make_tables(p);
}

static void records_close(struct store *s)
{
	postgres_close(&s->postgres);
	free(s);
}

static int records_open(const struct settings *settings, struct store **out)
{
	struct store *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	postgres_init(&s->postgres, settings->database_url);
	int r = postgres_with_retries(&s->postgres, open_once, NULL);
	if (r == -EIO) {
		records_close(s);
		return r;
	}
	*out = s;
	return r < 0 ? -ENOTCONN : 0;
}

const struct store_kind records_postgres = {
	.name = "postgres",
	.open = records_open,
	.close = records_close,
	.put = records_put,
	.changes = records_changes,
};
