/* An array that grows and shrinks by segments of SEGMENT_SIZE bytes, each mapped by itself. No element ever
 * moves, so to grow by one costs the same whatever the size, and what is given up goes back to the kernel at
 * once. The router keeps its edges and its buckets in such arrays. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SEGMENT_SHIFT 16
#define SEGMENT_SIZE ((size_t)1 << SEGMENT_SHIFT)

/* All zero at first. */
struct segments {
	unsigned char **at;
	uint32_t n, max; /* mapped; places in at */
};

/* Make room for so many bytes in all; new ones are 0. 0 or -ENOMEM. */
int segments_reserve(struct segments *segments, uint64_t bytes);
/* Give up what lies beyond so many bytes, but for one segment more, so that an array that goes up and down by
 * one element at a border does not map and unmap each time. */
void segments_release(struct segments *segments, uint64_t bytes);
void segments_free(struct segments *segments);

/* Where element i is; size, a constant, is a power of two. */
static inline void *segments_element(const struct segments *s, uint64_t i, size_t size)
{
	uint64_t position = i * size;

	return s->at[position >> SEGMENT_SHIFT] + (position & (SEGMENT_SIZE - 1));
}
