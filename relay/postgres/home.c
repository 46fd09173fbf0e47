#include "postgres/home.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* libpq takes a missing file for none, and any other failure for an error. */
static bool is_closed(void)
{
	const char *home = getenv("HOME");
	char path[512];
	struct stat st;

	/* Without HOME, libpq takes the user's own. */
	if (!home || !*home)
		return false;
	snprintf(path, sizeof path, "%s/.postgresql/postgresql.crt", home);
	return stat(path, &st) < 0 && errno != ENOENT && errno != ENOTDIR;
}

static bool has_sslmode(PGconn *conn, const char *mode)
{
	PQconninfoOption *options = PQconninfo(conn);
	bool found = false;

	for (const PQconninfoOption *o = options; o && o->keyword; o++)
		if (strcmp(o->keyword, "sslmode") == 0)
			found = o->val && strcmp(o->val, mode) == 0;
	PQconninfoFree(options);
	return found;
}

bool home_keeps_from_tls(PGconn *conn)
{
	const char *host = PQhost(conn);
	/* A Unix socket needs no encryption. */
	bool is_local = !host || !*host || *host == '/' || *host == '@';

	return !is_local && !PQsslInUse(conn) && is_closed() && has_sslmode(conn, "prefer");
}
