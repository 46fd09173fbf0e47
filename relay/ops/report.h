/* What an operator is told, in one description for two forms: text to read, and JSON with one object a line.
 * Text is a table, a row an object; or a screen, a line a group of fields; or name=value, a line an object.
 * Escapes what others wrote: a control byte reaches no terminal. The ops commands and the tail write through
 * it. */
#pragma once

#include "base/outbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum report_form { REPORT_SCREEN, REPORT_TABLE, REPORT_LINE, REPORT_JSON };

#define REPORT_COLUMNS_MAX 24

/* What is known of a table between its rows: so it may be printed in portions, each by a report of its own.
 * All zero at first. Measure some rows, then print all; a cell wider than those that were measured moves the
 * rest of its row. */
struct report_table {
	const char *columns[REPORT_COLUMNS_MAX];
	size_t widths[REPORT_COLUMNS_MAX];
	unsigned n_columns;
	bool measuring; /* rows are not printed */
	bool headed;    /* the names of the columns are */
};

struct report {
	FILE *out;
	enum report_form form;
	bool in_line, in_group;
	bool first;      /* no field of the object, or of the line, is written yet */
	bool name_first; /* of the line that has just begun */
	struct report_table *table;
	/* The row's cells, NUL-terminated. */
	FILE *cells; /* into cell_bytes */
	struct outbox cell_bytes;
	unsigned n_cells;
	bool failed;
};

/* out: where it goes. */
void report_open(struct report *report, FILE *out, enum report_form form);
/* Rows of a table, or else lines of JSON. 0 or -ENOMEM. */
int report_open_table(struct report *report, FILE *out, struct report_table *table, bool json);
/* 0; -ENOMEM: a row of a table is missing. */
int report_close(struct report *report);

void report_begin(struct report *report);
void report_end(struct report *report);
/* Fields from here on stand on this line of the screen; of the first the screen shows the value alone. JSON
 * has no lines. */
void report_line(struct report *report, const char *name);
/* The same, and in JSON they make an object of this name. Ends with the next line or group, or the object. */
void report_group(struct report *report, const char *name);
/* The screen shows the first field's name too. */
void report_named(struct report *report);

/* name: in the words of the screen; JSON has '_' for ' '. A value NULL is none. */
void report_text(struct report *report, const char *name, const char *value);
void report_bytes(struct report *report, const char *name, const char *value, size_t len);
void report_count(struct report *report, const char *name, uint64_t value);
void report_flag(struct report *report, const char *name, bool value);
/* JSON adds "_seconds" to the name. Below 0: not known. */
void report_seconds(struct report *report, const char *name, double value);
/* Events a second; JSON adds "_per_second". */
void report_rate(struct report *report, const char *name, double value);

/* What may not be printed as it is comes out as \xNN for each byte, so that one value stays on one line and
 * moves no cursor. */
void report_escape_text(FILE *out, const char *text, size_t len);
/* A JSON string with its quotes. What may not be printed as it is comes out as \uNNNN; a byte that is no
 * UTF-8 becomes U+FFFD. */
void report_escape_json(FILE *out, const char *text, size_t len);
