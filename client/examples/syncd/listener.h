/* The listening socket: TCP or Unix. main.c opens it once and every worker inherits it. */
#pragma once

#include "settings.h"

struct listener {
	int fd;
	char name[160];   /* for people: http://127.0.0.1:8080, or the path */
	const char *path; /* of a Unix socket, removed at the end; NULL for TCP */
	bool beyond_loopback;
};

/* Returns 0, or a negative errno after it has logged the reason. */
int listener_open(struct listener *listener, const struct settings *settings);
void listener_close(struct listener *listener);
