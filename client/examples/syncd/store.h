/* The interface to the records; records_postgres.c and records_sqlite.c implement it. Calls
 * block. The database threads make them (see pool.h), each on its own store. main.c opens one
 * before it forks, to check that the settings work.
 *
 * A user's revision is a counter that grows by one with each change, and numbers the user's
 * records. A record is written only on top of the revision that the writer has seen, 0 for a
 * new record. */
#pragma once

#include "settings.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A page has at most this many records, and at most this many bytes of data and one record
 * more. */
#define PAGE_RECORDS_MAX 1000
#define PAGE_SIZE_MAX (1 << 20)

/* Seconds of CLOCK_MONOTONIC that a call may take, including the wait for the database. */
#define STORE_SECONDS 10

struct record {
	const char *user, *id, *schema_version;
	const void *data;
	size_t size;
	int64_t revision; /* in put() the one to write on top of, in changes() the record's own */
};

struct store;

struct store_kind {
	const char *name;

	/* Open a store, and create the tables if they do not exist. -ENOTCONN: the database
	 * does not answer now; *out is still a store, which connects when it is
	 * needed. Other errors are logged; then the settings are wrong. */
	int (*open)(const struct settings *settings, struct store **out);
	void (*close)(struct store *store);

	/* Write a record. Returns 0 when it is committed, with its new revision in
	 * *revision; or STORE_CONFLICT, with the revision that it has in *revision; or an
	 * error below. */
	int (*put)(struct store *store, const struct record *record, int64_t *revision);

	/* Call each for the records of user with a revision greater than since, in order of
	 * revision, up to a page. *more says whether there are more. On an error, each may
	 * have been called for some. The record is valid until each returns. */
	int (*changes)(struct store *store, const char *user, int64_t since,
		void (*each)(void *context, const struct record *record), void *context, bool *more);
};

#define STORE_CONFLICT 1
/* -EAGAIN      others write the same records all the time: the retries are used up
 * -ENOTCONN    the database is away
 * -EINPROGRESS  the connection broke during the commit: the outcome is unknown
 * -EIO         the database refuses; logged */

extern const struct store_kind records_postgres, records_sqlite;

static inline const struct store_kind *store_kind(const struct settings *settings)
{
	return settings->database_url ? &records_postgres : &records_sqlite;
}

/* SQL for both databases. Parameters appear in the order of their numbers, because to SQLite
 * they are names. */

#define SQL_REVISION "SELECT revision FROM records WHERE user_id = $1 AND id = $2"

#define SQL_COUNT_UP                                                                                         \
	"INSERT INTO user_revisions (user_id, revision) VALUES ($1, 1)"                                      \
	" ON CONFLICT (user_id) DO UPDATE SET revision = user_revisions.revision + 1 RETURNING revision"

#define SQL_WRITE                                                                                            \
	"INSERT INTO records (user_id, id, data, revision, schema_version) VALUES ($1, $2, $3, $4, $5)"      \
	" ON CONFLICT (user_id, id) DO UPDATE SET data = excluded.data, revision = excluded.revision,"       \
	" schema_version = excluded.schema_version, updated_at = excluded.updated_at"

/* $3: PAGE_RECORDS_MAX + 1, $4: PAGE_RECORDS_MAX, $5: PAGE_SIZE_MAX. The inner query chooses
 * the records of a page by the length of data, which needs no read of data itself. data is
 * joined after that, so only what is sent is read. (SQLite would copy it for each candidate.
 * SQLite keeps the order of a CROSS JOIN.) */
#define SQL_CHANGES                                                                                          \
	"SELECT records.id, records.revision, schema_version, data, found FROM ("                            \
	"SELECT id, count(*) OVER () AS found, row_number() OVER (ORDER BY revision) AS place,"              \
	" sum(size) OVER (ORDER BY revision) - size AS before FROM ("                                        \
	"SELECT id, revision, coalesce(length(data), 0) AS size FROM records"                                \
	" WHERE user_id = $1 AND revision > $2 ORDER BY revision LIMIT $3) AS candidates) AS page"           \
	" CROSS JOIN records WHERE place <= $4 AND before < $5"                                              \
	" AND records.user_id = $1 AND records.id = page.id ORDER BY records.revision"
