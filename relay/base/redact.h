/* What may be shown of connection URLs, and of what libpq and servers say: no password. A URL is shown as its
 * parts, those that are known to hold no secret, and never as a text from which something was cut. In other
 * texts each password is replaced where it stands by itself; and a long one that is more than letters, which
 * no word has in it, anywhere. So a password "x" leaves "exist" alone. The configuration teaches it the
 * passwords; the sessions pass what they log through it. */
#pragma once

#include <stddef.h>

/* The passwords of this URL, and of the environment, are secrets from now on. 0; -EINVAL: it cannot work, and
 * *error, of which size bytes are used, says why, without a word of it; -ENOMEM. */
int redact_learn(const char *url, char *error, size_t size);
void redact_forget(void);

/* Copy text into buf as one line, without secrets. Returns buf. */
const char *redact(const char *text, char *buf, size_t size);
/* Show a URL that was learned, in libpq's form of KEYWORD=VALUE. Returns buf. */
const char *redact_url(const char *url, char *buf, size_t size);
