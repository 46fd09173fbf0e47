/* One description of what an operator is shown, in two forms: text to read, and JSON with an
 * object a line. Text is a table with a row an object, or a screen with a line for some fields,
 * or name=value with a line an object. It escapes values, so that no control character reaches
 * a terminal. The ops commands and the tail write through it. */
#pragma once

#include "base/outbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum report_form { REPORT_SCREEN, REPORT_TABLE, REPORT_LINE, REPORT_JSON };

#define REPORT_COLUMNS_MAX 24

/* What a table keeps between its rows, so that it may be printed in portions, each by a report
 * of its own. All zero at first. Measure some rows, then print all; a cell wider than the
 * measured ones moves the rest of its row. */
struct report_table {
	const char *columns[REPORT_COLUMNS_MAX];
	size_t widths[REPORT_COLUMNS_MAX];
	unsigned n_columns;
	bool measuring; /* rows are not printed */
	bool headed;    /* the names of the columns are printed */
};

struct report {
	FILE *out;
	enum report_form form;
	bool in_line, in_group;
	bool first;      /* no field of the object, or of the line, is written yet */
	bool name_first; /* the line's first field has its name printed too */
	struct report_table *table;
	/* The row's cells, NUL-terminated. */
	FILE *cells; /* into cell_bytes */
	struct outbox cell_bytes;
	unsigned n_cells;
	bool failed;
};

/* out must outlive the report. */
void report_open(struct report *report, FILE *out, enum report_form form);
/* The rows of a table, or lines of JSON. 0 or -ENOMEM. */
int report_open_table(struct report *report, FILE *out, struct report_table *table, bool json);
/* 0; -ENOMEM: a row of a table is missing, which cannot be without a table. */
int report_close(struct report *report);

void report_begin(struct report *report);
void report_end(struct report *report);
/* The next fields go on a line of the screen, where the first one shows the value alone. In JSON
 * they are an object of this name, which ends with the next group, or with the report's object. */
void report_group(struct report *report, const char *name);
/* In JSON, the next fields are the object's own. */
void report_group_end(struct report *report);
/* The screen shows the first field's name too. */
void report_named(struct report *report);

/* name: in the words of the screen; JSON has '_' for ' '. value NULL: unknown. */
void report_text(struct report *report, const char *name, const char *value);
void report_bytes(struct report *report, const char *name, const char *value, size_t len);
void report_count(struct report *report, const char *name, uint64_t value);
void report_flag(struct report *report, const char *name, bool value);
/* JSON adds "_seconds" to the name. Below 0: unknown. */
void report_seconds(struct report *report, const char *name, double value);
/* Events a second; JSON adds "_per_second". */
void report_rate(struct report *report, const char *name, double value);

/* Seconds in words: "0.9 ms", "12.0 s", "3.0 h"; below 0: "-". */
struct report_duration {
	char text[24];
};
struct report_duration report_duration(double seconds);

/* Print what a line of the screen begins with. */
void report_label(FILE *out, const char *name);
/* Print text, with \xNN for each byte of a character that may not be printed as it is. */
void report_escape_text(FILE *out, const char *text, size_t len);
/* Print a JSON string with its quotes. \uNNNN stands for a character that may not be printed as
 * it is, U+FFFD for a byte that is not valid UTF-8. */
void report_escape_json(FILE *out, const char *text, size_t len);
