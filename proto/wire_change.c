#include "wire_change.h"

#include <string.h>

struct bytes {
	const unsigned char *next, *end;
};

static bool read_uint(struct bytes *b, uint64_t *out)
{
	uint32_t n;

	if (b->next == b->end)
		return false;
	unsigned char first = *b->next++;
	if (first < 0x80) {
		*out = first;
		return true;
	}
	if (first < 0xcc || first > 0xcf)
		return false;
	n = 1u << (first - 0xcc);
	if ((size_t)(b->end - b->next) < n)
		return false;
	*out = 0;
	while (n--)
		*out = *out << 8 | *b->next++;
	return true;
}

/* Of fewer than 256 bytes */
static bool read_str(struct bytes *b, struct wire_str *out)
{
	if (b->end - b->next < 2)
		return false;
	unsigned char first = *b->next++;
	if (first == 0xd9)
		out->len = *b->next++;
	else if (first >= 0xa0 && first < 0xc0)
		out->len = first & 0x1f;
	else
		return false;
	if ((size_t)(b->end - b->next) < out->len)
		return false;
	out->ptr = (const char *)b->next;
	b->next += out->len;
	return true;
}

const unsigned char *wire_change_read(const void *buf, size_t len, struct wire_change *out)
{
	struct bytes b = {buf, (const unsigned char *)buf + len};

	if (len < 2 || b.next[0] != (0x90 | 6) || b.next[1] != WIRE_CHANGE)
		return NULL;
	b.next += 2;
	return read_uint(&b, &out->seq) && read_str(&b, &out->channel) && read_str(&b, &out->pubkey) &&
			       read_str(&b, &out->client_id) && read_uint(&b, &out->flags)
		       ? b.next
		       : NULL;
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
		*p++ = 0xc0;
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
		*p++ = 0xc0;
	else
		p = write_uint(p, c->seq);
	p = write_str(p, c->channel);
	p = write_str(p, c->pubkey);
	p = write_str(p, c->client_id);
	p = write_uint(p, c->flags);
	return (int)(p - (unsigned char *)buf);
}
