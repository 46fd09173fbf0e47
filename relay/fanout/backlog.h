/* The backlog: a bounded ring of encoded frames, each with a seq. A frame is encoded once, and
 * sent to all workers straight from the ring. No I/O; the router and the workers know who wants
 * which frame. fanout.c appends, delivery.c reads. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Bytes: bounds a frame that is for more than one worker. A payload in UTF-8 has less than
 * 24,000 bytes; the rest is room for the channel's name and the frame's headers. */
#define BACKLOG_FRAME_MAX 24500

/* The topic of frames that every worker gets. A channel's topic is its place in the
 * configuration plus one. */
#define TOPIC_ALL 0
/* Bounds a topic. The other 56 bits of the word are stream positions: enough for a gigabyte a
 * second for two years. */
#define BACKLOG_TOPIC_BITS 8

struct backlog_entry {
	/* The router's, of channel and pubkey. 0: the frame has no pubkey, or no worker
	 * subscribed by pubkey when it was appended. */
	uint64_t key;
	uint64_t start : 64 - BACKLOG_TOPIC_BITS; /* stream position of the first byte */
	uint64_t topic : BACKLOG_TOPIC_BITS;
};
_Static_assert(sizeof(struct backlog_entry) == 16, "a position and its topic share a word");

/* Stream positions count all bytes ever appended. The ring is mapped twice, the second copy
 * right after the first, so up to size bytes are contiguous wherever they start. */
struct backlog {
	unsigned char *ring;
	size_t size; /* a power of two */
	struct backlog_entry *entries;
	uint64_t entries_max; /* a power of two */
	/* Seq of the oldest frame kept; head + 1 when the backlog is empty. */
	uint64_t first;
	uint64_t head; /* seq of the newest frame; 0 before the first */
	uint64_t end;  /* stream position after the newest frame */
};

/* size: bytes, a power of two, at least two frames. 0 or negative errno. */
int backlog_open(struct backlog *backlog, size_t size);
void backlog_close(struct backlog *backlog);

/* Makes room for a frame of up to BACKLOG_FRAME_MAX bytes, and drops the oldest frames for it.
 * The next call must be backlog_commit(); until then the caller may write there. */
void *backlog_reserve(struct backlog *backlog);
/* Adds the reserved frame, which has len bytes. Returns its seq. */
uint64_t backlog_commit(struct backlog *backlog, size_t len, unsigned topic, uint64_t key);

/* Only for a seq from first to head. Valid until the next backlog_reserve(). */
static inline const struct backlog_entry *backlog_entry(const struct backlog *backlog, uint64_t seq)
{
	return &backlog->entries[seq & (backlog->entries_max - 1)];
}

/* Stream position after the frame. */
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

/* Valid until the next backlog_reserve(). */
static inline const unsigned char *backlog_bytes(const struct backlog *backlog, uint64_t position)
{
	return backlog->ring + (position & (backlog->size - 1));
}
