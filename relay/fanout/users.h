/* The local users who are connected: what each has in sum, for the limits that hold for a user, and its share
 * of the schedule. A user is its uid, as the kernel tells it. Workers count here; the operators' and the
 * metrics' connections have their share here too. */
#pragma once

#include "fanout/schedule.h"

#include <stdint.h>
#include <sys/types.h>

#define USERS_BUCKETS 64

struct worker;

struct user {
	LIST_ENTRY(user) next; /* in its bucket */
	uid_t uid;
	unsigned n_refs;
	struct share asking, sending;

	unsigned n_workers;
	uint64_t n_subscriptions; /* by pubkey, and those that are about to be made */
	size_t queued;            /* bytes of its workers' queues and unfinished requests */
	/* Workers whose requests wait until the user has fewer bytes queued. */
	TAILQ_HEAD(, worker) parked;
	/* And those that are caught up, whose recovered changes wait for the same. */
	TAILQ_HEAD(, worker) starved;
};

struct users {
	LIST_HEAD(, user) buckets[USERS_BUCKETS];
	unsigned n;
};

void users_open(struct users *users);
/* The user with this uid, with one reference more. NULL: memory is short. */
struct user *users_get(struct users *users, uid_t uid);
/* One reference less. */
void users_put(struct users *users, struct user *user);
