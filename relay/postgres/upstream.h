/* The upstream: the LISTEN connection. It connects, checks the server that it reached, LISTENs,
 * and comes back by itself after a loss. The canary proves that it hears, decode reads what it
 * heard. relay.c calls it and handles its events. */
#pragma once

#include "base/backoff.h"
#include "base/config.h"
#include "postgres/rights.h"
#include "postgres/session.h"
#include "wire.h"

enum upstream_state {
	UPSTREAM_WAITING,    /* until the next attempt to connect */
	UPSTREAM_CONNECTING, /* a thread is connecting */
	UPSTREAM_CHECKING,   /* connected; LISTEN is not committed yet */
	UPSTREAM_LISTENING,  /* LISTEN is committed; not proved, or what was missed is not recovered */
	UPSTREAM_LIVE,       /* it hears, and nothing is missing */
};

struct upstream_events {
	/* LISTEN is committed. */
	void (*listening)(void *context);
	/* A notification; both are valid until the event returns. */
	void (*heard)(void *context, const char *channel, struct wire_str payload);
	/* recoverable, notes_runs or tracks was false and is true: the migration was run, or a
	 * right came back. */
	void (*equipped)(void *context);
	/* Could not connect, or lost the connection. error is one line without secrets that
	 * says what to do, valid until the event returns. heals: trying again may help. retry:
	 * seconds until the next attempt. */
	void (*lost)(void *context, const char *error, bool heals, double retry);
};

/* Bytes of pgherald.relay_key: one SHA-256 hash. */
#define RELAY_KEY_SIZE 32

/* Channels to LISTEN to before they are configured; done is NULL: there are none. */
struct upstream_more {
	const struct config *config;
	void (*done)(void *context, const char *why);
	void *context;
	struct session_text why; /* empty: PostgreSQL has not refused */
};

struct upstream {
	const struct config *config;
	const struct upstream_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry;
	enum upstream_state state;
	double state_since; /* seconds of clock_now() */
	void (*on_probe)(void *context, const char *snapshot);
	void *probe_context;

	/* Of the database and its running server (rights_identity_sql()); empty while not
	 * connected. */
	char identity[80];
	/* Of the last connection. */
	struct rights rights;
	bool tries, tried;                /* the functions, since the check failed */
	bool queue_is_stale, asked_usage; /* since LISTEN failed */
	struct upstream_more more;
	bool unlistens; /* to channels that are gone, when no statement runs */
	int backend_pid;
	char database[ENCODING_NAME_UTF8_MAX + 1]; /* in UTF-8 */
	bool recoverable;    /* pgherald.changes_since() is there, and we trust its owner */
	bool notes_runs;     /* pgherald.note_run() is there, we trust its owner, and may call it */
	bool reads_key;      /* pgherald.relay_key is there, we trust its owner, and may read it */
	bool tracks;         /* pgherald.fold() is there, and we trust its owner */
	bool knows_problems; /* pgherald.problem() is there, and we trust its owner */
	bool distrusts;      /* one of the first three is there, and we do not trust its owner */
	bool has_key;        /* key is what we read from pgherald.relay_key */
	unsigned char key[RELAY_KEY_SIZE];

	bool by_operator; /* the connection was dropped by an operator's command */

	uint64_t n_connects, n_losses;
	double retry_at; /* seconds of clock_now(), of the next attempt, while waiting */
	char last_error[256];
	double last_error_at; /* seconds of clock_now() */
};

/* SQL that tells whether we trust the owners of an object in the schema pgherald and of the
 * schema. A function there runs with our rights, and every role that may create schemas could
 * have made it. The result is NULL when the object does not exist or the role may not look into
 * the schema, empty when we trust both owners, and otherwise the name of an owner that we do
 * not trust.
 *
 * We trust a role that can act as a superuser, as the owner of the database, or as our own
 * role: it gains nothing from our rights. We also trust a role that owns every table which we
 * may read, because the data is its own; but not if we are a superuser, who may do more than
 * read.
 *
 * catalog: of the object. prefix: of the catalog's columns. which: a condition that finds the
 * object x. */
#define UPSTREAM_OWNER_SQL(catalog, prefix, which)                                                           \
	"(SELECT pg_catalog.max(CASE WHEN pg_catalog.pg_has_role(o.owner, d.datdba, 'MEMBER')"               \
	" OR pg_catalog.pg_has_role(o.owner, current_user, 'MEMBER') OR (" OWNS_ALL_TABLES_SQL               \
	") THEN '' ELSE pg_catalog.pg_get_userbyid(o.owner)::pg_catalog.text END)"                           \
	" FROM pg_catalog.pg_namespace AS n, pg_catalog.pg_database AS d, pg_catalog." catalog " AS x,"      \
	" LATERAL (VALUES (n.nspowner), (x." prefix "owner)) AS o (owner)"                                   \
	" WHERE n.nspname OPERATOR(pg_catalog.=) 'pgherald'"                                                 \
	" AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')"                                               \
	" AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"                                \
	" AND x." prefix "namespace OPERATOR(pg_catalog.=) n.oid AND " which ")"
/* Leaves out tables of the system and of extensions: they have no application data. */
#define OWNS_ALL_TABLES_SQL                                                                                  \
	"SELECT coalesce(pg_catalog.bool_and(pg_catalog.pg_has_role(o.owner, t.relowner, 'MEMBER')), false)" \
	" AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r"                                          \
	" WHERE r.rolname OPERATOR(pg_catalog.=) current_user)"                                              \
	" FROM pg_catalog.pg_class AS t WHERE t.oid OPERATOR(pg_catalog.>=) '16384'"                         \
	" AND t.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.\"char\"[])"                   \
	" AND t.relnamespace OPERATOR(pg_catalog.<>) n.oid"                                                  \
	" AND pg_catalog.has_any_column_privilege(t.oid, 'SELECT')"                                          \
	" AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e"                                             \
	" WHERE e.classid OPERATOR(pg_catalog.=) t.tableoid AND e.objid OPERATOR(pg_catalog.=) t.oid"        \
	" AND e.deptype OPERATOR(pg_catalog.=) 'e')"
#define UPSTREAM_CHANGES_SINCE_OWNER_SQL                                                                     \
	UPSTREAM_OWNER_SQL("pg_proc", "pro",                                                                 \
		"x.proname OPERATOR(pg_catalog.=) 'changes_since' AND x.pronargs OPERATOR(pg_catalog.=) 1"   \
		" AND x.proargtypes[0] OPERATOR(pg_catalog.=) 'pg_catalog.pg_snapshot'::pg_catalog.regtype")
#define UPSTREAM_NOTE_RUN_OWNER_SQL                                                                          \
	UPSTREAM_OWNER_SQL("pg_proc", "pro",                                                                 \
		"x.proname OPERATOR(pg_catalog.=) 'note_run' AND x.pronargs OPERATOR(pg_catalog.=) 0"        \
		" AND pg_catalog.has_function_privilege(x.oid, 'EXECUTE')")
#define UPSTREAM_FOLD_OWNER_SQL                                                                              \
	UPSTREAM_OWNER_SQL("pg_proc", "pro",                                                                 \
		"x.proname OPERATOR(pg_catalog.=) 'fold' AND x.pronargs OPERATOR(pg_catalog.=) 0")
#define UPSTREAM_PROBLEM_OWNER_SQL                                                                           \
	UPSTREAM_OWNER_SQL("pg_proc", "pro",                                                                 \
		"x.proname OPERATOR(pg_catalog.=) 'problem' AND x.pronargs OPERATOR(pg_catalog.=) 0")
#define UPSTREAM_RELAY_KEY_OWNER_SQL                                                                         \
	UPSTREAM_OWNER_SQL("pg_class", "rel",                                                                \
		"x.relname OPERATOR(pg_catalog.=) 'relay_key'"                                               \
		" AND pg_catalog.has_table_privilege(x.oid, 'SELECT')")

/* config, events and context must outlive it. */
void upstream_start(struct upstream *upstream, struct ev_loop *loop, const struct config *config,
	const struct upstream_events *events, void *context);
void upstream_stop(struct upstream *upstream);
/* The canary proved it: set what a lasting session needs. Not earlier, since a transaction
 * pooler would pass these settings on to other clients. */
void upstream_settle(struct upstream *upstream);
/* What it missed is recovered. */
void upstream_live(struct upstream *upstream);
/* The connection is dead, even if TCP does not know: drop it and connect again. */
void upstream_drop(struct upstream *upstream, const char *why);
/* The same, for an operator: it is not a fault. */
void upstream_reconnect(struct upstream *upstream);
/* LISTENs to the channels of config that are not in force yet. done follows, maybe before this
 * returns: why is NULL, or says why PostgreSQL refuses. If there is no connection, the next one
 * LISTENs. config must outlive that; none may be under way. */
void upstream_listen_more(struct upstream *upstream, const struct config *config,
	void (*done)(void *context, const char *why), void *context);
/* done does not follow any more. */
void upstream_forget_more(struct upstream *upstream);
/* Channels are gone: stop listening to them. */
void upstream_unlisten(struct upstream *upstream);
/* PostgreSQL is there again: connect now instead of waiting. */
void upstream_hurry(struct upstream *upstream);
/* Asks the server for its snapshot, read-only. on_probe follows, or lost. The snapshot is valid
 * until it returns, and empty where the server withholds it. 0, or -EBUSY: a statement is running. */
int upstream_probe(struct upstream *upstream, double seconds,
	void (*on_probe)(void *context, const char *snapshot), void *context);
/* By enum upstream_state: what operators read. */
extern const char *const upstream_state_names[];
