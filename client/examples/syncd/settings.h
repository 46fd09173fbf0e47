/* The settings: an environment variable each, and an option, which takes precedence. main.c
 * loads and checks them before it opens anything. DATABASE_URL has no option, because every
 * user can read a command line. */
#pragma once

#include <stdbool.h>

#define WORKERS_MAX 64

struct settings {
	const char *database_url; /* NULL for SQLite */
	const char *sqlite;       /* path of the file */
	const char *listen;
	const char *relay; /* path of the relay's socket; empty for the library's local notifier */
	const char *channel;
	unsigned socket_mode, workers;
	unsigned connections; /* of each worker to the database */
	unsigned streams_max, streams_per_user_max;
};

/* Returns 0, 1 if there is nothing more to do (--help), or -EINVAL after it has logged the
 * reason. */
int settings_load(struct settings *settings, int argc, char **argv);
