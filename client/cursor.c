/* The text is "1 SEQ EPOCH" or "1 SEQ EPOCH CHECKPOINT", where 1 is the version of the
 * format. Epoch and checkpoint may contain any bytes: space, percent and all bytes outside
 * printable ASCII are written %XX. */
#include "cursor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cursor_resume(const struct cursor *c, struct wire_hello *hello)
{
	hello->resume = true;
	hello->epoch = (struct wire_str){c->epoch, c->epoch_len};
	hello->seq = c->seq;
	hello->checkpoint = c->has_checkpoint ? (struct wire_str){c->checkpoint, c->checkpoint_len}
					      : (struct wire_str){0};
}

int cursor_welcome(struct cursor *c, const struct wire_welcome *welcome)
{
	if (welcome->epoch.len > CURSOR_EPOCH_MAX)
		return -EPROTO;
	memcpy(c->next_epoch, welcome->epoch.ptr, welcome->epoch.len);
	c->next_epoch_len = welcome->epoch.len;
	c->replay = c->set && wire_str_eq(welcome->epoch, (struct wire_str){c->epoch, c->epoch_len});
	c->catching_up = true;
	if (!c->set)
		cursor_caught_up(c, welcome->seq);
	return 0;
}

static bool counts(const struct cursor *c, uint64_t seq)
{
	return seq != WIRE_SEQ_NIL && (!c->catching_up || c->replay);
}

void cursor_passed(struct cursor *c, uint64_t seq)
{
	if (counts(c, seq) && seq > c->seq)
		c->seq = seq;
}

void cursor_checkpoint(struct cursor *c, const struct wire_checkpoint *checkpoint)
{
	struct wire_str text = checkpoint->checkpoint;

	if (counts(c, checkpoint->seq) && text.len <= CURSOR_CHECKPOINT_MAX) {
		memcpy(c->checkpoint, text.ptr, text.len);
		c->checkpoint_len = text.len;
		c->has_checkpoint = true;
	}
	cursor_passed(c, checkpoint->seq);
}

void cursor_caught_up(struct cursor *c, uint64_t seq)
{
	memcpy(c->epoch, c->next_epoch, c->next_epoch_len);
	c->epoch_len = c->next_epoch_len;
	c->seq = seq;
	c->set = true;
	c->catching_up = false;
}

/* The text form */

static bool is_plain(unsigned char c)
{
	return c > 0x20 && c < 0x7f && c != '%';
}

static size_t put_escaped(char *out, const char *bytes, uint32_t len)
{
	static const char hex[] = "0123456789ABCDEF";
	char *p = out;

	for (uint32_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)bytes[i];
		if (is_plain(c)) {
			*p++ = (char)c;
		} else {
			*p++ = '%';
			*p++ = hex[c >> 4];
			*p++ = hex[c & 0xf];
		}
	}
	return (size_t)(p - out);
}

int cursor_format(const struct cursor *c, char *buf, size_t size)
{
	char text[32 + 3 * CURSOR_EPOCH_MAX + 1 + 3 * CURSOR_CHECKPOINT_MAX];

	if (!c->set)
		return -ENODATA;
	size_t len = (size_t)snprintf(text, sizeof text, "1 %" PRIu64 " ", c->seq);
	len += put_escaped(text + len, c->epoch, c->epoch_len);
	if (c->has_checkpoint) {
		text[len++] = ' ';
		len += put_escaped(text + len, c->checkpoint, c->checkpoint_len);
	}
	if (len >= size)
		return -ENOSPC;
	memcpy(buf, text, len);
	buf[len] = '\0';
	return (int)len;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Read an escaped string up to a space or the end. Returns its length, or -EBADMSG. */
static int get_escaped(const char **p, char *out, int max)
{
	int len = 0;

	for (; **p && **p != ' '; len++) {
		if (len == max)
			return -EBADMSG;
		if (is_plain((unsigned char)**p)) {
			out[len] = *(*p)++;
			continue;
		}
		if (**p != '%' || hex_digit((*p)[1]) < 0 || hex_digit((*p)[2]) < 0)
			return -EBADMSG;
		out[len] = (char)(hex_digit((*p)[1]) << 4 | hex_digit((*p)[2]));
		*p += 3;
	}
	return len;
}

int cursor_parse(struct cursor *c, const char *text)
{
	char *end;
	int len;

	*c = (struct cursor){0};
	if (strncmp(text, "1 ", 2) != 0 || text[2] < '0' || text[2] > '9')
		return -EBADMSG;
	errno = 0;
	c->seq = strtoull(text + 2, &end, 10);
	if (errno || *end != ' ')
		return -EBADMSG;
	const char *p = end + 1;
	len = get_escaped(&p, c->epoch, CURSOR_EPOCH_MAX);
	if (len < 0)
		return -EBADMSG;
	c->epoch_len = (uint32_t)len;
	if (*p == ' ') {
		p++;
		len = get_escaped(&p, c->checkpoint, CURSOR_CHECKPOINT_MAX);
		if (len < 0 || *p)
			return -EBADMSG;
		c->checkpoint_len = (uint32_t)len;
		c->has_checkpoint = true;
	}
	c->set = true;
	return 0;
}
