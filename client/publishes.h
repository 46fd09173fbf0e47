/* The requests to publish that have no answer yet, NOTIFY and SEND. Each is an encoded frame
 * with a deadline. They are bounded in bytes, and kept until they are answered so that they
 * can be sent again. Pure memory without I/O: pgherald.c adds them, session sends them and
 * finds them by their answers. */
#pragma once

#include "pgherald.h"
#include "wire.h"

#include <stdbool.h>
#include <sys/queue.h>

struct publish {
	TAILQ_ENTRY(publish) link;
	uint64_t id;
	uint64_t deadline; /* nanoseconds of wake_clock() */
	pgherald_done *done;
	void *arg;
	uint32_t len;
	char frame[];
};

TAILQ_HEAD(publish_list, publish);

/* All requests get the same time, so both lists are ordered by deadline as well as by id,
 * and all of sent are older than all of queued. */
struct publishes {
	struct publish_list sent, queued;
	size_t bytes, limit; /* of both lists together */
};

void publishes_init(struct publishes *pubs, size_t limit);
void publishes_free(struct publishes *pubs);

/* Queue a copy of a NOTIFY or SEND. Returns 0, -ENOBUFS if the limit is reached, or -ENOMEM. */
int publishes_add(struct publishes *pubs, const struct wire_frame *frame, uint64_t deadline,
	pgherald_done *done, void *arg);

/* Whether one that was sent has no answer yet. */
static inline bool publishes_in_flight(const struct publishes *pubs)
{
	return !TAILQ_EMPTY(&pubs->sent);
}

/* The next to send, or NULL. publishes_sent(): it was handed to the socket. */
struct publish *publishes_next(struct publishes *pubs);
void publishes_sent(struct publishes *pubs, struct publish *pub);

/* Remove one that has ended: the answered one, one whose deadline is over, or any. The
 * caller tells it and frees it. NULL if there is none. */
struct publish *publishes_answered(struct publishes *pubs, uint64_t id);
struct publish *publishes_expired(struct publishes *pubs, uint64_t now);
struct publish *publishes_any(struct publishes *pubs);

/* The next deadline, in nanoseconds of wake_clock(). UINT64_MAX if there is none. */
uint64_t publishes_deadline(const struct publishes *pubs);

/* The connection is lost: requests that were sent and not answered go first on the next one. */
void publishes_restart(struct publishes *pubs);
