/* The operator's text socket, for socat: connections, lines in, replies out. A command a line; each reply
 * ends with a blank line; the end of the input means "answer what is asked, then close". What the commands
 * are stands in ops_commands, what a tail shows in tail. main opens its gate. */
#pragma once

#include "outbox.h"
#include "tail.h"

#include <ev.h>
#include <sys/types.h>

struct relay;

/* A line, and thereby what is read of an operator ahead of the replies. */
#define OPS_LINE_MAX 4096
/* While so much waits for an operator, no more of his commands are run. */
#define OPS_OUTPUT_MAX ((size_t)256 << 10)
/* Whoever takes nothing of his replies for so long is dropped. */
#define OPS_STALL_SECONDS 5.
/* Past this many, the one that has asked nothing for longest gives way: who is on call always gets in. */
#define OPS_CONNECTIONS_MAX 64
#define OPS_IDLE_SECONDS 5.

struct ops_connection {
	struct ops *ops;
	struct ops_connection *next, *prev;
	struct ev_io reader, writer;
	struct ev_timer turn; /* the next of the loop, for lines that are left */
	int fd;
	uid_t uid;
	double active; /* when it last said something */
	bool ended;    /* it says no more: answer what is asked, then close */
	bool skipping; /* the rest of a line that is too long */
	size_t input_len;
	char input[OPS_LINE_MAX];
	struct outbox outbox;
	struct tail tail;
};

struct ops {
	struct relay *relay;
	struct ops_connection *connections;
	unsigned n_connections, n_tails;
	uint64_t n_accepted, n_commands, n_dropped;
};

void ops_init(struct ops *ops, struct relay *relay);
/* A gate's accepted; context is the struct ops. */
void ops_accepted(void *context, int fd);
/* Once a second: drops those who read nothing, and those who are gone. */
void ops_tick(struct ops *ops);
void ops_close(struct ops *ops);

/* For the command that begins one: from now on, show what the fan-out appends. */
void ops_tail_begin(struct ops_connection *connection, const struct tail *tail);
