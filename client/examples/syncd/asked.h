/* What a request asks for, and whether it may, told from its path and its headers. Called by request.c before
 * anything of a body is read; what a body says is checked by api.c. */
#pragma once

#include "route.h"

#include <microhttpd.h>

struct asked {
	struct route route;
	char client_id[CLIENT_ID_MAX + 1]; /* empty: none */
	int64_t since;
	unsigned refused; /* the status, and why; 0: it is well */
	const char *why;
	bool last; /* its connection can be read no further */
};

void asked_check(
	struct asked *asked, struct MHD_Connection *connection, const char *path, const char *method);

/* The first reason counts. */
void asked_refuse(struct asked *asked, unsigned status, const char *why);
