#include "recovery.h"

#include "clock.h"
#include "diag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* While rows wait for a worker, or a worker for a lane. */
#define POLL_SECONDS 0.005
/* How many rows go into the backlog between two looks at who falls behind. */
#define CROWDED_EVERY 64

static void assign(struct recovery *r);

static void poll_on(struct recovery *r)
{
	if (!ev_is_active(&r->poll))
		ev_timer_again(r->loop, &r->poll);
}

/* Makes a row a change or a message; false when it is for nobody. One row that nobody could have notified
 * must not keep all others back. */
static bool decode_row(struct recovery *r, const char *channel, struct wire_str value, struct decoded *out)
{
	int result = decode_recovered(r->decode, channel, value, out);

	r->n_rows++;
	if (result == -EBADMSG)
		diag_limited(&r->row_limit, DIAG_WARNING,
			"a recovered row is skipped, since no NOTIFY carries its value; mend the row or the function "
			"channel=\"%s\" length=%u",
			channel, value.len);
	return result == 0;
}

/* The backlog's lane */

static void on_backlog_asking(void *context)
{
	struct recovery *r = context;

	r->n_questions++;
}

static bool on_backlog_lane_row(void *context, const char *channel, struct wire_str value)
{
	struct recovery *r = context;
	struct decoded decoded;

	if (!decode_row(r, channel, value, &decoded))
		return true;
	bool more = r->taker->row(r->taker_context, &decoded);
	if (!more)
		poll_on(r);
	return more;
}

static void on_backlog_lane_done(
	void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct recovery *r = context;
	const struct recovery_taker *taker = r->taker;

	r->taker = NULL;
	taker->done(r->taker_context, outcome, token, text);
}

static const struct changes_events backlog_events = {
	on_backlog_asking, on_backlog_lane_row, on_backlog_lane_done};

static bool on_row_for_backlog(void *context, struct decoded *decoded)
{
	struct recovery *r = context;

	fanout_decoded(r->fanout, decoded, WIRE_RECOVERED);
	return r->n_rows % CROWDED_EVERY != 0 || !fanout_crowded(r->fanout);
}

static void on_done_for_backlog(
	void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct recovery *r = context;

	r->on_backlog_done(r->context, outcome, token, text);
}

static const struct recovery_taker backlog_taker = {on_row_for_backlog, on_done_for_backlog};

void recovery_for_backlog(struct recovery *r, const char *since,
	void (*done)(void *context, enum changes_outcome outcome, const char *token, const char *text),
	void *context)
{
	recovery_abort(r);
	r->on_backlog_done = done;
	r->context = context;
	r->taker = &backlog_taker;
	r->taker_context = r;
	changes_ask(&r->backlog_changes, since, r->config->recovery_rate);
}

int recovery_for_reconciliation(
	struct recovery *r, const char *since, const struct recovery_taker *taker, void *context)
{
	if (r->taker)
		return -EBUSY;
	r->taker = taker;
	r->taker_context = context;
	/* The rate is for what an outage leaves. Reconciliation must keep pace with the changes. */
	changes_ask(&r->backlog_changes, since, 0);
	return 0;
}

bool recovery_failed(const struct recovery *r)
{
	return r->taker && r->backlog_changes.failed;
}

void recovery_abort(struct recovery *r)
{
	if (!r->taker)
		return;
	r->taker = NULL;
	changes_abort(&r->backlog_changes);
}

/* The workers' lanes */

static void on_lane_asking(void *context)
{
	struct recovery_lane *lane = context;

	lane->asked = true;
	lane->head = lane->recovery->fanout->backlog.head;
	lane->recovery->n_questions++;
	for (struct recovery_member *m = lane->members; m; m = m->next)
		m->worker->cursor = lane->head;
}

static bool all_take_more(const struct recovery_lane *lane)
{
	for (struct recovery_member *m = lane->members; m; m = m->next)
		if (!worker_takes_more(m->worker))
			return false;
	return true;
}

static bool on_lane_row(void *context, const char *channel, struct wire_str value)
{
	struct recovery_lane *lane = context;
	struct recovery *r = lane->recovery;
	struct decoded decoded;

	if (!decode_row(r, channel, value, &decoded))
		return true;
	/* A worker for which memory is short is closed, and takes its member along. */
	for (struct recovery_member *m = lane->members, *next; m; m = next) {
		next = m->next;
		worker_recovered(m->worker, &decoded);
	}
	bool more = all_take_more(lane);
	if (!more)
		poll_on(r);
	return more;
}

static const char *cause_of(const struct worker *w, enum changes_outcome outcome)
{
	return outcome == CHANGES_WRONG ? "recovery" : w->begun ? "restart" : "overrun";
}

static void tell_gap(struct recovery *r, struct worker *w, uint64_t seq, const char *token,
	enum changes_outcome outcome, const char *text)
{
	const char *cause = cause_of(w, outcome);

	r->n_gaps++;
	diag_limited(&r->limit, DIAG_WARNING, "a worker is told of a gap: %s cause=%s worker=%llu pid=%d",
		text, cause, (unsigned long long)w->id, (int)w->pid);
	worker_caught_up(w, seq, token, cause, text);
}

/* Where a worker goes on from. asked: the moment that was asked about, which is not on disk yet. So it is the
 * relay's checkpoint of when it asked, if that is of the same time, or else the one that the worker has; only
 * after a gap that one may mean nothing. */
static const char *passed_by(
	const struct recovery_lane *lane, const struct worker *w, const char *asked, bool gap)
{
	const struct checkpoint *at = checkpoint_history_at(&lane->recovery->fanout->checkpoints, lane->head);

	if (at && asked && checkpoint_precedes(at->token, asked) &&
		(gap || checkpoint_is_newer(at->token, w->passed->token)))
		return at->token;
	return gap ? asked : w->passed->token;
}

static void on_lane_done(void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct recovery_lane *lane = context;

	while (lane->members) {
		struct recovery_member *m = lane->members;
		struct worker *w = m->worker;
		lane->members = m->next;
		w->catch_up = NULL;
		free(m);
		if (outcome == CHANGES_COMPLETE)
			worker_caught_up(w, lane->head, passed_by(lane, w, token, false), NULL, NULL);
		else
			tell_gap(lane->recovery, w, lane->asked ? lane->head : w->fanout->backlog.head,
				passed_by(lane, w, token, true), outcome, text);
	}
	lane->asked = false;
	assign(lane->recovery);
}

static const struct changes_events lane_events = {on_lane_asking, on_lane_row, on_lane_done};

static void append(struct recovery_member **list, struct recovery_member *m)
{
	while (*list)
		list = &(*list)->next;
	m->next = NULL;
	*list = m;
}

static bool take_out(struct recovery_member **list, const struct recovery_member *m)
{
	while (*list && *list != m)
		list = &(*list)->next;
	if (!*list)
		return false;
	*list = m->next;
	return true;
}

static void join(struct recovery_lane *lane, struct recovery_member *m)
{
	m->pending = 0;
	m->pending_since = clock_now();
	append(&lane->members, m);
}

/* A lane that is about to ask the same, else one that is free. */
static struct recovery_lane *lane_for(struct recovery *r, const char *token)
{
	struct recovery_lane *vacant = NULL;

	for (int i = 0; i < RECOVERY_LANES; i++) {
		struct recovery_lane *lane = &r->lanes[i];
		if (!changes_busy(&lane->changes))
			vacant = lane;
		else if (!lane->asked && strcmp(lane->changes.since, token) == 0)
			return lane;
	}
	return vacant;
}

static void assign(struct recovery *r)
{
	for (struct recovery_member *m = r->waiting, *next; m; m = next) {
		next = m->next;
		const char *token = m->worker->passed->token;
		struct recovery_lane *lane = lane_for(r, token);
		if (!lane)
			continue;
		take_out(&r->waiting, m);
		join(lane, m);
		if (!changes_busy(&lane->changes)) {
			struct checkpoint *passed = checkpoint_ref(m->worker->passed);
			lane->asked = false;
			changes_ask(&lane->changes, passed->token, r->config->recovery_rate);
			checkpoint_unref(passed);
		}
	}
}

void recovery_catch_up(struct recovery *r, struct worker *w, bool recoverable)
{
	struct recovery_member *m = recoverable && w->passed ? calloc(1, sizeof *m) : NULL;

	if (!m) {
		tell_gap(r, w, r->fanout->backlog.head, NULL, CHANGES_NO_FUNCTION,
			!recoverable
				? "what it missed is no longer in the backlog, and there is no recovery function"
				: "what it missed is no longer in the backlog, and it has no checkpoint");
		return;
	}
	m->worker = w;
	w->catch_up = m;
	append(&r->waiting, m);
	/* Not before the end of this turn: others may ask the same in it. */
	poll_on(r);
}

static void free_lane(struct recovery_lane *lane)
{
	if (lane->members || !changes_busy(&lane->changes))
		return;
	changes_abort(&lane->changes);
	lane->asked = false;
}

void recovery_forget(struct recovery *r, struct worker *w)
{
	struct recovery_member *m = w->catch_up;

	w->catch_up = NULL;
	if (!take_out(&r->waiting, m) && !take_out(&r->resting, m)) {
		int i = 0;
		while (!take_out(&r->lanes[i].members, m))
			i++;
		/* The lane may be in the middle of a row; the poll gives it up. */
		poll_on(r);
	}
	free(m);
}

/* Those who took nothing for long leave the lane. */
static void part_from_stalled(struct recovery_lane *lane)
{
	struct recovery *r = lane->recovery;
	double now = clock_now();

	for (struct recovery_member *m = lane->members, *next; m; m = next) {
		size_t pending = m->worker->private.end - m->worker->private.start;
		next = m->next;
		if (worker_takes_more(m->worker) || pending < m->pending || m->pending == 0) {
			m->pending = pending;
			m->pending_since = now;
		} else if (now - m->pending_since > RECOVERY_STALL_SECONDS) {
			take_out(&lane->members, m);
			append(&r->resting, m);
		}
	}
	free_lane(lane);
}

static void on_poll(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct recovery *r = timer->data;
	bool busy = false;

	(void)events;
	if (r->taker && r->backlog_changes.wants_pause) {
		if (fanout_crowded(r->fanout))
			busy = true;
		else
			changes_more(&r->backlog_changes);
	}
	for (int i = 0; i < RECOVERY_LANES; i++) {
		struct recovery_lane *lane = &r->lanes[i];
		part_from_stalled(lane);
		if (!changes_busy(&lane->changes) || !lane->changes.wants_pause)
			continue;
		if (all_take_more(lane))
			changes_more(&lane->changes);
		else
			busy = true;
	}
	for (struct recovery_member *m = r->resting, *next; m; m = next) {
		next = m->next;
		busy = true;
		if (m->worker->private.n > 0)
			continue;
		take_out(&r->resting, m);
		append(&r->waiting, m);
	}
	assign(r);
	if (!busy)
		ev_timer_stop(loop, timer);
}

void recovery_init(struct recovery *r, struct ev_loop *loop, const struct config *config,
	struct fanout *fanout, struct decode *decode, const struct upstream *upstream)
{
	*r = (struct recovery){.loop = loop, .config = config, .fanout = fanout, .decode = decode};
	changes_init(&r->backlog_changes, loop, config, &fanout->checkpoints, upstream->identity,
		&backlog_events, r);
	for (int i = 0; i < RECOVERY_LANES; i++) {
		r->lanes[i].recovery = r;
		changes_init(&r->lanes[i].changes, loop, config, &fanout->checkpoints, upstream->identity,
			&lane_events, &r->lanes[i]);
	}
	ev_init(&r->poll, on_poll);
	r->poll.repeat = POLL_SECONDS;
	r->poll.data = r;
}

void recovery_close(struct recovery *r)
{
	ev_timer_stop(r->loop, &r->poll);
	changes_close(&r->backlog_changes);
	for (int i = 0; i < RECOVERY_LANES; i++)
		changes_close(&r->lanes[i].changes);
}
