#include "fanout/json.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* What \uXXXX takes. */
#define ESCAPE_SIZE 6

struct reader {
	const char *p, *end;
};

static void skip_blanks(struct reader *r)
{
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r'))
		r->p++;
}

static bool skip_char(struct reader *r, char c)
{
	if (r->p == r->end || *r->p != c)
		return false;
	r->p++;
	return true;
}

static bool skip_digits(struct reader *r)
{
	const char *start = r->p;

	while (r->p < r->end && isdigit((unsigned char)*r->p))
		r->p++;
	return r->p > start;
}

static bool skip_number(struct reader *r)
{
	(void)skip_char(r, '-');
	if (!skip_char(r, '0') && !skip_digits(r))
		return false;
	if (skip_char(r, '.') && !skip_digits(r))
		return false;
	if (!skip_char(r, 'e') && !skip_char(r, 'E'))
		return true;
	if (!skip_char(r, '+'))
		(void)skip_char(r, '-');
	return skip_digits(r);
}

static bool skip_word(struct reader *r, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(r->end - r->p) < len || memcmp(r->p, word, len) != 0)
		return false;
	r->p += len;
	return true;
}

static int hex_of(char c)
{
	if (isdigit((unsigned char)c))
		return c - '0';
	return isxdigit((unsigned char)c) ? (c | 0x20) - 'a' + 10 : -1;
}

/* The code unit of the escape \uXXXX at p, or -1. */
static int unit_of(const char *p, const char *end)
{
	int unit = 0;

	if (end - p < ESCAPE_SIZE || p[0] != '\\' || p[1] != 'u')
		return -1;
	for (int i = 2; i < ESCAPE_SIZE; i++) {
		int digit = hex_of(p[i]);
		if (digit < 0)
			return -1;
		unit = unit << 4 | digit;
	}
	return unit;
}

static char short_escape(char c)
{
	static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	const char *at = c ? strchr(names, c) : NULL;

	if (!at)
		return '\0';
	return meanings[at - names];
}

static bool skip_escape(struct reader *r)
{
	if (unit_of(r->p, r->end) >= 0)
		r->p += ESCAPE_SIZE;
	else if (r->end - r->p >= 2 && short_escape(r->p[1]))
		r->p += 2;
	else
		return false;
	return true;
}

/* After the quote. */
static bool read_string(struct reader *r, struct json_value *out)
{
	const char *start = r->p;

	*out = (struct json_value){.kind = JSON_STRING};
	for (;;) {
		json_skip_plain(&r->p, r->end);
		if (r->p == r->end || (unsigned char)*r->p < 0x20)
			return false;
		if (*r->p == '"')
			break;
		if (*r->p != '\\') {
			r->p++;
			continue;
		}
		out->escaped = true;
		if (!skip_escape(r))
			return false;
	}
	out->raw = (struct wire_str){start, (uint32_t)(r->p - start)};
	r->p++;
	return true;
}

/* A string, a number, or a word. */
static bool read_scalar(struct reader *r, struct json_value *out)
{
	*out = (struct json_value){.kind = JSON_OTHER};
	if (skip_char(r, '"'))
		return read_string(r, out);
	if (skip_word(r, "null")) {
		out->kind = JSON_NULL;
		return true;
	}
	return skip_word(r, "true") || skip_word(r, "false") || skip_number(r);
}

static bool read_name(struct reader *r, struct json_value *out)
{
	skip_blanks(r);
	if (!skip_char(r, '"') || !read_string(r, out))
		return false;
	skip_blanks(r);
	return skip_char(r, ':');
}

/* The arrays and objects that are open. A bit for each, and no recursion: the stack is small. */
struct nesting {
	unsigned depth;
	uint64_t is_object[JSON_DEPTH_MAX / 64];
};

static bool in_object(const struct nesting *n)
{
	unsigned top = n->depth - 1;

	return n->is_object[top / 64] >> top % 64 & 1;
}

static bool nest(struct nesting *n, bool is_object)
{
	unsigned top = n->depth;
	uint64_t bit = UINT64_C(1) << top % 64;

	if (top == JSON_DEPTH_MAX)
		return false;
	n->depth++;
	n->is_object[top / 64] = is_object ? n->is_object[top / 64] | bit : n->is_object[top / 64] & ~bit;
	return true;
}

/* After a value: what closes, up to where the next value begins, or to the end of the
 * outermost. */
static bool skip_ends(struct reader *r, struct nesting *n)
{
	struct json_value name;

	while (n->depth > 0) {
		skip_blanks(r);
		if (skip_char(r, ','))
			return !in_object(n) || read_name(r, &name);
		if (!skip_char(r, in_object(n) ? '}' : ']'))
			return false;
		n->depth--;
	}
	return true;
}

static bool read_value(struct reader *r, struct json_value *out)
{
	struct json_value inner, name;
	struct nesting n = {0};

	*out = (struct json_value){.kind = JSON_OTHER};
	do {
		skip_blanks(r);
		bool is_object = skip_char(r, '{');
		if (is_object || skip_char(r, '[')) {
			if (!nest(&n, is_object))
				return false;
			skip_blanks(r);
			if (r->p == r->end || *r->p != (is_object ? '}' : ']')) {
				if (is_object && !read_name(r, &name))
					return false;
				continue;
			}
		} else if (!read_scalar(r, n.depth == 0 ? out : &inner)) {
			return false;
		}
		if (!skip_ends(r, &n))
			return false;
	} while (n.depth > 0);
	return true;
}

/* The place of the member's name among the letters of names, or NULL. */
static const char *find_name(const char *names, const struct json_value *name)
{
	char text[ESCAPE_SIZE] = "";

	if (name->raw.len == 0 || name->raw.len > sizeof text || json_decode(name, text) != 1 || !*text)
		return NULL;
	return strchr(names, *text);
}

static bool read_members(struct reader *r, const char *names, struct json_value *values)
{
	struct json_value name, value;

	skip_blanks(r);
	if (skip_char(r, '}'))
		return true;
	do {
		if (!read_name(r, &name) || !read_value(r, &value))
			return false;
		const char *at = find_name(names, &name);
		if (at)
			values[at - names] = value;
		skip_blanks(r);
	} while (skip_char(r, ','));
	return skip_char(r, '}');
}

bool json_read(const char *text, size_t len, const char *names, struct json_value *values)
{
	struct reader r = {text, text + len};

	for (size_t i = 0; names[i]; i++)
		values[i] = (struct json_value){.kind = JSON_MISSING};
	if (!wire_utf8_valid(text, len))
		return false;
	skip_blanks(&r);
	if (!skip_char(&r, '{') || !read_members(&r, names, values))
		return false;
	skip_blanks(&r);
	return r.p == r.end;
}

static char *put_utf8(char *out, unsigned code)
{
	if (code < 0x80) {
		*out++ = (char)code;
		return out;
	}
	int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
	*out++ = (char)(0xf0 << (3 - more) | code >> 6 * more);
	while (more-- > 0)
		*out++ = (char)(0x80 | (code >> 6 * more & 0x3f));
	return out;
}

/* The character of the escape at *p. -1: half of a surrogate pair. */
static int read_escape(const char **p, const char *end)
{
	int unit = unit_of(*p, end), low;

	if (unit < 0) {
		*p += 2;
		return (unsigned char)short_escape((*p)[-1]);
	}
	*p += ESCAPE_SIZE;
	if (unit < 0xd800 || unit > 0xdfff)
		return unit;
	low = unit_of(*p, end);
	if (unit > 0xdbff || low < 0xdc00 || low > 0xdfff)
		return -1;
	*p += ESCAPE_SIZE;
	return 0x10000 + ((unit & 0x3ff) << 10 | (low & 0x3ff));
}

int json_decode(const struct json_value *string, char *out)
{
	const char *p = string->raw.ptr, *end = p + string->raw.len;
	char *start = out;

	while (p < end) {
		if (*p != '\\') {
			*out++ = *p++;
			continue;
		}
		int code = read_escape(&p, end);
		if (code < 0)
			return -EILSEQ;
		out = put_utf8(out, (unsigned)code);
	}
	return (int)(out - start);
}
