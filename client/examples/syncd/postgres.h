/* One connection to PostgreSQL, or to a pooler in transaction mode in front of it. It may break
 * at any moment, and a transaction may have to be tried again. Knows nothing of records;
 * records_postgres.c uses it.
 *
 * It uses libpq's non-blocking calls, because a server that hangs would hold a blocking call
 * for ever. A call that takes longer than STORE_SECONDS drops its connection. */
#pragma once

#include "log.h"

#include <errno.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#define PARAMS_MAX 5

struct postgres {
	const char *url;
	PGconn *conn;     /* NULL until it is needed */
	int64_t deadline; /* of this call, ms of CLOCK_MONOTONIC */
	unsigned random;
	struct log_limit limit;
};

/* What a statement may return in addition to what store.h lists: try the transaction again;
 * the connection is lost. */
enum { POSTGRES_RETRY = -ERESTART, POSTGRES_LOST = -ECONNRESET };

struct params {
	int n;
	Oid types[PARAMS_MAX];
	const char *values[PARAMS_MAX];
	int lengths[PARAMS_MAX], formats[PARAMS_MAX];
};

void postgres_init(struct postgres *postgres, const char *url);
void postgres_close(struct postgres *postgres);

/* Run one statement. Returns 0 or a negative errno; -EIO is logged, with `what`. params may
 * be NULL. out may be NULL; otherwise the caller clears *out after success. binary: the
 * format of the results. */
int postgres_execute(struct postgres *postgres, const char *what, const char *sql,
	const struct params *params, bool binary, PGresult **out);
int postgres_execute_plain(struct postgres *postgres, const char *what, const char *sql);

/* Run `once`, which is one transaction: again on a new connection if the old one is dead,
 * and again as often as PostgreSQL asks for. Returns what `once` returned, or -EAGAIN or
 * -ENOTCONN as in store.h. */
int postgres_with_retries(
	struct postgres *postgres, int (*once)(struct postgres *postgres, void *context), void *context);
