#include "base/url.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A word longer than this is not quoted: it may be more than a name. */
#define NAME_MAX_SHOWN 32
/* Between two parameters that are not in a URI. */
#define BLANKS " \t\r\n\f\v"

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
		if (!isalpha((unsigned char)text[i]) && !strchr("_-", text[i]))
			return false;
	return true;
}

/* Parameters */

/* A parameter as it is written, and what libpq has of this name, in upper or lower case. */
struct parameter {
	const char *name, *value;
	size_t name_len, value_len;
	bool has_value;
	const PQconninfoOption *known;
};

bool url_is_secret(const PQconninfoOption *o)
{
	return strcmp(o->dispchar, "*") == 0;
}

static const PQconninfoOption *find_option(const PQconninfoOption *all, const char *name, size_t len)
{
	for (const PQconninfoOption *o = all; o->keyword; o++)
		if (strlen(o->keyword) == len && strncasecmp(o->keyword, name, len) == 0)
			return o;
	return NULL;
}

/* False: libpq knows it. */
static bool explain_name(const struct parameter *p, char *why, size_t size)
{
	if (p->known && strncmp(p->known->keyword, p->name, p->name_len) == 0)
		return false;
	if (p->known)
		snprintf(why, size, "libpq does not know the parameter \"%.*s\"; write it in lower case",
			(int)p->name_len, p->name);
	else
		snprintf(why, size, "libpq does not know the parameter \"%.*s\"; remove it", (int)p->name_len,
			p->name);
	return true;
}

/* The parameter at the ? or &. Returns where the next one begins. */
static const char *read_from_query(const char *query, const PQconninfoOption *all, struct parameter *p)
{
	size_t len = strcspn(query + 1, "&");

	p->name = query + 1;
	p->name_len = strcspn(p->name, "=&");
	p->has_value = p->name_len < len;
	p->value = p->name + p->name_len + p->has_value;
	p->value_len = len - p->name_len - p->has_value;
	p->known = find_option(all, p->name, p->name_len);
	return p->name + len;
}

/* False: nothing is wrong with it, or nothing that can be said without showing a password. */
static bool explain_in_query(const struct parameter *p, bool after_secret, char *why, size_t size)
{
	/* An alias that libpq takes in URIs, for sslmode=require. */
	if (p->name_len == 3 && strncmp(p->name, "ssl", 3) == 0) {
		if (p->value_len == 4 && strncmp(p->value, "true", 4) == 0)
			return false;
		snprintf(why, size, "the parameter \"ssl\" may only be true; write sslmode= instead");
	} else if (!p->known && after_secret) {
		snprintf(why, size,
			"libpq does not know a parameter after the password; write an & in a password as %%26");
	} else if (!p->known && !is_name(p->name, p->name_len)) {
		return false;
	} else if (!explain_name(p, why, size)) {
		if (!p->has_value)
			snprintf(why, size, "the parameter \"%s\" has no value", p->known->keyword);
		else if (memchr(p->value, '=', p->value_len))
			snprintf(why, size,
				"the value of the parameter \"%s\" contains a =; write it as %%3D",
				p->known->keyword);
		else
			return false;
	}
	return true;
}

/* The first parameter that is wrong. False when there is none, or when it might be a piece of a
 * password: after an @ that is not percent-encoded. */
static bool explain_query(const char *query, char *why, size_t size)
{
	PQconninfoOption *all = PQconndefaults();
	bool found = false, after_secret = false;
	struct parameter p;

	while (all && !strchr(query, '@') && *query && !found) {
		query = read_from_query(query, all, &p);
		found = explain_in_query(&p, after_secret, why, size);
		after_secret = after_secret || (p.known && url_is_secret(p.known));
	}
	PQconninfoFree(all);
	return found;
}

/* As libpq reads it: quotes and backslashes protect blanks. */
static size_t length_of_value(const char *value)
{
	bool quoted = *value == '\'';
	size_t n = quoted;

	while (value[n] && (quoted ? value[n] != '\'' : !strchr(BLANKS, value[n])))
		n += value[n] == '\\' && value[n + 1] ? 2 : 1;
	return n + (quoted && value[n]);
}

static const char *read_from_pairs(const char *pairs, const PQconninfoOption *all, struct parameter *p)
{
	p->name = pairs + strspn(pairs, BLANKS);
	p->name_len = strcspn(p->name, "=" BLANKS);
	p->value = p->name + p->name_len + strspn(p->name + p->name_len, BLANKS);
	p->has_value = *p->value == '=';
	p->value += p->has_value;
	p->value += p->has_value ? strspn(p->value, BLANKS) : 0;
	p->value_len = p->has_value ? length_of_value(p->value) : 0;
	p->known = find_option(all, p->name, p->name_len);
	return p->value + p->value_len;
}

/* Names what it may: a text without any parameter that libpq knows may be a password as a whole, and
 * a word after a password a piece of it. */
static bool explain_pair(
	const struct parameter *p, bool after_known, bool after_secret, char *why, size_t size)
{
	bool is_url = strstr(p->value, "://");

	if (p->known || (is_name(p->name, p->name_len) && !after_secret && (after_known || is_url)))
		if (p->has_value)
			return explain_name(p, why, size);
	if (after_secret)
		snprintf(why, size,
			"a word after the password is not a parameter; put quotes around a password with blanks");
	else if (!p->has_value)
		snprintf(why, size, "a word has no = after it; put quotes around a value with blanks");
	else
		snprintf(why, size, "libpq does not know one of its parameters");
	return true;
}

static bool explain_pairs(const char *pairs, char *why, size_t size)
{
	PQconninfoOption *all = PQconndefaults();
	bool found = !strchr(pairs, '='), after_known = false, after_secret = false;
	struct parameter p;

	if (found)
		snprintf(why, size,
			"it is neither a URL (postgresql://...) nor parameters (host=... dbname=...)");
	while (all && !found && pairs[strspn(pairs, BLANKS)]) {
		pairs = read_from_pairs(pairs, all, &p);
		found = explain_pair(&p, after_known, after_secret, why, size);
		after_known = after_known || p.known;
		after_secret = after_secret || (p.known && url_is_secret(p.known));
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
 * the first quoted text of more than a character. */
static void explain_otherwise(const char *complaint, char *why, size_t size)
{
	size_t len = strcspn(complaint, "\"\n");

	while (complaint[len] == '"' && complaint[len + 1] && complaint[len + 2] == '"')
		len += 3 + strcspn(complaint + len + 3, "\"\n");
	while (len > 0 && strchr(" :", complaint[len - 1]))
		len--;
	snprintf(why, size, "it is not a valid connection URL (%.*s)", (int)len, complaint);
}

static void explain(const char *url, const char *complaint, char *why, size_t size)
{
	const char *rest = after_scheme(url);

	if (rest ? explain_percent(url, why, size) || explain_query(query_of(rest), why, size)
		 : explain_scheme(url, why, size) || explain_pairs(url, why, size))
		return;
	explain_otherwise(complaint, why, size);
}

/* What libpq takes for something else than was meant. libpq and the server print hosts, users and
 * databases, and a piece of a password may be in them. */

/* Another URL, or another parameter: after a comma or a semicolon, or after a parameter without a
 * value, libpq reads on. Users call a password several things. */
static bool swallows_another(const PQconninfoOption *o)
{
	static const char *const others[] = {"://", "password=", "passwd=", "pwd=", "pass="};

	/* The server reads options, and shows no value of them. */
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (strcmp(o->keyword, "options") != 0 && strcasestr(o->val, others[i]))
			return true;
	return false;
}

/* A host may be a path, or an abstract socket, which begins with an @. */
static bool has_misplaced_at(const char *hosts)
{
	for (const char *host = hosts; *host; host += strspn(host, ",")) {
		size_t len = strcspn(host, ",");
		if (*host != '/' && len > 1 && memchr(host + 1, '@', len - 1))
			return true;
		host += len;
	}
	return false;
}

/* In a URI, the end of a password that has an unescaped / would be in the database, with the host
 * and more after it. */
static bool has_host_in_database(const char *rest, const char *database)
{
	const char *at = strchr(database, '@');
	size_t before_slash = strcspn(rest, "/");

	return at && (strpbrk(at, "/:") ||
			     (before_slash > 0 && rest[before_slash] && rest[before_slash - 1] == ':'));
}

static bool has_only_digits_and_commas(const char *s)
{
	return strspn(s, "0123456789,") == strlen(s);
}

#define UNESCAPED "percent-encode @ : / in the password (%%40 %%3A %%2F)"

static bool explain_value(const char *rest, const PQconninfoOption *o, char *why, size_t size)
{
	if (swallows_another(o))
		snprintf(why, size,
			"the value of \"%s\" contains another URL or parameter; put blanks between parameters, or & "
			"in a URL, and give each a value",
			o->keyword);
	else if (strcmp(o->keyword, "host") == 0 && has_misplaced_at(o->val))
		snprintf(why, size, "its host contains an @; " UNESCAPED);
	else if (rest && strcmp(o->keyword, "port") == 0 && !has_only_digits_and_commas(o->val))
		snprintf(why, size, "its port is not a number; " UNESCAPED);
	else if (rest && strcmp(o->keyword, "dbname") == 0 && has_host_in_database(rest, o->val))
		snprintf(why, size, "its database contains what looks like a host; " UNESCAPED);
	else
		return false;
	return true;
}

PQconninfoOption *url_parse(const char *url, char *why, size_t size)
{
	char *complaint = NULL;
	PQconninfoOption *options = PQconninfoParse(url, &complaint);
	bool wrong = false;

	if (!options)
		explain(url, complaint ? complaint : "", why, size);
	PQfreemem(complaint);
	for (const PQconninfoOption *o = options; o && o->keyword && !wrong; o++)
		wrong = o->val && !url_is_secret(o) && explain_value(after_scheme(url), o, why, size);
	if (!wrong)
		return options;
	PQconninfoFree(options);
	return NULL;
}
