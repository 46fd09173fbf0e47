/* The two calls on records: JSON in, checks, JSON out. Without I/O except the store. They
 * run in the database threads, because a large body takes time. request.c calls them. */
#pragma once

#include "store.h"

/* Bytes, decoded. A body is that in base64, and 4 KiB for the rest of the JSON. */
#define DATA_MAX (1 << 20)
#define BODY_MAX (DATA_MAX / 3 * 4 + 4096)
#define SCHEMA_VERSION_MAX 64

struct api_reply {
	unsigned status;
	char *body;   /* JSON, which the caller frees; NULL if out of memory */
	bool changed; /* something was committed, so publish it */
};

void api_put(const struct store_kind *kind, struct store *store, const char *user, const char *id,
	const char *body, size_t size, struct api_reply *reply);
void api_changes(const struct store_kind *kind, struct store *store, const char *user, int64_t since,
	struct api_reply *reply);

/* {"error": "..."}, which the caller frees; NULL if out of memory. */
char *api_error(const char *why);
