/* What a request's path asks for, and the names and numbers of a request, validated: pure code, no I/O.
 * Called by asked.c and api.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER_MAX 255
#define ID_MAX 255
#define CLIENT_ID_MAX 128
/* JavaScript's largest exact integer: clients are told revisions in JSON. */
#define REVISION_MAX INT64_C(9007199254740991)

enum endpoint {
	ENDPOINT_NONE,
	ENDPOINT_RECORD,
	ENDPOINT_CHANGES,
	ENDPOINT_LISTEN,
	ENDPOINT_PAGE,
	ENDPOINT_HEALTH
};

struct route {
	enum endpoint endpoint;
	const char *methods; /* that it allows */
	char user[USER_MAX + 1], id[ID_MAX + 1];
};

/* Take apart a path as it was sent, still percent-encoded. NULL, or why it cannot be: the 400's reason. A
 * path that is nothing's has ENDPOINT_NONE. */
const char *route_parse(struct route *route, const char *path);

/* A name of a user, a record or a client: 1 to max bytes of UTF-8 without control characters. */
bool name_valid(const char *name, size_t max);

/* A decimal revision, 0 to REVISION_MAX. */
bool revision_parse(const char *text, int64_t *out);
