/* Keeps passwords out of what is shown of connection URLs, and of what libpq and servers say. A
 * URL is shown as a list of those of its parts that never contain a secret. In other texts each
 * password is replaced where it is a word of its own, so a password "x" leaves "exist" alone; a
 * long one with more than letters is replaced anywhere. settings.c teaches it the passwords;
 * the sessions pass what they log through it. */
#pragma once

#include <stddef.h>

/* The passwords of this URL, and of PGPASSWORD, are secrets from now on. 0; -ENOMEM; -EINVAL:
 * the URL cannot work, and error, of size bytes, says why without quoting it. */
int redact_learn(const char *url, char *error, size_t size);
/* Forget all secrets. */
void redact_forget(void);

/* Copy text into buf as one line, without secrets. Returns buf. */
const char *redact(const char *text, char *buf, size_t size);
/* Show a URL that was learned, in libpq's form KEYWORD=VALUE. Returns buf. */
const char *redact_url(const char *url, char *buf, size_t size);
