#include "recovery/spool.h"

#include "base/config.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

struct spool_chunk {
	TAILQ_ENTRY(spool_chunk) link;
	uint32_t used;      /* of bytes */
	uint32_t n_readers; /* whose place is here */
	unsigned char bytes[];
};

#define BYTES_MAX (SPOOL_CHUNK - sizeof(struct spool_chunk))

/* Stored before the value of each row. */
struct __attribute__((packed)) row_head {
	uint64_t key;
	uint16_t len;
	uint8_t topic;
};

#define ROW_MAX (sizeof(struct row_head) + CHANGE_UTF8_MAX)

_Static_assert(CHANGE_UTF8_MAX <= UINT16_MAX, "a value's length fits into its head");
_Static_assert(CHANNELS_MAX <= UINT8_MAX, "a topic fits into its head");
_Static_assert(ROW_MAX <= BYTES_MAX, "every row fits into a chunk");

/* mmap() and not malloc(): munmap() returns the memory to the kernel at once. */
static struct spool_chunk *map_chunk(struct spool *s)
{
	struct spool_chunk *chunk =
		mmap(NULL, SPOOL_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (chunk == MAP_FAILED)
		return NULL;
	s->kept += SPOOL_CHUNK;
	return chunk;
}

static void unmap_chunk(struct spool *s, struct spool_chunk *chunk)
{
	munmap(chunk, SPOOL_CHUNK);
	s->kept -= SPOOL_CHUNK;
}

static void unmap_spare(struct spool *s)
{
	if (s->spare)
		unmap_chunk(s, s->spare);
	s->spare = NULL;
}

static struct spool_chunk *first(const struct spool *s)
{
	return TAILQ_FIRST(&s->chunks);
}

static struct spool_chunk *last(const struct spool *s)
{
	return TAILQ_LAST(&s->chunks, spool_chunks);
}

static void unmap_first(struct spool *s)
{
	struct spool_chunk *chunk = first(s);

	TAILQ_REMOVE(&s->chunks, chunk, link);
	unmap_chunk(s, chunk);
}

static void unmap_passed(struct spool *s)
{
	while (first(s) != last(s) && first(s)->n_readers == 0)
		unmap_first(s);
}

int spool_open(struct spool *s)
{
	*s = (struct spool){.chunks = TAILQ_HEAD_INITIALIZER(s->chunks)};
	struct spool_chunk *chunk = map_chunk(s);
	if (!chunk)
		return -ENOMEM;
	TAILQ_INSERT_TAIL(&s->chunks, chunk, link);
	return 0;
}

void spool_close(struct spool *s)
{
	unmap_spare(s);
	while (first(s))
		unmap_first(s);
}

void spool_clear(struct spool *s)
{
	unmap_spare(s);
	while (first(s) != last(s))
		unmap_first(s);
	first(s)->used = first(s)->n_readers = 0;
	s->n_rows = s->n_bytes = 0;
}

bool spool_has_room(const struct spool *s)
{
	return s->spare || BYTES_MAX - last(s)->used >= ROW_MAX;
}

int spool_reserve(struct spool *s)
{
	if (!s->spare)
		s->spare = map_chunk(s);
	return s->spare ? 0 : -ENOMEM;
}

void spool_add(struct spool *s, const struct spool_row *row)
{
	struct row_head head = {row->key, (uint16_t)row->value.len, (uint8_t)row->topic};
	size_t len = sizeof head + row->value.len;

	assert(spool_has_room(s) && row->value.len <= CHANGE_UTF8_MAX);
	if (BYTES_MAX - last(s)->used < len) {
		TAILQ_INSERT_TAIL(&s->chunks, s->spare, link);
		s->spare = NULL;
		unmap_passed(s);
	}
	struct spool_chunk *chunk = last(s);
	unsigned char *place = chunk->bytes + chunk->used;
	memcpy(place, &head, sizeof head);
	memcpy(place + sizeof head, row->value.ptr, row->value.len);
	chunk->used += (uint32_t)len;
	s->n_rows++;
	s->n_bytes += len;
}

void spool_end(struct spool *s)
{
	unmap_spare(s);
}

void spool_join(struct spool *s, struct spool_reader *reader)
{
	assert(s->n_rows == 0);
	*reader = (struct spool_reader){.chunk = first(s)};
	first(s)->n_readers++;
}

bool spool_next(struct spool *s, struct spool_reader *reader, struct spool_row *out)
{
	struct row_head head;

	if (reader->offset == reader->chunk->used) {
		struct spool_chunk *next = TAILQ_NEXT(reader->chunk, link);
		if (!next)
			return false;
		reader->chunk->n_readers--;
		next->n_readers++;
		reader->chunk = next;
		reader->offset = 0;
		unmap_passed(s);
	}
	const unsigned char *place = reader->chunk->bytes + reader->offset;
	memcpy(&head, place, sizeof head);
	*out = (struct spool_row){head.topic, head.key, {(const char *)place + sizeof head, head.len}};
	reader->offset += (uint32_t)(sizeof head + head.len);
	reader->n_rows++;
	reader->n_bytes += sizeof head + head.len;
	return true;
}

void spool_leave(struct spool *s, struct spool_reader *reader)
{
	reader->chunk->n_readers--;
	unmap_passed(s);
}
