/* The LISTEN connection: connects, checks what it reached, LISTENs, and stays; comes back by itself after a
 * loss. That it really hears is proved by the canary; what it heard is decoded elsewhere. main calls it and
 * hears its events. */
#pragma once

#include "base/backoff.h"
#include "base/config.h"
#include "postgres/session.h"
#include "wire.h"

enum upstream_state {
	UPSTREAM_WAITING, /* for the next attempt to connect */
	UPSTREAM_CONNECTING,
	UPSTREAM_CHECKING,
	UPSTREAM_LISTENING, /* it hears, as far as PostgreSQL says; changes missed before may not be recovered
			       yet */
	UPSTREAM_LIVE,
};

struct upstream_events {
	/* LISTEN is committed. */
	void (*listening)(void *context);
	void (*heard)(void *context, const char *channel, struct wire_str payload);
	/* No connection. error is one line that says what to do, without secrets. heals: trying again may
	 * help. retry: seconds until it does. */
	void (*lost)(void *context, const char *error, bool heals, double retry);
};

/* SHA-256's size, which pgherald.relay_key has. */
#define RELAY_KEY_SIZE 32

struct upstream {
	const struct config *config;
	const struct upstream_events *events;
	void *context;
	struct session session;
	struct backoff backoff;
	struct ev_timer retry;
	enum upstream_state state;
	double state_since;
	void (*on_probe)(void *context, const char *snapshot);
	void *probe_context;

	char identity[80]; /* of the database and the running server that is listened to; empty without one */
	/* What the last connection reached. */
	int backend_pid;
	char database[64];
	bool recoverable; /* the recovery function is there, and we trust its owner */
	bool notes_runs;  /* the same of pgherald.note_run(), and we may call it */
	bool reads_key;   /* the same of pgherald.relay_key, and we may read it */
	bool distrusts;   /* one of these is there, and its owner is a stranger */
	bool has_key;     /* the relays of this database share a key, and this is it */
	unsigned char key[RELAY_KEY_SIZE];

	uint64_t n_connects, n_losses;
	char last_error[256];
};

/* SQL for a text that names the database of a running server among all. Clusters copied from each other have
 * the same system identifier, but two servers do not start at the same microsecond. */
#define UPSTREAM_IDENTITY_SQL                                                                                \
	"(SELECT pg_catalog.concat_ws('/', system_identifier, d.oid,"                                        \
	" extract(epoch FROM pg_catalog.pg_postmaster_start_time()))"                                        \
	" FROM pg_catalog.pg_control_system(), pg_catalog.pg_database AS d"                                  \
	" WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"

/* SQL for who owns an object of the schema pgherald, and the schema: whoever may create schemas could have
 * made both, and what is in them runs with our rights. NULL: there is no such object, or the role may not
 * look into the schema. Empty: nobody but roles that we trust. Else the name of another.
 *
 * We trust a role that could act as a superuser, as the owner of the database, or as our own role: it needs
 * nothing of ours. And one that owns every table which we may read, as the owner of the data does who is none
 * of these; but not if we are a superuser, who may do more than read.
 *
 * catalog: that of the object. prefix: of its columns. which: a condition for the object x. */
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
/* Tables of the system and of extensions are nobody's data. */
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
#define UPSTREAM_RELAY_KEY_OWNER_SQL                                                                         \
	UPSTREAM_OWNER_SQL("pg_class", "rel",                                                                \
		"x.relname OPERATOR(pg_catalog.=) 'relay_key'"                                               \
		" AND pg_catalog.has_table_privilege(x.oid, 'SELECT')")

void upstream_start(struct upstream *upstream, struct ev_loop *loop, const struct config *config,
	const struct upstream_events *events, void *context);
void upstream_stop(struct upstream *upstream);
/* It is proved to hear: make the session lasting. Before, a transaction pooler could have passed its settings
 * on to others. */
void upstream_settle(struct upstream *upstream);
/* All that was missed is recovered. */
void upstream_live(struct upstream *upstream);
/* The connection is dead, whatever TCP thinks: drop it and come back. */
void upstream_drop(struct upstream *upstream, const char *why);
/* While held, what PostgreSQL sends stays unread; then up to so many bytes more than usual are read at once.
 */
void upstream_hold(struct upstream *upstream, bool held, size_t ahead);
/* Come back now, if it is waiting: PostgreSQL is there again. */
void upstream_hurry(struct upstream *upstream);
/* Ask the server for its snapshot, read-only; on_probe follows, or lost. -EBUSY: a statement is under way. */
int upstream_probe(struct upstream *upstream, double seconds,
	void (*on_probe)(void *context, const char *snapshot), void *context);
const char *upstream_state_name(enum upstream_state state);
