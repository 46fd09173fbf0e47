/* What this handle is subscribed to, how often, and how far the relay knows: each (channel, pubkey or all)
 * stands once, and what the relay is still to be told is batched, many pubkeys a frame. Pure; session sends
 * the frames and brings the answers, handle calls for the app. */
#pragma once

#include "completion.h"
#include "wire.h"

#define SUBSCRIPTIONS_CHANNEL_MAX 63

struct subscriptions_channel;

struct subscriptions {
	TAILQ_HEAD(, subscriptions_channel) channels;
};

void subscriptions_init(struct subscriptions *subs);
void subscriptions_free(struct subscriptions *subs);

/* One more holder. waiter (or NULL) is taken over; if the subscription is live already it goes to ready.
 * pubkey.ptr is NULL for all. 0 or -ENOMEM, then the waiter is still the caller's. */
int subscriptions_add(struct subscriptions *subs, struct wire_str channel, struct wire_str pubkey,
	struct completion *waiter, struct completion_list *ready);

/* One holder less. After the last, its waiters go to ready, cancelled. 0 or -ENOENT. */
int subscriptions_remove(struct subscriptions *subs, struct wire_str channel, struct wire_str pubkey,
	struct completion_list *ready);

/* Write the next SUBSCRIBE or UNSUBSCRIBE that is due. Its length; 0: none is due; -EMSGSIZE: it needs more
 * room. */
int subscriptions_encode(struct subscriptions *subs, uint64_t id, void *buf, size_t size);

struct subscriptions_answer {
	bool known;   /* a SUBSCRIBE with this id was waiting */
	bool renewed; /* among what is live now is something that had been refused */
	bool untold;  /* among what is refused now is something that more hold than had a waiter */
};

/* The relay's answer: OK at seq, or an ERROR (text stays valid until the completions have run). Waiters go
 * to ready. */
struct subscriptions_answer subscriptions_live(
	struct subscriptions *subs, uint64_t id, uint64_t seq, struct completion_list *ready);
struct subscriptions_answer subscriptions_refused(
	struct subscriptions *subs, uint64_t id, int error, const char *text, struct completion_list *ready);

/* The connection is gone: everything that is held is due again. */
void subscriptions_restart(struct subscriptions *subs);

/* Without a relay: all that is due is live at seq, or gone; and whether something live matches. */
void subscriptions_all_live(struct subscriptions *subs, uint64_t seq, struct completion_list *ready);
bool subscriptions_match(struct subscriptions *subs, struct wire_str channel, struct wire_str pubkey);

/* At the end: all waiters go to ready, cancelled. */
void subscriptions_cancel(struct subscriptions *subs, struct completion_list *ready);
