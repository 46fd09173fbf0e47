/* Whether libpq can look for certificates in HOME. Where it cannot, a TLS connection fails, and
 * with sslmode=prefer, the default, libpq goes on without encryption and says nothing. session.c
 * asks after each connect. */
#pragma once

#include <libpq-fe.h>
#include <stdbool.h>

/* Whether that may be why this connection is not encrypted. */
bool home_keeps_from_tls(PGconn *conn);
