/* Recovered changes that wait for slow workers: a queue of rows, each stored once, that several readers go
 * through at their own pace. Rows stand in chunks; a chunk is unmapped when every reader has passed it. Pure
 * memory, no I/O. How much all spools may hold, and what a row is for, is the business of catch_up, which
 * calls it. */
#pragma once

#include "fanout/change.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/* Bytes that a spool maps and unmaps at a time. A multiple of the page, small enough that a spool of a few
 * rows is cheap, large enough for three rows of the largest size. */
#define SPOOL_CHUNK ((size_t)32 << 10)

struct spool_chunk;
TAILQ_HEAD(spool_chunks, spool_chunk);

struct spool_row {
	unsigned topic;
	uint64_t key;          /* the router's; 0 where there is no pubkey */
	struct wire_str value; /* at most CHANGE_PAYLOAD_MAX bytes */
};

struct spool {
	struct spool_chunks chunks; /* from the slowest reader's to the newest; there is always one */
	struct spool_chunk *spare;  /* for the row that does not fit into the last; may be NULL */
	size_t kept;                /* bytes mapped */
	uint64_t n_rows, n_bytes;   /* added since it was opened or cleared */
};

/* A place in the spool: behind the rows that the reader has taken. */
struct spool_reader {
	struct spool_chunk *chunk;
	uint32_t offset;
	uint64_t n_rows, n_bytes; /* that it has taken */
};

/* 0 or -ENOMEM: nothing is held. */
int spool_open(struct spool *spool);
/* Whatever its readers have not taken is gone. */
void spool_close(struct spool *spool);
/* Drop all rows, and keep one chunk for others. Each reader must call spool_join() again. */
void spool_clear(struct spool *spool);

/* Whether the next row fits, whatever its size. If not, call spool_reserve(). */
bool spool_has_room(const struct spool *spool);
/* Map one chunk more. 0 or -ENOMEM. */
int spool_reserve(struct spool *spool);
/* Only while spool_has_room(). */
void spool_add(struct spool *spool, const struct spool_row *row);
/* No more rows come: give back what was reserved for them. */
void spool_end(struct spool *spool);

/* Read from the first row on. Only before a row is added. */
void spool_join(struct spool *spool, struct spool_reader *reader);
/* The next row; its value is valid until the reader calls again. False: it has taken all there are. */
bool spool_next(struct spool *spool, struct spool_reader *reader, struct spool_row *out);
void spool_leave(struct spool *spool, struct spool_reader *reader);
/* Whether the reader stands in the oldest chunk, which is kept for its sake. */
static inline bool spool_is_kept_for(const struct spool *spool, const struct spool_reader *reader)
{
	return reader->chunk == TAILQ_FIRST(&spool->chunks);
}
