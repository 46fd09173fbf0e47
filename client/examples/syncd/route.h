/* Parses the path of a request, and validates its names and numbers. Pure code without I/O.
 * asked.c and api.c call it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER_MAX 255
#define ID_MAX 255
#define CLIENT_ID_MAX 128
/* The largest integer that JavaScript represents exactly: clients get revisions in JSON. */
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
	const char *methods; /* that the endpoint allows */
	char user[USER_MAX + 1], id[ID_MAX + 1];
};

/* Parse a path as it was sent, still percent-encoded. Returns NULL, or the reason for a 400.
 * An unknown path gives ENDPOINT_NONE. */
const char *route_parse(struct route *route, const char *path);

/* A name of a user, a record or a client: 1 to max bytes of UTF-8 without control
 * characters. */
bool name_valid(const char *name, size_t max);

/* A decimal revision, 0 to REVISION_MAX. */
bool revision_parse(const char *text, int64_t *out);
