#include "postgres/session.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/passfile.h"
#include "base/redact.h"
#include "postgres/cancel.h"
#include "postgres/home.h"

#include <assert.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* An attempt that took longer than this is not followed by a ping, which could take as long
 * again. */
#define PING_WORTH_SECONDS 2.
/* What libpq reads at a time: the initial size of its buffer (pqMakeEmptyPGconn in
 * fe-connect.c). The buffer grows only for results that are larger, and the relay does not read
 * ahead for those. */
#define READ_SIZE ((size_t)16 << 10)
/* How long one iteration of the loop reads one session: as long as it reads and writes workers
 * (schedule.h). With one read an iteration, a role that notifies a lot made the relay fall
 * behind PostgreSQL while workers kept it busy. The answer to a probe came after those
 * notifications, too late, and the relay dropped the LISTEN connection. */
#define READ_SECONDS 0.0004
/* How much longer to wait for an answer, each time that the deadline passes while there is data
 * to read: the answer may come after notifications, and any role can send many. A dead
 * connection has no data to read. */
#define LATE_SECONDS 5.

/* Shared by the thread and the loop. The thread writes conn, encoding and failure, then signals
 * `done`; the loop reads them after that. */
struct attempt {
	struct session *session; /* NULL: the session was closed meanwhile */
	struct ev_loop *loop;
	pthread_t thread;
	struct ev_async done;
	const char *url, *name;
	bool first; /* find out why it fails: a setting may be wrong */
	bool takes_raw;
	PGconn *conn;
	struct encoding *encoding; /* the session's, once it is connected */
	enum session_failure failure;
};

static unsigned attempts_running;
static struct diag_limit plain_limit;

unsigned session_attempts(void)
{
	return attempts_running + cancel_running();
}

static struct session_text one_line(const char *text)
{
	struct session_text line = {0};

	redact(text, line.text, sizeof line.text);
	return line;
}

/* What the server says, which is in the database's encoding. */
static struct session_text said(const struct session *s, const char *text)
{
	return one_line(encoding_text(s->encoding, wire_str(text)).ptr);
}

struct session_text session_error(const struct session *s, const PGresult *result)
{
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *text = primary ? primary : PQresultErrorMessage(result);

	return said(s, *text ? text : "it answered with other rows than were asked for");
}

bool session_is_row(const PGresult *result, int n_fields)
{
	return PQresultStatus(result) == PGRES_SINGLE_TUPLE && PQntuples(result) == 1 &&
	       PQnfields(result) == n_fields;
}

const char *session_converted_by_server(const struct session *s)
{
	const char *name = PQparameterStatus(s->conn, "server_encoding");

	return name && !s->encoding && encoding_must_convert(name) ? name : NULL;
}

bool session_succeeded(const PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	return status == PGRES_SINGLE_TUPLE || status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
}

/* Keeps libpq from printing notices on stderr. The reason why a server ends an idle session
 * comes as a notice. */
static void on_notice(void *arg, const PGresult *result)
{
	struct session *s = arg;
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (severity && strcmp(severity, "FATAL") == 0)
		s->farewell = session_error(s, result);
}

/* The startup packet asks the server to convert texts to UTF-8. A session that takes_raw asks it
 * for what it has instead. So does every session in a SQL_ASCII database, which has any bytes: a
 * server that must send UTF-8 raises an error when they are not that. */
static void choose_encoding(struct attempt *a)
{
	const char *name = PQparameterStatus(a->conn, "server_encoding");

	if (!name)
		return;
	bool must_convert = encoding_must_convert(name);
	if (must_convert && (!a->takes_raw || encoding_open(&a->encoding, name) < 0))
		return;
	if ((must_convert || strcmp(name, "SQL_ASCII") == 0) && PQsetClientEncoding(a->conn, name) != 0) {
		encoding_close(a->encoding);
		a->encoding = NULL;
	}
}

/* libpq gives no SQLSTATE of a connection that failed. A server or a pooler that says one of these
 * takes no session now; everything else that it says is about the URL or the role. */
bool session_may_heal(enum session_failure failure, const char *error)
{
	static const char *const heals[] = {
		"too many clients",
		"too many connections",
		"connection slots",
		"no more connections allowed",
		"server login",
		"cannot connect to server",
		"server conn",
		"query_wait_timeout",
		"shutting down",
		"starting up",
		"recovery mode",
		"not accepting connections",
	};

	if (failure != SESSION_REFUSED)
		return true;
	for (size_t i = 0; i < sizeof heals / sizeof *heals; i++)
		if (strstr(error, heals[i]))
			return true;
	return false;
}

/* libpq tries the hosts one after the other, each of them for connect_timeout; under 2 s it takes
 * 2. */
double session_connect_seconds(const char *url)
{
	double seconds = strtod(SESSION_CONNECT_SECONDS, NULL);
	unsigned n_hosts = 1;
	PQconninfoOption *options = PQconninfoParse(url, NULL);

	for (const PQconninfoOption *o = options; o && o->keyword; o++) {
		if (!o->val)
			continue;
		double timeout = strcmp(o->keyword, "connect_timeout") == 0 ? strtod(o->val, NULL) : 0;
		if (timeout > 0)
			seconds = timeout > 2 ? timeout : 2;
		unsigned n = 1;
		for (const char *comma = o->val; (comma = strchr(comma, ',')); comma++)
			n++;
		if ((strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "hostaddr") == 0) && n > n_hosts)
			n_hosts = n;
	}
	PQconninfoFree(options);
	return seconds * n_hosts;
}

static int copy_passfile(const char *url, char copy[PASSFILE_PATH_MAX])
{
	PQconninfoOption *options = PQconninfoParse(url, NULL);
	const char *path = NULL;

	for (const PQconninfoOption *o = options; o && o->keyword; o++)
		if (strcmp(o->keyword, "passfile") == 0)
			path = o->val;
	int fd = passfile_copy(path, copy);
	PQconninfoFree(options);
	return fd;
}

static void *attempt_run(void *arg)
{
	struct attempt *a = arg;
	char passfile[PASSFILE_PATH_MAX] = "";
	int passfile_fd = copy_passfile(a->url, passfile);
	/* Settings in the URL override those before dbname, and those after dbname override the
	 * URL. */
	const char *const keywords[] = {"connect_timeout", "application_name", "keepalives_idle",
		"keepalives_interval", "keepalives_count", "tcp_user_timeout", "dbname", "client_encoding",
		"passfile", NULL};
	const char *const values[] = {
		SESSION_CONNECT_SECONDS, a->name, "10", "3", "3", "15000", a->url, "UTF8", passfile, NULL};

	double start = clock_now();
	a->conn = PQconnectdbParams(keywords, values, 1);
	if (PQstatus(a->conn) != CONNECTION_OK) {
		/* libpq gives the reason only as text. A ping tells a server that is starting
		 * from one that refuses. */
		bool ask = a->first && clock_now() - start < PING_WORTH_SECONDS;
		switch (ask ? PQpingParams(keywords, values, 1) : PQPING_NO_RESPONSE) {
		case PQPING_OK:
			a->failure = SESSION_REFUSED;
			break;
		case PQPING_REJECT:
			a->failure = SESSION_STARTING;
			break;
		default:
			a->failure = SESSION_UNREACHABLE;
		}
	}
	if (passfile_fd >= 0)
		close(passfile_fd);
	choose_encoding(a);
	ev_async_send(a->loop, &a->done);
	return NULL;
}

static void read_next(struct session *s)
{
	ev_check_start(s->loop, &s->unannounced);
	ev_idle_start(s->loop, &s->no_wait);
}

static void stop_read_next(struct session *s)
{
	ev_check_stop(s->loop, &s->unannounced);
	ev_idle_stop(s->loop, &s->no_wait);
}

static void stop_watching(struct session *s)
{
	stop_read_next(s);
	ev_io_stop(s->loop, &s->reader);
	ev_io_stop(s->loop, &s->writer);
	ev_timer_stop(s->loop, &s->deadline);
}

static void lose(struct session *s, enum session_failure failure, const char *error)
{
	/* Copied first: it may be in the connection that session_close() frees. */
	struct session_text line = s->farewell.text[0] ? s->farewell : said(s, error);

	session_close(s);
	s->events->lost(s->context, failure, line.text);
}

static void drain(struct session *s)
{
	PGnotify *notify;

	while (s->conn && (notify = PQnotifies(s->conn))) {
		s->n_heard++;
		if (s->events->heard)
			s->events->heard(s->context, notify);
		PQfreemem(notify);
	}
}

/* False: a second row came where one at most is expected. libpq would keep all rows, and a
 * hostile server may never stop. *hand_out: false for the empty result that follows the row. */
static bool admit(struct session *s, const PGresult *result, bool *hand_out)
{
	ExecStatusType status = PQresultStatus(result);

	*hand_out = s->any_rows || !(status == PGRES_TUPLES_OK && s->has_row);
	if (status == PGRES_SINGLE_TUPLE && s->has_row && !s->any_rows)
		return false;
	s->has_row = status == PGRES_SINGLE_TUPLE;
	return true;
}

static void take_results(struct session *s)
{
	while (s->conn && s->on_result && !s->paused && !PQisBusy(s->conn)) {
		session_result_fn *on_result = s->on_result;
		PGresult *result = PQgetResult(s->conn);
		bool hand_out = true;
		if (result && !admit(s, result, &hand_out)) {
			PQclear(result);
			lose(s, SESSION_LOST, "the server sent more rows than it was asked for");
			return;
		}
		if (!result) {
			s->on_result = NULL;
			ev_timer_stop(s->loop, &s->deadline);
		}
		/* libpq keeps notifications that come while a statement runs. The owner hears
		 * them before the statement's end. To look after each of many rows costs as much as
		 * the row. */
		if (s->events->heard || !result)
			drain(s);
		if (s->conn && hand_out)
			on_result(s->context, result);
		PQclear(result);
	}
	drain(s);
}

/* A TLS record has up to 16 KiB, and libpq may have had room for less. Then the TLS library keeps
 * the rest, decrypted, and the socket does not become readable for it. */
static bool tls_has_unread(const struct session *s)
{
	const SSL *ssl = PQsslStruct(s->conn, "OpenSSL");

	return ssl && SSL_pending(ssl) > 0;
}

bool session_has_unread(const struct session *s)
{
	int bytes;

	return s->conn && !s->paused &&
	       (tls_has_unread(s) || (ioctl(PQsocket(s->conn), FIONREAD, &bytes) == 0 && bytes > 0));
}

/* Whether to read again in this iteration, after n reads. */
static bool read_on(struct session *s, unsigned n, double began)
{
	/* A single notification does not fill libpq's buffer, so it was all. */
	if (n >= s->reads_on || s->n_heard <= 1 || clock_now() - began >= READ_SECONDS)
		return false;
	return session_has_unread(s);
}

static void read_now(struct session *s)
{
	double began = clock_now();
	unsigned n = 0;
	int alive;

	stop_read_next(s);
	do {
		s->n_heard = 0;
		alive = PQconsumeInput(s->conn);
		/* A connection that was lost may have delivered data first. */
		take_results(s);
	} while (s->conn && alive && read_on(s, ++n, began));
	if (s->conn && (!alive || s->unsent || PQstatus(s->conn) != CONNECTION_OK))
		lose(s, SESSION_LOST, PQerrorMessage(s->conn));
	else if (s->conn && !s->paused && tls_has_unread(s))
		read_next(s);
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct session *s = watcher->data;

	(void)loop;
	if (events & EV_ERROR)
		lose(s, SESSION_LOST, "the kernel watches no more sockets for the relay");
	else
		read_now(s);
}

static void on_unannounced(struct ev_loop *loop, struct ev_check *watcher, int events)
{
	struct session *s = watcher->data;

	(void)loop;
	(void)events;
	/* on_readable() follows in this iteration, and reads as much. */
	if (!ev_is_pending(&s->reader))
		read_now(s);
}

static void on_no_wait(struct ev_loop *loop, struct ev_idle *watcher, int events)
{
	(void)loop;
	(void)watcher;
	(void)events;
}

/* A statement could not be sent. The reader ends the session, since the socket may still have
 * the server's last words. */
static void give_up(struct session *s)
{
	s->unsent = true;
	ev_feed_event(s->loop, &s->reader, EV_READ);
}

static void flush(struct session *s)
{
	switch (PQflush(s->conn)) {
	case 0:
		ev_io_stop(s->loop, &s->writer);
		break;
	case 1:
		ev_io_start(s->loop, &s->writer);
		/* While the server takes nothing, libpq reads. */
		if (!s->paused)
			read_next(s);
		break;
	default:
		ev_io_stop(s->loop, &s->writer);
		give_up(s);
	}
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	(void)events;
	flush(watcher->data);
}

static void on_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct session *s = timer->data;

	(void)events;
	/* The relay was late, not the server. */
	if (s->n_late < SESSION_LATE_MAX && session_has_unread(s)) {
		s->n_late++;
		timer_arm(loop, timer, LATE_SECONDS);
		return;
	}
	lose(s, SESSION_OVERDUE, "no answer in time");
}

static void on_attempt_done(struct ev_loop *loop, struct ev_async *watcher, int events)
{
	struct attempt *a = watcher->data;
	struct session *s = a->session;

	(void)events;
	ev_async_stop(loop, watcher);
	/* Does not wait: the signal was the thread's last act. Joining frees what OpenSSL keeps
	 * for the thread, and makes what it wrote visible here. */
	pthread_join(a->thread, NULL);
	PGconn *conn = a->conn;
	struct encoding *encoding = a->encoding;
	enum session_failure failure = a->failure;
	free(a);
	attempts_running--;
	if (!s) {
		encoding_close(encoding);
		PQfinish(conn);
		return;
	}
	s->attempt = NULL;
	if (PQstatus(conn) != CONNECTION_OK) {
		encoding_close(encoding);
		struct session_text line = one_line(conn ? PQerrorMessage(conn) : "out of memory");
		PQfinish(conn);
		s->events->lost(s->context, failure, line.text);
		return;
	}
	if (home_keeps_from_tls(conn))
		diag_limited(&plain_limit, DIAG_WARNING,
			"a connection to PostgreSQL is not encrypted, since libpq may not look for certificates in "
			"HOME; set HOME to a directory that this user may read, or sslmode=require");
	s->conn = conn;
	s->encoding = encoding;
	s->was_connected = true;
	s->paused = s->unsent = false;
	s->farewell.text[0] = '\0';
	PQsetnonblocking(conn, 1);
	PQsetNoticeReceiver(conn, on_notice, s);
	ev_io_set(&s->reader, PQsocket(conn), EV_READ);
	ev_io_set(&s->writer, PQsocket(conn), EV_WRITE);
	ev_io_start(loop, &s->reader);
	s->events->ready(s->context);
}

void session_init(struct session *s, struct ev_loop *loop, const char *url, const char *name,
	const struct session_events *events, void *context)
{
	*s = (struct session){.loop = loop, .url = url, .name = name, .events = events, .context = context};
	ev_io_init(&s->reader, on_readable, -1, EV_READ);
	ev_io_init(&s->writer, on_writable, -1, EV_WRITE);
	ev_check_init(&s->unannounced, on_unannounced);
	ev_idle_init(&s->no_wait, on_no_wait);
	/* PostgreSQL's sockets come before all others: the relay must always drain them. */
	ev_set_priority(&s->reader, EV_MAXPRI);
	ev_set_priority(&s->writer, EV_MAXPRI);
	ev_set_priority(&s->unannounced, EV_MAXPRI);
	timer_init(&s->deadline, on_deadline, s);
	s->reader.data = s->writer.data = s->unannounced.data = s;
}

int session_connect(struct session *s)
{
	assert(!s->attempt && !s->conn);
	struct attempt *a = malloc(sizeof *a);
	if (!a)
		return -ENOMEM;
	*a = (struct attempt){.session = s,
		.loop = s->loop,
		.url = s->url,
		.name = s->name,
		.first = !s->was_connected,
		.takes_raw = s->takes_raw};
	ev_async_init(&a->done, on_attempt_done);
	a->done.data = a;
	ev_async_start(s->loop, &a->done);
	int r = -pthread_create(&a->thread, NULL, attempt_run, a);
	if (r < 0) {
		ev_async_stop(s->loop, &a->done);
		free(a);
		return r;
	}
	attempts_running++;
	s->attempt = a;
	return 0;
}

void session_close(struct session *s)
{
	if (s->attempt)
		s->attempt->session = NULL;
	s->attempt = NULL;
	if (s->conn && s->on_result && s->cancels)
		cancel_statement(s->conn);
	s->on_result = NULL;
	if (!s->conn)
		return;
	stop_watching(s);
	PQfinish(s->conn);
	s->conn = NULL;
	encoding_close(s->encoding);
	s->encoding = NULL;
}

static bool send_statement(struct session *s, const struct session_statement *statement)
{
	const char *values[SESSION_PARAMS_MAX] = {0};
	int lens[SESSION_PARAMS_MAX] = {0}, formats[SESSION_PARAMS_MAX] = {0};
	Oid types[SESSION_PARAMS_MAX] = {0};

	assert(statement->n_params <= SESSION_PARAMS_MAX);
	if (statement->n_params == 0)
		return PQsendQuery(s->conn, statement->sql);
	for (int i = 0; i < statement->n_params; i++) {
		const struct session_param *param = &statement->params[i];
		values[i] = param->value;
		lens[i] = param->len;
		formats[i] = param->binary;
		types[i] = param->type;
	}
	return PQsendQueryParams(
		s->conn, statement->sql, statement->n_params, types, values, lens, formats, 0);
}

void session_query(struct session *s, const struct session_statement *statement, session_result_fn *on_result)
{
	assert(session_idle(s));
	if (!send_statement(s, statement)) {
		give_up(s);
		return;
	}
	s->on_result = on_result;
	s->any_rows = statement->any_rows;
	s->has_row = false;
	s->n_late = 0;
	PQsetSingleRowMode(s->conn);
	if (statement->seconds > 0)
		timer_arm(s->loop, &s->deadline, statement->seconds);
	flush(s);
}

void session_pause(struct session *s, bool pause)
{
	if (!s->conn || s->paused == pause)
		return;
	s->paused = pause;
	if (pause) {
		stop_read_next(s);
		ev_io_stop(s->loop, &s->reader);
	} else {
		ev_io_start(s->loop, &s->reader);
		/* libpq or the TLS library may have read rows already; the socket does not become
		 * readable for them. */
		ev_feed_event(s->loop, &s->reader, EV_READ);
	}
}

void session_read_on(struct session *s, size_t bytes)
{
	s->reads_on = (unsigned)(bytes / READ_SIZE);
}
