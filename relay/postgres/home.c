#include "postgres/home.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As libpq finds it. */
static const char *home(void)
{
	const char *path = getenv("HOME");

	if (path && *path)
		return path;
	const struct passwd *user = getpwuid(geteuid());
	return user ? user->pw_dir : "";
}

/* libpq takes a missing file for none, and any other failure for an error. */
static bool is_closed(void)
{
	char path[512];
	struct stat st;

	snprintf(path, sizeof path, "%s/.postgresql/postgresql.crt", home());
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
