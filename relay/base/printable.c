#include "base/printable.h"

#include "wire.h"

#include <stdio.h>

/* Unicode's categories Cc, Cf, Zl and Zp, and similar characters. Variation selectors are not
 * among them: they only choose between two looks of the previous character. */
static const struct {
	uint32_t first, last;
} hidden[] = {
	{0x00, 0x1f}, {0x7f, 0x9f}, {0xad, 0xad}, /* soft hyphen */
	{0x61c, 0x61c},                           /* Arabic letter mark */
	{0x115f, 0x1160},                         /* Hangul fillers */
	{0x180e, 0x180e},                         /* Mongolian vowel separator */
	{0x200b, 0x200f},                         /* no width, and marks of direction */
	{0x2028, 0x202e},                         /* separators; embeddings and overrides of direction */
	{0x2060, 0x206f},                         /* invisible operators; isolates of direction */
	{0x3164, 0x3164},                         /* Hangul filler */
	{0xfeff, 0xfeff},                         /* byte order mark */
	{0xffa0, 0xffa0},                         /* Hangul filler */
	{0xfff9, 0xfffb},                         /* interlinear annotation */
	{0x1d173, 0x1d17a},                       /* musical formatting */
	{0xe0000, 0xe0fff},                       /* tags */
};

static bool is_hidden(uint32_t code)
{
	for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
		if (code >= hidden[i].first && code <= hidden[i].last)
			return true;
	return false;
}

static uint32_t code_of(const unsigned char *p, unsigned len)
{
	/* The bits of the first byte that belong to the code. */
	uint32_t code = len == 1 ? p[0] : p[0] & (0xffu >> (len + 1));

	for (unsigned i = 1; i < len; i++)
		code = code << 6 | (p[i] & 0x3f);
	return code;
}

void printable_char_at(const char *text, size_t len, struct printable_char *out)
{
	unsigned char lead = (unsigned char)*text;
	unsigned n = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

	/* Nearly all characters */
	if (lead >= 0x20 && lead < 0x7f) {
		*out = (struct printable_char){1, lead, true, true};
	} else if (n > len || !wire_utf8_valid(text, n)) {
		*out = (struct printable_char){.len = 1};
	} else {
		uint32_t code = code_of((const unsigned char *)text, n);
		*out = (struct printable_char){n, code, true, !is_hidden(code)};
	}
}

size_t printable_copy(char *buf, size_t size, const char *text, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	size_t n = 0;

	for (size_t i = 0; i < len;) {
		struct printable_char c;
		printable_char_at(text + i, len - i, &c);
		if (n + (c.as_is ? (size_t)1 : 4) * c.len >= size)
			break;
		for (unsigned left = c.len; left > 0; left--, i++) {
			unsigned char byte = (unsigned char)text[i];
			if (c.as_is) {
				buf[n++] = text[i];
				continue;
			}
			buf[n++] = '\\';
			buf[n++] = 'x';
			buf[n++] = digits[byte >> 4];
			buf[n++] = digits[byte & 15];
		}
	}
	if (size > 0)
		buf[n] = '\0';
	return n;
}
