#include "fanout/backlog.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Bytes: bounds the entries. The smallest frames, with a short pubkey and no client id, have
 * about this size. If frames are smaller, the entries run out first, and the ring keeps fewer
 * bytes than it could. */
#define BYTES_PER_ENTRY 32

static int map_twice(struct backlog *b)
{
	int fd = memfd_create("pgherald backlog", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = 0;
	unsigned char *place = MAP_FAILED;
	if (ftruncate(fd, (off_t)b->size) == 0)
		place = mmap(NULL, 2 * b->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (place == MAP_FAILED) {
		r = -errno;
	} else if (mmap(place, b->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
			   MAP_FAILED ||
		   mmap(place + b->size, b->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
			   MAP_FAILED) {
		r = -errno;
		munmap(place, 2 * b->size);
	} else {
		b->ring = place;
	}
	close(fd);
	return r;
}

int backlog_open(struct backlog *b, size_t size)
{
	assert(size >= (size_t)2 * BACKLOG_FRAME_MAX && (size & (size - 1)) == 0);
	*b = (struct backlog){.size = size, .entries_max = size / BYTES_PER_ENTRY, .first = 1};
	int r = map_twice(b);
	if (r < 0)
		return r;
	/* calloc leaves pages that were never used unallocated. */
	b->entries = calloc(b->entries_max, sizeof *b->entries);
	if (!b->entries) {
		munmap(b->ring, 2 * b->size);
		return -ENOMEM;
	}
	return 0;
}

void backlog_close(struct backlog *b)
{
	if (!b->ring)
		return;
	munmap(b->ring, 2 * b->size);
	free(b->entries);
	b->ring = NULL;
}

static void evict_oldest(struct backlog *b)
{
	assert(b->first <= b->head);
	b->first++;
}

void *backlog_reserve(struct backlog *b)
{
	while (b->first <= b->head &&
		b->end + BACKLOG_FRAME_MAX - backlog_entry(b, b->first)->start > b->size)
		evict_oldest(b);
	return b->ring + (b->end & (b->size - 1));
}

uint64_t backlog_commit(struct backlog *b, size_t len, unsigned topic, uint64_t key)
{
	assert(len > 0 && len <= BACKLOG_FRAME_MAX);
	if (b->head + 1 - b->first == b->entries_max)
		evict_oldest(b);
	b->head++;
	b->entries[b->head & (b->entries_max - 1)] =
		(struct backlog_entry){.key = key, .start = b->end, .topic = (uint8_t)topic};
	b->end += len;
	return b->head;
}
