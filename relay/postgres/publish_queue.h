/* What waits to be published: in the order of each connection, and round robin between users, and between
 * the connections of a user: PUBLISH_IN_A_ROW requests of one, or else the answers to a batch would go to as
 * many connections as it has requests. So that nobody who publishes now and then waits for those who do all
 * the time, a connection of which nothing waits or is under way is next. When the queue is full, whoever has
 * less in it than another user takes a place from that user: so one user's flood makes the relay busy for
 * nobody else. Leaves out PostgreSQL: the publisher puts requests in, takes batches out, and frees what is
 * answered. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

/* Whose request it is; source 0 is the relay itself. */
struct publish_origin {
	uid_t uid;
	uint32_t slot; /* of the worker: no two have the same at a time */
	uint64_t source, request;
};

struct publish_request {
	TAILQ_ENTRY(publish_request) next;   /* in its line, or in its batch */
	TAILQ_ENTRY(publish_request) by_age; /* all that are not answered, the oldest first */
	struct publish_line *line;
	struct publish_batch *batch; /* the publisher's, when it was taken */
	struct publish_origin origin;
	double since;
	bool waits;          /* in its line */
	bool answered;       /* while PostgreSQL had it */
	const char *channel; /* the configuration's */
	uint32_t len;
	char payload[];
};

TAILQ_HEAD(publish_list, publish_request);

#define PUBLISH_IN_A_ROW 16

/* Of one connection; of all that have the slot one after the other. */
struct publish_line {
	TAILQ_ENTRY(publish_line) next; /* of its share's that have some that wait */
	struct publish_list waiting;
	struct publish_share *share;
	unsigned n;        /* that were not freed yet */
	unsigned in_a_row; /* that were taken since its turn began */
};

TAILQ_HEAD(publish_lines, publish_line);

TAILQ_HEAD(publish_shares, publish_share);

/* Of one user. */
struct publish_share {
	LIST_ENTRY(publish_share) in_all;
	TAILQ_ENTRY(publish_share) next;
	struct publish_shares *in; /* the queue's ring, or those that rest; NULL while none waits */
	struct publish_lines lines;
	uid_t uid;
	unsigned n, n_waiting; /* not freed yet; in its lines */
	size_t bytes;
};

struct publish_queue {
	unsigned n_max, n_per_uid_max; /* requests */
	size_t size_max;
	struct publish_shares ring; /* the first is asked next */
	struct publish_shares resting;
	LIST_HEAD(, publish_share) shares;
	struct publish_list by_age;
	struct publish_line **lines; /* by slot; the relay's own is the first */
	uint32_t n_lines;
	unsigned n; /* not freed yet, whether they wait or PostgreSQL has them */
	size_t bytes;
};

void publish_queue_open(struct publish_queue *queue, unsigned n_max, unsigned n_per_uid_max, size_t size_max);
/* Nothing may be in it. */
void publish_queue_close(struct publish_queue *queue);

/* What became of a request that does not fit. */
enum publish_room {
	PUBLISH_ROOM,
	PUBLISH_ROOM_BY_EVICTION, /* there is room when *evict is answered and freed; it does not wait any
				     more */
	PUBLISH_FULL_FOR_USER,
	PUBLISH_FULL,
};
enum publish_room publish_queue_make_room(
	struct publish_queue *queue, uid_t uid, size_t len, struct publish_request **evict);
/* 0 or -ENOMEM. */
int publish_queue_add(struct publish_queue *queue, const struct publish_origin *origin, const char *channel,
	const void *payload, uint32_t len, double since);
/* The next in turn, which waits no more; NULL when none waits. */
struct publish_request *publish_queue_take(struct publish_queue *queue);
static inline bool publish_queue_waits(const struct publish_queue *queue)
{
	return !TAILQ_EMPTY(&queue->ring);
}
/* Those who have some that wait are not asked until it is over; whoever comes meanwhile is. */
void publish_queue_rest(struct publish_queue *queue);
void publish_queue_rest_over(struct publish_queue *queue);
/* The oldest that is not answered. */
static inline struct publish_request *publish_queue_oldest(const struct publish_queue *queue)
{
	return TAILQ_FIRST(&queue->by_age);
}
/* It is answered, and PostgreSQL still has it. */
void publish_queue_answered(struct publish_queue *queue, struct publish_request *request);
/* It waits no more, though its turn has not come. */
void publish_queue_withdraw(struct publish_request *request);
/* It must not wait. */
void publish_queue_free(struct publish_queue *queue, struct publish_request *request);
