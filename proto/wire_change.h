/* The usual CHANGE, packed and read by hand. msgpack-c would take ten times as long, for
 * every change and every worker. Unusual ones are left to msgpack-c, and a test compares the
 * two. wire.c calls this, and the relay's fan-out for frames that it has packed itself. */
#pragma once

#include "wire.h"

/* Returns the length of the frame that begins at buf. Returns 0 when that is not a CHANGE,
 * is unusual, or is not complete. Strings in *out are valid as long as buf. */
size_t wire_change_read(const void *buf, size_t len, struct wire_change *out);

/* Pack it as msgpack-c does, byte for byte. buf has at least wire_bound() bytes. Returns the
 * length. */
int wire_change_write(const struct wire_change *change, void *buf);
