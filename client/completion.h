/* The completion of a subscribe. pgherald.c allocates it. It waits in subscriptions until
 * the result is known, then on the handle's list until tell runs it and frees it. */
#pragma once

#include "pgherald.h"

#include <sys/queue.h>

struct completion {
	TAILQ_ENTRY(completion) link;
	pgherald_done *done;
	void *arg;
	struct pgherald_result result; /* text: borrowed, or NULL if the relay gave none */
};

TAILQ_HEAD(completion_list, completion);
