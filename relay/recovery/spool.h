/* A queue of recovered rows that several readers take, each at its own speed. Each row is
 * stored once, as the frame that workers are sent. Rows are in chunks; if there are more than a
 * few, a chunk is unmapped once every reader has passed it. The frames of a chunk are
 * contiguous, so a reader that wants all of them takes them as one run. No I/O. catch_up.c calls it, and
 * limits how much memory all spools take. */
#pragma once

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/* Bytes that a spool maps and unmaps at a time: a multiple of the page size, small enough that
 * a spool of a few rows is cheap, large enough for a row of the largest size. */
#define SPOOL_CHUNK ((size_t)32 << 10)

/* Bytes: while a spool maps no more, it keeps what all readers have passed, so that more can join. That is
 * some 2,500 short rows. */
#define SPOOL_WHOLE (4 * SPOOL_CHUNK)

struct spool_chunk;
TAILQ_HEAD(spool_chunks, spool_chunk);

struct spool_row {
	unsigned topic;
	uint64_t key;          /* of the router; 0: not known */
	struct wire_str frame; /* encoded; at most BACKLOG_FRAME_MAX bytes */
};

struct spool {
	struct spool_chunks chunks; /* from the slowest reader's to the newest; there is always one */
	struct spool_chunk *spare;  /* for the row that does not fit into the last; may be NULL */
	size_t kept;                /* bytes mapped */
	bool is_partial;            /* the first rows are gone */
	uint64_t n_rows, n_bytes;   /* since it was opened or cleared */
};

/* A place in the spool: after the last row that the reader has taken. */
struct spool_reader {
	struct spool_chunk *chunk;
	uint32_t row, offset;     /* in the chunk */
	uint64_t n_rows, n_bytes; /* taken so far */
};

/* 0 or -ENOMEM. */
int spool_open(struct spool *spool);
/* Drops all rows. */
void spool_close(struct spool *spool);
/* Drops all rows, and keeps one chunk. Each reader must call spool_join() again. */
void spool_clear(struct spool *spool);

/* Whether a row of any size fits. If not, call spool_reserve(). */
bool spool_has_room(const struct spool *spool);
/* Maps one more chunk. 0 or -ENOMEM. */
int spool_reserve(struct spool *spool);
/* Copies the row. Only while spool_has_room(). */
void spool_add(struct spool *spool, const struct spool_row *row);
/* No more rows come: unmaps the chunk that was reserved. */
void spool_end(struct spool *spool);

/* Starts reading at the first row. Not if the spool is partial. */
void spool_join(struct spool *spool, struct spool_reader *reader);
/* Takes the next row. Its frame is valid until the reader's next call. False: there is no row
 * yet. */
bool spool_next(struct spool *spool, struct spool_reader *reader, struct spool_row *out);
/* The frames that come next, without taking them. Their length is 0 if there is no row yet.
 * *topics: a bit for each topic of which there may be rows. Valid until the reader's next
 * call. */
struct wire_str spool_run(struct spool *spool, struct spool_reader *reader, uint64_t *topics);
/* Takes the rows that the first n bytes of the run are of. Returns what is left of the last
 * one. */
struct wire_str spool_pass(struct spool_reader *reader, uint32_t n);
/* Unmaps what every reader has passed. */
void spool_trim(struct spool *spool);
void spool_leave(struct spool *spool, struct spool_reader *reader);
/* Whether the oldest chunk is kept for this reader. */
static inline bool spool_is_kept_for(const struct spool *spool, const struct spool_reader *reader)
{
	return reader->chunk == TAILQ_FIRST(&spool->chunks);
}
