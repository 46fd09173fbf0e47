/* The operator's text socket, for socat: a command a line, a reply that ends with a blank line. Reads the other parts,
 * changes nothing. main opens its gate. */
#pragma once

#include <ev.h>

struct relay;
struct ops_connection;

/* A command line, and what an operator may leave unread. */
#define OPS_LINE_MAX 1024
#define OPS_OUTPUT_MAX (1u << 20)
#define OPS_CONNECTIONS_MAX 128

struct ops {
	const struct relay *relay;
	struct ops_connection *connections;
	unsigned n_connections;
};

void ops_init(struct ops *ops, const struct relay *relay);
/* A gate's accepted; context is the struct ops. */
void ops_accepted(void *context, int fd);
void ops_close(struct ops *ops);
