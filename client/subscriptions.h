/* What this handle is subscribed to, how many holders each subscription has, and what the
 * relay knows of it. Each (channel, pubkey or all) exists once. Requests to the relay are
 * batched, many pubkeys a frame. Pure memory without I/O: pgherald.c calls it for the app,
 * session sends the frames and passes on the answers. */
#pragma once

#include "completion.h"
#include "wire.h"

/* Bytes. PostgreSQL's own limit for the name of a channel. */
#define SUBSCRIPTIONS_CHANNEL_MAX 63

struct subscriptions_channel;

struct subscriptions {
	TAILQ_HEAD(, subscriptions_channel) channels;
};

void subscriptions_init(struct subscriptions *subs);
void subscriptions_free(struct subscriptions *subs);

/* Add a holder. pubkey.ptr is NULL for all. Takes waiter over, which may be NULL; if the
 * subscription is already live, moves it to ready. Returns 0, or -ENOMEM: then waiter is
 * still the caller's. */
int subscriptions_add(struct subscriptions *subs, struct wire_str channel, struct wire_str pubkey,
	struct completion *waiter, struct completion_list *ready);

/* Remove a holder. After the last one, the waiters go to ready with -ECANCELED. Returns 0 or
 * -ENOENT. */
int subscriptions_remove(struct subscriptions *subs, struct wire_str channel, struct wire_str pubkey,
	struct completion_list *ready);

/* Write the next SUBSCRIBE or UNSUBSCRIBE that is due. Returns its length, 0 if none is due,
 * or -EMSGSIZE if buf is too small. */
int subscriptions_encode(struct subscriptions *subs, uint64_t id, void *buf, size_t size);

struct subscriptions_answer {
	bool known;   /* a SUBSCRIBE with this id was waiting */
	bool renewed; /* a subscription is live that was refused before */
	bool untold;  /* a subscription is refused that has more holders than waiters */
};

/* The relay's answer to the SUBSCRIBE with this id: OK at seq, or an ERROR. The waiters go
 * to ready. text must be valid until they have run. */
struct subscriptions_answer subscriptions_live(
	struct subscriptions *subs, uint64_t id, uint64_t seq, struct completion_list *ready);
struct subscriptions_answer subscriptions_refused(
	struct subscriptions *subs, uint64_t id, int error, const char *text, struct completion_list *ready);

/* The connection is lost: every subscription with a holder is due again. */
void subscriptions_restart(struct subscriptions *subs);

/* For the local notifier. all_live(): everything that is due becomes live at seq, or is
 * removed. match(): whether a live subscription matches. */
void subscriptions_all_live(struct subscriptions *subs, uint64_t seq, struct completion_list *ready);
bool subscriptions_match(struct subscriptions *subs, struct wire_str channel, struct wire_str pubkey);

/* The handle is closed: all waiters go to ready with -ECANCELED. */
void subscriptions_cancel(struct subscriptions *subs, struct completion_list *ready);
