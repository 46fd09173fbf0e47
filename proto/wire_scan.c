#include "wire.h"

#include <errno.h>

static uint32_t big_endian(const unsigned char *p, uint32_t n)
{
	uint32_t value = 0;

	while (n--)
		value = value << 8 | *p++;
	return value;
}

/* What the first byte of a msgpack value says of it. */
struct token {
	uint8_t count_len;    /* bytes of a count that follows the first byte */
	uint8_t fixed_len;    /* bytes after the first byte and the count, whatever the count */
	uint32_t count;       /* the count, when the first byte holds it */
	uint8_t elements_per; /* 0: the count is of bytes; 1: an array; 2: a map */
};

/* The formats of https://github.com/msgpack/msgpack/blob/master/spec.md, by first byte.
 * Returns false if no format has it. */
static bool token_of(unsigned char first, struct token *t)
{
	/* clang-format off */
	static const struct token from_c0[32] = {
		{0}, {0}, {0}, {0},					   /* nil, never used, false, true */
		{1, 0, 0, 0}, {2, 0, 0, 0}, {4, 0, 0, 0},		   /* bin 8, 16, 32 */
		{1, 1, 0, 0}, {2, 1, 0, 0}, {4, 1, 0, 0},		   /* ext 8, 16, 32 */
		{0, 4, 0, 0}, {0, 8, 0, 0},				   /* float 32, 64 */
		{0, 1, 0, 0}, {0, 2, 0, 0}, {0, 4, 0, 0}, {0, 8, 0, 0},	   /* uint 8, 16, 32, 64 */
		{0, 1, 0, 0}, {0, 2, 0, 0}, {0, 4, 0, 0}, {0, 8, 0, 0},	   /* int 8, 16, 32, 64 */
		{0, 2, 0, 0}, {0, 3, 0, 0}, {0, 5, 0, 0}, {0, 9, 0, 0}, {0, 17, 0, 0}, /* fixext 1 to 16 */
		{1, 0, 0, 0}, {2, 0, 0, 0}, {4, 0, 0, 0},		   /* str 8, 16, 32 */
		{2, 0, 0, 1}, {4, 0, 0, 1},				   /* array 16, 32 */
		{2, 0, 0, 2}, {4, 0, 0, 2},				   /* map 16, 32 */
	};
	/* clang-format on */

	if (first < 0x80 || first >= 0xe0)
		*t = (struct token){0};
	else if (first < 0x90)
		*t = (struct token){.count = first & 0x0f, .elements_per = 2};
	else if (first < 0xa0)
		*t = (struct token){.count = first & 0x0f, .elements_per = 1};
	else if (first < 0xc0)
		*t = (struct token){.count = first & 0x1f};
	else if (first == 0xc1)
		return false;
	else
		*t = from_c0[first - 0xc0];
	return true;
}

int wire_scan(struct wire_scanner *s, const void *buf, size_t len)
{
	const unsigned char *p = buf;

	if (s->offset > 0 && s->depth == 0)
		return s->offset <= len ? 0 : -EAGAIN;
	while (s->offset < len) {
		struct token t;
		if (!token_of(p[s->offset], &t) || (s->depth == 0 && t.elements_per != 1))
			return -EBADMSG;
		uint32_t header = 1u + t.count_len;
		if (len - s->offset < header)
			return -EAGAIN;
		uint32_t count = t.count_len ? big_endian(p + s->offset + 1, t.count_len) : t.count;
		if (count > WIRE_FRAME_MAX)
			return -EMSGSIZE;
		/* Every element takes at least a byte, so a count beyond the limit is
		 * refused before its elements arrive. */
		uint32_t body = t.fixed_len + (t.elements_per ? count * t.elements_per : count);
		if (s->offset + header + body > WIRE_FRAME_MAX)
			return -EMSGSIZE;

		if (s->depth > 0)
			s->left[s->depth - 1]--;
		s->offset += header;
		if (t.elements_per) {
			if (s->depth == WIRE_DEPTH_MAX)
				return -EBADMSG;
			s->left[s->depth++] = body;
		} else {
			s->offset += body;
		}
		while (s->depth > 0 && s->left[s->depth - 1] == 0)
			s->depth--;
		if (s->depth == 0)
			return s->offset <= len ? 0 : -EAGAIN;
	}
	return -EAGAIN;
}
