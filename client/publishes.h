/* The requests to publish that have no answer yet, NOTIFY and SEND, each an encoded frame with its
 * deadline: bounded in bytes, and kept until answered so that they can be sent again. Pure; session sends
 * them and brings the answers, handle adds them and tells the app how they ended. */
#pragma once

#include "pgherald.h"
#include "wire.h"

#include <sys/queue.h>

struct publish {
	TAILQ_ENTRY(publish) link;
	uint64_t id, deadline;
	pgherald_done *done;
	void *arg;
	uint32_t len;
	char frame[];
};

TAILQ_HEAD(publish_list, publish);

/* All have the same time to live, so both lists are in the order of their deadlines, as of their ids, and
 * sent is older. */
struct publishes {
	struct publish_list sent, queued;
	size_t bytes, limit;
};

void publishes_init(struct publishes *pubs, size_t limit);
void publishes_free(struct publishes *pubs);

/* Queue a NOTIFY or SEND. 0, -ENOBUFS or -ENOMEM. */
int publishes_add(struct publishes *pubs, const struct wire_frame *frame, uint64_t deadline,
	pgherald_done *done, void *arg);

/* The next to send, or NULL; and it has been put on its way. */
struct publish *publishes_next(struct publishes *pubs);
void publishes_sent(struct publishes *pubs, struct publish *pub);

/* Take out one that has ended, for the caller to tell and free(); NULL: there is none such. */
struct publish *publishes_answered(struct publishes *pubs, uint64_t id);
struct publish *publishes_expired(struct publishes *pubs, uint64_t now);
struct publish *publishes_any(struct publishes *pubs);

/* When the next expires; UINT64_MAX: never. */
uint64_t publishes_deadline(const struct publishes *pubs);

/* The connection is gone: what was sent and not answered is to be sent again, first. */
void publishes_restart(struct publishes *pubs);
