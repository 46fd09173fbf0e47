/* The settings: the environment first, a flag for each, every default once. Loaded and checked by main.c
 * before anything is opened; DATABASE_URL has no flag, since a command line is everybody's to read. */
#pragma once

#include <stdbool.h>

#define WORKERS_MAX 64

struct settings {
	const char *database_url; /* NULL: SQLite */
	const char *sqlite;       /* its path */
	const char *listen;
	const char *relay; /* the relay's socket; empty: the library's own notifier, for one process */
	const char *channel;
	unsigned socket_mode, workers;
	unsigned connections; /* to the database, of each worker */
	unsigned streams_max, streams_per_user_max;
};

/* 0, 1 when there is nothing more to do (--help), or -EINVAL when the reason is logged. */
int settings_load(struct settings *settings, int argc, char **argv);
