/* The bounded ring of encoded frames, each with a seq. A frame is encoded into it once; workers are sent runs
 * of bytes straight from it. Pure memory, no I/O; who wants which frame is the router's and the workers'
 * business. The fan-out appends; workers read. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* No frame of the relay is larger: a payload has less than 8000 bytes, and quotes no more around it. */
#define BACKLOG_FRAME_MAX 9000

/* The topic of frames that every worker gets; a channel's topic is its place in the configuration plus one.
 */
#define TOPIC_ALL 0

struct backlog_entry {
	uint64_t key; /* the router's, of channel and pubkey; 0 when only the topic counts, or nobody asked */
	uint64_t start : 56; /* stream position of the first byte */
	uint64_t topic : 8;
};

/* Stream positions count all bytes ever appended. The ring is mapped twice, one copy behind the other, so
 * that a run of up to size bytes is contiguous wherever it starts. */
struct backlog {
	unsigned char *ring;
	size_t size; /* a power of two */
	struct backlog_entry *entries;
	uint64_t entries_max; /* a power of two */
	uint64_t first;       /* seq of the oldest frame kept; head + 1 when none is */
	uint64_t head;        /* seq of the newest frame; 0 before the first */
	uint64_t end;         /* stream position behind the newest frame */
};

/* size: a power of two, two frames at least. 0 or negative errno. */
int backlog_open(struct backlog *backlog, size_t size);
void backlog_close(struct backlog *backlog);

/* Room for a frame of up to BACKLOG_FRAME_MAX bytes; the oldest frames give way. Only the next commit may
 * follow. */
void *backlog_reserve(struct backlog *backlog);
/* The reserved frame has len bytes. Returns its seq. */
uint64_t backlog_commit(struct backlog *backlog, size_t len, unsigned topic, uint64_t key);

static inline const struct backlog_entry *backlog_entry(const struct backlog *backlog, uint64_t seq)
{
	return &backlog->entries[seq & (backlog->entries_max - 1)];
}

/* Stream position behind the frame. */
static inline uint64_t backlog_end_of(const struct backlog *backlog, uint64_t seq)
{
	return seq == backlog->head ? backlog->end : backlog_entry(backlog, seq + 1)->start;
}

/* Bytes of the frames that are kept. */
static inline uint64_t backlog_used(const struct backlog *backlog)
{
	return backlog->first > backlog->head ? 0
					      : backlog->end - backlog_entry(backlog, backlog->first)->start;
}

static inline const unsigned char *backlog_bytes(const struct backlog *backlog, uint64_t position)
{
	return backlog->ring + (position & (backlog->size - 1));
}
