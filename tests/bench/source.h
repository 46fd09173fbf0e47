/* Where a measurement's changes come from: a PostgreSQL client, one of Redis or NATS, or the floor, a bare
 * loop of sends. */
#pragma once

#include "bench.h"

struct source {
	const char *address;
	unsigned users;
	uint64_t random;
	struct floor *floor;
	void *connection;
};

/* Most changes at once. */
#define SOURCE_BATCH_MAX 4096

struct source_kind {
	void (*open)(struct source *source);
	/* Publish n changes, in one transaction or pipelined. Returns when they are committed or sent. NULL:
	 * not built. */
	void (*publish)(struct source *source, unsigned n);
};

extern const struct source_kind source_postgres, source_floor, source_redis, source_nats;

/* One of its users. */
uint64_t some_user(struct source *source);
