/* Cancels a statement at the server when its connection is given up. A server notices that a
 * client is gone only when it sends something: until then a function that hangs keeps its
 * backend, and before PostgreSQL 14 nothing bounds that. session.c calls it. */
#pragma once

#include <libpq-fe.h>

/* Cancel what the connection runs. Does not wait: a thread connects and asks. The connection may
 * be closed as soon as this returns. Does nothing if it cannot. */
void cancel_statement(PGconn *conn);

/* How many threads still ask. */
unsigned cancel_running(void);
