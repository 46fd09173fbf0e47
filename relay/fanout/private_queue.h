/* Frames for one worker alone: answers, recovered changes. A byte queue; each stretch of it knows after which
 * frame of the backlog it goes out, so that what a worker reads is in order. Pure memory; delivery.c sends
 * it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct private_stretch {
	uint64_t after; /* a seq; not before the worker's cursor is there */
	uint32_t len;   /* bytes */
};

/* All zero: empty. An empty queue owns no memory. */
struct private_queue {
	unsigned char *bytes;
	size_t start, end, size;
	struct private_stretch *stretches;
	uint32_t first, n, max;
};

/* Add a frame. after never decreases from frame to frame. 0 or -ENOMEM. */
int private_queue_append(struct private_queue *queue, uint64_t after, const void *bytes, size_t len);
/* Add bytes in front of all others, to go out at once. 0 or -ENOMEM. */
int private_queue_prepend(struct private_queue *queue, const void *bytes, size_t len);
/* The socket took len bytes from the front. */
void private_queue_sent(struct private_queue *queue, size_t len);
void private_queue_free(struct private_queue *queue);

/* Bytes that wait, and what it takes to keep their order. */
static inline size_t private_queue_waiting(const struct private_queue *queue)
{
	return queue->end - queue->start + queue->n * sizeof *queue->stretches;
}

/* Bytes of memory, whether in use or not. */
static inline size_t private_queue_memory(const struct private_queue *queue)
{
	return queue->size + queue->max * sizeof *queue->stretches;
}
