/* The ops socket's commands: one line in, one reply out. Reads all parts of the relay; only kill, log and
 * reconnect change anything, and only for root and the daemon's own user. The ops socket calls it. */
#pragma once

#include <stdio.h>

struct ops_connection;

/* line: without its newline; it is cut into words. The reply has no blank line at its end yet. */
void ops_command(struct ops_connection *connection, const char *line, FILE *out);
