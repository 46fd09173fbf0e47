/* One request of a client: its body is taken, and it is answered by the database threads (records), by a
 * stream, or at once. Both functions are libmicrohttpd's callbacks, with the struct http as their context;
 * set by http.c. */
#pragma once

#include <microhttpd.h>

/* Bodies, in and out, of all requests of a worker. */
#define HELD_MAX (64 << 20)
/* A body that is refused is read to its end all the same, as far as this: many clients read no answer before.
 */
#define DISCARD_MAX (16 << 20)

enum MHD_Result request_handle(void *context, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *data, size_t *size, void **con_cls);
void request_completed(void *context, struct MHD_Connection *connection, void **con_cls,
	enum MHD_RequestTerminationCode how);
