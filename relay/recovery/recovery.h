/* Missed changes that are for all workers: through the backlog, after the upstream was away; and for
 * reconciliation. Asks the database through changes_since. What one worker missed, catch_up finds out. main
 * and reconcile call it. */
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

struct recovery {
	struct ev_loop *loop;
	const struct config *config;
	struct fanout *fanout;
	struct decode *decode;

	struct changes_since backlog_changes; /* for the backlog, or else for reconciliation */
	const struct recovery_sink *sink;     /* NULL: no question is under way */
	void *sink_context;
	void (*on_backlog_done)(
		void *context, enum changes_outcome outcome, const char *token, const char *text);
	void *context; /* on_backlog_done's */
	struct ev_timer poll;
	struct diag_limit limit;

	uint64_t n_questions, n_rows; /* catch_up's too */
};

void recovery_init(struct recovery *recovery, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct decode *decode, const struct upstream *upstream);
void recovery_close(struct recovery *recovery);
/* Recovered changes go into the backlog, then done is called. Reconciliation gives way. */
void recovery_for_backlog(struct recovery *recovery, const char *since,
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text),
	void *context);
/* -EBUSY: the lane is taken. */
int recovery_for_reconciliation(
	struct recovery *recovery, const char *since, const struct recovery_sink *sink, void *context);
/* Whether the question under way was tried before in vain. */
bool recovery_failed(const struct recovery *recovery);
/* Forget what recovery_for_backlog() or recovery_for_reconciliation() asked. */
void recovery_abort(struct recovery *recovery);
/* Makes a row a change or a message. False: the row is for nobody, or is skipped with a WARNING. */
bool recovery_decode(
	struct recovery *recovery, const char *channel, struct wire_str value, struct decoded *out);
