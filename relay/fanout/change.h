/* The JSON payload of a change channel, {"p": pubkey, "c": client_id}, as the Go service that shares the
 * channels writes and reads it. Pure code, no I/O; routing and frames are elsewhere. The relay's decode and
 * its publishing of NOTIFY call it. */
#pragma once

#include "wire.h"

/* PostgreSQL refuses a payload of 8000 bytes or more (NOTIFY_PAYLOAD_MAX_LENGTH in its async.c). */
#define CHANGE_PAYLOAD_MAX 7999

struct change {
	struct wire_str pubkey;
	struct wire_str client_id; /* nil when absent or null */
	void *owner;               /* what the strings live in when it is not the payload itself */
};

/* Read a payload: a JSON object with a string "p" and an absent, null or string "c"; other members are
 * ignored, and of a repeated member the last counts. The strings live in payload or in *out: keep both until
 * change_release(). 0; -EBADMSG: it is no such object; -ENOMEM: that is not known. */
int change_decode(const char *payload, size_t len, struct change *out);
void change_release(struct change *change);

/* Write a payload, without a NUL, byte for byte as Go's encoding/json does (it escapes <, > and & too).
 * Returns its length; -EMSGSIZE when it exceeds size; -EILSEQ when a string is no UTF-8. */
int change_encode(struct wire_str pubkey, struct wire_str client_id, char *buf, size_t size);
