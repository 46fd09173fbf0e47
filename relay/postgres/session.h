/* One connection to PostgreSQL on the event loop. It connects without blocking, runs one
 * statement at a time with a deadline, hands out results and notifications, and reports the
 * loss of the connection. Its owner decides when to connect again and what to ask: upstream,
 * publisher and changes_since have a session each.
 *
 * libpq resolves host names synchronously even in PQconnectStart(). So each attempt to connect
 * has a thread of its own, which ends with the attempt and wakes the loop by an ev_async. */
#pragma once

#include "postgres/encoding.h"

#include <ev.h>
#include <libpq-fe.h>
#include <stdbool.h>

/* Bounds an attempt to connect to each address that the URL names; connect_timeout in the URL
 * takes precedence. 5 s is enough for a server that is far away, and leaves a start time for a
 * second address. */
#define SESSION_CONNECT_SECONDS "5"
/* In front of a statement that only reads: a load balancer (pgpool-II) sends it to the primary
 * all the same. */
#define SESSION_PRIMARY "/*NO LOAD BALANCE*/ "
/* How often a deadline is put off while there is data to read: one minute in all. By then
 * the relay is so far behind that it is faster to LISTEN again and ask the database what
 * changed. */
#define SESSION_LATE_MAX 12

/* One line without secrets, by value. session_error().text lives until the end of the
 * full expression. */
struct session_text {
	char text[512];
};

enum session_failure {
	SESSION_UNREACHABLE, /* no server answered; or an attempt failed after one that succeeded */
	SESSION_STARTING,    /* the server is starting up or shutting down: trying again helps */
	SESSION_REFUSED,     /* the server answered: bad credentials, no such database, ... */
	SESSION_LOST,        /* it was connected */
	SESSION_OVERDUE,     /* a statement got no answer by its deadline */
};

/* Whether trying again may help at a start that waits for a server (PGHERALD_START_TIMEOUT), or
 * else a setting must be wrong. error: of the session. */
bool session_may_heal(enum session_failure failure, const char *error);

struct session_events {
	/* Connected; statements may follow. */
	void (*ready)(void *context);
	/* Could not connect, or lost the connection; it is closed already. error is one line
	 * without secrets, valid until the event returns. */
	void (*lost)(void *context, enum session_failure failure, const char *error);
	/* May be NULL. notify is freed after the event. Its texts are as encoding has them. */
	void (*heard)(void *context, const PGnotify *notify);
};

/* Gets each result of the statement in order, then NULL: it is done, and another may follow. A
 * row has the status PGRES_SINGLE_TUPLE. result is freed after the call. */
typedef void session_result_fn(void *context, PGresult *result);

struct session {
	struct ev_loop *loop;
	const char *url, *name; /* name: the application_name */
	const struct session_events *events;
	void *context;

	struct attempt *attempt; /* while connecting */
	PGconn *conn;            /* while connected */
	struct ev_io reader, writer;
	/* Active while libpq or the TLS library has bytes that the socket does not announce: the
	 * next iteration of the loop does not wait, and reads them. */
	struct ev_check unannounced;
	struct ev_idle no_wait;
	struct ev_timer deadline;
	session_result_fn *on_result; /* while a statement runs */
	bool any_rows;                /* as the statement has it */
	bool has_row;                 /* the current result has had its row */
	bool was_connected;           /* ever */
	bool cancels; /* a statement that runs when it is closed is cancelled; the owner sets it */
	/* The owner sets it, and passes texts of rows and notifications through `encoding`: then
	 * the server converts nothing, and cannot fail to. */
	bool takes_raw;
	struct encoding *encoding; /* of the database; NULL: texts come in UTF-8, or as they are */
	bool paused;
	unsigned reads_on;            /* how often to read in an iteration, while there is more */
	unsigned n_heard;             /* notifications in what the last read brought */
	unsigned n_late;              /* how often the deadline has passed while unread data was there */
	bool unsent;                  /* a statement could not be sent: the connection is given up */
	struct session_text farewell; /* the server's reason to end the session, if it gave one */
};

/* Seconds: bounds an attempt to connect to this URL, all its hosts together. A host name with
 * several addresses takes longer, and connect_timeout=0 has no bound: that counts as the
 * default. */
double session_connect_seconds(const char *url);

/* How many threads are connecting, to work or to cancel. main.c asks before it ends the process. */
unsigned session_attempts(void);

/* url, name, events and context must outlive the session. */
void session_init(struct session *session, struct ev_loop *loop, const char *url, const char *name,
	const struct session_events *events, void *context);
/* One of ready and lost follows, unless session_close() comes first. 0 or negative errno. */
int session_connect(struct session *session);
/* Closes at once, without an event. A thread that is connecting ends by itself. */
void session_close(struct session *session);
static inline bool session_idle(const struct session *session)
{
	return session->conn && !session->on_result;
}

struct session_param {
	const char *value; /* borrowed until session_query() returns */
	int len;           /* of a binary value */
	Oid type;          /* 0: let the server infer */
	bool binary;
};

/* What the canary's statement has. */
#define SESSION_PARAMS_MAX 6

struct session_statement {
	const char *sql; /* one statement; or several, without parameters */
	const struct session_param *params;
	int n_params;
	/* Each row comes as a result of its own, and the last result has no row. Otherwise the
	 * statement returns one row at most: a server that sends more is broken or hostile, and
	 * the session is lost. */
	bool any_rows;
	double seconds; /* until all of it must be answered; 0: no limit */
};

/* Runs a statement. The session must be idle. What cannot be sent loses the session: lost
 * follows, from the loop. */
void session_query(
	struct session *session, const struct session_statement *statement, session_result_fn *on_result);
/* While paused, the session reads nothing, and the server waits. */
void session_pause(struct session *session, bool pause);
/* Whether the socket or the TLS library has unread data, and the session is not paused. */
bool session_has_unread(const struct session *session);

/* Whether the result is one row of n_fields columns. Check it: a server may answer anything. */
bool session_is_row(const PGresult *result, int n_fields);
/* Whether the statement succeeded, with a row or without. */
bool session_succeeded(const PGresult *result);

/* From now on, an iteration reads up to this many bytes, if they are there and time allows. */
void session_read_on(struct session *session, size_t bytes);

/* The error of a result. */
struct session_text session_error(const struct session *session, const PGresult *result);
/* The database's encoding, if the server must convert because iconv cannot. Otherwise NULL.
 * Borrowed until the session is closed. */
const char *session_converted_by_server(const struct session *session);
