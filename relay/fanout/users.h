/* The local users that are connected: what each one's workers have in sum, for the limits per
 * user, and its shares of the schedules. The kernel tells the uid. It enforces no limit.
 * Workers' connections and those of ops/ call it. */
#pragma once

#include "fanout/schedule.h"

#include <stdint.h>
#include <sys/types.h>

/* Buckets of the table by uid. Few hosts have more users with workers; with more, lists only
 * get longer. */
#define USERS_BUCKETS 64

struct worker;

struct user {
	LIST_ENTRY(user) next; /* in its bucket */
	uid_t uid;
	unsigned n_refs; /* connections */
	struct share asking, sending;

	unsigned n_workers;
	uint64_t n_subscriptions; /* by pubkey, and those that are reserved */
	size_t queued;            /* bytes of its workers' private queues and inputs */
	/* Workers whose requests wait until the user has fewer bytes queued. */
	TAILQ_HEAD(, worker) parked;
	/* Workers whose recovered changes wait for the same. */
	TAILQ_HEAD(, worker) starved;
};

struct users {
	LIST_HEAD(, user) buckets[USERS_BUCKETS];
	unsigned n;
};

void users_open(struct users *users);
/* Takes a reference; give it back with users_put(). NULL: out of memory. */
struct user *users_get(struct users *users, uid_t uid);
/* Frees the user with its last reference. */
void users_put(struct users *users, struct user *user);
