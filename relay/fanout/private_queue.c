#include "fanout/private_queue.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Bytes, and stretches: the first sizes, for a few answers. Both double. */
#define BYTES_FIRST 256
#define STRETCHES_FIRST 4

static int make_room(struct private_queue *q, size_t len)
{
	if (q->size - q->end >= len)
		return 0;
	if (q->start > 0) {
		memmove(q->bytes, q->bytes + q->start, q->end - q->start);
		q->end -= q->start;
		q->start = 0;
	}
	if (q->size - q->end >= len)
		return 0;
	size_t size = q->size ? q->size : BYTES_FIRST;
	while (size - q->end < len)
		size *= 2;
	unsigned char *bytes = realloc(q->bytes, size);
	if (!bytes)
		return -ENOMEM;
	q->bytes = bytes;
	q->size = size;
	return 0;
}

/* Makes room after the last stretch. */
static int make_stretch(struct private_queue *q)
{
	if (q->first + q->n < q->max)
		return 0;
	if (q->first > 0) {
		memmove(q->stretches, q->stretches + q->first, q->n * sizeof *q->stretches);
		q->first = 0;
		return 0;
	}
	uint32_t max = q->max ? q->max * 2 : STRETCHES_FIRST;
	struct private_stretch *stretches = reallocarray(q->stretches, max, sizeof *stretches);
	if (!stretches)
		return -ENOMEM;
	q->stretches = stretches;
	q->max = max;
	return 0;
}

int private_queue_append(struct private_queue *q, uint64_t after, const void *bytes, size_t len)
{
	struct private_stretch *last = q->n > 0 ? &q->stretches[q->first + q->n - 1] : NULL;
	bool joins = last && last->after == after;

	if (make_room(q, len) < 0 || (!joins && make_stretch(q) < 0))
		return -ENOMEM;
	memcpy(q->bytes + q->end, bytes, len);
	q->end += len;
	if (joins)
		last->len += (uint32_t)len;
	else
		q->stretches[q->first + q->n++] = (struct private_stretch){after, (uint32_t)len};
	return 0;
}

int private_queue_prepend(struct private_queue *q, const void *bytes, size_t len)
{
	if (make_room(q, len) < 0 || make_stretch(q) < 0)
		return -ENOMEM;
	memmove(q->bytes + q->start + len, q->bytes + q->start, q->end - q->start);
	memcpy(q->bytes + q->start, bytes, len);
	q->end += len;
	struct private_stretch *first = q->stretches + q->first;
	memmove(first + 1, first, q->n * sizeof *first);
	q->n++;
	*first = (struct private_stretch){0, (uint32_t)len};
	return 0;
}

void private_queue_sent(struct private_queue *q, size_t len)
{
	q->start += len;
	while (len > 0) {
		struct private_stretch *first = &q->stretches[q->first];
		uint32_t part = len < first->len ? (uint32_t)len : first->len;
		first->len -= part;
		len -= part;
		if (first->len == 0) {
			q->first++;
			q->n--;
		}
	}
	if (q->n == 0)
		private_queue_free(q);
}

void private_queue_free(struct private_queue *q)
{
	free(q->bytes);
	free(q->stretches);
	*q = (struct private_queue){0};
}
