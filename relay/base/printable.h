/* Which characters of a text from outside may be printed as they are. Not: control characters,
 * also those beyond ASCII, which a terminal obeys; marks that change the direction of writing;
 * and invisible characters, which make two names look the same. The log, the reports and the
 * status for systemd escape them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct printable_char {
	unsigned len;  /* bytes; 1 if they are not valid UTF-8 */
	uint32_t code; /* code point; undefined unless is_text */
	bool is_text;  /* valid UTF-8 */
	bool as_is;    /* may be printed as it is */
};
/* The first character of text, whose length in bytes, len, is at least 1. */
void printable_char_at(const char *text, size_t len, struct printable_char *out);

/* Copy text, with \xNN for each byte of a character that may not be printed as it is, and a
 * NUL. If it does not fit into buf, of size bytes, it is cut between two characters. Returns
 * the length in buf. */
size_t printable_copy(char *buf, size_t size, const char *text, size_t len);
