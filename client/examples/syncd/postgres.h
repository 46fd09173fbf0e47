/* One connection to PostgreSQL, or to a pooler in transaction mode before it, which may break at any moment;
 * and transactions on it, which may have to be tried again. Knows nothing of records; used by
 * records_postgres.c.
 *
 * libpq is used without blocking, since a server that hangs would hold a blocking call for ever: a call that
 * takes longer than STORE_SECONDS drops its connection. */
#pragma once

#include "log.h"

#include <errno.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#define PARAMS_MAX 5

struct postgres {
	const char *url;
	PGconn *conn;     /* NULL: to be made when it is needed */
	int64_t deadline; /* of this call, ms of CLOCK_MONOTONIC */
	unsigned random;
	struct log_limit limit;
};

/* What a statement may return beside what store.h lists: the transaction is to be tried again; the connection
 * is lost. */
enum { POSTGRES_RETRY = -ERESTART, POSTGRES_LOST = -ECONNRESET };

struct params {
	int n;
	Oid types[PARAMS_MAX];
	const char *values[PARAMS_MAX];
	int lengths[PARAMS_MAX], formats[PARAMS_MAX];
};

void postgres_init(struct postgres *postgres, const char *url);
void postgres_close(struct postgres *postgres);

/* One statement. 0, and *out, if asked for, is the caller's; or a negative errno: -EIO is logged, with what
 * it was to do. params may be NULL. The results are binary or text. */
int postgres_execute(struct postgres *postgres, const char *what, const char *sql,
	const struct params *params, bool binary, PGresult **out);
int postgres_execute_plain(struct postgres *postgres, const char *what, const char *sql);

/* Do it: one transaction, on a connection that may turn out to be dead, and as often as PostgreSQL asks for
 * it. Returns what once did, or -EAGAIN or -ENOTCONN as store.h has them. */
int postgres_with_retries(
	struct postgres *postgres, int (*once)(struct postgres *postgres, void *context), void *context);
