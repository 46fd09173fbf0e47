/* Cursor strings, which an app stores and gives back. An accepted one is printed as the
 * shortest text of the same cursor, which is accepted too. After any frames of a relay, the
 * cursor is valid. */
#include "input.h"

#include "cursor.h"
#include "pgherald.h"

#include <errno.h>

static bool same(const struct cursor *a, const struct cursor *b)
{
	return a->set == b->set && a->seq == b->seq && a->epoch_len == b->epoch_len &&
	       memcmp(a->epoch, b->epoch, a->epoch_len) == 0 && a->has_checkpoint == b->has_checkpoint &&
	       a->checkpoint_len == b->checkpoint_len &&
	       memcmp(a->checkpoint, b->checkpoint, a->checkpoint_len) == 0;
}

static void print(const struct cursor *c)
{
	char text[PGHERALD_CURSOR_SIZE];
	struct cursor again;
	int len = cursor_format(c, text, sizeof text);

	if (!c->set) {
		must(len == -ENODATA);
		return;
	}
	must(len > 0 && (size_t)len == strlen(text));
	for (int i = 0; i < len; i++)
		must(text[i] >= ' ' && text[i] < 0x7f);
	must(cursor_parse(&again, text) == 0 && same(c, &again));
	char *exact = malloc((size_t)len + 1);
	must(exact && cursor_format(c, exact, (size_t)len + 1) == len && strcmp(exact, text) == 0);
	must(cursor_format(c, exact, (size_t)len) == -ENOSPC);
	free(exact);
}

static struct wire_str take_str(struct input *in, char **text)
{
	struct span span = input_span(in, input_u16(in));

	*text = span_text(span);
	return (struct wire_str){*text, (uint32_t)span.len};
}

/* Frames that move the cursor, in any order. */
static void converse(struct cursor *c, struct input *in)
{
	while (input_more(in)) {
		char *text = NULL;
		uint64_t seq;
		unsigned what = input_byte(in);
		switch (what % 4) {
		case 0: {
			struct wire_welcome welcome = {.epoch = take_str(in, &text), .seq = input_byte(in)};
			int r = cursor_welcome(c, &welcome);
			must(r == 0 || r == -EPROTO);
			break;
		}
		case 1:
			seq = input_byte(in);
			cursor_passed(c, seq == 0xff ? WIRE_SEQ_NIL : seq);
			break;
		case 2: {
			struct wire_checkpoint checkpoint = {input_byte(in), take_str(in, &text)};
			cursor_checkpoint(c, &checkpoint);
			break;
		}
		case 3:
			if (c->catching_up)
				cursor_caught_up(c, input_u16(in));
			break;
		}
		free(text);
		print(c);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	const uint8_t *newline = size ? memchr(data, '\n', size) : NULL;
	char *text = span_text(input_span(&in, newline ? (size_t)(newline - data) : size));
	struct cursor c;
	int r = cursor_parse(&c, text);

	must(r == 0 || r == -EBADMSG);
	if (r < 0)
		c = (struct cursor){0};
	print(&c);
	input_byte(&in);
	converse(&c, &in);
	free(text);
	return 0;
}
