/* A CHANGE as it nearly always is, packed and read by hand. msgpack-c would take ten times as long, for every
 * change and every worker; whatever is unusual is left to it, and a test compares the two. wire.c calls
 * this, and the relay's fan-out for what it has packed itself. */
#pragma once

#include "wire.h"

/* Returns the length of the frame that begins at buf, or 0 when it is another, unusual or not complete. */
size_t wire_change_read(const void *buf, size_t len, struct wire_change *out);

/* The same bytes as msgpack-c's, into a buf of at least wire_bound() bytes. Returns their number. */
int wire_change_write(const struct wire_change *change, void *buf);
