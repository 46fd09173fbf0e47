/* One listener each: a process that hears all, or its own users' changes, and counts them. Each does what an
 * app of its kind does for a change: receive it, decode it, run a callback. */
#pragma once

#include "bench.h"

struct listen {
	const char *addresses; /* of connections or sockets; listener i takes the ith */
	unsigned users, listeners;
	bool own; /* listener i hears the users i, i + listeners, ...; ours only */
};

/* These return only when the page says the end; on any failure they die(). NULL in the list: not built. */
typedef void listen_fn(const struct listen *listen, struct page *page, unsigned index);

listen_fn listen_direct; /* libpq, jansson */
listen_fn listen_bare;   /* libpq, and nothing done with it */
listen_fn listen_ours;   /* libpgherald */
listen_fn listen_redis;  /* hiredis */
listen_fn listen_nats;   /* libnats */
