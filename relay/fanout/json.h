/* Reads what the relay needs of a JSON object, without building the rest: any role can notify
 * 8000 bytes that make a library allocate thousands of values. change.c calls it. */
#pragma once

#include "wire.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Bounds how deep arrays and objects may be. Half of CHANGE_PAYLOAD_MAX, since each needs two
 * bytes: no payload of PostgreSQL is deeper. */
#define JSON_DEPTH_MAX 4096

enum json_kind { JSON_MISSING, JSON_STRING, JSON_NULL, JSON_OTHER };

struct json_value {
	enum json_kind kind;
	bool escaped;        /* raw contains a backslash */
	struct wire_str raw; /* of a string, what stands between the quotes; points into the text */
};

/* The members whose names are the letters of names, in their order; values has as many. Of a
 * repeated member the last counts. False: the text is not a JSON object in UTF-8. */
bool json_read(const char *text, size_t len, const char *names, struct json_value *values);
/* Writes the string to out, which has room for raw.len bytes. Returns its length; -EILSEQ: it
 * contains half of a surrogate pair, which no UTF-8 can say. */
int json_decode(const struct json_value *string, char *out);

/* Printable ASCII that a string contains without an escape. */
static inline bool json_is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* As wide as the vector registers that every current processor has. */
typedef unsigned char json_sixteen __attribute__((vector_size(16)));

/* How many of the sixteen bytes at p are plain, up to the first that is not. */
static inline unsigned json_plain_of_sixteen(const char *p)
{
	json_sixteen v;
	uint64_t odd[2];

	memcpy(&v, p, sizeof v);
	json_sixteen is_odd = (json_sixteen)((v - 0x20 >= 0x7f - 0x20) | (v == '"') | (v == '\\'));
	memcpy(odd, &is_odd, sizeof odd);
	if (odd[0])
		return (unsigned)__builtin_ctzll(le64toh(odd[0])) / 8;
	return odd[1] ? 8 + (unsigned)__builtin_ctzll(le64toh(odd[1])) / 8 : 16;
}

/* Moves *p past plain characters. Inlined, since every notification passes here. */
static inline void json_skip_plain(const char **p, const char *end)
{
	const char *at = *p;
	unsigned n = 16;

	while (n == 16 && end - at >= 16) {
		n = json_plain_of_sixteen(at);
		at += n;
	}
	while (n == 16 && at < end && json_is_plain((unsigned char)*at))
		at++;
	*p = at;
}
