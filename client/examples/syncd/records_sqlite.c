/* Records in one SQLite file, which all workers of this host share. It uses WAL, so that
 * readers and the writer do not wait for each other. Writers wait for the file's lock, at
 * most STORE_SECONDS. A write begins IMMEDIATE: it has the lock before it reads, so it never
 * has to be retried. */
#include "log.h"
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum statement { BEGIN, COMMIT, ROLLBACK, REVISION, COUNT_UP, WRITE, CHANGES, N_STATEMENTS };

static const char *const sql[N_STATEMENTS] = {
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[REVISION] = SQL_REVISION,
	[COUNT_UP] = SQL_COUNT_UP,
	[WRITE] = SQL_WRITE,
	[CHANGES] = SQL_CHANGES,
};

struct store {
	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENTS];
	struct log_limit limit;
};

/* SQLite waits for the file's lock by sleeping and trying again, which is unfair and slow if
 * many wait. So the threads of one process wait for this mutex, and only processes for the
 * file. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static int failure(struct store *s, const char *what)
{
	int code = sqlite3_errcode(s->db);

	if (code == SQLITE_BUSY)
		return -EAGAIN;
	log_limited(&s->limit, LOG_LEVEL_ERROR, "SQLite refuses to %s: %s", what, sqlite3_errmsg(s->db));
	return -EIO;
}

/* Reset a statement to the state before it was bound. */
static int finish(struct store *s, enum statement which, int r)
{
	sqlite3_reset(s->statements[which]);
	sqlite3_clear_bindings(s->statements[which]);
	return r;
}

/* Run a statement whose parameters are bound, and read the number that it returns, if any. */
static int run(struct store *s, enum statement which, const char *what, int64_t *number)
{
	int step = sqlite3_step(s->statements[which]);

	if (step == SQLITE_ROW && number) {
		*number = sqlite3_column_int64(s->statements[which], 0);
		step = sqlite3_step(s->statements[which]);
	}
	int r = step == SQLITE_DONE ? 0 : failure(s, what);
	return finish(s, which, r);
}

static void bind_text(struct store *s, enum statement which, int place, const char *text)
{
	sqlite3_bind_text(s->statements[which], place, text, -1, SQLITE_STATIC);
}

/* Runs inside the transaction. */
static int write_record(struct store *s, const struct record *record, int64_t *revision)
{
	*revision = 0;
	bind_text(s, REVISION, 1, record->user);
	bind_text(s, REVISION, 2, record->id);
	int r = run(s, REVISION, "read a record", revision);
	if (r == 0 && *revision != record->revision)
		return STORE_CONFLICT;
	if (r == 0) {
		bind_text(s, COUNT_UP, 1, record->user);
		r = run(s, COUNT_UP, "count a revision up", revision);
	}
	if (r < 0)
		return r;
	bind_text(s, WRITE, 1, record->user);
	bind_text(s, WRITE, 2, record->id);
	sqlite3_bind_blob64(
		s->statements[WRITE], 3, record->size ? record->data : "", record->size, SQLITE_STATIC);
	sqlite3_bind_int64(s->statements[WRITE], 4, *revision);
	bind_text(s, WRITE, 5, record->schema_version);
	return run(s, WRITE, "write a record", NULL);
}

static int sqlite_put(struct store *s, const struct record *record, int64_t *revision)
{
	pthread_mutex_lock(&writing);
	int r = run(s, BEGIN, "begin", NULL);
	if (r == 0) {
		r = write_record(s, record, revision);
		if (r == 0)
			r = run(s, COMMIT, "commit", NULL);
		/* Some errors have ended the transaction already. */
		if (r != 0 && !sqlite3_get_autocommit(s->db))
			run(s, ROLLBACK, "roll back", NULL);
	}
	pthread_mutex_unlock(&writing);
	return r;
}

static int sqlite_changes(struct store *s, const char *user, int64_t since,
	void (*each)(void *context, const struct record *record), void *context, bool *more)
{
	sqlite3_stmt *statement = s->statements[CHANGES];
	int64_t n = 0, found = 0;
	int step;

	bind_text(s, CHANGES, 1, user);
	sqlite3_bind_int64(statement, 2, since);
	sqlite3_bind_int(statement, 3, PAGE_RECORDS_MAX + 1);
	sqlite3_bind_int(statement, 4, PAGE_RECORDS_MAX);
	sqlite3_bind_int(statement, 5, PAGE_SIZE_MAX);
	for (; (step = sqlite3_step(statement)) == SQLITE_ROW; n++) {
		const void *data = sqlite3_column_blob(statement, 3);
		found = sqlite3_column_int64(statement, 4);
		each(context, &(struct record){.user = user,
				      .id = (const char *)sqlite3_column_text(statement, 0),
				      .revision = sqlite3_column_int64(statement, 1),
				      .schema_version = (const char *)sqlite3_column_text(statement, 2),
				      .data = data ? data : "",
				      .size = (size_t)sqlite3_column_bytes(statement, 3)});
	}
	*more = found > n;
	return finish(s, CHANGES, step == SQLITE_DONE ? 0 : failure(s, "read changes"));
}

static void sqlite_close(struct store *s)
{
	for (int i = 0; i < N_STATEMENTS; i++)
		sqlite3_finalize(s->statements[i]);
	sqlite3_close(s->db);
	free(s);
}

/* SQLite would create a file that everybody may read. Its other files get the mode of this
 * one. */
static void make_private(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);

	/* If it cannot be created, SQLite says why. If it exists, its owner has chosen its
	 * mode. */
	if (fd >= 0)
		close(fd);
}

static int sqlite_open(const struct settings *settings, struct store **out)
{
	static const char make[] =
		"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN IMMEDIATE;"
		"CREATE TABLE IF NOT EXISTS user_revisions (user_id TEXT PRIMARY KEY, revision INTEGER NOT NULL);"
		"CREATE TABLE IF NOT EXISTS records (user_id TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,"
		" revision INTEGER NOT NULL, schema_version TEXT NOT NULL, updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,"
		" PRIMARY KEY (user_id, id));"
		"CREATE INDEX IF NOT EXISTS records_user_revision_idx ON records (user_id, revision); COMMIT";
	struct store *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	make_private(settings->sqlite);
	int code = sqlite3_open_v2(settings->sqlite, &s->db,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	sqlite3_busy_timeout(s->db, STORE_SECONDS * 1000);
	if (code == SQLITE_OK)
		code = sqlite3_exec(s->db, make, NULL, NULL, NULL);
	for (int i = 0; code == SQLITE_OK && i < N_STATEMENTS; i++)
		code = sqlite3_prepare_v3(
			s->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statements[i], NULL);
	if (code != SQLITE_OK) {
		log_line(LOG_LEVEL_ERROR, "SYNCD_SQLITE (--sqlite) cannot work: %s path=%s",
			s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(code), settings->sqlite);
		sqlite_close(s);
		return -EIO;
	}
	*out = s;
	return 0;
}

const struct store_kind records_sqlite = {
	.name = "sqlite",
	.open = sqlite_open,
	.close = sqlite_close,
	.put = sqlite_put,
	.changes = sqlite_changes,
};
