#include "route.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "/v1/users/"

static bool utf8_valid(const char *text, size_t len)
{
	json_t *string = json_stringn(text, len);

	json_decref(string);
	return string != NULL;
}

bool name_valid(const char *name, size_t max)
{
	size_t len = strlen(name);

	for (const char *p = name; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	return len > 0 && len <= max && utf8_valid(name, len);
}

bool revision_parse(const char *text, int64_t *out)
{
	if (!*text || strspn(text, "0123456789") != strlen(text))
		return false;
	errno = 0;
	*out = strtoll(text, NULL, 10);
	return errno == 0 && *out <= REVISION_MAX;
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *found = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;

	return found ? (int)(found - digits) : -1;
}

/* Decode the segment from *path to the next slash or the end, and move *path there. */
static bool take_segment(const char **path, char *out, size_t max)
{
	const char *p = *path;
	size_t n = 0;

	for (; *p && *p != '/'; p++) {
		char c = *p;
		if (c == '%') {
			int high = hex_digit(p[1]), low = high < 0 ? -1 : hex_digit(p[2]);
			if (low < 0 || (high == 0 && low == 0))
				return false;
			c = (char)(high << 4 | low);
			p += 2;
		}
		if (n == max)
			return false;
		out[n++] = c;
	}
	out[n] = '\0';
	*path = p;
	return name_valid(out, max);
}

const char *route_parse(struct route *route, const char *path)
{
	*route = (struct route){.methods = "GET, HEAD"};
	if (strcmp(path, "/") == 0)
		route->endpoint = ENDPOINT_PAGE;
	else if (strcmp(path, "/healthz") == 0)
		route->endpoint = ENDPOINT_HEALTH;
	if (strncmp(path, PREFIX, strlen(PREFIX)) != 0)
		return NULL;
	path += strlen(PREFIX);
	if (!take_segment(&path, route->user, USER_MAX))
		return "the user in the path is not 1 to 255 bytes of UTF-8 without control characters";
	route->methods = "GET";
	if (strcmp(path, "/changes") == 0) {
		route->endpoint = ENDPOINT_CHANGES;
	} else if (strcmp(path, "/listen") == 0) {
		route->endpoint = ENDPOINT_LISTEN;
	} else if (strncmp(path, "/records/", 9) == 0) {
		path += 9;
		if (!take_segment(&path, route->id, ID_MAX))
			return "the record's id in the path is not 1 to 255 bytes of UTF-8 without control characters";
		route->methods = "PUT";
		route->endpoint = *path ? ENDPOINT_NONE : ENDPOINT_RECORD;
	}
	return NULL;
}
