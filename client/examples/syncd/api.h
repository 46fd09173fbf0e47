/* The two calls on records: JSON in, JSON out, checked between. Pure but for the store; they run in the
 * database threads, since a large body takes its time. Called by request.c. */
#pragma once

#include "store.h"

/* Decoded. A body is that in base64, and some. */
#define DATA_MAX (1 << 20)
#define BODY_MAX (DATA_MAX / 3 * 4 + 4096)
#define SCHEMA_VERSION_MAX 64

struct api_reply {
	unsigned status;
	char *body;   /* JSON, the caller's to free; NULL: memory is short */
	bool changed; /* something was committed: to be notified */
};

void api_put(const struct store_kind *kind, struct store *store, const char *user, const char *id,
	const char *body, size_t size, struct api_reply *reply);
void api_changes(const struct store_kind *kind, struct store *store, const char *user, int64_t since,
	struct api_reply *reply);

/* {"error": "..."} */
char *api_error(const char *why);
