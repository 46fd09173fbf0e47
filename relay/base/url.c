#include "base/url.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A word longer than this is not quoted: it may be more than a name. */
#define NAME_MAX_SHOWN 32

/* What libpq takes for a URI; all else is KEYWORD=VALUE. NULL if it is not one. */
static const char *after_scheme(const char *url)
{
	static const char *const schemes[] = {"postgresql://", "postgres://"};

	for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
		if (strncmp(url, schemes[i], strlen(schemes[i])) == 0)
			return url + strlen(schemes[i]);
	return NULL;
}

/* The ? before the parameters. A password may have one too; libpq looks for it only after the @. */
static const char *query_of(const char *rest)
{
	const char *at = strchr(rest, '@');
	const char *query = strchr(at ? at : rest, '?');

	return query ? query : rest + strlen(rest);
}

static bool is_name(const char *text, size_t len)
{
	if (len == 0 || len > NAME_MAX_SHOWN)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalpha((unsigned char)text[i]) && text[i] != '_')
			return false;
	return true;
}

static bool libpq_knows(const PQconninfoOption *all, const char *name, size_t len)
{
	/* An alias that libpq takes in URIs, for sslmode=require. */
	if (len == 3 && strncmp(name, "ssl", 3) == 0)
		return true;
	for (const PQconninfoOption *o = all; o && o->keyword; o++)
		if (strlen(o->keyword) == len && strncmp(o->keyword, name, len) == 0)
			return true;
	return false;
}

/* The first parameter that libpq does not know. False when there is none, or when it might be a
 * piece of a password: after an @ that is not percent-encoded. */
static bool explain_parameter(const char *query, char *why, size_t size)
{
	PQconninfoOption *all = PQconndefaults();
	bool found = false;

	while (!strchr(query, '@') && *query && !found) {
		const char *name = query + 1;
		size_t len = strcspn(name, "=&");
		found = all && is_name(name, len) && !libpq_knows(all, name, len);
		if (found)
			snprintf(why, size, "libpq does not know the parameter \"%.*s\"; remove it", (int)len,
				name);
		query = name + strcspn(name, "&");
	}
	PQconninfoFree(all);
	return found;
}

static bool explain_scheme(const char *url, char *why, size_t size)
{
	const char *end = strstr(url, "://");
	size_t len = end ? (size_t)(end - url) : 0;

	if (*url == '"' || *url == '\'' || *url == '`') {
		snprintf(why, size, "it begins with a quote (%c); remove the quotes around it", *url);
		return true;
	}
	if (len == 0 || len > NAME_MAX_SHOWN || strcspn(url, "=@/ ") < len)
		return false;
	snprintf(why, size, "\"%.*s://\" is not a scheme that libpq knows; write postgresql://", (int)len,
		url);
	return true;
}

static bool explain_percent(const char *url, char *why, size_t size)
{
	for (const char *p = url; (p = strchr(p, '%')); p++) {
		if (isxdigit((unsigned char)p[1]) && isxdigit((unsigned char)p[2]))
			continue;
		snprintf(why, size,
			"character %zu, a %%, is not followed by two hexadecimal digits; write a %% as %%25",
			(size_t)(p - url) + 1);
		return true;
	}
	return false;
}

/* libpq's complaint quotes what it could not parse, which may be the password: so it is cut at
 * the first quote. */
static void explain(const char *url, const char *complaint, char *why, size_t size)
{
	const char *rest = after_scheme(url);

	if (rest ? explain_percent(url, why, size) || explain_parameter(query_of(rest), why, size)
		 : explain_scheme(url, why, size))
		return;
	snprintf(why, size, "it is not a valid connection URL (%.*s)", (int)strcspn(complaint, "\"\n:"),
		complaint);
}

static bool has_only_digits_and_commas(const char *s)
{
	return strspn(s, "0123456789,") == strlen(s);
}

/* A URI still parses when its password has an unescaped @, : or /. Then a piece of the password is
 * the host, port or database, and libpq and the server would print it. A host or a database may
 * have an @ of its own: percent-encoded, or as a parameter. */
static bool spills_password(const char *url, const PQconninfoOption *options)
{
	const char *rest = after_scheme(url), *end = rest ? query_of(rest) : NULL;
	unsigned n = 0;

	for (const char *p = rest; p && p < end; p++)
		n += *p == '@';
	for (const PQconninfoOption *o = options; rest && o->keyword; o++) {
		if (!o->val)
			continue;
		if (strcmp(o->keyword, "port") == 0 && !has_only_digits_and_commas(o->val))
			return true;
		if (n > 1 && strchr(o->val, '@') &&
			(strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "dbname") == 0))
			return true;
	}
	return false;
}

PQconninfoOption *url_parse(const char *url, char *why, size_t size)
{
	char *complaint = NULL;
	PQconninfoOption *options = PQconninfoParse(url, &complaint);

	if (!options)
		explain(url, complaint ? complaint : "", why, size);
	PQfreemem(complaint);
	if (!options || !spills_password(url, options))
		return options;
	PQconninfoFree(options);
	snprintf(why, size,
		"its host, port or database is not valid; percent-encode @ : / in the password (%%40 %%3A %%2F)");
	return NULL;
}
