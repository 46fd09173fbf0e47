/* The kinds of listeners: a process that hears all changes, or those of its own users, and counts them. Each
 * does what an app does for a change: receive it, decode it, run a callback. */
#pragma once

#include "bench.h"

struct listen {
	const char *addresses; /* of connections or sockets; listener i takes the ith */
	unsigned users, listeners;
	const char *command; /* of listen_command: words, separated by spaces */
	/* Of listen_ours: how many, the last ones, work for 20 ms of every 25, and do not read meanwhile. */
	unsigned busy;
	bool own; /* listener i hears only the users i, i + listeners, ...; only for listen_ours */
};

/* These return only when page->end is set, and die() on any failure. NULL: not built. */
typedef void listen_fn(const struct listen *listen, struct page *page, unsigned index);

listen_fn listen_direct; /* libpq, jansson */
listen_fn listen_bare;   /* libpq, without decoding */
listen_fn listen_ours;   /* libpgherald */
listen_fn listen_redis;  /* hiredis */
listen_fn listen_nats;   /* libnats */
/* Another program, with a client in another language. Its last arguments are the socket's path, a
 * descriptor of the page's memory, and where in it its struct slot begins. */
listen_fn listen_command;
