/* What a request asks for, and whether it is allowed, from its path and its headers.
 * request.c calls it before it reads the body. api.c checks the body. */
#pragma once

#include "route.h"

#include <microhttpd.h>

struct asked {
	struct route route;
	char client_id[CLIENT_ID_MAX + 1]; /* empty if the client gave none */
	int64_t since;
	unsigned refused; /* the status, with why; 0 if the request is allowed */
	const char *why;
	bool last; /* the connection must be closed after the answer */
};

void asked_check(
	struct asked *asked, struct MHD_Connection *connection, const char *path, const char *method);

/* Refuse it. Only the first call counts. why: a constant string. */
void asked_refuse(struct asked *asked, unsigned status, const char *why);
