#include "postgres.h"

#include "store.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONNECT_SECONDS "5"
#define ATTEMPTS 20
#define PAUSE_MAX_MS 100

/* It is logged that the database is away. All threads of this process share it, so it is
 * logged once. */
static atomic_bool away;

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void postgres_init(struct postgres *p, const char *url)
{
	*p = (struct postgres){.url = url, .random = (unsigned)now_ms() ^ (unsigned)(uintptr_t)p};
}

void postgres_close(struct postgres *p)
{
	PQfinish(p->conn);
	p->conn = NULL;
}

/* Wait until a result is available. Returns false if the connection is lost, or the deadline
 * has passed. */
static bool await(struct postgres *p)
{
	for (;;) {
		int unsent = PQflush(p->conn);
		if (unsent < 0)
			return false;
		if (!unsent && !PQisBusy(p->conn))
			return true;
		int64_t left = p->deadline - now_ms();
		struct pollfd pfd = {
			.fd = PQsocket(p->conn), .events = (short)(POLLIN | (unsent ? POLLOUT : 0))};
		if (left <= 0 || (poll(&pfd, 1, (int)left) < 0 && errno != EINTR) || !PQconsumeInput(p->conn))
			return false;
	}
}

/* The error to return for the result of a failed statement. */
static int failure(struct postgres *p, const PGresult *result, const char *what)
{
	const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

	if (PQstatus(p->conn) != CONNECTION_OK || !state)
		return POSTGRES_LOST;
	/* serialization_failure, deadlock_detected */
	if (strcmp(state, "40001") == 0 || strcmp(state, "40P01") == 0)
		return POSTGRES_RETRY;
	/* connection_exception, insufficient_resources, operator_intervention, system_error,
	 * read_only_sql_transaction */
	if (strncmp(state, "08", 2) == 0 || strncmp(state, "53", 2) == 0 || strncmp(state, "57", 2) == 0 ||
		strncmp(state, "58", 2) == 0 || strcmp(state, "25006") == 0)
		return POSTGRES_LOST;
	log_limited(&p->limit, LOG_LEVEL_ERROR, "PostgreSQL refuses to %s: %s sqlstate=%s", what,
		PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY), state);
	return -EIO;
}

int postgres_execute(struct postgres *p, const char *what, const char *sql, const struct params *params,
	bool binary, PGresult **out)
{
	static const struct params none;

	if (!params)
		params = &none;
	if (!PQsendQueryParams(p->conn, sql, params->n, params->types, params->values, params->lengths,
		    params->formats, binary) ||
		!await(p))
		return POSTGRES_LOST;
	PGresult *result = PQgetResult(p->conn), *end;
	while (await(p) && (end = PQgetResult(p->conn)) != NULL)
		PQclear(end);
	ExecStatusType status = PQresultStatus(result);
	int r = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : failure(p, result, what);
	if (r == 0 && out)
		*out = result;
	else
		PQclear(result);
	return r;
}

int postgres_execute_plain(struct postgres *p, const char *what, const char *sql)
{
	return postgres_execute(p, what, sql, NULL, false, NULL);
}

/* Notices are in the server's own log. */
static void ignore_notice(void *context, const char *message)
{
	(void)context;
	(void)message;
}

static int connect_again(struct postgres *p)
{
	/* The URL may override what comes before it. */
	static const char *const keywords[] = {"fallback_application_name", "connect_timeout",
		"tcp_user_timeout", "keepalives_idle", "dbname", "client_encoding", NULL};
	const char *const values[] = {"syncd", CONNECT_SECONDS, "10000", "30", p->url, "UTF8", NULL};

	p->conn = PQconnectdbParams(keywords, values, 1);
	int r = PQstatus(p->conn) == CONNECTION_OK && PQsetnonblocking(p->conn, 1) == 0 ? 0 : POSTGRES_LOST;
	PQsetNoticeProcessor(p->conn, ignore_notice, NULL);
	if (r < 0 && !atomic_exchange(&away, true)) {
		/* The first of several lines says what is wrong. It does not contain the
		 * password. */
		const char *why = PQerrorMessage(p->conn);
		log_line(LOG_LEVEL_WARNING,
			"PostgreSQL does not answer: %.*s; requests get 503 until it does",
			(int)strcspn(why, "\n"), why);
	} else if (r == 0 && atomic_exchange(&away, false)) {
		log_line(LOG_LEVEL_NOTICE, "PostgreSQL answers again");
	}
	if (r < 0)
		postgres_close(p);
	return r;
}

int postgres_with_retries(struct postgres *p, int (*once)(struct postgres *p, void *context), void *context)
{
	bool reconnected = false;

	p->deadline = now_ms() + STORE_SECONDS * 1000L;
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		int r = 0;
		if (!p->conn) {
			r = connect_again(p);
			reconnected = true;
		}
		if (r == 0)
			r = once(p, context);
		if (r == POSTGRES_RETRY && PQtransactionStatus(p->conn) != PQTRANS_IDLE &&
			postgres_execute_plain(p, "roll back", "ROLLBACK") < 0)
			r = POSTGRES_LOST;
		if (r == POSTGRES_RETRY) {
			/* A random pause: transactions that collided would otherwise collide
			 * again. */
			int bound = 1 << attempt < PAUSE_MAX_MS ? 1 << attempt : PAUSE_MAX_MS;
			poll(NULL, 0, 1 + rand_r(&p->random) % bound);
			if (now_ms() >= p->deadline)
				break;
			continue;
		}
		if (r >= 0)
			return r;
		postgres_close(p);
		if (r != POSTGRES_LOST)
			return r;
		if (reconnected || now_ms() >= p->deadline)
			return -ENOTCONN;
	}
	return -EAGAIN;
}
