/* Which of PostgreSQL's functions a role can call. Hardened servers withhold some, and servers
 * that are PostgreSQL in part do not support some. None is needed to serve: each that is missing
 * weakens one guarantee, which rights_tell() names. Where a part of a token or of an identity is
 * missing, a text says so in its place, and what cannot be compared counts as
 * different.
 *
 * upstream.c and canary.c ask, each for the role of its session, and build their statements from
 * the answer; changes_since.c builds on the upstream's. When such a statement is refused all the
 * same, they try each function. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum right {
	RIGHT_CLUSTER,  /* the system identifier */
	RIGHT_RUN,      /* when the server was started */
	RIGHT_LSN,      /* the position to insert WAL at */
	RIGHT_SNAPSHOT, /* which transactions are visible */
	RIGHT_XID,      /* the transaction's own id */
	RIGHT_FLUSH,    /* to write a WAL record, so that the commit waits for the disk */
	RIGHT_STANDBY,  /* whether the server is a standby */
	RIGHT_PID,      /* the process id of the session's backend */
	RIGHTS_N,
};

/* Bytes of a name: NAMEDATALEN of src/include/pg_config_manual.h, times 3 for UTF-8. */
#define RIGHTS_ROLE_MAX 192

/* All zero: it was not asked yet, and all can be called as far as we know. */
struct rights {
	/* A bit for each enum right. */
	unsigned withheld;          /* the role may not call it, or there is no such function */
	unsigned unsupported;       /* it may, and that failed */
	char role[RIGHTS_ROLE_MAX]; /* quoted as SQL needs it */
};

/* clang-format off */
/* An SQL expression: the answer, a text for rights_read(). */
#define RIGHTS_SQL \
	"pg_catalog.concat(" \
	RIGHT_SQL("pg_catalog.pg_control_system()") ", " \
	RIGHT_SQL("pg_catalog.pg_postmaster_start_time()") ", " \
	RIGHT_SQL("pg_catalog.pg_current_wal_insert_lsn()") ", " \
	RIGHT_SQL("pg_catalog.pg_current_snapshot()") ", " \
	RIGHT_SQL("pg_catalog.pg_current_xact_id()") ", " \
	"coalesce(" MAY_SQL("pg_catalog.pg_logical_emit_message(" MESSAGE_ARGUMENTS ")") ", " \
	MAY_SQL("pg_catalog.pg_logical_emit_message(" MESSAGE_ARGUMENTS ", pg_catalog.bool)") \
	", false)::pg_catalog.int4, " \
	RIGHT_SQL("pg_catalog.pg_is_in_recovery()") ", " \
	RIGHT_SQL("pg_catalog.pg_backend_pid()") ", " \
	"' ', pg_catalog.quote_ident(current_user))"
/* clang-format on */
#define MESSAGE_ARGUMENTS "pg_catalog.bool, pg_catalog.text, pg_catalog.text"
#define RIGHT_SQL(function) "coalesce(" MAY_SQL(function) ", false)::pg_catalog.int4"
/* NULL when there is no such function. */
#define MAY_SQL(function)                                                                                    \
	"pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('" function "'), 'EXECUTE')"

/* Notes what the role may call. 0, or -EBADMSG: then nothing has changed. */
int rights_read(struct rights *rights, const char *text);
/* SQL that tries each function: statements, of which the last returns a row, of texts for
 * rights_read() and rights_read_trial(). Constant after the first call. */
const char *rights_trial_sql(void);
enum { RIGHTS_TRIAL_RIGHTS, RIGHTS_TRIAL_OUTCOME, RIGHTS_TRIAL_FIELDS };
/* Notes what failed. 0, or -EBADMSG: then nothing has changed. */
int rights_read_trial(struct rights *rights, const char *outcome);
static inline bool rights_have(const struct rights *rights, enum right right)
{
	return !((rights->withheld | rights->unsupported) & 1U << right);
}
/* Whether a statement may have failed because a function cannot be called. sqlstate may be
 * NULL. */
bool rights_lacks(const char *sqlstate);

/* SQL for what the right gives, or for what stands in its place. Constant. */
const char *rights_sql(const struct rights *rights, enum right right);

#define RIGHTS_SQL_MAX 512
struct rights_sql {
	char text[RIGHTS_SQL_MAX];
};

/* SQL for a text that identifies a database of a running server. Clusters copied from each
 * other share a system identifier, but no two servers start in the same microsecond. */
struct rights_sql rights_identity_sql(const struct rights *rights);
/* Whether two such texts may be of the same database of the same running server. */
bool rights_same_identity(const char *a, const char *b);

/* SQL for a token (base/checkpoint.h) with this LSN and this snapshot, both expressions.
 * on_disk: a condition, whether what the snapshot sees is flushed when the transaction ends. Of
 * a token that may see what a crash would undo, the run is unknown. */
struct rights_sql rights_token_sql(
	const struct rights *rights, const char *lsn, const char *snapshot, const char *on_disk);
/* The same for the present moment, of a token that need not be on disk. */
struct rights_sql rights_moment_sql(const struct rights *rights);

/* What the relay said, so that it is said once. All zero at first. */
struct rights_told {
	unsigned missing;
};

/* Logs which rights the two roles lack and did not before, each with the guarantee that is weaker
 * and, where one would help, the GRANT that restores it; and which came back. notes_runs: pgherald.note_run()
 * is in use. server_version: as PQserverVersion() has it. */
void rights_tell(struct rights_told *told, const struct rights *upstream, const struct rights *publisher,
	bool notes_runs, int server_version);
/* Writes the GRANT that gives the role this right. */
void rights_grant(enum right right, int server_version, const char *role, char *out, size_t size);
/* For people: the functions that one of the two lacks, comma-separated, or "none". */
struct rights_sql rights_missing(const struct rights_told *told);
