#include "recovery/recovery.h"

#include "base/diag.h"

#include <errno.h>
#include <stdio.h>

/* Seconds between two looks whether workers have room for more rows. */
#define POLL_SECONDS 0.005
/* How many rows go into the backlog between two looks at whether workers keep up. */
#define CROWDED_EVERY 64

static void poll_on(struct recovery *r)
{
	if (!ev_is_active(&r->poll))
		ev_timer_again(r->loop, &r->poll);
}

/* Whether the pubkey is an object of JSON, as a NOTIFY has it. */
static bool looks_like_payload(const struct decoded *d)
{
	struct wire_str pubkey = d->change.pubkey;
	struct change change;

	if (!pubkey.ptr || pubkey.len == 0 || pubkey.ptr[0] != '{' ||
		change_decode(pubkey.ptr, pubkey.len, &change) < 0)
		return false;
	change_release(&change);
	return true;
}

bool recovery_decode(
	struct recovery *r, const char *channel, struct wire_str value, uint32_t stored, struct decoded *out)
{
	int result = decode_recovered(r->decode, channel, value, stored, out);

	r->n_rows++;
	if (result == -ENOENT) {
		r->n_unserved++;
		diag_limited(&r->unserved_limit, DIAG_WARNING,
			"a recovered row is skipped, since this relay is not configured for its channel; add it to "
			"PGHERALD_CHANNELS, or mend the function channel=\"%s\"",
			channel);
	}
	if (result == 0 && looks_like_payload(out))
		diag_limited(&r->json_limit, DIAG_WARNING,
			"a recovered pubkey looks like the JSON of a notification; let pgherald.changes_since() "
			"return the pubkey itself channel=\"%s\"",
			channel);
	/* A NOTIFY could not have carried it either, and the other rows must not wait for
	 * it. */
	if (result == -EBADMSG)
		diag_limited(&r->limit, DIAG_WARNING,
			"a recovered row is skipped, since no NOTIFY carries its value; mend the row or the "
			"function channel=\"%s\" length=%u",
			channel, stored);
	return result == 0;
}

static void on_asking(void *context)
{
	struct recovery *r = context;

	r->n_questions++;
}

static bool on_row(void *context, const char *channel, struct wire_str value, uint32_t stored)
{
	struct recovery *r = context;
	struct decoded decoded;

	if (!recovery_decode(r, channel, value, stored, &decoded))
		return true;
	bool more = r->sink->row(r->sink_context, &decoded);
	if (!more)
		poll_on(r);
	return more;
}

static void on_done(void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct recovery *r = context;
	const struct recovery_sink *sink = r->sink;

	r->sink = NULL;
	snprintf(r->trouble, sizeof r->trouble, "%s", outcome == CHANGES_COMPLETE ? "" : text);
	sink->done(r->sink_context, outcome, token, text);
}

static const struct changes_events lane_events = {on_asking, on_row, on_done};

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

	/* The checkpoint that follows is the canary's, not the moment of the answer, which is
	 * not on disk. */
	(void)token;
	r->events->recovered(r->context, outcome, text);
}

static const struct recovery_sink backlog_sink = {on_row_for_backlog, on_done_for_backlog};

void recovery_for_backlog(struct recovery *r, const char *since)
{
	recovery_abort(r);
	r->sink = &backlog_sink;
	r->sink_context = r;
	changes_ask(&r->changes, &(struct changes_request){.since = since, .rate = r->config->recovery_rate});
}

static bool on_row_of_trial(void *context, struct decoded *decoded)
{
	(void)context;
	(void)decoded;
	return true;
}

static void on_done_with_trial(
	void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	(void)context;
	(void)token;
	if (outcome != CHANGES_COMPLETE)
		diag(DIAG_WARNING, "recovery does not work, so an outage would be a gap for all workers: %s",
			text);
}

static const struct recovery_sink trial_sink = {on_row_of_trial, on_done_with_trial};

int recovery_for_reconciliation(
	struct recovery *r, const char *since, const struct recovery_sink *sink, void *context)
{
	if (r->sink == &trial_sink)
		recovery_abort(r);
	if (r->sink)
		return -EBUSY;
	r->sink = sink;
	r->sink_context = context;
	/* The rate is for what piles up in an outage. Reconciliation must be as fast as the
	 * changes come. */
	changes_ask(&r->changes, &(struct changes_request){.since = since, .unheard = true});
	return 0;
}

void recovery_try(struct recovery *r, const char *since)
{
	if (r->sink)
		return;
	r->sink = &trial_sink;
	changes_ask(&r->changes, &(struct changes_request){.since = since});
}

bool recovery_failed(const struct recovery *r)
{
	return r->sink && changes_failed(&r->changes);
}

void recovery_abort(struct recovery *r)
{
	if (!r->sink)
		return;
	r->sink = NULL;
	changes_abort(&r->changes);
}

static void on_poll(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct recovery *r = timer->data;

	(void)events;
	if (r->sink && changes_is_paused(&r->changes)) {
		if (fanout_crowded(r->fanout))
			return;
		changes_more(&r->changes);
	}
	ev_timer_stop(loop, timer);
}

void recovery_init(struct recovery *r, const struct recovery_uses *uses, const struct recovery_events *events,
	void *context)
{
	*r = (struct recovery){.events = events,
		.context = context,
		.loop = uses->loop,
		.config = uses->config,
		.fanout = uses->fanout,
		.decode = uses->decode};
	changes_init(&r->changes,
		&(struct changes_uses){uses->loop, uses->config, &uses->fanout->checkpoints, uses->upstream},
		&lane_events, r);
	ev_init(&r->poll, on_poll);
	r->poll.repeat = POLL_SECONDS;
	r->poll.data = r;
}

void recovery_close(struct recovery *r)
{
	ev_timer_stop(r->loop, &r->poll);
	changes_close(&r->changes);
}
