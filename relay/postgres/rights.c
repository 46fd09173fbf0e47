#include "postgres/rights.h"

#include "base/diag.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* In the place of a part of an identity. */
#define UNKNOWN "?"

static const struct {
	const char *name, *arguments;
	const char *sql, *instead;
	/* What is weaker without it; NULL: nothing. with_note_run: where pgherald.note_run() is in
	 * use; NULL: the same. */
	const char *weaker, *with_note_run;
} functions[RIGHTS_N] = {
	[RIGHT_CLUSTER] = {"pg_control_system", "",
		"(SELECT system_identifier FROM pg_catalog.pg_control_system())", "'0'",
		"a restart or failover of PostgreSQL is announced as a gap", NULL},
	[RIGHT_RUN] = {"pg_postmaster_start_time", "",
		"(extract(epoch FROM pg_catalog.pg_postmaster_start_time())"
		" OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8",
		"0", "missed changes are announced as gaps", NULL},
	[RIGHT_LSN] = {"pg_current_wal_insert_lsn", "", "pg_catalog.pg_current_wal_insert_lsn()",
		"'0/0'::pg_catalog.pg_lsn", "a restart or failover of PostgreSQL is announced as a gap",
		"recovery after a restart or failover of PostgreSQL rests on pgherald.note_run() alone"},
	/* It sees no transaction that is not part of every cluster. */
	[RIGHT_SNAPSHOT] = {"pg_current_snapshot", "", "pg_catalog.pg_current_snapshot()",
		"'3:3:'::pg_catalog.pg_snapshot", "missed changes are announced as gaps", NULL},
	[RIGHT_XID] = {"pg_current_xact_id", "", "pg_catalog.pg_current_xact_id()", "'0'",
		"relays write to an idle database once an interval", NULL},
	[RIGHT_FLUSH] = {"pg_logical_emit_message", "boolean, text, text",
		"pg_catalog.pg_logical_emit_message(true, 'pgherald', '')", "NULL",
		"missed changes are announced as gaps",
		"recovery of missed changes rests on pgherald.note_run() alone"},
	/* A standby refuses LISTEN anyway. */
	[RIGHT_STANDBY] = {"pg_is_in_recovery", "", "pg_catalog.pg_is_in_recovery()", "false", NULL, NULL},
	[RIGHT_PID] = {"pg_backend_pid", "", "pg_catalog.pg_backend_pid()", "0", NULL, NULL},
};

#define ALL ((1U << RIGHTS_N) - 1)

/* Reads a digit for each right, 1 for those that can be called. Returns the others. */
static unsigned lacking(const char *digits)
{
	unsigned bits = ALL;

	for (unsigned i = 0; i < RIGHTS_N; i++)
		if (digits[i] == '1')
			bits &= ~(1U << i);
	return bits;
}

int rights_read(struct rights *rights, const char *text)
{
	if (strspn(text, "01") != RIGHTS_N || text[RIGHTS_N] != ' ')
		return -EBADMSG;
	rights->withheld = lacking(text);
	snprintf(rights->role, sizeof rights->role, "%s", text + RIGHTS_N + 1);
	return 0;
}

int rights_read_trial(struct rights *rights, const char *outcome)
{
	if (strspn(outcome, "01") != RIGHTS_N || outcome[RIGHTS_N] != '\0')
		return -EBADMSG;
	rights->unsupported = lacking(outcome) & ~rights->withheld;
	return 0;
}

/* The setting carries the outcome from one statement to the next. */
#define TRIAL_BEGIN "DO $trial$ DECLARE outcome pg_catalog.text := ''; BEGIN "
#define TRIAL_FORMAT                                                                                         \
	"BEGIN PERFORM %s; outcome := outcome OPERATOR(pg_catalog.||) '1';"                                  \
	" EXCEPTION WHEN OTHERS THEN outcome := outcome OPERATOR(pg_catalog.||) '0'; END; "
#define TRIAL_END                                                                                            \
	"PERFORM pg_catalog.set_config('pgherald.trial', outcome, true); END $trial$;"                       \
	"SELECT " RIGHTS_SQL ", pg_catalog.current_setting('pgherald.trial')"

const char *rights_trial_sql(void)
{
	static char sql[sizeof TRIAL_BEGIN TRIAL_END + RIGHTS_N * (sizeof TRIAL_FORMAT + RIGHTS_SQL_MAX)];
	size_t len;

	if (sql[0])
		return sql;
	len = (size_t)snprintf(sql, sizeof sql, "%s", TRIAL_BEGIN);
	for (unsigned i = 0; i < RIGHTS_N; i++)
		len += (size_t)snprintf(sql + len, sizeof sql - len, TRIAL_FORMAT, functions[i].sql);
	snprintf(sql + len, sizeof sql - len, "%s", TRIAL_END);
	return sql;
}

/* insufficient_privilege, undefined_function, feature_not_supported,
 * object_not_in_prerequisite_state */
bool rights_lacks(const char *sqlstate)
{
	static const char *const states[] = {"42501", "42883", "0A000", "55000"};

	for (size_t i = 0; sqlstate && i < sizeof states / sizeof *states; i++)
		if (strcmp(sqlstate, states[i]) == 0)
			return true;
	return false;
}

const char *rights_sql(const struct rights *rights, enum right right)
{
	return rights_have(rights, right) ? functions[right].sql : functions[right].instead;
}

struct rights_sql rights_identity_sql(const struct rights *rights)
{
	struct rights_sql sql;

	int n = snprintf(sql.text, sizeof sql.text,
		"(SELECT pg_catalog.concat_ws('/', %s, d.oid, %s) FROM pg_catalog.pg_database AS d"
		" WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())",
		rights_have(rights, RIGHT_CLUSTER) ? functions[RIGHT_CLUSTER].sql : "'" UNKNOWN "'",
		rights_have(rights, RIGHT_RUN) ? functions[RIGHT_RUN].sql : "'" UNKNOWN "'");
	assert((size_t)n < sizeof sql.text);
	(void)n;
	return sql;
}

bool rights_same_identity(const char *a, const char *b)
{
	for (;;) {
		size_t m = strcspn(a, "/"), n = strcspn(b, "/");
		bool known = strncmp(a, UNKNOWN, m) != 0 && strncmp(b, UNKNOWN, n) != 0;
		if (known && (m != n || memcmp(a, b, n) != 0))
			return false;
		if (!a[m] || !b[n])
			return !a[m] && !b[n];
		a += m + 1;
		b += n + 1;
	}
}

struct rights_sql rights_token_sql(
	const struct rights *rights, const char *lsn, const char *snapshot, const char *on_disk)
{
	bool comparable = rights_have(rights, RIGHT_RUN) && rights_have(rights, RIGHT_SNAPSHOT);
	struct rights_sql sql;

	int n = snprintf(sql.text, sizeof sql.text,
		"pg_catalog.concat_ws(';', %s, CASE WHEN %s THEN %s ELSE 0 END, %s, %s)",
		rights_sql(rights, RIGHT_CLUSTER), comparable ? on_disk : "false",
		comparable ? functions[RIGHT_RUN].sql : functions[RIGHT_RUN].instead, lsn, snapshot);
	assert((size_t)n < sizeof sql.text);
	(void)n;
	return sql;
}

struct rights_sql rights_moment_sql(const struct rights *rights)
{
	return rights_token_sql(
		rights, rights_sql(rights, RIGHT_LSN), rights_sql(rights, RIGHT_SNAPSHOT), "true");
}

/* What a role does not need where it is used. */
#define UNUSED_BY_UPSTREAM (1U << RIGHT_XID | 1U << RIGHT_FLUSH)
#define UNUSED_BY_PUBLISHER (1U << RIGHT_STANDBY | 1U << RIGHT_PID)

static bool withholds(const struct rights *rights, enum right right, unsigned unused)
{
	return rights->withheld & ~unused & 1U << right;
}

/* PostgreSQL 17 gave one of them a fourth argument. */
static const char *fourth_argument(enum right right, int server_version)
{
	return right == RIGHT_FLUSH && server_version >= 170000 ? ", boolean" : "";
}

static void warn(enum right right, const struct rights *upstream, const struct rights *publisher,
	bool notes_runs, int server_version)
{
	const char *name = functions[right].name;
	const char *with = functions[right].with_note_run;
	const char *weaker = notes_runs && with ? with : functions[right].weaker;
	bool listens = withholds(upstream, right, UNUSED_BY_UPSTREAM);
	bool publishes = withholds(publisher, right, UNUSED_BY_PUBLISHER) &&
			 !(listens && strcmp(upstream->role, publisher->role) == 0);

	if (!listens && !publishes)
		diag(DIAG_WARNING, "this server does not support %s(), so %s", name, weaker);
	else
		diag(DIAG_WARNING,
			"this role may not call %s(), so %s; GRANT EXECUTE ON FUNCTION pg_catalog.%s(%s%s) TO %s%s%s",
			name, weaker, name, functions[right].arguments,
			fourth_argument(right, server_version), listens ? upstream->role : "",
			listens && publishes ? ", " : "", publishes ? publisher->role : "");
}

void rights_tell(struct rights_told *told, const struct rights *upstream, const struct rights *publisher,
	bool notes_runs, int server_version)
{
	unsigned missing = ((upstream->withheld | upstream->unsupported) & ~UNUSED_BY_UPSTREAM) |
			   ((publisher->withheld | publisher->unsupported) & ~UNUSED_BY_PUBLISHER);

	for (unsigned i = 0; i < RIGHTS_N; i++) {
		bool now = missing & 1U << i, before = told->missing & 1U << i;
		if (now == before || !functions[i].weaker)
			continue;
		if (now)
			warn((enum right)i, upstream, publisher, notes_runs, server_version);
		else
			diag(DIAG_NOTICE, "%s() can be called again", functions[i].name);
	}
	told->missing = missing;
}

void rights_grant(enum right right, int server_version, const char *role, char *out, size_t size)
{
	snprintf(out, size, "GRANT EXECUTE ON FUNCTION pg_catalog.%s(%s%s) TO %s", functions[right].name,
		functions[right].arguments, fourth_argument(right, server_version), role);
}

struct rights_sql rights_missing(const struct rights_told *told)
{
	struct rights_sql list = {""};
	size_t len = 0;

	for (unsigned i = 0; i < RIGHTS_N; i++)
		if (told->missing & 1U << i)
			len += (size_t)snprintf(list.text + len, sizeof list.text - len, "%s%s",
				len > 0 ? ", " : "", functions[i].name);
	return len > 0 ? list : (struct rights_sql){"none"};
}
