/* The private queue: frames for one worker alone, which are answers and recovered changes by
 * pubkey. Each stretch of bytes knows after which frame of the backlog it goes out, so that the
 * worker reads all in order. No I/O; delivery.c fills it and sends it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct private_stretch {
	uint64_t after; /* goes out once the worker's cursor has reached this seq */
	uint32_t len;   /* bytes */
};

/* All zero: empty. An empty queue owns no memory. */
struct private_queue {
	unsigned char *bytes; /* owned, like stretches */
	size_t start, end, size;
	struct private_stretch *stretches;
	uint32_t first, n, max;
};

/* Adds a copy of the frame. after never decreases from frame to frame. 0 or -ENOMEM. */
int private_queue_append(struct private_queue *queue, uint64_t after, const void *bytes, size_t len);
/* Adds a copy of the bytes in front of all others, to go out at once. 0 or -ENOMEM. */
int private_queue_prepend(struct private_queue *queue, const void *bytes, size_t len);
/* The socket took len bytes from the front. */
void private_queue_sent(struct private_queue *queue, size_t len);
void private_queue_free(struct private_queue *queue);

/* Bytes that wait, and the stretches that keep their order: without these, a peer whose answers
 * are tiny would hold more memory than its limit. */
static inline size_t private_queue_waiting(const struct private_queue *queue)
{
	return queue->end - queue->start + queue->n * sizeof *queue->stretches;
}

/* Bytes allocated, whether in use or not. */
static inline size_t private_queue_memory(const struct private_queue *queue)
{
	return queue->size + queue->max * sizeof *queue->stretches;
}
