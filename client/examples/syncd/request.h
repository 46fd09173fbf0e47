/* One request of a client: reads its body, and answers it from the database threads
 * (records), with a stream, or at once. Both functions are callbacks of libmicrohttpd, with
 * the struct http as their context. http.c sets them. */
#pragma once

#include <microhttpd.h>

/* Bytes of bodies, in and out, of all requests of a worker. */
#define HELD_MAX (64 << 20)
/* A body that is refused is still read, up to this many bytes: many clients do not
 * read the answer before they have sent the body. */
#define DISCARD_MAX (16 << 20)

enum MHD_Result request_handle(void *context, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *data, size_t *size, void **con_cls);
void request_completed(void *context, struct MHD_Connection *connection, void **con_cls,
	enum MHD_RequestTerminationCode how);
