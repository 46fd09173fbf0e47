/* Takes an input's bytes from the front, as a target needs them. After the end come zeros and
 * empty strings. All targets use it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Must hold for any input, also with NDEBUG. */
#define must(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			broken(__FILE__, __LINE__, #condition);                                              \
	} while (0)

_Noreturn void broken(const char *file, int line, const char *condition);

struct input {
	const uint8_t *next, *end;
};

struct span {
	const uint8_t *bytes;
	size_t len;
};

static inline bool input_more(const struct input *in)
{
	return in->next < in->end;
}

static inline unsigned input_byte(struct input *in)
{
	return input_more(in) ? *in->next++ : 0;
}

static inline unsigned input_u16(struct input *in)
{
	unsigned low = input_byte(in);

	return low | input_byte(in) << 8;
}

static inline struct span input_span(struct input *in, size_t len)
{
	size_t left = (size_t)(in->end - in->next);
	struct span span = {in->next, len < left ? len : left};

	in->next += span.len;
	return span;
}

/* A copy with a NUL at its end, in an allocation of its own size, so that the sanitizer sees a
 * read past the end. */
static inline char *span_text(struct span span)
{
	char *text = malloc(span.len + 1);

	must(text);
	if (span.len > 0)
		memcpy(text, span.bytes, span.len);
	text[span.len] = '\0';
	return text;
}

/* A short text: its length in one byte, then itself. */
static inline char *input_text(struct input *in)
{
	size_t len = input_byte(in);

	return span_text(input_span(in, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
