#include "ops/report.h"

#include "base/printable.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_WIDTH 12

/* Escaping */

void report_escape_text(FILE *out, const char *text, size_t len)
{
	for (size_t i = 0; i < len;) {
		struct printable_char c;
		printable_char_at(text + i, len - i, &c);
		if (c.as_is)
			fwrite(text + i, 1, c.len, out);
		for (unsigned byte = 0; byte < c.len && !c.as_is; byte++)
			fprintf(out, "\\x%02x", (unsigned char)text[i + byte]);
		i += c.len;
	}
}

/* In UTF-16, as JSON wants it */
static void escape_code(FILE *out, uint32_t code)
{
	if (code >= 0x10000) {
		fprintf(out, "\\u%04x", 0xd800 + ((code - 0x10000) >> 10));
		code = 0xdc00 + ((code - 0x10000) & 0x3ff);
	}
	fprintf(out, "\\u%04x", code);
}

void report_escape_json(FILE *out, const char *text, size_t len)
{
	fputc('"', out);
	for (size_t i = 0; i < len;) {
		struct printable_char c;
		printable_char_at(text + i, len - i, &c);
		if (!c.is_text)
			fputs("\\ufffd", out);
		else if (!c.as_is)
			escape_code(out, c.code);
		else if (c.code == '"' || c.code == '\\')
			fprintf(out, "\\%c", text[i]);
		else
			fwrite(text + i, 1, c.len, out);
		i += c.len;
	}
	fputc('"', out);
}

/* Objects */

void report_open(struct report *r, FILE *out, enum report_form form)
{
	*r = (struct report){.out = out, .form = form};
}

int report_open_table(struct report *r, FILE *out, struct report_table *table, bool json)
{
	report_open(r, out, json ? REPORT_JSON : REPORT_TABLE);
	r->table = table;
	if (!json)
		r->cells = outbox_stream(&r->cell_bytes);
	return json || r->cells ? 0 : -ENOMEM;
}

static void print_row(struct report *r, const char *const *cells)
{
	const struct report_table *t = r->table;
	unsigned last = t->n_columns - 1;

	for (unsigned i = 0; i < last; i++)
		fprintf(r->out, "%-*s  ", (int)t->widths[i], cells[i]);
	fprintf(r->out, "%s\n", cells[last]);
}

static void measure(struct report_table *t, const char *const *cells)
{
	for (unsigned i = 0; i < t->n_columns; i++)
		if (strlen(cells[i]) > t->widths[i])
			t->widths[i] = strlen(cells[i]);
}

static void end_row(struct report *r)
{
	struct report_table *t = r->table;
	const char *cells[REPORT_COLUMNS_MAX];

	if (fflush(r->cells) != 0 || ferror(r->cells)) {
		r->failed = true;
		return;
	}
	const char *cell = r->cell_bytes.bytes + r->cell_bytes.start;
	for (unsigned i = 0; i < r->n_cells; i++, cell += strlen(cell) + 1)
		cells[i] = cell;
	t->n_columns = r->n_cells;
	if (t->measuring) {
		measure(t, cells);
	} else {
		measure(t, t->columns);
		if (!t->headed)
			print_row(r, t->columns);
		t->headed = true;
		print_row(r, cells);
	}
	outbox_cut(&r->cell_bytes, 0);
}

int report_close(struct report *r)
{
	if (r->cells && outbox_end_stream(r->cells) < 0)
		r->failed = true;
	outbox_free(&r->cell_bytes);
	return r->failed ? -ENOMEM : 0;
}

void report_begin(struct report *r)
{
	r->first = true;
	r->n_cells = 0;
	if (r->form == REPORT_JSON)
		fputc('{', r->out);
}

static void end_line(struct report *r)
{
	if (r->form == REPORT_SCREEN && r->in_line)
		fputc('\n', r->out);
	if (r->form == REPORT_JSON && r->in_group) {
		fputc('}', r->out);
		r->first = false;
	}
	r->in_line = r->in_group = false;
}

void report_end(struct report *r)
{
	end_line(r);
	if (r->form == REPORT_JSON)
		fputs("}\n", r->out);
	else if (r->form == REPORT_LINE)
		fputc('\n', r->out);
	else if (r->form == REPORT_TABLE)
		end_row(r);
}

static void json_name(struct report *r, const char *name, const char *unit)
{
	if (!r->first)
		fputc(',', r->out);
	fputc('"', r->out);
	for (; *name; name++)
		fputc(*name == ' ' ? '_' : *name, r->out);
	fprintf(r->out, "%s\":", unit);
}

void report_label(FILE *out, const char *name)
{
	fprintf(out, "%-*s ", LABEL_WIDTH, name);
}

void report_group(struct report *r, const char *name)
{
	assert(r->form == REPORT_SCREEN || r->form == REPORT_JSON);
	end_line(r);
	if (r->form == REPORT_SCREEN) {
		report_label(r->out, name);
		r->in_line = r->first = true;
		return;
	}
	json_name(r, name, "");
	fputc('{', r->out);
	r->in_group = r->first = true;
}

void report_group_end(struct report *r)
{
	end_line(r);
}

void report_named(struct report *r)
{
	r->name_first = true;
}

/* Fields: a name, unless the form has none there, and a value. */

/* Print the name. Returns where the value goes. */
static FILE *field(struct report *r, const char *name, const char *unit)
{
	FILE *out = r->out;

	if (r->form == REPORT_JSON) {
		json_name(r, name, unit);
	} else if (r->form == REPORT_SCREEN) {
		if (!r->first || r->name_first)
			fprintf(out, "%s%s ", r->first ? "" : ", ", name);
		r->name_first = false;
	} else if (r->form == REPORT_LINE) {
		fprintf(out, "%s%s=", r->first ? "" : " ", name);
	} else {
		assert(r->n_cells < REPORT_COLUMNS_MAX);
		r->table->columns[r->n_cells++] = name;
		out = r->cells;
	}
	r->first = false;
	return out;
}

static void field_end(struct report *r)
{
	if (r->form == REPORT_TABLE)
		fputc('\0', r->cells);
}

/* In name=value, a value ends at a space, so one that contains a space is quoted. */
static void quoted(FILE *out, const char *value, size_t len)
{
	size_t start = 0;

	fputc('"', out);
	for (size_t i = 0; i < len; i++) {
		if (value[i] != '"' && value[i] != '\\')
			continue;
		report_escape_text(out, value + start, i - start);
		fprintf(out, "\\%c", value[i]);
		start = i + 1;
	}
	report_escape_text(out, value + start, len - start);
	fputc('"', out);
}

static bool needs_quotes(const char *value, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (strchr(" \"=\\", value[i]))
			return true;
	return false;
}

void report_bytes(struct report *r, const char *name, const char *value, size_t len)
{
	FILE *out = field(r, name, "");

	if (r->form == REPORT_JSON && !value)
		fputs("null", out);
	else if (r->form == REPORT_JSON)
		report_escape_json(out, value, len);
	else if (!value || len == 0)
		fputc('-', out);
	else if (r->form == REPORT_LINE && needs_quotes(value, len))
		quoted(out, value, len);
	else
		report_escape_text(out, value, len);
	field_end(r);
}

void report_text(struct report *r, const char *name, const char *value)
{
	report_bytes(r, name, value, value ? strlen(value) : 0);
}

void report_count(struct report *r, const char *name, uint64_t value)
{
	fprintf(field(r, name, ""), "%llu", (unsigned long long)value);
	field_end(r);
}

void report_flag(struct report *r, const char *name, bool value)
{
	FILE *out = field(r, name, "");

	if (r->form == REPORT_JSON)
		fputs(value ? "true" : "false", out);
	else
		fputs(value ? "yes" : "no", out);
	field_end(r);
}

struct report_duration report_duration(double seconds)
{
	static const struct {
		double below, unit;
		const char *name;
		int digits;
	} scales[] = {
		{1, 1e-3, "ms", 1},
		{600, 1, "s", 1},
		{7200, 60, "min", 0},
		{48 * 3600., 3600, "h", 1},
	};
	struct report_duration d = {"-"};
	size_t i = 0;

	if (seconds < 0)
		return d;
	while (i < sizeof scales / sizeof *scales && seconds >= scales[i].below)
		i++;
	if (i < sizeof scales / sizeof *scales)
		snprintf(d.text, sizeof d.text, "%.*f %s", scales[i].digits, seconds / scales[i].unit,
			scales[i].name);
	else
		snprintf(d.text, sizeof d.text, "%.1f days", seconds / 86400);
	return d;
}

void report_seconds(struct report *r, const char *name, double value)
{
	FILE *out = field(r, name, "_seconds");

	if (r->form != REPORT_JSON)
		fputs(report_duration(value).text, out);
	else if (value < 0)
		fputs("null", out);
	else
		fprintf(out, "%.6f", value);
	field_end(r);
}

void report_rate(struct report *r, const char *name, double value)
{
	FILE *out = field(r, name, "_per_second");

	fprintf(out, r->form == REPORT_JSON ? "%.3f" : "%.1f/s", value);
	field_end(r);
}
