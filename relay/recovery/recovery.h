/* Missed changes that are for all workers. After the upstream was away, they go through the
 * backlog. For reconciliation, they go to reconcile.c. There is one question at a time
 * (changes_since.h), and recovery takes precedence. catch_up.c finds what a single worker
 * missed. relay.c and reconcile.c call this. */
#pragma once

#include "fanout/decode.h"
#include "fanout/fanout.h"
#include "postgres/upstream.h"
#include "recovery/changes_since.h"

/* Where the rows of a question go. */
struct recovery_sink {
	bool (*row)(void *context, struct decoded *decoded);
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text);
};

struct recovery_events {
	/* What recovery_for_backlog() asked for is in the backlog, or cannot be recovered.
	 * text: what went wrong, valid until the event returns. */
	void (*recovered)(void *context, enum changes_outcome outcome, const char *text);
};

struct recovery {
	const struct recovery_events *events;
	void *context;
	struct ev_loop *loop;
	const struct config *config;
	struct fanout *fanout;
	struct decode *decode;

	struct changes_since changes;
	const struct recovery_sink *sink; /* NULL: no question is under way */
	void *sink_context;
	struct ev_timer poll; /* until the next look whether workers have room for more rows */
	struct diag_limit limit, unserved_limit, json_limit;
	char trouble[256]; /* why the last question failed; empty: it did not */

	uint64_t n_questions, n_rows; /* including catch_up's */
	uint64_t n_unserved;          /* rows of channels that are not configured */
};

/* What recovery works with. All of it must outlive the recovery. */
struct recovery_uses {
	struct ev_loop *loop;
	const struct config *config;
	struct fanout *fanout;
	struct decode *decode;
	const struct upstream *upstream;
};

void recovery_init(struct recovery *recovery, const struct recovery_uses *uses,
	const struct recovery_events *events, void *context);
void recovery_close(struct recovery *recovery);
/* Puts what changed since the token into the backlog; recovered follows. Drops a question of
 * reconciliation. */
void recovery_for_backlog(struct recovery *recovery, const char *since);
/* Gives what changed since the token to the sink. sink must outlive the question. 0, or -EBUSY:
 * a question is under way. */
int recovery_for_reconciliation(
	struct recovery *recovery, const char *since, const struct recovery_sink *sink, void *context);
/* Asks what changed since the token, which is of now, and logs a WARNING if that fails: an
 * outage would show it too late. Does nothing while another question is under way. */
void recovery_try(struct recovery *recovery, const char *since);
/* Whether the question under way was asked before in vain. */
bool recovery_failed(const struct recovery *recovery);
/* Drops the question, without done. */
void recovery_abort(struct recovery *recovery);
/* Decodes a row. False: it is on a channel that is not configured, or is skipped with a
 * WARNING. *out points into channel and value. */
bool recovery_decode(struct recovery *recovery, const char *channel, struct wire_str value, uint32_t stored,
	struct decoded *out);
