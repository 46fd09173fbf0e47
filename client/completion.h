/* A completion that waits for its turn: who is to be told, and what. Made by handle for a subscribe, it
 * waits in subscriptions until the result is known, then in the handle's list until it runs. */
#pragma once

#include "pgherald.h"

#include <sys/queue.h>

struct completion {
	TAILQ_ENTRY(completion) link;
	pgherald_done *done;
	void *arg;
	struct pgherald_result result; /* text may be NULL: none of the relay's own */
};

TAILQ_HEAD(completion_list, completion);
