/* Requests that wait to be published, and who is next. Each connection's requests keep their
 * order. Users are served round robin, a request each; the connections of a user too,
 * PUBLISH_IN_A_ROW requests each. The first request of a
 * connection that has nothing waiting or in flight precedes those of its user's other
 * connections, so that one that publishes rarely does not wait for those that publish all the
 * time.
 *
 * When the queue is full, a user that has less in it takes a place from the user that has most.
 * So one user's flood does not make the relay busy for others.
 *
 * Does not talk to PostgreSQL: the publisher adds requests, takes them in batches, and frees
 * those that are answered. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

/* Whose request it is. source 0: the relay itself. */
struct publish_origin {
	uid_t uid;
	uint32_t slot; /* of the worker; no two workers have the same slot at the same time */
	uint64_t source, request;
};

struct publish_request {
	TAILQ_ENTRY(publish_request) next;   /* in its line, or in its batch */
	TAILQ_ENTRY(publish_request) by_age; /* all that are not answered, oldest first */
	struct publish_line *line;
	struct publish_batch *batch; /* the publisher's; NULL while it waits */
	struct publish_origin origin;
	double since;        /* seconds of clock_now() */
	bool waits;          /* in its line */
	bool answered;       /* and still in flight */
	const char *channel; /* in the configuration */
	uint32_t len;
	char payload[];
};

TAILQ_HEAD(publish_list, publish_request);

/* How many requests of one connection are taken in a row. With one at a time, the answers to a
 * batch would go to as many sockets as the batch has requests, and each answer costs a system
 * call. */
#define PUBLISH_IN_A_ROW 16

/* The requests of one slot: of one connection, and of the next that gets the slot. */
struct publish_line {
	TAILQ_ENTRY(publish_line) next; /* in its share, while requests wait */
	struct publish_list waiting;
	struct publish_share *share;
	unsigned n;        /* requests that are not freed yet */
	unsigned in_a_row; /* requests taken since it came to the front */
};

TAILQ_HEAD(publish_lines, publish_line);

TAILQ_HEAD(publish_shares, publish_share);

/* The requests of one user. */
struct publish_share {
	LIST_ENTRY(publish_share) in_all;
	TAILQ_ENTRY(publish_share) next;
	struct publish_shares *in; /* the queue's ring or resting; NULL while no request waits */
	struct publish_lines lines;
	uid_t uid;
	unsigned n, n_waiting; /* requests that are not freed yet; of them, those that wait */
	size_t bytes;
};

struct publish_queue {
	unsigned n_max, n_per_uid_max; /* requests */
	size_t size_max;
	struct publish_shares ring; /* the first is next */
	struct publish_shares resting;
	LIST_HEAD(, publish_share) shares;
	struct publish_list by_age;
	struct publish_line **lines; /* by slot + 1; the relay's own is the first */
	uint32_t n_lines;
	unsigned n; /* requests that are not freed yet, waiting or in flight */
	size_t bytes;
};

void publish_queue_open(struct publish_queue *queue, unsigned n_max, unsigned n_per_uid_max, size_t size_max);
/* It must be empty. */
void publish_queue_close(struct publish_queue *queue);

/* Whether a request fits. */
enum publish_room {
	PUBLISH_ROOM,
	PUBLISH_ROOM_BY_EVICTION, /* once *evict is freed; it was taken out of its line */
	PUBLISH_FULL_FOR_USER,
	PUBLISH_FULL,
};
/* Looks for room for a request of len bytes, and takes a place from another user if it must. */
enum publish_room publish_queue_make_room(
	struct publish_queue *queue, uid_t uid, size_t len, struct publish_request **evict);
/* Copies the payload. 0 or -ENOMEM. Call publish_queue_make_room() first. */
int publish_queue_add(struct publish_queue *queue, const struct publish_origin *origin, const char *channel,
	const void *payload, uint32_t len, double since);
/* Takes out the next request; NULL when none waits. */
struct publish_request *publish_queue_take(struct publish_queue *queue);
static inline bool publish_queue_waits(const struct publish_queue *queue)
{
	return !TAILQ_EMPTY(&queue->ring);
}
/* Users that have requests waiting now are passed over until the rest is over. Users that come
 * later are served meanwhile. */
void publish_queue_rest(struct publish_queue *queue);
void publish_queue_rest_over(struct publish_queue *queue);
/* The oldest request that is not answered. */
static inline struct publish_request *publish_queue_oldest(const struct publish_queue *queue)
{
	return TAILQ_FIRST(&queue->by_age);
}
/* The request was answered while in flight. */
void publish_queue_answered(struct publish_queue *queue, struct publish_request *request);
/* Takes a waiting request out of its line. */
void publish_queue_withdraw(struct publish_request *request);
/* The request must not be waiting. */
void publish_queue_free(struct publish_queue *queue, struct publish_request *request);
