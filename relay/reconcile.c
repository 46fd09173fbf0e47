#include "reconcile.h"

#include "diag.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* What does not fit counts as not heard, and will be announced again. */
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

static bool heard_since(const struct reconcile *rc, uint64_t turn, uint64_t key)
{
	/* Turns that are forgotten heard nothing. */
	for (uint64_t t = rc->turn; t >= turn && t + RECONCILE_TURNS > rc->turn; t--) {
		if (set_has(&rc->heard[t % RECONCILE_TURNS], key))
			return true;
		if (t == 0)
			break;
	}
	return false;
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

/* Announcing */

/* The next question starts from what is settled, and finds again what was found and is dropped here. */
static void start_over(struct reconcile *rc)
{
	rc->leading = false;
	rc->about_to_settle[0] = rc->last_own[0] = '\0';
	list_clear(&rc->suspects);
	list_clear(&rc->found);
}

static void settle_if_confirmed(struct reconcile *rc)
{
	if (rc->n_unconfirmed > 0 || rc->asking)
		return;
	if (rc->failed) {
		start_over(rc);
		rc->unfinished = true;
		rc->failed = false;
	} else if (rc->about_to_settle[0]) {
		memcpy(rc->settled, rc->about_to_settle, sizeof rc->settled);
		rc->about_to_settle[0] = '\0';
	}
}

static void announce(struct reconcile *rc, unsigned topic, struct wire_str value)
{
	const struct channel *channel = &rc->config->channels[topic - 1];
	char payload[CHANGE_PAYLOAD_MAX];
	struct wire_str text = value;

	if (channel->kind == CHANNEL_CHANGES) {
		int len = change_encode(value, (struct wire_str){0}, payload, sizeof payload);
		text = (struct wire_str){payload, (uint32_t)(len > 0 ? len : 0)};
	}
	/* What no NOTIFY can carry cannot be announced now or ever. */
	if (text.len == 0 && channel->kind == CHANNEL_CHANGES)
		return;
	if (publisher_submit(rc->publisher, NULL, channel->name, text) < 0) {
		rc->failed = true;
		return;
	}
	rc->n_unconfirmed++;
	rc->n_announced++;
}

void reconcile_published(struct reconcile *rc, bool committed)
{
	rc->n_unconfirmed--;
	rc->failed |= !committed;
	settle_if_confirmed(rc);
}

/* The question */

static bool on_row(void *context, struct decoded *d)
{
	struct reconcile *rc = context;
	struct wire_str value = d->change.pubkey.ptr ? d->change.pubkey : d->payload;
	uint64_t key = fanout_key(rc->fanout, d);

	if (!heard_since(rc, rc->base_turn, key) && !list_add(&rc->found, key, d->topic, value))
		announce(rc, d->topic, value);
	return true;
}

/* What was settled means nothing any more. Our workers have all up to the latest checkpoint, or were told; so
 * if that is of this server's time, it is from there that we answer for all. */
static void begin_anew(struct reconcile *rc, const char *now)
{
	const struct checkpoint *latest = checkpoint_history_latest(&rc->fanout->checkpoints);
	bool good = latest && checkpoint_precedes(latest->token, now);

	snprintf(rc->begin, sizeof rc->begin, "%s", good ? latest->token : now);
	rc->settled[0] = '\0';
}

static void on_done(void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	static struct diag_limit limit;
	struct reconcile *rc = context;

	rc->asking = false;
	if (outcome != CHANGES_COMPLETE) {
		diag_limited(
			&limit, DIAG_WARNING, "changes that nobody notified cannot be announced: %s", text);
		start_over(rc);
		rc->unfinished = true;
		if (outcome == CHANGES_OTHER_TIME && token)
			begin_anew(rc, token);
		return;
	}
	for (uint32_t i = 0; i < rc->suspects.n; i++) {
		const struct suspect *s = &rc->suspects.items[i];
		if (!heard_since(rc, rc->suspect_turn, s->key))
			announce(rc, s->topic, (struct wire_str){s->value, s->len});
	}
	list_clear(&rc->suspects);
	rc->suspects = rc->found;
	rc->found = (struct suspect_list){0};
	rc->suspect_turn = rc->base_turn;
	settle_if_confirmed(rc);
}

static const struct recovery_taker taker = {on_row, on_done};

static void give_up_lead(struct reconcile *rc)
{
	if (rc->asking)
		recovery_abort(rc->recovery);
	rc->asking = rc->unfinished = false;
	start_over(rc);
}

static uint64_t turn_of(const struct reconcile *rc, const char *token)
{
	for (uint64_t t = rc->turn; t + RECONCILE_TURNS > rc->turn; t--) {
		if (strcmp(rc->tokens[t % RECONCILE_TURNS], token) == 0)
			return t;
		if (t == 0)
			break;
	}
	/* It is so old that nothing counts as heard since. */
	return rc->turn + 1;
}

static void ask(struct reconcile *rc, const char *token)
{
	const char *since = rc->leading ? rc->last_own : rc->settled[0] ? rc->settled : rc->begin;

	/* What was found in the turn before, which began with last_own, is dealt with in this one. */
	memcpy(rc->about_to_settle, rc->last_own, sizeof rc->about_to_settle);
	rc->failed = false;
	rc->base_turn = turn_of(rc, since);
	rc->asking = recovery_for_reconciliation(rc->recovery, since, &taker, rc) == 0;
	if (!rc->asking) {
		rc->about_to_settle[0] = '\0';
		return;
	}
	if (since == rc->begin)
		memcpy(rc->settled_from, since, sizeof rc->settled_from);
	rc->leading = true;
	rc->unfinished = false;
	rc->n_turns++;
	memcpy(rc->last_own, token, strlen(token) + 1);
}

/* Another relay answers for all that was committed from a moment on. Whether we do for all before it: it was
 * settled, or our workers have it. Otherwise, what a relay that has only just started says would have us
 * forget what is older than its start. */
static bool joins_on(const struct reconcile *rc, const char *from)
{
	const struct checkpoint *latest = checkpoint_history_latest(&rc->fanout->checkpoints);

	return checkpoint_covers(rc->settled, from) || (latest && checkpoint_covers(latest->token, from));
}

static void adopt(struct reconcile *rc, const char *settled, const char *from)
{
	/* Ours and theirs together; or theirs alone, if our workers alone have what is in between. */
	if (!checkpoint_covers(rc->settled, from) || checkpoint_covers(rc->settled_from, from))
		memcpy(rc->settled_from, from, strlen(from) + 1);
	memcpy(rc->settled, settled, strlen(settled) + 1);
}

bool reconcile_turn(struct reconcile *rc, const char *token, const char *settled, const char *from, bool own)
{
	if (!own && (settled ? !joins_on(rc, from) : rc->enabled))
		return false;
	rc->turn++;
	set_clear(&rc->heard[rc->turn % RECONCILE_TURNS]);
	memcpy(rc->tokens[rc->turn % RECONCILE_TURNS], token, strlen(token) + 1);
	if (!own) {
		give_up_lead(rc);
		if (settled)
			adopt(rc, settled, from);
	}
	/* A question that takes longer than a turn, or announcements that do: they are finished first. */
	if (own && rc->enabled && rc->begin[0] && !rc->asking && rc->n_unconfirmed == 0)
		ask(rc, token);
	return true;
}

void reconcile_begin(struct reconcile *rc, const char *token)
{
	if (!rc->begin[0])
		memcpy(rc->begin, token, strlen(token) + 1);
	memcpy(rc->tokens[rc->turn % RECONCILE_TURNS], token, strlen(token) + 1);
}

void reconcile_heard(struct reconcile *rc, struct decoded *d)
{
	if (rc->enabled)
		set_add(&rc->heard[rc->turn % RECONCILE_TURNS], fanout_key(rc->fanout, d));
}

bool reconcile_pending(const struct reconcile *rc)
{
	return rc->unfinished || (rc->leading && (rc->asking || rc->suspects.n > 0 || rc->n_unconfirmed > 0));
}

void reconcile_reset(struct reconcile *rc)
{
	give_up_lead(rc);
	for (int i = 0; i < RECONCILE_TURNS; i++) {
		set_clear(&rc->heard[i]);
		rc->tokens[i][0] = '\0';
	}
}

void reconcile_init(struct reconcile *rc, const struct config *config, struct fanout *fanout,
	struct publisher *publisher, struct recovery *recovery)
{
	*rc = (struct reconcile){
		.config = config, .fanout = fanout, .publisher = publisher, .recovery = recovery};
}

void reconcile_close(struct reconcile *rc)
{
	reconcile_reset(rc);
}
