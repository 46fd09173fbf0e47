/* The ops socket's commands: one line in, one reply out. They read all parts of the relay; only
 * kill, log and reconnect change anything, and only for root and the daemon's user. Nothing
 * here knows of connections: the ops socket runs each line, and then what the command left to
 * be done. */
#pragma once

#include "ops/metrics.h"
#include "ops/report.h"
#include "ops/tail.h"

#include <stdio.h>
#include <sys/types.h>

/* Bytes of a command with its newline, and thus what is read of an operator ahead of the
 * replies. */
#define OPS_LINE_MAX 4096

/* What a command has not printed yet. All zero: nothing. */
struct ops_answer {
	/* Print the next portion. 1: it was the last. 0: there is more. -ENOMEM. NULL: the
	 * reply is whole. */
	int (*go_on)(struct ops_answer *answer, const struct parts *parts, FILE *out);
	bool json;
	struct metrics_page page;
	/* Of a table of workers: the next worker's slot, and how many were measured. */
	uint32_t slot;
	unsigned n_measured;
	struct report_table table;
	/* If it is on, it begins after this reply. */
	struct tail tail;
};

/* Run one line, which has no newline, for this user. The reply has no blank line at its end
 * yet. answer: all zero; the caller ends it with ops_answer_end(). */
void ops_command(struct parts *parts, uid_t uid, const char *line, FILE *out, struct ops_answer *answer);
/* Release what it holds, and make it all zero. */
void ops_answer_end(struct ops_answer *answer);
