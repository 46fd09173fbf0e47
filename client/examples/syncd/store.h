/* The records, behind one interface: records_postgres.c and records_sqlite.c keep them. Calls block, and are
 * made by the database threads (see pool.h), each on a store of its own; main.c opens one before it forks, to
 * see that the settings can work.
 *
 * A user's records are numbered by the user's revision, a counter that grows by one with each change. A
 * record is written only on top of the revision that the writer has seen, 0 for one that it has not. */
#pragma once

#include "settings.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A reply holds this many records, and data of this many bytes and one record more, at the most. */
#define PAGE_RECORDS_MAX 1000
#define PAGE_SIZE_MAX (1 << 20)

/* How long a call may take, waiting for the database included. */
#define STORE_SECONDS 10

struct record {
	const char *user, *id, *schema_version;
	const void *data;
	size_t size;
	int64_t revision; /* the one it was written on top of, or the one it has */
};

struct store;

struct store_kind {
	const char *name;

	/* Open it, and make the tables if there are none. -ENOTCONN: the database does not answer for now,
	 * and *out is a store all the same, which connects when it is needed. Other errors are logged, and
	 * are the settings' fault. */
	int (*open)(const struct settings *settings, struct store **out);
	void (*close)(struct store *store);

	/* Write a record. 0: it is committed, and *revision is its new one. STORE_CONFLICT: *revision is the
	 * one that it has now. Otherwise as below. */
	int (*put)(struct store *store, const struct record *record, int64_t *revision);

	/* The records of user whose revision is beyond since, in order of revision, as many as a page holds;
	 * *more says whether that is not all. each may be called for some before an error is found. */
	int (*changes)(struct store *store, const char *user, int64_t since,
		void (*each)(void *context, const struct record *record), void *context, bool *more);
};

#define STORE_CONFLICT 1
/* -EAGAIN       others write the same all the time: the retries are used up
 * -ENOTCONN     the database is away
 * -EINPROGRESS  the connection broke while the change was being committed: it may be or not
 * -EIO          the database refuses; logged */

extern const struct store_kind records_postgres, records_sqlite;

static inline const struct store_kind *store_kind(const struct settings *settings)
{
	return settings->database_url ? &records_postgres : &records_sqlite;
}

/* What both speak. Parameters stand in the order of their numbers, since to SQLite they are names. */

#define SQL_REVISION "SELECT revision FROM records WHERE user_id = $1 AND id = $2"

#define SQL_COUNT_UP                                                                                         \
	"INSERT INTO user_revisions (user_id, revision) VALUES ($1, 1)"                                      \
	" ON CONFLICT (user_id) DO UPDATE SET revision = user_revisions.revision + 1 RETURNING revision"

#define SQL_WRITE                                                                                            \
	"INSERT INTO records (user_id, id, data, revision, schema_version) VALUES ($1, $2, $3, $4, $5)"      \
	" ON CONFLICT (user_id, id) DO UPDATE SET data = excluded.data, revision = excluded.revision,"       \
	" schema_version = excluded.schema_version, updated_at = excluded.updated_at"

/* $3: PAGE_RECORDS_MAX + 1, $4: PAGE_RECORDS_MAX, $5: PAGE_SIZE_MAX. What a page holds is chosen by how long
 * data is, which can be told without reading it; data joins when that is done, so only what is sent is read.
 * (SQLite would copy it for each candidate. Its CROSS JOIN is one that is done in this order.) */
#define SQL_CHANGES                                                                                          \
	"SELECT records.id, records.revision, schema_version, data, found FROM ("                            \
	"SELECT id, count(*) OVER () AS found, row_number() OVER (ORDER BY revision) AS place,"              \
	" sum(size) OVER (ORDER BY revision) - size AS before FROM ("                                        \
	"SELECT id, revision, coalesce(length(data), 0) AS size FROM records"                                \
	" WHERE user_id = $1 AND revision > $2 ORDER BY revision LIMIT $3) AS candidates) AS page"           \
	" CROSS JOIN records WHERE place <= $4 AND before < $5"                                              \
	" AND records.user_id = $1 AND records.id = page.id ORDER BY records.revision"
