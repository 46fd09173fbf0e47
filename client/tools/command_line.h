/* What pgherald-cat is asked to do. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct strings {
	char **items;
	size_t n;
};

struct command_line {
	const char *instance, *socket; /* NULL: not given */
	struct strings channels, pubkeys;
	unsigned long count; /* changes and messages to print; 0: no limit */
	double timeout;      /* seconds; 0: not given */
	const char *since;   /* a cursor */
	const char *cursor_file;
	bool show_cursor;
	bool json, human;
	const char *name;
	const char *notify, *client_id, *send; /* what to publish, if anything */
};

static inline bool is_publishing(const struct command_line *c)
{
	return c->notify || c->send;
}

/* 0: go on; -1: end with status 0, since it has answered --help or --version; otherwise end with
 * this status, after a line on standard error. The caller must call command_line_free(). */
int command_line_parse(struct command_line *c, int argc, char **argv);
void command_line_free(struct command_line *c);
