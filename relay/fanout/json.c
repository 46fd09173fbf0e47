#include "fanout/json.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* JSON_DECODE_INT_AS_REAL: jansson refuses an integer that it cannot hold. */
#define FLAGS (JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL)
/* A noncharacter, in the place of half a surrogate pair. */
#define BROKEN_ESCAPE "\\uffff"
#define BROKEN "\xef\xbf\xbf"

/* What such an escape takes, with the backslash. */
#define ESCAPE_SIZE 6

/* The code unit of the escape \uXXXX at p, or 0. */
static unsigned unit_of(const char *p, const char *end)
{
	char digits[5] = "";

	if (end - p < ESCAPE_SIZE || p[0] != '\\' || p[1] != 'u')
		return 0;
	memcpy(digits, p + 2, 4);
	return strspn(digits, "0123456789abcdefABCDEF") == 4 ? (unsigned)strtoul(digits, NULL, 16) : 0;
}

static bool is_high(unsigned unit)
{
	return unit >= 0xd800 && unit <= 0xdbff;
}

static bool is_low(unsigned unit)
{
	return unit >= 0xdc00 && unit <= 0xdfff;
}

/* Copies what begins with a backslash in a string. Returns where it ends. */
static const char *copy_escape(const char *p, const char *end, char **out)
{
	unsigned unit = unit_of(p, end), next = unit ? unit_of(p + ESCAPE_SIZE, end) : 0;
	size_t len = unit ? ESCAPE_SIZE : end - p > 1 ? 2 : 1;
	bool pair = is_high(unit) && is_low(next);

	if (pair)
		len = 2 * ESCAPE_SIZE;
	memcpy(*out, (is_high(unit) || is_low(unit)) && !pair ? BROKEN_ESCAPE : p, len);
	*out += len;
	return p + len;
}

/* Copies a run of digits, at most two of them: no number of such runs is too great for a double,
 * and the text is JSON exactly when it was before ("0" followed by digits is not). */
static const char *copy_digits(const char *p, const char *end, char **out)
{
	for (int n = 0; p < end && isdigit((unsigned char)*p); p++, n++)
		if (n < 2)
			*(*out)++ = *p;
	return p;
}

/* Writes what jansson takes to out, which has room for the text. Returns its length. */
static size_t tame(const char *text, size_t len, char *out)
{
	const char *p = text, *end = text + len;
	char *start = out;
	bool in_string = false;

	while (p < end) {
		if (in_string && *p == '\\') {
			p = copy_escape(p, end, &out);
		} else if (!in_string && isdigit((unsigned char)*p)) {
			p = copy_digits(p, end, &out);
		} else {
			in_string ^= *p == '"';
			*out++ = *p++;
		}
	}
	return (size_t)(out - start);
}

json_t *json_read(const char *text, size_t len, bool *changed)
{
	json_t *root = json_loadb(text, len, FLAGS, NULL);

	*changed = !root;
	if (root || len == 0)
		return root;
	char *tamed = malloc(len);
	if (tamed)
		root = json_loadb(tamed, tame(text, len, tamed), FLAGS, NULL);
	free(tamed);
	return root;
}

bool json_is_broken(const json_t *string)
{
	return memmem(json_string_value(string), json_string_length(string), BROKEN, sizeof BROKEN - 1);
}
