/* An array that grows and shrinks by segments of SEGMENT_SIZE bytes, each a mapping of its own.
 * No element ever moves, so growing by one costs the same at any size, and released memory goes
 * back to the kernel at once. The router keeps its edges and its buckets in such arrays. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SEGMENT_SHIFT 16
#define SEGMENT_SIZE ((size_t)1 << SEGMENT_SHIFT)

/* All zero at first. */
struct segments {
	unsigned char **at;
	uint32_t n, max; /* segments; elements of at[] */
};

/* Make room for this many bytes in all; new bytes are 0. 0 or -ENOMEM. */
int segments_reserve(struct segments *segments, uint64_t bytes);
/* Release what lies beyond this many bytes, except one more segment: an array that grows and
 * shrinks by one element at a border must not map and unmap each time. */
void segments_release(struct segments *segments, uint64_t bytes);
void segments_free(struct segments *segments);

/* Element i. size: a constant, and a power of two up to SEGMENT_SIZE, so no element is in two
 * segments. */
static inline void *segments_element(const struct segments *s, uint64_t i, size_t size)
{
	uint64_t position = i * size;

	return s->at[position >> SEGMENT_SHIFT] + (position & (SEGMENT_SIZE - 1));
}
