#include "recovery/spool.h"

#include "base/config.h"
#include "fanout/backlog.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* One for each row, from the end of the chunk towards its beginning. */
struct row_head {
	uint64_t key;
	uint16_t len; /* of the frame */
	uint8_t topic;
};

struct spool_chunk {
	TAILQ_ENTRY(spool_chunk) link;
	uint32_t used;      /* of bytes, by frames */
	uint32_t n_rows;    /* and so heads */
	uint32_t n_readers; /* whose place is here */
	uint64_t topics;    /* a bit for each topic that has a row */
	unsigned char bytes[];
};

#define BYTES_MAX (SPOOL_CHUNK - sizeof(struct spool_chunk))
#define ROW_MAX (sizeof(struct row_head) + BACKLOG_FRAME_MAX)

_Static_assert(BACKLOG_FRAME_MAX <= UINT16_MAX, "a frame's length fits into its head");
_Static_assert(CHANNELS_MAX < 64, "each topic has a bit");
_Static_assert(ROW_MAX <= BYTES_MAX, "every row fits into a chunk");
_Static_assert(SPOOL_CHUNK % _Alignof(struct row_head) == 0, "heads are aligned");

static struct row_head *head_of(struct spool_chunk *chunk, uint32_t row)
{
	return (struct row_head *)((unsigned char *)chunk + SPOOL_CHUNK) - 1 - row;
}

static size_t room_in(const struct spool_chunk *chunk)
{
	return BYTES_MAX - chunk->used - chunk->n_rows * sizeof(struct row_head);
}

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

void spool_trim(struct spool *s)
{
	while (first(s) != last(s) && first(s)->n_readers == 0) {
		unmap_first(s);
		s->is_partial = true;
	}
}

static void unmap_passed(struct spool *s)
{
	if (s->is_partial || s->kept > SPOOL_WHOLE)
		spool_trim(s);
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
	first(s)->used = first(s)->n_rows = first(s)->n_readers = 0;
	first(s)->topics = 0;
	s->n_rows = s->n_bytes = 0;
	s->is_partial = false;
}

bool spool_has_room(const struct spool *s)
{
	return s->spare || room_in(last(s)) >= ROW_MAX;
}

int spool_reserve(struct spool *s)
{
	if (!s->spare)
		s->spare = map_chunk(s);
	return s->spare ? 0 : -ENOMEM;
}

void spool_add(struct spool *s, const struct spool_row *row)
{
	size_t len = sizeof(struct row_head) + row->frame.len;

	assert(spool_has_room(s) && row->frame.len <= BACKLOG_FRAME_MAX);
	if (room_in(last(s)) < len) {
		TAILQ_INSERT_TAIL(&s->chunks, s->spare, link);
		s->spare = NULL;
		unmap_passed(s);
	}
	struct spool_chunk *chunk = last(s);
	memcpy(chunk->bytes + chunk->used, row->frame.ptr, row->frame.len);
	*head_of(chunk, chunk->n_rows++) =
		(struct row_head){row->key, (uint16_t)row->frame.len, (uint8_t)row->topic};
	chunk->used += row->frame.len;
	chunk->topics |= UINT64_C(1) << row->topic;
	s->n_rows++;
	s->n_bytes += len;
}

void spool_end(struct spool *s)
{
	unmap_spare(s);
}

void spool_join(struct spool *s, struct spool_reader *reader)
{
	assert(!s->is_partial);
	*reader = (struct spool_reader){.chunk = first(s)};
	first(s)->n_readers++;
}

/* Whether there is a row at the reader's place, which may be in the next chunk. */
static bool find_row(struct spool *s, struct spool_reader *reader)
{
	if (reader->row < reader->chunk->n_rows)
		return true;
	struct spool_chunk *next = TAILQ_NEXT(reader->chunk, link);
	if (!next)
		return false;
	reader->chunk->n_readers--;
	next->n_readers++;
	reader->chunk = next;
	reader->row = reader->offset = 0;
	unmap_passed(s);
	return true;
}

static struct wire_str take(struct spool_reader *reader)
{
	const struct row_head *head = head_of(reader->chunk, reader->row++);
	struct wire_str frame = {(const char *)reader->chunk->bytes + reader->offset, head->len};

	reader->offset += head->len;
	reader->n_rows++;
	reader->n_bytes += sizeof *head + head->len;
	return frame;
}

bool spool_next(struct spool *s, struct spool_reader *reader, struct spool_row *out)
{
	if (!find_row(s, reader))
		return false;
	const struct row_head *head = head_of(reader->chunk, reader->row);
	*out = (struct spool_row){.topic = head->topic, .key = head->key};
	out->frame = take(reader);
	return true;
}

struct wire_str spool_run(struct spool *s, struct spool_reader *reader, uint64_t *topics)
{
	*topics = 0;
	if (!find_row(s, reader))
		return (struct wire_str){0};
	*topics = reader->chunk->topics;
	return (struct wire_str){
		(const char *)reader->chunk->bytes + reader->offset, reader->chunk->used - reader->offset};
}

struct wire_str spool_pass(struct spool_reader *reader, uint32_t n)
{
	struct spool_chunk *chunk = reader->chunk;
	uint32_t end = reader->offset + n;
	struct wire_str frame = {0};

	if (end == chunk->used) {
		uint32_t n_rows = chunk->n_rows - reader->row;
		reader->n_rows += n_rows;
		reader->n_bytes += n + n_rows * sizeof(struct row_head);
		reader->row = chunk->n_rows;
		reader->offset = end;
	}
	while (reader->offset < end)
		frame = take(reader);
	uint32_t left = reader->offset - end;
	return left > 0 ? (struct wire_str){frame.ptr + frame.len - left, left} : (struct wire_str){0};
}

void spool_leave(struct spool *s, struct spool_reader *reader)
{
	reader->chunk->n_readers--;
	unmap_passed(s);
}
