/* Converts texts from the encoding of a database to UTF-8, with iconv(3). The relay converts
 * itself what others wrote, because a server ends the session that it cannot convert a
 * notification for. A text that cannot be converted stays as it is, byte for byte.
 *
 * session.c opens one for each connection whose server converts nothing. upstream.c and
 * changes_since.c pass what they hear and read through it. Does not talk to PostgreSQL. */
#pragma once

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>

/* Bytes: bounds a text that is converted, in the database's encoding. A NOTIFY carries no
 * longer one (NOTIFY_PAYLOAD_MAX_LENGTH in PostgreSQL's async.c), so a longer one stays as it
 * is. */
#define ENCODING_TEXT_MAX 7999
/* The same in UTF-8. No character takes more than three times as much there as in an encoding
 * that a server may have. */
#define ENCODING_UTF8_MAX ((size_t)3 * ENCODING_TEXT_MAX)
/* Bytes: bounds the name of an object, in the database's encoding (NAMEDATALEN). */
#define ENCODING_NAME_MAX 63
#define ENCODING_NAME_UTF8_MAX ((size_t)3 * ENCODING_NAME_MAX)

struct encoding;

/* Whether texts of a database with this server_encoding must be converted. Those in UTF8 need
 * not, and those in SQL_ASCII have no encoding. */
bool encoding_must_convert(const char *server_encoding);
/* 0; -EINVAL: iconv does not know this encoding; -ENOMEM. */
int encoding_open(struct encoding **encoding, const char *server_encoding);
/* encoding: may be NULL. */
void encoding_close(struct encoding *encoding);

/* With NULL as the encoding, the following return the argument. */

/* The text in UTF-8; if it cannot be converted, the text itself. Ends with a NUL if the text
 * does. Valid as long as the text, until encoding_close(), and until the next call with the same
 * encoding. */
struct wire_str encoding_text(struct encoding *encoding, struct wire_str text);
/* The same for the name of a channel, a role or a database. What encoding_text() returned stays
 * valid. */
const char *encoding_name(struct encoding *encoding, const char *name);
