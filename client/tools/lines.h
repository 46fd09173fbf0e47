/* The lines that pgherald-cat prints: JSON for programs, or sentences for people. */
#pragma once

#include <pgherald.h>
#include <stdbool.h>

struct lines {
	bool json;
	bool color; /* in sentences: mark what went wrong */
};

/* Each prints one line, and flushes it, since a pipe may be read live. 0 or a negative errno. */
int lines_change(const struct lines *lines, const struct pgherald_change *change);
int lines_message(const struct lines *lines, const struct pgherald_message *message);
int lines_gap(const struct lines *lines, const struct pgherald_gap *gap);
int lines_state(const struct lines *lines, const struct pgherald_state *state);
/* From seq on, nothing is missed. */
int lines_subscribed(const struct lines *lines, uint64_t seq);
int lines_cursor(const struct lines *lines, const char *cursor);
