/* The JSON payload of a change channel, {"p": pubkey, "c": client_id}, as the Go service that
 * shares the channels writes and reads it. No I/O; knows nothing of routing and frames.
 * decode.c and requests.c call it. */
#pragma once

#include "wire.h"

/* Bytes: bounds a payload. PostgreSQL refuses one of 8000 bytes or more
 * (NOTIFY_PAYLOAD_MAX_LENGTH in its async.c). */
#define CHANGE_PAYLOAD_MAX 7999
/* Bytes: bounds a payload that was heard or recovered. PostgreSQL counts it in the database's
 * encoding, the relay has it in UTF-8, which takes at most three times as much
 * (postgres/encoding.h). */
#define CHANGE_UTF8_MAX ((size_t)3 * CHANGE_PAYLOAD_MAX)

struct change {
	struct wire_str pubkey;
	struct wire_str client_id; /* nil when absent or null */
	void *owner;               /* the strings point into it; NULL: into the payload */
};

/* Reads a payload: a JSON object with a string "p" and an absent, null or string "c". Other
 * members are ignored; of a repeated member the last counts. The strings are valid until
 * change_release(), and as long as payload is. 0; -EBADMSG: it is not such an object; -ENOMEM:
 * it may be one. */
int change_decode(const char *payload, size_t len, struct change *out);
void change_release(struct change *change);

/* Writes a payload, without a NUL, byte for byte as Go's encoding/json does, which also escapes
 * <, > and &. Returns its length; -EMSGSIZE: it is longer than size; -EILSEQ: a string is not
 * UTF-8. */
int change_encode(struct wire_str pubkey, struct wire_str client_id, char *buf, size_t size);
