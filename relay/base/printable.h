/* What of a text that others wrote may be printed as it is. A terminal obeys control characters, those beyond
 * ASCII too, and lays a line out from right to left where a character says so; and what nobody sees can make
 * two names look the same. The log, the reports and what systemd is told escape all of that. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character that text begins with. */
struct printable_char {
	unsigned len;  /* in bytes; of what is no UTF-8, one */
	uint32_t code; /* its code point; meaningless where is_text is false */
	bool is_text;  /* UTF-8 */
	bool as_is;    /* it may be printed so */
};
void printable_char_at(const char *text, size_t len, struct printable_char *out);

/* Copy text, with \xNN for each byte of what may not be printed as it is. Returns the length of what stands
 * in buf, which is cut where it does not fit, between two characters. */
size_t printable_copy(char *buf, size_t size, const char *text, size_t len);
