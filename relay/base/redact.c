#include "base/redact.h"

#include "base/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A secret of this many bytes that has more than letters is not part of another word by
 * chance. */
#define LONG 8

#define HIDDEN "***"

/* The longest first: one may be the beginning of another. */
static struct secret {
	char *text;
	size_t len;
	bool anywhere; /* also as part of a word */
} * secrets;
static unsigned n_secrets;

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static bool has_more_than_letters(const char *text)
{
	while (isalpha((unsigned char)*text))
		text++;
	return *text != '\0';
}

static int remember(const char *text)
{
	size_t len = strlen(text);
	unsigned i = 0;

	if (len == 0)
		return 0;
	struct secret *more = reallocarray(secrets, n_secrets + 1, sizeof *secrets);
	if (!more)
		return -ENOMEM;
	secrets = more;
	char *copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	while (i < n_secrets && secrets[i].len >= len)
		i++;
	memmove(secrets + i + 1, secrets + i, (n_secrets - i) * sizeof *secrets);
	secrets[i] = (struct secret){copy, len, len >= LONG && has_more_than_letters(text)};
	n_secrets++;
	return 0;
}

void redact_forget(void)
{
	while (n_secrets > 0)
		free(secrets[--n_secrets].text);
	free(secrets);
	secrets = NULL;
}

/* A password may stand after the user, as in a URI, where libpq takes it for a part of the name:
 * user=app:hunter2, or app%3Ahunter2@. */
static const char *secret_of(const PQconninfoOption *o)
{
	if (o->val && url_is_secret(o))
		return o->val;
	const char *colon = o->val && strcmp(o->keyword, "user") == 0 ? strchr(o->val, ':') : NULL;
	return colon ? colon + 1 : "";
}

int redact_learn(const char *url, char *error, size_t size)
{
	PQconninfoOption *options = url_parse(url, error, size);
	const char *from_environment = getenv("PGPASSWORD");
	int r = 0;

	if (!options)
		return -EINVAL;
	for (PQconninfoOption *o = options; o->keyword && r == 0; o++)
		r = remember(secret_of(o));
	if (r == 0 && from_environment)
		r = remember(from_environment);
	PQconninfoFree(options);
	return r;
}

/* Whether text has the secret at this place, as a word of its own unless it is long enough. */
static bool is_at(const struct secret *s, const char *text, const char *place)
{
	if (strncmp(place, s->text, s->len) != 0)
		return false;
	if (s->anywhere)
		return true;
	/* Where a secret begins or ends with a character that is not part of a word, it needs
	 * no border. */
	bool begins = place == text || !is_word(place[-1]) || !is_word(s->text[0]);
	return begins && (!is_word(place[s->len]) || !is_word(s->text[s->len - 1]));
}

static const struct secret *secret_at(const char *text, const char *place)
{
	for (unsigned i = 0; i < n_secrets; i++)
		if (is_at(&secrets[i], text, place))
			return &secrets[i];
	return NULL;
}

/* Joins lines by "; ": libpq's messages have several, and end with a newline. */
static const char *skip_lines(const char *place, const char **between)
{
	while (isspace((unsigned char)*place))
		place++;
	*between = *place ? "; " : "";
	return place;
}

const char *redact(const char *text, char *buf, size_t size)
{
	size_t n = 0;

	for (const char *place = text; *place && n + sizeof HIDDEN < size;) {
		const struct secret *s = secret_at(text, place);
		const char *instead = HIDDEN;
		if (s) {
			place += s->len;
		} else if (*place == '\n') {
			place = skip_lines(place, &instead);
		} else {
			buf[n++] = *place++;
			continue;
		}
		n += (size_t)snprintf(buf + n, size - n, "%s", instead);
	}
	buf[n] = '\0';
	return buf;
}

/* Keywords of a URL whose values never contain a secret. */
static bool may_be_shown(const char *keyword)
{
	static const char *const known[] = {"host", "hostaddr", "port", "dbname", "user", "application_name",
		"connect_timeout", "target_session_attrs", "sslmode", "sslrootcert", "channel_binding",
		"gssencmode", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
		"tcp_user_timeout", "service"};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(keyword, known[i]) == 0)
			return true;
	return false;
}

/* Quoted as libpq reads it, if it must be. */
static void print_value(FILE *out, const char *value)
{
	if (*value && !strpbrk(value, " '\\\n\t")) {
		fputs(value, out);
		return;
	}
	fputc('\'', out);
	for (; *value; value++) {
		if (*value == '\'' || *value == '\\')
			fputc('\\', out);
		fputc(*value, out);
	}
	fputc('\'', out);
}

static void print_option(FILE *out, const PQconninfoOption *o)
{
	char shown[1024];

	fprintf(out, "%s=", o->keyword);
	/* A database may have the password as its name. */
	if (!may_be_shown(o->keyword) || strlen(o->val) >= sizeof shown - sizeof HIDDEN ||
		strcmp(redact(o->val, shown, sizeof shown), o->val) != 0)
		fputs(HIDDEN, out);
	else
		print_value(out, o->val);
}

const char *redact_url(const char *url, char *buf, size_t size)
{
	snprintf(buf, size, "%s", HIDDEN);
	PQconninfoOption *options = PQconninfoParse(url, NULL);
	FILE *out = options ? fmemopen(buf, size, "w") : NULL;
	const char *between = "";

	for (const PQconninfoOption *o = options; out && o->keyword; o++) {
		if (!o->val)
			continue;
		fputs(between, out);
		print_option(out, o);
		between = " ";
	}
	if (out)
		fclose(out);
	PQconninfoFree(options);
	return buf;
}
