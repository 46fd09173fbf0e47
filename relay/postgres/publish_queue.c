#include "postgres/publish_queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void publish_queue_open(struct publish_queue *q, unsigned n_max, unsigned n_per_uid_max, size_t size_max)
{
	*q = (struct publish_queue){.n_max = n_max, .n_per_uid_max = n_per_uid_max, .size_max = size_max};
	TAILQ_INIT(&q->ring);
	TAILQ_INIT(&q->resting);
	LIST_INIT(&q->shares);
	TAILQ_INIT(&q->by_age);
}

void publish_queue_close(struct publish_queue *q)
{
	assert(q->n == 0);
	free(q->lines);
}

/* Shares and lines. Each is freed with its last request. */

static struct publish_share *share_of(struct publish_queue *q, uid_t uid)
{
	struct publish_share *share;

	LIST_FOREACH(share, &q->shares, in_all)
	{
		if (share->uid == uid)
			break;
	}
	return share;
}

static struct publish_share *make_share(struct publish_queue *q, uid_t uid)
{
	struct publish_share *share = share_of(q, uid);

	if (share)
		return share;
	share = calloc(1, sizeof *share);
	if (!share)
		return NULL;
	share->uid = uid;
	TAILQ_INIT(&share->lines);
	LIST_INSERT_HEAD(&q->shares, share, in_all);
	return share;
}

static void drop_share(struct publish_share *share)
{
	if (share->n > 0)
		return;
	LIST_REMOVE(share, in_all);
	free(share);
}

static uint32_t line_number(const struct publish_origin *origin)
{
	return origin->source == 0 ? 0 : origin->slot + 1;
}

static int more_lines(struct publish_queue *q, uint32_t number)
{
	uint32_t n = number < 32 ? 64 : number * 2;
	struct publish_line **lines = reallocarray(q->lines, n, sizeof *lines);

	if (!lines)
		return -ENOMEM;
	memset(lines + q->n_lines, 0, (n - q->n_lines) * sizeof *lines);
	q->lines = lines;
	q->n_lines = n;
	return 0;
}

static struct publish_line *make_line(
	struct publish_queue *q, const struct publish_origin *origin, struct publish_share *share)
{
	uint32_t number = line_number(origin);

	if (number >= q->n_lines && more_lines(q, number) < 0)
		return NULL;
	/* A worker of another user had the slot before. Its line lives on without a slot, until
	 * its last request is freed. */
	if (q->lines[number] && q->lines[number]->share != share)
		q->lines[number] = NULL;
	if (q->lines[number])
		return q->lines[number];
	struct publish_line *line = calloc(1, sizeof *line);
	if (!line)
		return NULL;
	TAILQ_INIT(&line->waiting);
	line->share = share;
	q->lines[number] = line;
	return line;
}

static void drop_line(struct publish_queue *q, struct publish_line *line, uint32_t number)
{
	if (line->n > 0)
		return;
	if (q->lines[number] == line)
		q->lines[number] = NULL;
	free(line);
}

/* In and out */

static void enter(struct publish_share *share, struct publish_shares *list)
{
	share->in = list;
	TAILQ_INSERT_TAIL(list, share, next);
}

static void leave(struct publish_share *share)
{
	TAILQ_REMOVE(share->in, share, next);
	share->in = NULL;
}

static void move_all(struct publish_shares *from, struct publish_shares *to)
{
	for (struct publish_share *share; (share = TAILQ_FIRST(from));) {
		leave(share);
		enter(share, to);
	}
}

void publish_queue_rest(struct publish_queue *q)
{
	move_all(&q->ring, &q->resting);
}

void publish_queue_rest_over(struct publish_queue *q)
{
	move_all(&q->resting, &q->ring);
}

int publish_queue_add(struct publish_queue *q, const struct publish_origin *origin, const char *channel,
	const void *payload, uint32_t len, double since)
{
	struct publish_request *r = malloc(sizeof *r + len);
	struct publish_share *share = r ? make_share(q, origin->uid) : NULL;
	struct publish_line *line = share ? make_line(q, origin, share) : NULL;

	if (!line) {
		if (share)
			drop_share(share);
		free(r);
		return -ENOMEM;
	}
	*r = (struct publish_request){.line = line,
		.origin = *origin,
		.since = since,
		.waits = true,
		.channel = channel,
		.len = len};
	memcpy(r->payload, payload, len);
	if (share->n_waiting++ == 0)
		enter(share, &q->ring);
	if (line->n == 0)
		TAILQ_INSERT_HEAD(&share->lines, line, next);
	else if (TAILQ_EMPTY(&line->waiting))
		TAILQ_INSERT_TAIL(&share->lines, line, next);
	TAILQ_INSERT_TAIL(&line->waiting, r, next);
	TAILQ_INSERT_TAIL(&q->by_age, r, by_age);
	line->n++;
	share->n++;
	share->bytes += len;
	q->n++;
	q->bytes += len;
	return 0;
}

void publish_queue_withdraw(struct publish_request *r)
{
	struct publish_line *line = r->line;
	struct publish_share *share = line->share;

	r->waits = false;
	TAILQ_REMOVE(&line->waiting, r, next);
	if (TAILQ_EMPTY(&line->waiting))
		TAILQ_REMOVE(&share->lines, line, next);
	if (--share->n_waiting == 0)
		leave(share);
}

struct publish_request *publish_queue_take(struct publish_queue *q)
{
	struct publish_share *share = TAILQ_FIRST(&q->ring);

	if (!share)
		return NULL;
	struct publish_line *line = TAILQ_FIRST(&share->lines);
	struct publish_request *r = TAILQ_FIRST(&line->waiting);
	leave(share);
	enter(share, &q->ring);
	if (++line->in_a_row == PUBLISH_IN_A_ROW) {
		line->in_a_row = 0;
		TAILQ_REMOVE(&share->lines, line, next);
		TAILQ_INSERT_TAIL(&share->lines, line, next);
	}
	publish_queue_withdraw(r);
	return r;
}

void publish_queue_answered(struct publish_queue *q, struct publish_request *r)
{
	if (r->answered)
		return;
	r->answered = true;
	TAILQ_REMOVE(&q->by_age, r, by_age);
}

void publish_queue_free(struct publish_queue *q, struct publish_request *r)
{
	struct publish_line *line = r->line;
	struct publish_share *share = line->share;

	assert(!r->waits);
	publish_queue_answered(q, r);
	line->n--;
	share->n--;
	share->bytes -= r->len;
	q->n--;
	q->bytes -= r->len;
	drop_line(q, line, line_number(&r->origin));
	drop_share(share);
	free(r);
}

/* Room */

static bool fits(const struct publish_queue *q, size_t len)
{
	return q->n < q->n_max && q->bytes + len <= q->size_max;
}

/* The part of the queue that these fill, by requests or by bytes, whichever is more. */
static double part(const struct publish_queue *q, size_t n, size_t bytes)
{
	double of_n = (double)n / q->n_max, of_size = (double)bytes / (double)q->size_max;

	return of_n > of_size ? of_n : of_size;
}

/* The user with the largest part, of those that have requests waiting. */
static struct publish_share *greediest(const struct publish_queue *q)
{
	struct publish_share *share, *most = NULL;

	TAILQ_FOREACH (share, &q->ring, next) {
		if (!most || part(q, share->n, share->bytes) > part(q, most->n, most->bytes))
			most = share;
	}
	return most;
}

enum publish_room publish_queue_make_room(
	struct publish_queue *q, uid_t uid, size_t len, struct publish_request **evict)
{
	const struct publish_share *mine = share_of(q, uid);
	size_t n = mine ? mine->n : 0, bytes = (mine ? mine->bytes : 0) + len;

	*evict = NULL;
	if (n >= q->n_per_uid_max)
		return PUBLISH_FULL_FOR_USER;
	if (fits(q, len))
		return PUBLISH_ROOM;
	struct publish_share *most = greediest(q);
	/* A user that would then have as much takes nothing. */
	if (!most || most == mine || part(q, n + 1, bytes) >= part(q, most->n, most->bytes))
		return PUBLISH_FULL;
	/* The last request of the line that is served last. */
	*evict = TAILQ_LAST(&TAILQ_LAST(&most->lines, publish_lines)->waiting, publish_list);
	publish_queue_withdraw(*evict);
	return PUBLISH_ROOM_BY_EVICTION;
}
