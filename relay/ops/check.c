#include "ops/check.h"

#include "ops/parts.h"
#include "postgres/rights.h"

#include <string.h>

/* What continues a row stands under its third column. */
#define INDENT "                                 "

static void row(FILE *out, const char *what, const char *state, const char *more)
{
	fprintf(out, "%-24s%-9s%s\n", what, state, more);
}

/* otherwise: the state if it does not work. */
static void row_if(
	FILE *out, const char *what, bool works, const char *good, const char *otherwise, const char *bad)
{
	row(out, what, works ? "works" : otherwise, works ? good : bad);
}

bool check_is_complete(const struct parts *p)
{
	return p->config->mode == MODE_LOCAL || (!p->recovery->sink && !tracking_is_asking(p->tracking));
}

/* What a URL leads to. */
static void print_server(
	FILE *out, const char *url, const char *does, const PGconn *conn, const char *database)
{
	char text[512];
	int version = PQserverVersion(conn);

	snprintf(text, sizeof text, "%s PostgreSQL %d.%d, database %s, as %s", does, version / 10000,
		version % 10000, database, PQuser(conn));
	row(out, url, "works", text);
}

static void print_listening(const struct parts *p, FILE *out)
{
	const struct upstream *u = p->upstream;
	char text[512];

	print_server(out, "DATABASE_DIRECT_URL", "hears", u->session.conn, u->database);
	snprintf(text, sizeof text, "what it publishes is heard after %.1f ms", p->canary->round_trip * 1000);
	row(out, "DATABASE_URL", "works", text);
}

/* Which right the relays' role lacks, if it is that. */
static void print_grant(const struct parts *p, FILE *out, const char *trouble)
{
	if (strstr(trouble, "permission denied") || strstr(trouble, "may not read"))
		fprintf(out,
			INDENT "GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO %s\n" INDENT
			       "and, if it reads tables of yours, GRANT SELECT on them\n",
			PQuser(p->upstream->session.conn));
}

static void print_recovery(const struct parts *p, FILE *out)
{
	const char *trouble = p->recovery->trouble;

	if (!p->upstream->recoverable) {
		row(out, "recovery", "missing",
			"what is missed in an outage is a gap: install pgherald.sql, and track your tables");
	} else if (*trouble) {
		row(out, "recovery", "fails", trouble);
		print_grant(p, out, trouble);
	} else {
		row(out, "recovery", "works", "what is missed in an outage is asked for");
	}
	row_if(out, "restarts of PostgreSQL", canary_survives_restarts(p->canary),
		"recovery is exact after a restart and a failover too", "weaker",
		"a restart or failover is a gap");
	row_if(out, "reconciliation", p->reconcile->enabled, "changes that no program notified are announced",
		"missing", "a change that no program notifies is not announced");
}

static void print_tracking(const struct parts *p, FILE *out)
{
	const struct tracking *t = p->tracking;
	char text[64];

	if (!p->upstream->tracks) {
		row(out, "tracked tables", "missing", "pgherald.sql is not installed");
		return;
	}
	snprintf(text, sizeof text, "%llu", (unsigned long long)t->n_tables);
	row(out, "tracked tables", *t->problem ? "weaker" : "works", *t->problem ? t->problem : text);
	if (*t->unserved)
		fprintf(out, INDENT "a table is tracked for %s, which is not in PGHERALD_CHANNELS\n",
			t->unserved);
}

static void print_rights(const struct parts *p, FILE *out)
{
	const struct rights_sql missing = rights_missing(p->told);
	const char *user = PQuser(p->upstream->session.conn);

	bool installed = p->upstream->recoverable || p->upstream->tracks;
	row_if(out, "other relays", p->upstream->has_key, "they are recognised by their key", "weaker",
		installed ? "they are not recognised"
			  : "they are not recognised: pgherald.sql is not installed");
	if (!p->upstream->has_key && installed)
		fprintf(out, INDENT "GRANT SELECT ON pgherald.relay_key TO %s\n", user);
	row_if(out, "functions", p->told->missing == 0, "the server withholds none that is needed", "weaker",
		missing.text);
	for (enum right right = 0; right < RIGHTS_N; right++) {
		char grant[200];
		if (!(p->told->missing & (p->upstream->rights.withheld | p->canary->rights.withheld) &
			    1U << right))
			continue;
		rights_grant(right, PQserverVersion(p->upstream->session.conn), user, grant, sizeof grant);
		fprintf(out, INDENT "%s\n", grant);
	}
}

void check_print(const struct parts *p, FILE *out)
{
	if (p->config->mode == MODE_LOCAL) {
		row(out, "mode", "local", "workers of this host hear each other, without PostgreSQL");
		return;
	}
	row(out, "mode", "postgres", "workers of all hosts hear each other");
	print_listening(p, out);
	print_recovery(p, out);
	print_tracking(p, out);
	print_rights(p, out);
}

/* Whether it is the setting that fails. */
static bool print_url(FILE *out, const char *url, const PGconn *conn, const char *setting, const char *why)
{
	bool fails = setting && strcmp(setting, url) == 0;

	if (fails)
		row(out, url, "fails", why);
	else if (conn)
		print_server(out, url, "reaches", conn, PQdb(conn));
	else
		row(out, url, "untried", "the start was refused before it was connected to");
	return fails;
}

void check_print_refused(const struct parts *p, const char *setting, const char *why, FILE *out)
{
	row(out, "mode", "postgres", "workers of all hosts hear each other");
	bool direct = print_url(out, "DATABASE_DIRECT_URL", p->upstream->session.conn, setting, why);
	bool publish = print_url(out, "DATABASE_URL", p->publisher->session.conn, setting, why);
	if (!direct && !publish)
		row(out, "start", "fails", why);
}
