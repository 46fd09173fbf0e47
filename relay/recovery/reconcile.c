#include "recovery/reconcile.h"

#include "base/clock.h"
#include "base/diag.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(RECONCILE_HEARD_MAX <= UINT32_MAX / 8, "set_add() and set_grow() do not overflow");

/* Sets */

static void set_clear(struct heard_set *s)
{
	free(s->keys);
	*s = (struct heard_set){0};
}

static uint32_t place_of(const struct heard_set *s, uint64_t key)
{
	uint32_t i = (uint32_t)key & (s->size - 1);

	while (s->keys[i] && s->keys[i] != key)
		i = (i + 1) & (s->size - 1);
	return i;
}

static bool set_grow(struct heard_set *s)
{
	struct heard_set bigger = {.size = s->size ? s->size * 2 : 256};

	bigger.keys = calloc(bigger.size, sizeof *bigger.keys);
	if (!bigger.keys)
		return false;
	for (uint32_t i = 0; i < s->size; i++)
		if (s->keys[i])
			bigger.keys[place_of(&bigger, s->keys[i])] = s->keys[i];
	bigger.n = s->n;
	free(s->keys);
	*s = bigger;
	return true;
}

/* A key that does not fit counts as not heard. */
static void set_add(struct heard_set *s, uint64_t key)
{
	if (s->n >= RECONCILE_HEARD_MAX || ((s->n + 1) * 4 > s->size * 3 && !set_grow(s)))
		return;
	uint32_t i = place_of(s, key);
	s->n += s->keys[i] == 0;
	s->keys[i] = key;
}

static bool set_has(const struct heard_set *s, uint64_t key)
{
	return s->size && s->keys[place_of(s, key)] == key;
}

/* In one of the turns 0 to last. */
static bool was_heard(const struct reconcile *rc, unsigned last, uint64_t key)
{
	for (unsigned i = 0; i <= last; i++)
		if (set_has(&rc->heard[i], key))
			return true;
	return false;
}

static void forget_heard(struct reconcile *rc)
{
	for (unsigned i = 0; i < RECONCILE_TURNS; i++)
		set_clear(&rc->heard[i]);
	rc->heard_since = clock_now();
}

static void begin_turn(struct reconcile *rc)
{
	set_clear(&rc->heard[RECONCILE_TURNS - 1]);
	memmove(rc->heard + 1, rc->heard, (RECONCILE_TURNS - 1) * sizeof *rc->heard);
	rc->heard[0] = (struct heard_set){0};
}

/* Lists */

static void list_clear(struct suspect_list *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		free(l->items[i].value);
	free(l->items);
	*l = (struct suspect_list){0};
}

static bool list_add(struct suspect_list *l, uint64_t key, unsigned topic, struct wire_str value)
{
	if (l->n == RECONCILE_SUSPECTS_MAX)
		return false;
	if (l->n == l->max) {
		uint32_t max = l->max ? l->max * 2 : 64;
		struct suspect *items = reallocarray(l->items, max, sizeof *items);
		if (!items)
			return false;
		l->items = items;
		l->max = max;
	}
	struct suspect *s = &l->items[l->n];
	*s = (struct suspect){key, topic, value.len, malloc(value.len + 1)};
	if (!s->value)
		return false;
	memcpy(s->value, value.ptr, value.len);
	l->n++;
	return true;
}

/* The term */

static struct checkpoint *latest(const struct reconcile *rc)
{
	return checkpoint_history_latest(&rc->fanout->checkpoints);
}

static struct token latest_token(const struct reconcile *rc)
{
	const struct checkpoint *ours = latest(rc);

	return ours ? token_of(ours->token) : (struct token){0};
}

static struct token wanted_or_latest(const struct reconcile *rc)
{
	return token_is_set(&rc->wanted) ? rc->wanted : latest_token(rc);
}

/* Drops suspects too: the next term begins at our checkpoint, and finds them again. */
static void end_term(struct reconcile *rc)
{
	if (rc->asking)
		recovery_abort(rc->recovery);
	rc->leading = rc->asking = false;
	rc->from = rc->turn = rc->settling = rc->settled = rc->wanted = (struct token){0};
	free(rc->asked);
	rc->asked = NULL;
	list_clear(&rc->suspects);
	list_clear(&rc->found);
	list_clear(&rc->due);
}

static void begin_term(struct reconcile *rc, const struct token *from)
{
	static struct diag_limit limit;

	/* What was heard since the last turn counts. What was heard long ago does not: the same
	 * user may have changed again since, and nobody notified that. */
	if (clock_now() - rc->heard_since > rc->config->checkpoint_interval * RECONCILE_TAKEOVER_INTERVALS)
		forget_heard(rc);
	rc->leading = true;
	rc->failed = false;
	rc->from = *from;
	diag_limited(&limit, DIAG_INFO, "this relay announces what nobody notified, from now on");
}

static void note_failure(struct reconcile *rc, const char *why)
{
	rc->undone = true;
	if (!rc->failing_since)
		rc->failing_since = clock_now();
	snprintf(rc->trouble, sizeof rc->trouble, "%s", why);
}

/* Until a turn is done, our canaries claim nothing. */
static void fail_turn(struct reconcile *rc, const char *why)
{
	static struct diag_limit limit;

	diag_limited(&limit, DIAG_WARNING,
		"changes that nobody notified cannot be announced by this relay: %s", why);
	note_failure(rc, why);
}

static void note_success(struct reconcile *rc)
{
	rc->undone = false;
	rc->failing_since = 0;
	rc->trouble[0] = '\0';
}

double reconcile_failing(const struct reconcile *rc)
{
	double limit = rc->config->checkpoint_interval * RECONCILE_FAILS_INTERVALS;
	double seconds = rc->failing_since ? clock_now() - rc->failing_since : 0;

	return seconds > limit ? seconds : 0;
}

static void finish_turn_if_done(struct reconcile *rc)
{
	if (!rc->leading || rc->asking || rc->n_unconfirmed > 0 || (rc->due.n > 0 && !rc->failed))
		return;
	if (rc->failed) {
		end_term(rc);
		/* What was announced and heard so far counts as heard in the next term.
		 * Otherwise an outage with very many changes would announce the first of them
		 * for ever. */
		rc->heard_since = clock_now();
		fail_turn(rc, "an announcement was not committed");
		return;
	}
	if (token_is_set(&rc->settling))
		rc->settled = rc->settling;
	note_success(rc);
}

/* Announcing */

static struct diag_limit too_long_limit;

static void announce(struct reconcile *rc, unsigned topic, struct wire_str value)
{
	const struct channel *channel = &rc->config->channels[topic - 1];
	char payload[CHANGE_PAYLOAD_MAX];
	struct wire_str text = value;

	if (channel->kind == CHANNEL_CHANGES) {
		int len = change_encode(value, (struct wire_str){0}, payload, sizeof payload);
		if (len < 0) {
			diag_limited(&too_long_limit, DIAG_WARNING,
				"a change that nobody notified cannot be announced, since no NOTIFY carries a "
				"payload of 8000 bytes channel=\"%s\" length=%u",
				channel->name, value.len);
			return;
		}
		text = (struct wire_str){payload, (uint32_t)len};
	}
	if (publisher_submit(rc->publisher, NULL, channel->name, text) < 0) {
		rc->failed = true;
		return;
	}
	rc->n_unconfirmed++;
	rc->n_announced++;
}

static uint32_t least(uint32_t a, size_t b)
{
	return a < b ? a : (uint32_t)b;
}

/* Half of what the publish queue takes: the rest is the workers'. */
static bool may_announce(const struct reconcile *rc)
{
	const struct config *config = rc->config;
	uint32_t room = least(config->publish_queue_max, config->publishes_per_uid_max);

	room = least(room, config->publish_queue_size / CHANGE_PAYLOAD_MAX);
	return rc->n_unconfirmed < 1 + least(RECONCILE_UNCONFIRMED_MAX, room / 2);
}

/* As many as there is room for; more follow when some are committed. */
static void announce_due(struct reconcile *rc)
{
	while (rc->due_next < rc->due.n && !rc->failed && may_announce(rc)) {
		const struct suspect *s = &rc->due.items[rc->due_next++];
		if (!was_heard(rc, 2, s->key))
			announce(rc, s->topic, (struct wire_str){s->value, s->len});
	}
	if (rc->due_next == rc->due.n)
		list_clear(&rc->due);
}

void reconcile_published(struct reconcile *rc, bool settled)
{
	rc->n_unconfirmed--;
	rc->failed |= !settled;
	announce_due(rc);
	finish_turn_if_done(rc);
}

/* The question */

static bool on_row(void *context, struct decoded *d)
{
	struct reconcile *rc = context;
	struct wire_str value = d->change.pubkey.ptr ? d->change.pubkey : d->payload;
	uint64_t key = decoded_key(d, &rc->fanout->router);

	bool is_sent = rc->tracks && d->channel->kind == CHANNEL_TEXT;
	if (is_sent || (!was_heard(rc, 1, key) && !list_add(&rc->found, key, d->topic, value)))
		announce(rc, d->topic, value);
	return may_announce(rc);
}

/* Our checkpoint means nothing on this server, so we cannot tell what our workers lack. They
 * get a gap, and this turn's canary becomes the checkpoint. */
static void begin_anew(struct reconcile *rc, const char *why)
{
	diag(DIAG_ERROR, "all workers are told of a gap, since what nobody notified cannot be found: %s",
		why);
	fanout_gap(rc->fanout, WIRE_GAP_UPSTREAM, why);
	fanout_checkpoint(rc->fanout, rc->turn.text);
}

static void on_done(void *context, enum changes_outcome outcome, const char *asked, const char *text)
{
	struct reconcile *rc = context;

	rc->asking = false;
	if (outcome != CHANGES_COMPLETE) {
		if (outcome == CHANGES_OTHER_TIME) {
			begin_anew(rc, text);
			note_failure(rc, text);
		} else {
			fail_turn(rc, text);
		}
		end_term(rc);
		return;
	}
	rc->due = rc->suspects;
	rc->due_next = 0;
	rc->suspects = rc->found;
	rc->found = (struct suspect_list){0};
	announce_due(rc);
	/* When strdup() fails, the next question asks from the start of the term, and finds
	 * more. */
	free(rc->asked);
	rc->asked = strdup(asked);
	finish_turn_if_done(rc);
}

static const struct recovery_sink sink = {on_row, on_done};

static void ask(struct reconcile *rc, const struct token *token)
{
	struct token from = wanted_or_latest(rc);

	/* Every checkpoint so far failed for lack of memory. */
	if (!token_is_set(&from)) {
		fail_turn(rc, "out of memory");
		return;
	}
	if (!rc->leading)
		begin_term(rc, &from);
	rc->wanted = (struct token){0};
	begin_turn(rc);
	rc->slow_turns = 0;
	rc->settling = rc->turn;
	rc->turn = *token;
	rc->asking = true;
	if (recovery_for_reconciliation(rc->recovery, rc->asked ? rc->asked : rc->from.text, &sink, rc) < 0) {
		rc->asking = false;
		end_term(rc);
		fail_turn(rc, "the relay recovers what it missed");
	}
}

/* Turns */

static void on_own_turn(struct reconcile *rc, const struct token *token)
{
	if (!rc->asking && rc->n_unconfirmed == 0 && rc->due.n == 0) {
		ask(rc, token);
		return;
	}
	/* The question and its announcements are finished first. What is heard meanwhile
	 * belongs to their turn. */
	rc->slow_turns++;
	if (recovery_failed(rc->recovery))
		fail_turn(rc, "the database cannot be asked");
	else if (rc->slow_turns > RECONCILE_SLOW_TURNS)
		fail_turn(rc,
			rc->asking ? "the database takes too long to answer" : "announcements take too long");
}

/* If a relay that cannot ask lacks something that we have, our next turn answers for it, even
 * if we do not lead. */
static void answer_for(struct reconcile *rc, const struct canary_turn *t)
{
	const struct checkpoint *ours = latest(rc);

	const char *theirs = t->claim.from.text;
	if (!ours || !checkpoint_same_run(theirs, ours->token) || checkpoint_covers(theirs, ours->token) ||
		!canary_channels_contain(&rc->channels, &t->channels))
		return;
	struct token wanted =
		checkpoint_before_both(theirs, token_is_set(&rc->wanted) ? rc->wanted.text : ours->token);
	if (rc->leading && !checkpoint_covers(theirs, rc->from.text))
		end_term(rc);
	rc->wanted = wanted;
}

/* Whether a claim joins on to what our workers have. Our own does if we made it in this term.
 * That holds even if our checkpoint is of an earlier run of the server, because the question
 * has asked from there. */
static bool joins_on(const struct reconcile *rc, const struct canary_turn *t)
{
	const struct checkpoint *ours = latest(rc);

	if (t->own)
		return rc->leading && strcmp(t->claim.from.text, rc->from.text) == 0;
	return ours && checkpoint_same_run(t->token.text, ours->token) &&
	       checkpoint_covers(ours->token, t->claim.from.text) &&
	       canary_channels_contain(&t->channels, &rc->channels);
}

/* Passes on only a token of the run that the upstream hears, and not one of its future. */
static void pass_on(struct reconcile *rc, const struct canary_turn *t)
{
	const struct checkpoint *ours = latest(rc);

	const char *settled = t->claim.settled.text;
	if (ours && checkpoint_precedes(settled, t->token.text) && checkpoint_is_newer(settled, ours->token))
		fanout_checkpoint(rc->fanout, settled);
}

static bool claims(const struct canary_turn *t)
{
	return t->claim.kind == CANARY_CLAIMS_SOON || t->claim.kind == CANARY_CLAIMS_SETTLED;
}

bool reconcile_turn(struct reconcile *rc, const struct canary_turn *t)
{
	/* We only need a canary an interval, so every canary that can settle anything is a
	 * turn. */
	if (!rc->enabled)
		return t->claim.kind != CANARY_CLAIMS_NOTHING;
	bool settles = t->claim.kind == CANARY_CLAIMS_SETTLED;
	/* While we lead, only a claim that settles counts. Otherwise two slow leaders would end
	 * each other's questions for ever. */
	bool counts = claims(t) && joins_on(rc, t) &&
		      (t->own || settles || (!rc->leading && rc->beginnings < RECONCILE_BEGINNINGS));
	if (counts && settles) {
		pass_on(rc, t);
		rc->beginnings = 0;
	}
	if (t->own) {
		on_own_turn(rc, &t->token);
		return true;
	}
	if (t->claim.kind == CANARY_CLAIMS_NOTHING)
		answer_for(rc, t);
	if (!counts)
		return false;
	end_term(rc);
	forget_heard(rc);
	/* Its sender answers for what we could not. */
	if (settles)
		note_success(rc);
	else
		rc->beginnings++;
	return true;
}

void reconcile_claim(const struct reconcile *rc, bool live, struct canary_claim *out)
{
	bool done = !rc->undone && !recovery_failed(rc->recovery);

	if (!rc->enabled) {
		out->kind = CANARY_CLAIMS_NEVER;
		return;
	}
	if (!live)
		return;
	out->from = !done ? latest_token(rc) : token_is_set(&rc->from) ? rc->from : wanted_or_latest(rc);
	if (!done || !token_is_set(&out->from))
		return;
	out->kind = token_is_set(&rc->settled) ? CANARY_CLAIMS_SETTLED : CANARY_CLAIMS_SOON;
	out->settled = rc->settled;
}

void reconcile_heard(struct reconcile *rc, struct decoded *d)
{
	if (rc->enabled)
		set_add(&rc->heard[0], decoded_key(d, &rc->fanout->router));
}

bool reconcile_pending(const struct reconcile *rc)
{
	return token_is_set(&rc->wanted) ||
	       (rc->leading && (rc->asking || rc->suspects.n > 0 || rc->n_unconfirmed > 0));
}

void reconcile_reset(struct reconcile *rc)
{
	end_term(rc);
	forget_heard(rc);
}

void reconcile_init(struct reconcile *rc, const struct config *config, struct fanout *fanout,
	struct publisher *publisher, struct recovery *recovery)
{
	*rc = (struct reconcile){.config = config,
		.fanout = fanout,
		.publisher = publisher,
		.recovery = recovery,
		.channels = canary_channels_of(config)};
}

void reconcile_close(struct reconcile *rc)
{
	reconcile_reset(rc);
}
