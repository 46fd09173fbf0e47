/* What an operator is told, in one description for two forms: text to read, and JSON with one object a line.
 * Text is a table, a row an object; or a screen, a line a group of fields; or name=value, a line an object.
 * Escapes what others wrote: a control byte reaches no terminal. The ops commands and the tail write through
 * it. */
#pragma once

#include "outbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum report_form { REPORT_SCREEN, REPORT_TABLE, REPORT_LINE, REPORT_JSON };

struct report {
	FILE *out;
	enum report_form form;
	bool in_line, in_group;
	bool first;      /* no field of the object, or of the line, is written yet */
	bool name_first; /* of the line that has just begun */
	/* A table, until report_close() knows how wide its columns are: its cells, NUL-terminated, row by
	 * row. */
	FILE *cells; /* into cell_bytes */
	struct outbox cell_bytes;
	unsigned n_columns, n_cells, n_rows;
	const char *columns[24];
};

/* out: where it goes, by the time of report_close(). When memory is short, a table comes out as lines of
 * name=value, or as an ERR. */
void report_open(struct report *report, FILE *out, enum report_form form);
void report_close(struct report *report);

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

/* Control bytes, and bytes that are no UTF-8, come out as \xNN, so that one value stays on one line and moves
 * no cursor. */
void report_escape_text(FILE *out, const char *text, size_t len);
/* A JSON string with its quotes; a byte that is no UTF-8 becomes U+FFFD. */
void report_escape_json(FILE *out, const char *text, size_t len);
