#include "wire_change.h"

#include <string.h>

/* What msgpack's first bytes say */
enum {
	NIL = 0xc0,
	UINT_8 = 0xcc,
	UINT_64 = 0xcf,
	STR_8 = 0xd9,
	STR_16 = 0xda,
};

/* The rest of a frame. Each read_ function takes a value off the front, and returns whether
 * it was there and usual. */
struct bytes {
	const unsigned char *next, *end;
};

static inline size_t left(const struct bytes *b)
{
	return (size_t)(b->end - b->next);
}

static inline bool read_uint(struct bytes *b, uint64_t *out)
{
	if (left(b) < 1)
		return false;
	unsigned char first = *b->next++;
	if (first < 0x80) {
		*out = first;
		return true;
	}
	if (first < UINT_8 || first > UINT_64)
		return false;
	unsigned len = 1u << (first - UINT_8);
	if (left(b) < len)
		return false;
	*out = 0;
	for (unsigned i = 0; i < len; i++)
		*out = *out << 8 | b->next[i];
	b->next += len;
	return true;
}

static inline bool read_str(struct bytes *b, struct wire_str *out)
{
	/* A string is never the last element, so a byte follows it. */
	if (left(b) < 2)
		return false;
	if (b->next[0] == STR_8) {
		out->len = b->next[1];
		b->next += 2;
	} else if (b->next[0] >= 0xa0 && b->next[0] < 0xc0) {
		out->len = b->next[0] & 0x1f;
		b->next++;
	} else if (b->next[0] == STR_16 && left(b) >= 3) {
		out->len = (uint32_t)b->next[1] << 8 | b->next[2];
		b->next += 3;
	} else {
		return false;
	}
	if (left(b) < out->len)
		return false;
	out->ptr = (const char *)b->next;
	b->next += out->len;
	return true;
}

static inline bool read_nil(struct bytes *b)
{
	if (left(b) < 1 || *b->next != NIL)
		return false;
	b->next++;
	return true;
}

size_t wire_change_read(const void *buf, size_t len, struct wire_change *out)
{
	const unsigned char *start = buf;
	struct bytes b = {start, start + len};

	if (len < 2 || start[0] != (0x90 | 6) || start[1] != WIRE_CHANGE)
		return 0;
	b.next += 2;
	if (read_nil(&b))
		out->seq = WIRE_SEQ_NIL;
	else if (!read_uint(&b, &out->seq))
		return 0;
	if (!read_str(&b, &out->channel) || !read_str(&b, &out->pubkey))
		return 0;
	if (read_nil(&b))
		out->client_id = (struct wire_str){0};
	else if (!read_str(&b, &out->client_id))
		return 0;
	if (!read_uint(&b, &out->flags) || b.next - start > WIRE_FRAME_MAX)
		return 0;
	return (size_t)(b.next - start);
}

static unsigned char *write_big_endian(unsigned char *p, uint64_t value, uint32_t n)
{
	while (n-- > 0)
		*p++ = (unsigned char)(value >> 8 * n);
	return p;
}

static unsigned char *write_uint(unsigned char *p, uint64_t value)
{
	unsigned power = value <= 0xff ? 0 : value <= 0xffff ? 1 : value <= 0xffffffff ? 2 : 3;

	if (value >= 0x80)
		*p++ = (unsigned char)(0xcc + power);
	return write_big_endian(p, value, 1u << power);
}

static unsigned char *write_str(unsigned char *p, struct wire_str s)
{
	if (!s.ptr) {
		*p++ = NIL;
		return p;
	}
	if (s.len < 32) {
		*p++ = (unsigned char)(0xa0 | s.len);
	} else {
		unsigned power = s.len <= 0xff ? 0 : s.len <= 0xffff ? 1 : 2;
		*p++ = (unsigned char)(0xd9 + power);
		p = write_big_endian(p, s.len, 1u << power);
	}
	memcpy(p, s.ptr, s.len);
	return p + s.len;
}

int wire_change_write(const struct wire_change *c, void *buf)
{
	unsigned char *p = buf;

	*p++ = 0x90 | 6;
	*p++ = WIRE_CHANGE;
	if (c->seq == WIRE_SEQ_NIL)
		*p++ = NIL;
	else
		p = write_uint(p, c->seq);
	p = write_str(p, c->channel);
	p = write_str(p, c->pubkey);
	p = write_str(p, c->client_id);
	p = write_uint(p, c->flags);
	return (int)(p - (unsigned char *)buf);
}
