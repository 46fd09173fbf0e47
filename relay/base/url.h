/* Whether a connection URL can work, and if not, what is wrong with it, in words that never quote
 * a password. libpq reads the URL; this module explains what libpq refuses, and refuses what libpq
 * takes for something else than was meant. redact.c calls it. */
#pragma once

#include <libpq-fe.h>
#include <stdbool.h>

/* url: a URI, or libpq's KEYWORD=VALUE form. Returns the options, for PQconninfoFree(); NULL: it
 * cannot work, and why, of size bytes, says why. */
PQconninfoOption *url_parse(const char *url, char *why, size_t size);
/* Whether its value is a password. */
bool url_is_secret(const PQconninfoOption *option);
