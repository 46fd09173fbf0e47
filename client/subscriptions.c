#include "subscriptions.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

/* Most pubkeys, and bytes of pubkeys, in one frame, so that it stays below WIRE_FRAME_MAX. */
#define BATCH_PUBKEYS 512
#define BATCH_BYTES 32768

/* How far a subscription is with the relay. It is on its channel's list for this stage. */
enum stage {
	DUE,     /* the relay must be asked */
	ASKED,   /* SUBSCRIBE was sent */
	LIVE,    /* and answered by OK */
	REFUSED, /* or by ERROR; due again on the next connection */
	LEAVING, /* it has no holder, and the relay must be told */
	N_STAGES,
};

struct subscription {
	TAILQ_ENTRY(subscription) link;
	struct subscriptions_channel *channel;
	enum stage stage;
	bool at_relay;    /* SUBSCRIBE was sent on this connection, and nothing has undone it */
	bool was_refused; /* so there is a gap to tell when it becomes live */
	uint32_t holders; /* 0 exactly if LEAVING */
	uint64_t id;      /* of the SUBSCRIBE, while ASKED */
	uint64_t seq;     /* since when it is LIVE */
	struct completion_list waiters;
	struct wire_str pubkey; /* nil for all */
	char bytes[];           /* of pubkey */
};

TAILQ_HEAD(subscription_list, subscription);

struct subscriptions_channel {
	TAILQ_ENTRY(subscriptions_channel) link;
	struct subscription *all; /* the one for all, or NULL */
	/* The others: libc's tsearch(), a balanced tree, so no choice of pubkeys makes it
	 * slow. */
	void *by_pubkey;
	struct subscription_list stages[N_STAGES];
	struct wire_str name;
	char bytes[SUBSCRIPTIONS_CHANNEL_MAX];
};

void subscriptions_init(struct subscriptions *subs)
{
	TAILQ_INIT(&subs->channels);
}

static int compare(const void *a, const void *b)
{
	const struct wire_str *x = &((const struct subscription *)a)->pubkey;
	const struct wire_str *y = &((const struct subscription *)b)->pubkey;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->ptr, y->ptr, x->len);
}

static struct subscriptions_channel *find_channel(struct subscriptions *subs, struct wire_str name)
{
	struct subscriptions_channel *channel;

	TAILQ_FOREACH (channel, &subs->channels, link)
		if (wire_str_eq(channel->name, name))
			break;
	return channel;
}

static struct subscription *find(struct subscriptions_channel *channel, struct wire_str pubkey)
{
	if (!pubkey.ptr)
		return channel->all;
	struct subscription key = {.pubkey = pubkey};
	struct subscription **found = tfind(&key, &channel->by_pubkey, compare);
	return found ? *found : NULL;
}

static void free_channel_if_empty(struct subscriptions *subs, struct subscriptions_channel *channel)
{
	if (channel->all || channel->by_pubkey)
		return;
	TAILQ_REMOVE(&subs->channels, channel, link);
	free(channel);
}

static struct subscriptions_channel *make_channel(struct subscriptions *subs, struct wire_str name)
{
	struct subscriptions_channel *channel = calloc(1, sizeof *channel);

	if (!channel)
		return NULL;
	memcpy(channel->bytes, name.ptr, name.len);
	channel->name = (struct wire_str){channel->bytes, name.len};
	for (int i = 0; i < N_STAGES; i++)
		TAILQ_INIT(&channel->stages[i]);
	TAILQ_INSERT_TAIL(&subs->channels, channel, link);
	return channel;
}

static struct subscription *make(struct subscriptions_channel *channel, struct wire_str pubkey)
{
	struct subscription *sub = calloc(1, sizeof *sub + pubkey.len);

	if (!sub)
		return NULL;
	sub->channel = channel;
	TAILQ_INIT(&sub->waiters);
	if (pubkey.ptr) {
		memcpy(sub->bytes, pubkey.ptr, pubkey.len);
		sub->pubkey = (struct wire_str){sub->bytes, pubkey.len};
		if (!tsearch(sub, &channel->by_pubkey, compare)) {
			free(sub);
			return NULL;
		}
	} else {
		channel->all = sub;
	}
	sub->stage = DUE;
	TAILQ_INSERT_TAIL(&channel->stages[DUE], sub, link);
	return sub;
}

static void move(struct subscription *sub, enum stage stage)
{
	TAILQ_REMOVE(&sub->channel->stages[sub->stage], sub, link);
	sub->stage = stage;
	TAILQ_INSERT_TAIL(&sub->channel->stages[stage], sub, link);
}

/* Its channel stays even if it is empty, because callers are iterating over it. */
static void end(struct subscription *sub)
{
	TAILQ_REMOVE(&sub->channel->stages[sub->stage], sub, link);
	if (sub->pubkey.ptr)
		tdelete(sub, &sub->channel->by_pubkey, compare);
	else
		sub->channel->all = NULL;
	free(sub);
}

/* All of the channel's in this stage. */
static void end_stage(struct subscriptions_channel *channel, enum stage stage)
{
	struct subscription *sub, *next;

	for (sub = TAILQ_FIRST(&channel->stages[stage]); sub; sub = next) {
		next = TAILQ_NEXT(sub, link);
		end(sub);
	}
}

/* Returns how many there were. */
static uint32_t finish_waiters(
	struct subscription *sub, struct pgherald_result result, struct completion_list *ready)
{
	struct completion *waiter;
	uint32_t n = 0;

	TAILQ_FOREACH (waiter, &sub->waiters, link) {
		waiter->result = result;
		n++;
	}
	TAILQ_CONCAT(ready, &sub->waiters, link);
	return n;
}

int subscriptions_add(struct subscriptions *subs, struct wire_str channel_name, struct wire_str pubkey,
	struct completion *waiter, struct completion_list *ready)
{
	struct subscriptions_channel *channel = find_channel(subs, channel_name);
	if (!channel)
		channel = make_channel(subs, channel_name);
	if (!channel)
		return -ENOMEM;
	struct subscription *sub = find(channel, pubkey);
	if (!sub)
		sub = make(channel, pubkey);
	if (!sub) {
		free_channel_if_empty(subs, channel);
		return -ENOMEM;
	}
	sub->holders++;
	/* One that was leaving may still be live at the relay. To ask again is harmless, and
	 * the OK gives the seq. */
	if (sub->stage == LEAVING || sub->stage == REFUSED)
		move(sub, DUE);
	if (waiter) {
		TAILQ_INSERT_TAIL(&sub->waiters, waiter, link);
		if (sub->stage == LIVE)
			finish_waiters(sub, (struct pgherald_result){.seq = sub->seq}, ready);
	}
	return 0;
}

int subscriptions_remove(struct subscriptions *subs, struct wire_str channel_name, struct wire_str pubkey,
	struct completion_list *ready)
{
	struct subscriptions_channel *channel = find_channel(subs, channel_name);
	struct subscription *sub = channel ? find(channel, pubkey) : NULL;

	if (!sub || sub->holders == 0)
		return -ENOENT;
	if (--sub->holders > 0)
		return 0;
	finish_waiters(sub, (struct pgherald_result){.error = -ECANCELED}, ready);
	if (sub->at_relay) {
		move(sub, LEAVING);
	} else {
		end(sub);
		free_channel_if_empty(subs, channel);
	}
	return 0;
}

/* Encode one frame for the channel's subscriptions in this stage, which is DUE or LEAVING. */
static int encode_stage(
	struct subscriptions_channel *channel, enum stage stage, uint64_t id, void *buf, size_t size)
{
	struct wire_str pubkeys[BATCH_PUBKEYS];
	struct subscription *first = TAILQ_FIRST(&channel->stages[stage]), *sub, *next;
	struct wire_frame frame = {.type = stage == DUE ? WIRE_SUBSCRIBE : WIRE_UNSUBSCRIBE};
	uint32_t n = 0;
	size_t bytes = 0;

	/* The subscription for all has a frame of its own. */
	for (sub = first; sub && sub->pubkey.ptr && n < BATCH_PUBKEYS && bytes < BATCH_BYTES;
		sub = TAILQ_NEXT(sub, link)) {
		pubkeys[n++] = sub->pubkey;
		bytes += sub->pubkey.len;
	}
	frame.subscribe.id = id;
	frame.subscribe.channel = channel->name;
	frame.subscribe.pubkeys = n > 0 ? pubkeys : NULL;
	frame.subscribe.n_pubkeys = n;
	int len = wire_encode(&frame, buf, size);
	if (len < 0)
		return len;

	n = n > 0 ? n : 1;
	for (sub = first; n > 0; sub = next, n--) {
		next = TAILQ_NEXT(sub, link);
		if (stage == DUE) {
			sub->id = id;
			sub->at_relay = true;
			move(sub, ASKED);
		} else {
			end(sub);
		}
	}
	return len;
}

int subscriptions_encode(struct subscriptions *subs, uint64_t id, void *buf, size_t size)
{
	struct subscriptions_channel *channel, *next;

	for (channel = TAILQ_FIRST(&subs->channels); channel; channel = next) {
		int len = 0;
		next = TAILQ_NEXT(channel, link);
		/* Leaving first: if the relay's limit of subscriptions is near, that makes
		 * room. */
		if (!TAILQ_EMPTY(&channel->stages[LEAVING]))
			len = encode_stage(channel, LEAVING, id, buf, size);
		else if (!TAILQ_EMPTY(&channel->stages[DUE]))
			len = encode_stage(channel, DUE, id, buf, size);
		free_channel_if_empty(subs, channel);
		if (len != 0)
			return len;
	}
	return 0;
}

/* The first subscription that the SUBSCRIBE with this id asked for; the others follow it.
 * The list is ordered by id. */
static struct subscription *first_asked(struct subscriptions *subs, uint64_t id)
{
	struct subscriptions_channel *channel;
	struct subscription *sub;

	TAILQ_FOREACH (channel, &subs->channels, link)
		TAILQ_FOREACH (sub, &channel->stages[ASKED], link)
			if (sub->id >= id) {
				if (sub->id == id)
					return sub;
				break;
			}
	return NULL;
}

static void become_live(struct subscription *sub, uint64_t seq, struct completion_list *ready)
{
	sub->seq = seq;
	finish_waiters(sub, (struct pgherald_result){.seq = seq}, ready);
	move(sub, LIVE);
}

struct subscriptions_answer subscriptions_live(
	struct subscriptions *subs, uint64_t id, uint64_t seq, struct completion_list *ready)
{
	struct subscriptions_answer answer = {0};
	struct subscription *sub, *next;

	for (sub = first_asked(subs, id); sub && sub->id == id; sub = next) {
		next = TAILQ_NEXT(sub, link);
		answer.known = true;
		answer.renewed |= sub->was_refused;
		sub->was_refused = false;
		become_live(sub, seq, ready);
	}
	return answer;
}

struct subscriptions_answer subscriptions_refused(
	struct subscriptions *subs, uint64_t id, int error, const char *text, struct completion_list *ready)
{
	struct subscriptions_answer answer = {0};
	struct subscription *sub, *next;

	for (sub = first_asked(subs, id); sub && sub->id == id; sub = next) {
		next = TAILQ_NEXT(sub, link);
		answer.known = true;
		sub->was_refused = true;
		sub->at_relay = false;
		uint32_t told =
			finish_waiters(sub, (struct pgherald_result){.error = error, .text = text}, ready);
		answer.untold |= told < sub->holders;
		move(sub, REFUSED);
	}
	return answer;
}

void subscriptions_restart(struct subscriptions *subs)
{
	static const enum stage held[] = {DUE, ASKED, LIVE, REFUSED};
	struct subscriptions_channel *channel, *next;
	struct subscription_list due;
	struct subscription *sub;

	for (channel = TAILQ_FIRST(&subs->channels); channel; channel = next) {
		next = TAILQ_NEXT(channel, link);
		TAILQ_INIT(&due);
		for (size_t i = 0; i < sizeof held / sizeof held[0]; i++) {
			TAILQ_FOREACH (sub, &channel->stages[held[i]], link) {
				sub->stage = DUE;
				sub->at_relay = false;
			}
			TAILQ_CONCAT(&due, &channel->stages[held[i]], link);
		}
		TAILQ_CONCAT(&channel->stages[DUE], &due, link);
		end_stage(channel, LEAVING);
		free_channel_if_empty(subs, channel);
	}
}

void subscriptions_all_live(struct subscriptions *subs, uint64_t seq, struct completion_list *ready)
{
	struct subscriptions_channel *channel, *next;
	struct subscription *sub;

	for (channel = TAILQ_FIRST(&subs->channels); channel; channel = next) {
		next = TAILQ_NEXT(channel, link);
		while ((sub = TAILQ_FIRST(&channel->stages[DUE])))
			become_live(sub, seq, ready);
		end_stage(channel, LEAVING);
		free_channel_if_empty(subs, channel);
	}
}

bool subscriptions_match(struct subscriptions *subs, struct wire_str channel_name, struct wire_str pubkey)
{
	struct subscriptions_channel *channel = find_channel(subs, channel_name);
	struct subscription *sub;

	if (!channel)
		return false;
	if (channel->all && channel->all->stage == LIVE)
		return true;
	sub = pubkey.ptr ? find(channel, pubkey) : NULL;
	return sub && sub->stage == LIVE;
}

void subscriptions_cancel(struct subscriptions *subs, struct completion_list *ready)
{
	struct subscriptions_channel *channel;
	struct subscription *sub;

	TAILQ_FOREACH (channel, &subs->channels, link)
		for (int i = 0; i < N_STAGES; i++)
			TAILQ_FOREACH (sub, &channel->stages[i], link)
				finish_waiters(sub, (struct pgherald_result){.error = -ECANCELED}, ready);
}

static void free_waiters(struct subscription *sub)
{
	struct completion *waiter;

	while ((waiter = TAILQ_FIRST(&sub->waiters))) {
		TAILQ_REMOVE(&sub->waiters, waiter, link);
		free(waiter);
	}
}

/* Frees the waiters too, without running them: a forked child drops its copy. */
void subscriptions_free(struct subscriptions *subs)
{
	struct subscriptions_channel *channel;
	struct subscription *sub;

	while ((channel = TAILQ_FIRST(&subs->channels))) {
		for (enum stage stage = 0; stage < N_STAGES; stage++) {
			TAILQ_FOREACH (sub, &channel->stages[stage], link)
				free_waiters(sub);
			end_stage(channel, stage);
		}
		free_channel_if_empty(subs, channel);
	}
}
