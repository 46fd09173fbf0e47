#include "base/environment_file.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int environment_file_read(struct environment_file *f, const char *path)
{
	FILE *in = fopen(path, "re");
	int r = 0;

	*f = (struct environment_file){0};
	if (!in)
		return -errno;
	/* One byte more shows that there is more, one is for the NUL. */
	f->text = malloc(ENVIRONMENT_FILE_MAX + 2);
	if (f->text)
		f->len = fread(f->text, 1, ENVIRONMENT_FILE_MAX + 1, in);
	if (!f->text)
		r = -ENOMEM;
	else if (ferror(in))
		r = -EIO;
	else if (f->len > ENVIRONMENT_FILE_MAX)
		r = -EFBIG;
	fclose(in);
	if (r < 0)
		environment_file_free(f);
	else
		f->text[f->len] = '\0';
	return r;
}

void environment_file_free(struct environment_file *f)
{
	if (f->text)
		explicit_bzero(f->text, f->len);
	free(f->text);
	*f = (struct environment_file){0};
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool is_name(const char *name, size_t len)
{
	if (len == 0 || isdigit((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && name[i] != '_')
			return false;
	return true;
}

/* Unquotes the value in its place, since it only becomes shorter. Returns where the next line
 * begins. */
static size_t take_value(struct environment_file *f, size_t at)
{
	char *text = f->text, quote = '\0';
	size_t end = at, kept = at; /* kept: up to the last character that is not a blank around it */
	bool bare = false;          /* in a part without quotes, where quotes are characters */

	f->value = text + at;
	while (at < f->len && is_blank(text[at]))
		at++;
	for (; at < f->len && (quote || text[at] != '\n'); at++) {
		char c = text[at];
		bool literal = quote != '\0';
		if (literal && quote == c) {
			quote = '\0';
			kept = end;
			continue;
		}
		if (!quote && !bare && (c == '"' || c == '\'')) {
			quote = c;
			continue;
		}
		if (c == '\\' && quote != '\'' && at + 1 < f->len &&
			(!quote || strchr("\"\\`$\n", text[at + 1]))) {
			c = text[++at];
			literal = true;
			if (c == '\n')
				continue;
		}
		text[end++] = c;
		bare = !quote && (bare || literal || !is_blank(c));
		if (literal || !is_blank(c))
			kept = end;
	}
	text[kept] = '\0';
	return at < f->len ? at + 1 : at;
}

int environment_file_next(struct environment_file *f)
{
	while (f->next < f->len) {
		char *line = f->text + f->next;
		size_t start = strspn(line, " \t\r\n");
		line += start;
		f->next += start;
		size_t len = strcspn(line, "=\n");
		if (*line == '#' || *line == ';' || line[len] != '=') {
			f->next += strcspn(line, "\n");
			continue;
		}
		f->name = line;
		f->next = take_value(f, f->next + len + 1);
		while (len > 0 && is_blank(line[len - 1]))
			len--;
		line[len] = '\0';
		if (is_name(line, len))
			return 1;
	}
	return 0;
}
