/* The operator's text socket, for socat: connections, lines in, replies out. A command a line; each reply
 * ends with a blank line; the end of the input means "answer what is asked, then close". What the commands
 * are stands in ops_commands, what a tail shows in tail. A long reply is made in portions, each when the turn
 * of the operator's user comes. relay.c passes connections to it. */
#pragma once

#include "base/outbox.h"
#include "fanout/users.h"
#include "ops/metrics.h"
#include "ops/places.h"
#include "ops/report.h"
#include "ops/tail.h"

#include <ev.h>
#include <sys/types.h>

struct parts;

/* A line, and thereby what is read of an operator ahead of the replies. */
#define OPS_LINE_MAX 4096
/* While so much waits for an operator, no more of his replies are made. */
#define OPS_OUTPUT_MAX ((size_t)256 << 10)
/* Whoever takes nothing of his replies for so long is dropped. */
#define OPS_STALL_SECONDS 5.
/* Past this many, others give way: who is on call always gets in. */
#define OPS_CONNECTIONS_MAX 256
/* Of them, for root and the daemon's user. */
#define OPS_KEPT 64
#define OPS_IDLE_SECONDS 5.
/* Tails of a user, but for root and the daemon's user. Each costs at every frame that is appended, read or
 * not. */
#define OPS_TAILS_PER_UID_MAX 8

struct ops_connection;

/* The reply that is being made. All zero: none is. */
struct ops_answer {
	/* Print the next portion. 1: it was the last. 0: there is more. -ENOMEM. */
	int (*go_on)(struct ops_connection *connection, FILE *out);
	bool json;
	struct metrics_page page;
	/* Of a table of workers: the next one's slot; how many were measured. */
	uint32_t slot;
	unsigned n_measured;
	struct report_table table;
};

struct ops_connection {
	struct ops *ops;
	struct place place;
	struct user *user;
	struct ready ready;
	struct ev_io reader, writer;
	int fd;
	bool ended;    /* it says no more: answer what is asked, then close */
	bool skipping; /* the rest of a line that is too long */
	size_t input_len;
	char input[OPS_LINE_MAX];
	struct outbox outbox;
	struct ops_answer answer;
	struct tail tail;
};

struct ops {
	struct parts *parts;
	struct places places;
	unsigned n_tails;
	uint64_t n_accepted, n_dropped;
};

void ops_init(struct ops *ops, struct parts *parts);
/* A listener's accepted; context is the struct ops. */
void ops_accepted(void *context, int fd);
/* Once a second: drops those who read nothing, and those who are gone. */
void ops_tick(struct ops *ops);
void ops_close(struct ops *ops);

/* For the command that begins one: from now on, show what the fan-out appends. */
void ops_tail_begin(struct ops_connection *connection, const struct tail *tail);
unsigned ops_tails_of(const struct ops *ops, uid_t uid);
/* For a command whose reply is made in portions. */
void ops_answer_begin(struct ops_connection *connection, bool json,
	int (*go_on)(struct ops_connection *connection, FILE *out));
