/* The operator's text socket, for socat: lines in, replies out. Each reply ends with a blank
 * line; the end of the input means "answer what was asked, then close". What a command does is
 * commands.c's; what a tail shows is tail.c's. A long reply is made in portions, one in each
 * slice of its user's. relay.c opens it; main.c hands it connections. */
#pragma once

#include "ops/connection.h"

/* Connections. At this many one is dropped for a new one, so that an operator on call always
 * gets in. */
#define OPS_CONNECTIONS_MAX 256
/* Of them, for root and the daemon's user. */
#define OPS_KEPT 64
#define OPS_IDLE_SECONDS 5.
/* Tails of one user, unless it is root or the daemon's user. Each tail costs time at every
 * frame, whether it is read or not. */
#define OPS_TAILS_PER_UID_MAX 8
/* While this many bytes wait for an operator, the relay makes no more of the replies. */
#define OPS_OUTPUT_MAX ((size_t)256 << 10)
/* An operator who takes none of the replies for this long is dropped. */
#define OPS_STALL_SECONDS 5.

struct ops {
	struct ops_connections connections;
	LIST_HEAD(, ops_client) tails; /* few of the connections, and each frame asks for them */
	struct ev_timer tick;          /* while there are connections */
};

/* parts must outlive it. */
void ops_init(struct ops *ops, struct parts *parts);
/* Drops operators who read nothing, and closes tails whose readers are gone. Each second, while there
 * are connections. */
void ops_tick(struct ops *ops);
void ops_close(struct ops *ops);
